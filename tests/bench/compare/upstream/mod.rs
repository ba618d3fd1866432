//! A model provider that costs next to nothing: one thread, raw bytes over epoll.
//!
//! It wants the provider's key (401 without), and answers a chat request that has `"stream":true` with as many paced events as
//! `"max_tokens"` says, any other with one fixed answer. Every event tells when it was sent. Streams are spread evenly over the
//! time between two events of one, so that no two of them send at the same moment: what waits in a gateway waits because of it.
//! No event follows another one sooner than [`APART`], also after the upstream itself was kept from its core. From the stamp of an
//! event to the end of its `write` takes some 10 µs. How often it took far longer is told.
//!
//! Events are sent evenly only by who has the core to itself: a load that reads them there is a [`Companion`] of this thread, which
//! works in turns with it. Then no timer has to be set, which a virtual machine takes long for, and neither waits for the scheduler.

mod connection;
mod handle;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use memchr::memmem;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::clock;
use crate::cpu;

use connection::{Connection, Wish};
use handle::Companion;
pub use handle::Handle;

/// The provider's key.
pub const KEY: &str = "sk-provider-of-the-bench";
/// Between two events of a stream.
pub const PACE: Duration = Duration::from_millis(20);
/// Stands before the time at which an event was sent, which has [`TIME_DIGITS`] digits.
pub const TIME_MARK: &[u8] = b"\"content\":\"@";
/// Digits of a time.
pub const TIME_DIGITS: usize = 20;

/// Events that were sent within [`SENDING_MAX`] of their stamp or not, by all upstreams.
pub static SENT: AtomicU64 = AtomicU64::new(0);
/// Of these, those that were not: the upstream was interrupted, and what that took counts as the gateway's.
pub static SENT_LATE: AtomicU64 = AtomicU64::new(0);
/// Events that were stamped later than that after their time. They were sent one after the other, see [`APART`].
pub static LATE: AtomicU64 = AtomicU64::new(0);
/// From the stamp of an event to the end of its sending, and from its time to its stamp, in nanoseconds.
const SENDING_MAX: u64 = 100_000;

/// Between two events, of whichever streams, in nanoseconds: who was kept from sending some in time does not send them all at once.
const APART: u64 = 25_000;

/// Connections that are served at a time.
const AT_ONCE: usize = 256;
/// Connections that are served before it is the companion's turn.
const AT_ONCE_IN_TURNS: usize = 16;
/// From here on the core is given away until the next event, in nanoseconds.
const PAUSE_MIN: u64 = 1_500_000;

const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const BELL: u64 = u64::MAX - 2;

const ANSWER: &str = r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"upstream-model","choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog, and the lazy dog does not mind it at all."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":24,"completion_tokens":20,"total_tokens":44},"system_fingerprint":"fp_bench"}"#;
const EVENT: &str = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"upstream-model","choices":[{"index":0,"delta":{"content":"@00000000000000000000"},"finish_reason":null}]}

"#;
const STOP: &str = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"upstream-model","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

"#;
const USAGE: &str = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"upstream-model","choices":[],"usage":{"prompt_tokens":24,"completion_tokens":20,"total_tokens":44}}

"#;
const DONE: &str = "data: [DONE]\n\n";

/// Starts it on the core of everything that is no gateway.
pub fn start() -> io::Result<Handle> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let bell = Arc::new(EventFd::from_flags(flags)?);
    let (companions, companion) = channel();
    let mut upstream = Upstream::new(listener, Arc::clone(&bell))?;
    thread::Builder::new().name("upstream".into()).spawn(move || {
        if let Err(error) = cpu::pin(cpu::REST).and_then(|()| upstream.run(&companion)) {
            eprintln!("the upstream has ended: {error}");
        }
    })?;
    Ok(Handle { address, companions, bell })
}

struct Upstream {
    epoll: Epoll,
    listener: TcpListener,
    timer: TimerFd,
    bell: Arc<EventFd>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// When which connection sends its next event.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// What the timer is set to; 0 if it has gone off.
    set_to: u64,
    /// When an event was sent last.
    sent_at: u64,
    /// Streams so far: each has its place between two events of another.
    streams: u64,
    /// What is sent, with its head, or as a chunk of its own.
    answer: Vec<u8>,
    refusal: Vec<u8>,
    event: Vec<u8>,
    time_at: usize,
}

