//! Callers that ask for one whole answer after the other, each over a connection that it keeps.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::Target;
use crate::clock;
use crate::wire::{Part, Reader, Side};

/// How long a single answer may take, in milliseconds.
const ANSWER_MS_MAX: u16 = 10_000;

/// What callers have seen.
#[derive(Debug, Default)]
pub struct Whole {
    /// From the request to the end of its answer, in nanoseconds, for each.
    pub latencies: Vec<u32>,
    /// From the first request to the last answer.
    pub time: Duration,
}

struct Caller {
    stream: TcpStream,
    reader: Reader,
    asked: u64,
}

/// Lets so many callers ask for so long. Each answer is waited for.
pub fn whole(target: &Target, callers: usize, time: Duration) -> Result<Whole, String> {
    let request = target.whole_request();
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|it| failed("epoll", &it))?;
    let mut open = Vec::with_capacity(callers);
    for index in 0..callers {
        let stream = TcpStream::connect(target.address).map_err(|it| failed("connect", &it))?;
        stream.set_nodelay(true).map_err(|it| failed("TCP_NODELAY", &it))?;
        stream.set_nonblocking(true).map_err(|it| failed("O_NONBLOCK", &it))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&stream, event).map_err(|it| failed("epoll", &it))?;
        open.push(Caller { stream, reader: Reader::new(Side::Answers), asked: 0 });
    }
    let mut seen = Whole { latencies: Vec::with_capacity(1 << 20), time: Duration::ZERO };
    let start = clock::now();
    let end = start + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    for caller in &mut open {
        caller.ask(&request)?;
    }
    let mut waiting = callers;
    let mut events = vec![EpollEvent::empty(); callers.max(1)];
    let mut buffer = vec![0; 64 * 1024];
    while waiting > 0 {
        let ready = match epoll.wait(&mut events, ANSWER_MS_MAX) {
            Ok(0) => return Err(format!("no answer within {ANSWER_MS_MAX} ms")),
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready.map_err(|it| failed("epoll", &it))?,
        };
        for event in events.iter().take(ready) {
            let caller = &mut open[usize::try_from(event.data()).unwrap_or_default()];
            if !caller.read(&mut buffer)? {
                continue;
            }
            let now = clock::now();
            seen.latencies.push(u32::try_from(now - caller.asked).unwrap_or(u32::MAX));
            if now < end {
                caller.ask(&request)?;
            } else {
                waiting -= 1;
            }
        }
    }
    seen.time = Duration::from_nanos(clock::now() - start);
    Ok(seen)
}

impl Caller {
    fn ask(&mut self, request: &[u8]) -> Result<(), String> {
        self.asked = clock::now();
        // A request is a fraction of what an empty socket takes.
        match self.stream.write(request) {
            Ok(sent) if sent == request.len() => Ok(()),
            Ok(sent) => Err(format!("only {sent} bytes of a request were taken")),
            Err(error) => Err(format!("a request was not taken: {error}")),
        }
    }

    /// Reads what has come. Says whether the answer is complete.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        let size = match self.stream.read(buffer) {
            Ok(0) => return Err("the connection was closed before the answer was complete".into()),
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("the connection failed: {error}")),
        };
        let (mut refused, mut is_complete) = (None, false);
        let fed = self.reader.feed(&buffer[..size], |part| match part {
            Part::Head(head) if head.status() != 200 => refused = Some(head.first_line()),
            Part::Head(_) | Part::Body(_) => {}
            Part::End => is_complete = true,
        });
        fed.map_err(|error| error.to_string())?;
        refused.map_or(Ok(is_complete), Err)
    }
}
