//! Workers whose supervisor was killed, where nobody has ended them with it: they serve on, and are found by the sockets
//! beside their rings.
//!
//! 1. The listener comes back by descriptor, so that no connection is refused at any time, and is looked at like anything
//!    that a stranger hands over.
//! 2. An orphan drains when the workers that replace it serve; what it does not finish in time ends with it.
//! 3. Its ring is read when it is gone, like every ring that is left over.
//!
//! Nothing an orphan says is believed: who it is comes from the kernel, and it is never waited for longer than
//! [`ANSWER_LIMIT`].

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen as listen_on, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use shared::descriptor;
use shared::id::{Role, WorkerId};
use shared::orphan::{self, FromOrphan, ToOrphan};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::listeners::{Listeners, Origin};
use crate::process::{kill, process_descriptor};

/// How the names of the sockets end.
const SUFFIX: &str = "sock";
/// Supervisors that may wait to be heard: there is one.
const BACKLOG: i32 = 4;
/// How long an orphan may take to answer.
const ANSWER_LIMIT: i64 = 2;
/// How long until one that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// Orphans that are asked: more than any number of workers.
const ORPHANS_MAX: usize = 1024;

/// A worker that serves without a supervisor.
#[derive(Debug)]
pub enum Orphan {
    /// It has handed its listener over.
    Heard(Heard),
    /// It does not answer: it hangs, or has more to do than there was time. Its socket is there.
    Unheard(PathBuf),
}

/// A worker that has handed its listener over.
#[derive(Debug)]
pub struct Heard {
    /// What its supervisor called it, as it says.
    worker: WorkerId,
    /// Its process and its user, as the kernel says.
    pid: Pid,
    uid: u32,
    process: OwnedFd,
    connection: OwnedFd,
}

/// Makes the socket of a worker beside its ring.
pub fn listen(ring: &Path) -> io::Result<OwnedFd> {
    let path = ring.with_extension(SUFFIX);
    let listening = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    with_short_name(&path, |address| bind(listening.as_raw_fd(), address))?;
    listen_on(&listening, Backlog::new(BACKLOG)?)?;
    Ok(listening)
}

fn seqpacket(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Paths of sockets are limited to 107 bytes; by way of an open folder any path is short.
fn with_short_name(path: &Path, call: impl FnOnce(&UnixAddr) -> nix::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let folder: File = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(folder)?;
    let name = path.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok(call(&UnixAddr::new(&short)?)?)
}

/// Asks every orphan whose socket is in one of the folders for its listener. Blocks; nothing is served yet.
pub fn find(folders: &[PathBuf], listeners: &mut Listeners) -> Vec<Orphan> {
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let sockets = entries.flatten().map(|entry| entry.path());
    let sockets = sockets.filter(|path| path.extension().is_some_and(|it| it == SUFFIX));
    let mut orphans = Vec::new();
    for path in sockets.take(ORPHANS_MAX) {
        match ask(&path) {
            Ok((orphan, listener)) => {
                info!(worker = %orphan.worker, pid = %orphan.pid,
                    "a worker of the supervisor before serves on; its listener is taken over");
                listeners.add(Role::Proxy.name(), listener, Origin::Orphan);
                orphans.push(Orphan::Heard(orphan));
            }
            // Nobody is there any more: the name goes with the ring.
            Err(error) if is_gone(&error) => {
                if !path.with_extension("ring").exists() {
                    let _ = fs::remove_file(&path);
                }
            }
            Err(error) => {
                warn!(socket = %path.display(),
                    "a worker of the supervisor before is not taken over yet: {error}; if it keeps the port, end it");
                orphans.push(Orphan::Unheard(path));
            }
        }
    }
    orphans
}

fn ask(path: &Path) -> io::Result<(Heard, OwnedFd)> {
    let connection = seqpacket(SockFlag::empty())?;
    let limit = TimeVal::seconds(ANSWER_LIMIT);
    setsockopt(&connection, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&connection, sockopt::SendTimeout, &limit)?;
    with_short_name(path, |address| connect(connection.as_raw_fd(), address))?;
    let answer = orphan::ask(connection.as_fd())?;
    let FromOrphan::Listener { worker, .. } = answer.said;
    let pid = Pid::from_raw(answer.sender.pid());
    let process = process_descriptor(pid)?;
    // The number was the worker's when it answered. It still is if the worker has not gone since.
    match recv(connection.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Err(Errno::EAGAIN) => {}
        _ => return Err(io::Error::other("it has gone, or says more than an answer")),
    }
    let orphan = Heard { worker, pid, uid: answer.sender.uid(), process, connection };
    Ok((orphan, answer.descriptor))
}

impl Orphan {
    /// The user of its process, if that is known.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Self::Heard(heard) => Some(heard.uid),
            Self::Unheard(_) => None,
        }
    }

    /// Lets it leave, within `limit` from when it hears us: one that does not is asked again and again.
    pub async fn drain(self, limit: Duration) {
        let path = match self {
            Self::Heard(heard) => return heard.drain(limit).await,
            Self::Unheard(path) => path,
        };
        loop {
            let again = path.clone();
            match tokio::task::spawn_blocking(move || ask(&again)).await {
                Ok(Ok((heard, _))) => return heard.drain(limit).await,
                Ok(Err(error)) if is_gone(&error) => return,
                Ok(Err(_)) => sleep(AGAIN).await,
                // The runtime is ending.
                Err(_) => return,
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::ConnectionRefused
}

impl Heard {
    /// Tells it to leave, waits, and kills it if it takes longer than `limit`.
    async fn drain(self, limit: Duration) {
        if let Err(error) = orphan::tell(self.connection.as_fd(), &ToOrphan::Drain) {
            warn!(worker = %self.worker, pid = %self.pid, "an orphan cannot be told to leave: {error}");
        }
        let Ok(process) = descriptor::watched(self.process) else { return };
        // Readable once it has ended; it is not our child, so there is no status.
        match timeout(limit, process.readable()).await {
            Ok(_) => info!(worker = %self.worker, pid = %self.pid, "an orphan has left"),
            Err(_) => {
                warn!(worker = %self.worker, pid = %self.pid, "an orphan did not finish in time, and is killed");
                if let Err(error) = kill(process.get_ref()) {
                    warn!(pid = %self.pid, %error, "an orphan cannot be killed");
                }
            }
        }
    }
}