impl Upstream {
    fn new(listener: TcpListener, bell: Arc<EventFd>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let event = chunk(EVENT);
        let time_at = memmem::find(&event, TIME_MARK).unwrap_or_default() + TIME_MARK.len();
        Ok(Self {
            epoll,
            listener,
            timer,
            bell,
            connections: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            set_to: 0,
            sent_at: 0,
            streams: 0,
            answer: whole("200 OK", ANSWER),
            refusal: whole("401 Unauthorized", r#"{"error":{"message":"no such key"}}"#),
            event,
            time_at,
        })
    }

    fn run(&mut self, companions: &Receiver<Companion>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let mut buffer = vec![0; 256 * 1024];
        let mut companion: Option<Companion> = None;
        loop {
            let is_alone = companion.is_none();
            let pause = match is_alone {
                true => EpollTimeout::NONE,
                false if self.is_pause() => EpollTimeout::from(1_u8),
                false => EpollTimeout::ZERO,
            };
            let at_once = if is_alone { AT_ONCE } else { AT_ONCE_IN_TURNS };
            let ready = match self.epoll.wait(&mut events[..at_once], pause) {
                Err(nix::errno::Errno::EINTR) => 0,
                ready => ready?,
            };
            for event in events.iter().take(ready) {
                match event.data() {
                    LISTENER => self.accept()?,
                    TIMER => {
                        let _ = self.timer.wait();
                        self.set_to = 0;
                    }
                    BELL => {
                        let _ = self.bell.read();
                        companion = companions.try_recv().ok().or(companion);
                    }
                    index => self.serve(usize::try_from(index).unwrap_or(usize::MAX), &mut buffer),
                }
            }
            self.send_due(is_alone)?;
            if companion.as_mut().is_some_and(|companion| !companion()) {
                companion = None;
                // Whoever waits next waits for the timer again.
                self.send_due(true)?;
            }
        }
    }

    /// Whether no event is due for longer than a timer takes to be late.
    fn is_pause(&self) -> bool {
        let next = self.due.peek().map(|Reverse((due, _))| *due);
        next.is_some_and(|due| due > clock::now() + PAUSE_MIN)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            self.epoll.add(&stream, EpollEvent::new(interest, index as u64))?;
            self.connections[index] = Some(Connection::new(stream));
        }
    }

