//! A worker that turns against its supervisor once it has been welcomed, each in its own way: by its number, so that one
//! gateway meets them all. The first few workers, and every other role, are honest, so that there is somebody who serves.

use std::error::Error;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, send, sendmsg};
use shared::descriptor::CONTROL;
use shared::frame::{self, BODY_BYTES_MAX, FRAME_BYTES_MAX, Header};
use shared::id::{Revision, Role};
use shared::message::{Hello, Message, Page, Series, ToSupervisor, ToWorker};
use shared::version::{PROTOCOLS, VERSION};
use worker::inherit::Inheritance;
use worker::sandbox::{self, Policy};

/// Workers up to this number are honest.
const HONEST: u32 = 4;

/// The supervisor ends a silent worker sooner.
const LIMIT: Duration = Duration::from_secs(120);

/// One way to be hostile.
type Way = fn() -> Result<(), Box<dyn Error>>;

/// Ways to be hostile; worker N takes the one at N modulo their number. The test knows them by the same numbers.
const WAYS: [Way; 17] = [
    // 0 a frame that is longer than any may be
    || say(&vec![b'A'; FRAME_BYTES_MAX + 10]),
    // 1 half a header
    || say(b"AISX\x01\x00\x00\x00\x02\x00"),
    // 2 a header that promises more than follows
    || {
        let mut cut = frame(&ToSupervisor::Refused(Revision(1), "x".repeat(100)))?;
        cut.truncate(40);
        say(&cut)
    },
    // 3 no magic bytes
    || say(&[0xff; 64]),
    // 4 hello again
    || tell(&hello(Role::Proxy)),
    // 5 ready again
    || tell(&ToSupervisor::Ready),
    // 6 a version that nobody has agreed on
    || say(&frame::encode(Header { major: 9, ..Header::new(PROTOCOLS.newest, 7, 0) }, &[0; 2])?),
    // 7 what only the status role may say
    || tell(&ToSupervisor::Fetch(Page::Managed)),
    // 8 a kind that nobody knows
    || say(&frame::encode(Header::new(PROTOCOLS.newest, 999, 0), b"news")?),
    // 9 a body that is not of its kind
    || say(&frame::encode(Header::new(PROTOCOLS.newest, 7, 0), &[0xff; 200])?),
    // 10 a revision that it was never sent
    || tell(&ToSupervisor::Applied(Revision(i64::MAX))),
    // 11 a metric that nobody has
    || {
        let labels = vec!["x".repeat(1000); 30];
        tell(&ToSupervisor::Series(Series { family: u16::MAX, first_slot: u32::MAX, labels }))
    },
    // 12 usage that is not there
    || tell(&ToSupervisor::Usage(u64::MAX)),
    // 13 permitted messages without end
    || {
        let keys: Vec<_> = (0..1500).map(|number| (format!("flood-{number:026}"), 1)).collect();
        let flood = frame(&ToSupervisor::KeysInUse(keys))?;
        assert_fits(&flood);
        loop {
            say(&flood)?;
        }
    },
    // 14 nothing at all any more: it neither reads nor answers
    || Ok(()),
    // 15 descriptors
    || {
        let (pong, numbers) = (frame(&ToSupervisor::Pong(0, 0))?, [CONTROL]);
        let slices = [std::io::IoSlice::new(&pong)];
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(CONTROL, &slices, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    },
    // 16 a shell
    || Ok(crate::sys::call(libc::SYS_execve, [c"/bin/sh".as_ptr() as usize, 0, 0]).map(drop)?),
];

/// The whole life of a worker, honest or not.
pub fn run() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let role = words.next().and_then(|name| Role::from_name(&name));
    let id: u32 = words.next().and_then(|id| id.parse().ok()).unwrap_or(0);
    if role != Some(Role::Proxy) || id <= HONEST {
        return Ok(worker::run::run()?);
    }
    let number = usize::try_from(id)? % WAYS.len();
    let inheritance = Inheritance::take(std::env::args().skip(1))?;
    let handing_over = number == 15;
    // Locked in it could not hand anything over; this one has found a way.
    let policy = if handing_over { Policy::Off } else { inheritance.policy };
    sandbox::hide(policy);
    let ToSupervisor::Hello(mut hello) = hello(Role::Proxy) else { return Ok(()) };
    hello.worker = inheritance.id;
    hello.confinement = sandbox::enter(policy, Role::Proxy);
    tell(&ToSupervisor::Hello(hello))?;
    // The welcome, and whatever else is said before the leave to serve.
    let mut buffer = vec![0; FRAME_BYTES_MAX + 1];
    loop {
        let length = wait(|| recv(CONTROL, &mut buffer, MsgFlags::empty()))?;
        let (header, body) = frame::decode(buffer.get(..length).unwrap_or_default())?;
        match ToWorker::decode(header.kind, body)? {
            ToWorker::Configuration { revision, .. } => tell(&ToSupervisor::Applied(revision))?,
            ToWorker::Activate => break,
            _ => {}
        }
    }
    tell(&ToSupervisor::Ready)?;
    let way = WAYS.get(number).ok_or("no such way")?;
    way()?;
    std::thread::sleep(LIMIT);
    Ok(())
}

fn hello(role: Role) -> ToSupervisor {
    ToSupervisor::Hello(Hello {
        worker: shared::id::WorkerId(0),
        role,
        protocols: PROTOCOLS,
        version: VERSION.to_owned(),
        confinement: shared::message::Confinement::default(),
    })
}

fn frame(message: &ToSupervisor) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(frame::encode(Header::new(PROTOCOLS.newest, message.kind(), 0), &message.encode()?)?)
}

fn assert_fits(frame: &[u8]) {
    debug_assert!(frame.len() > BODY_BYTES_MAX / 2, "a flood is of large frames");
}

fn tell(message: &ToSupervisor) -> Result<(), Box<dyn Error>> {
    say(&frame(message)?)
}

fn say(datagram: &[u8]) -> Result<(), Box<dyn Error>> {
    wait(|| send(CONTROL, datagram, MsgFlags::MSG_NOSIGNAL))?;
    Ok(())
}

/// Again until there is room, or something to read. Whoever is locked in cannot `poll`.
fn wait(mut call: impl FnMut() -> nix::Result<usize>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}