    /// Reads what has come, answers what is complete, and closes what is closed or broken.
    fn serve(&mut self, index: usize, buffer: &mut [u8]) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        let mut lives = connection.flush().is_ok();
        while lives {
            let size = match connection.read(buffer) {
                Ok(0) => {
                    lives = false;
                    break;
                }
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    lives = false;
                    break;
                }
            };
            let done = match connection.take(&buffer[..size]) {
                Err(_) => Err(()),
                Ok(None) => Ok(()),
                Ok(Some(Wish::Refusal)) => connection.send(&self.refusal).map_err(drop),
                Ok(Some(Wish::Answer)) => connection.send(&self.answer).map_err(drop),
                Ok(Some(Wish::Events(count))) => {
                    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nx-request-id: req-bench\r\ntransfer-encoding: chunked\r\n\r\n";
                    let mut first = head.as_bytes().to_vec();
                    stamp(&mut self.event, self.time_at);
                    first.extend_from_slice(&self.event);
                    connection.left = count.saturating_sub(1);
                    let pace = u64::try_from(PACE.as_nanos()).unwrap_or(u64::MAX);
                    let due = clock::now() / pace * pace + pace + place(self.streams, pace);
                    self.streams += 1;
                    self.due.push(Reverse((due, index)));
                    connection.send(&first).map_err(drop)
                }
            };
            lives = done.is_ok();
            // Less than there was room for: nothing more is there, and more to come is told.
            if size < buffer.len() {
                break;
            }
        }
        if !lives {
            self.connections[index] = None;
            // A place in `due` may still be its own; whoever comes next there must not send its events.
            if !self.due.iter().any(|Reverse((_, of))| *of == index) {
                self.free.push(index);
            }
        }
    }

    /// Sends all events whose time has come, and sets the timer for the next if that is wanted.
    fn send_due(&mut self, is_timed: bool) -> io::Result<()> {
        let pace = u64::try_from(PACE.as_nanos()).unwrap_or(u64::MAX);
        while let Some(Reverse((due, index))) = self.due.peek().copied() {
            let now = clock::now();
            let time = due.max(self.sent_at + APART);
            if time > now {
                if is_timed && self.set_to != time {
                    let wait = Duration::from_nanos(time - now);
                    self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty())?;
                    self.set_to = time;
                }
                break;
            }
            self.sent_at = now;
            LATE.fetch_add(u64::from(now - due > SENDING_MAX), Ordering::Relaxed);
            self.due.pop();
            let Some(Some(connection)) = self.connections.get_mut(index) else {
                self.free.push(index);
                continue;
            };
            // An error shows when the connection is read.
            if connection.left == 0 {
                let last = [chunk(STOP), chunk(USAGE), chunk(DONE), b"0\r\n\r\n".to_vec()];
                let _ = connection.send(&last.concat());
                continue;
            }
            connection.left -= 1;
            let stamped = stamp(&mut self.event, self.time_at);
            let _ = connection.send(&self.event);
            SENT.fetch_add(1, Ordering::Relaxed);
            if clock::of_day().saturating_sub(stamped) > SENDING_MAX {
                SENT_LATE.fetch_add(1, Ordering::Relaxed);
            }
            self.due.push(Reverse((due + pace, index)));
        }
        Ok(())
    }
}

/// Where in the time between two events the stream of that number sends: any many of them lie evenly. An eighth of it is left to
/// others on the core.
fn place(stream: u64, pace: u64) -> u64 {
    // Multiples of the golden ratio, as a fraction of 2^64.
    let fraction = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let used = pace / 8 * 7;
    u64::try_from((u128::from(fraction) * u128::from(used)) >> 64).unwrap_or_default()
}

/// Writes the time into an event, and returns it.
fn stamp(event: &mut [u8], at: usize) -> u64 {
    let now = clock::of_day();
    let mut left = now;
    for digit in event[at..at + TIME_DIGITS].iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
    }
    now
}

fn whole(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-request-id: req-bench\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::wire::{Part, Reader, Side};

    #[test]
    fn streams_lie_evenly_between_two_events() {
        let mut places: Vec<_> = (0..500).map(|stream| place(stream, 20_000_000)).collect();
        places.sort_unstable();
        let widest = places.windows(2).map(|two| two[1] - two[0]).max().unwrap();
        assert!(widest < 120_000, "{widest} ns");
        assert!(*places.last().unwrap() < 20_000_000);
    }

    #[test]
    fn who_has_the_key_is_answered_and_streamed_to_and_nobody_else() {
        let upstream = start().unwrap();
        let mut stream = TcpStream::connect(upstream.address).unwrap();
        let mut ask = |key: &str, body: &str| {
            let length = body.len();
            write!(stream, "POST / HTTP/1.1\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
            let (mut reader, mut status, mut text, mut over) =
                (Reader::new(Side::Answers), 0, Vec::new(), false);
            let mut buffer = [0; 1000];
            while !over {
                let size = stream.read(&mut buffer).unwrap();
                let part = |part: Part| match part {
                    Part::Head(head) => status = head.status(),
                    Part::Body(piece) => text.extend_from_slice(piece),
                    Part::End => over = true,
                };
                reader.feed(&buffer[..size], part).unwrap();
            }
            (status, String::from_utf8(text).unwrap())
        };
        assert_eq!(ask(KEY, "{}"), (200, ANSWER.to_owned()));
        assert_eq!(ask("other", "{}").0, 401);
        let (status, events) = ask(KEY, r#"{"stream":true,"max_tokens":3}"#);
        assert_eq!((status, events.matches("\"content\":\"@").count()), (200, 3));
        assert!(events.ends_with("data: [DONE]\n\n"));
        assert_eq!(ask(KEY, "{}").0, 200);
    }
}
