//! Callers of streams: all open theirs one after the other, and read until all have ended.
//!
//! They work a little at a time, beside the upstream on its thread. An event has come when the kernel
//! says that its bytes have, not when it is read; so whatever the upstream has to send goes first.
//!
//! Of an event that is read together with a later one of its stream the kernel has forgotten the time: it lies between that of the
//! later one and the last look at all streams. Where that is too long it is left out.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use memchr::memmem;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Target, arrival};
use crate::clock;
use crate::upstream::{TIME_DIGITS, TIME_MARK};
use crate::wire::{Part, Reader, Side};

/// How long nothing may come, in nanoseconds.
const SILENCE_MAX: u64 = 10_000_000_000;
/// Between two streams that are opened, in nanoseconds.
const OPENING: u64 = 1_000_000;
/// Streams that are read at a time: less work than lies between two events of the upstream.
const AT_ONCE: usize = 4;
/// By how much the time of an event may be too late, in nanoseconds.
const UNSURE_MAX: u64 = 1_000_000;
const DONE: &[u8] = b"data: [DONE]";

/// What is known while the streams run.
#[derive(Debug, Default)]
pub struct Progress {
    /// Streams of which an event has come.
    pub begun: AtomicUsize,
    /// Events that have come.
    pub events: AtomicU64,
    /// Streams that have ended.
    pub ended: AtomicUsize,
    /// Whether delays count now.
    pub counts: AtomicBool,
}

/// What callers have seen, in nanoseconds.
#[derive(Debug, Default)]
pub struct Streams {
    /// From a request to the first event of its answer.
    pub first_event: Vec<u32>,
    /// By how much longer the gap before an event was when it came than when it was sent, 0 if it was shorter; and when it came,
    /// by the clock of the day.
    pub added_gap: Vec<(u64, u32)>,
    /// From the sending of an event to its coming.
    pub delay: Vec<u32>,
    /// Events whose times are not known, because the load came to read them too late.
    pub unknown: u64,
}

struct Caller {
    stream: TcpStream,
    reader: Reader,
    asked: u64,
    /// The event that has come in part.
    begun: Vec<u8>,
    events: u64,
    /// Events that have just been read: when they were sent.
    sent: Vec<u64>,
    /// How long the event before took, if that is known.
    delay: Option<u64>,
    is_done: bool,
}

/// Callers of streams, on their way.
pub struct Streaming {
    epoll: Epoll,
    callers: Vec<Caller>,
    request: Vec<u8>,
    events_each: u64,
    progress: Arc<Progress>,
    seen: Streams,
    /// How many have asked, and how many are not done.
    asked: usize,
    running: usize,
    /// When the next one asks.
    next: u64,
    /// When something came last.
    last: u64,
    /// Whoever had something then, by the clock of the day, has been read.
    looked: u64,
    buffer: Vec<u8>,
}

impl Streaming {
    /// Connects so many callers, each of which will ask for so many events.
    pub fn connect(
        target: &Target,
        callers: usize,
        events_each: u64,
        progress: Arc<Progress>,
    ) -> Result<Self, String> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|it| failed("epoll", &it))?;
        let connect = |index| {
            let stream = TcpStream::connect(target.address).map_err(|it| failed("connect", &it))?;
            stream.set_nodelay(true).map_err(|it| failed("TCP_NODELAY", &it))?;
            stream.set_nonblocking(true).map_err(|it| failed("O_NONBLOCK", &it))?;
            arrival::keep(&stream).map_err(|it| failed("SO_TIMESTAMPNS", &it))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(&stream, event).map_err(|it| failed("epoll", &it))?;
            Ok::<_, String>(Caller::new(stream))
        };
        let callers: Vec<_> = (0..callers).map(connect).collect::<Result<_, _>>()?;
        let (request, now) = (target.stream_request(events_each), clock::now());
        Ok(Self {
            epoll,
            running: callers.len(),
            callers,
            request,
            events_each,
            progress,
            seen: Streams::default(),
            asked: 0,
            next: now,
            last: now,
            looked: clock::of_day(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Asks for the next stream if it is time, and reads what has come on a few. What was seen, once all have ended.
    pub fn step(&mut self) -> Result<Option<Streams>, String> {
        let (now, day) = (clock::now(), clock::of_day());
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let ready = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(nix::errno::Errno::EINTR) => return Ok(None),
            ready => ready.map_err(|it| failed("epoll", &it))?,
        };
        if let Some(caller) = self.callers.get_mut(self.asked).filter(|_| now >= self.next) {
            caller.ask(&self.request)?;
            self.asked += 1;
            self.next = now + OPENING;
        }
        if ready > 0 {
            self.last = now;
        } else if now.saturating_sub(self.last) > SILENCE_MAX {
            let (running, seconds) = (self.running, SILENCE_MAX / 1_000_000_000);
            return Err(format!("{running} streams were silent for {seconds} s"));
        }
        for event in events.iter().take(ready) {
            let caller = &mut self.callers[usize::try_from(event.data()).unwrap_or_default()];
            if caller.read(&mut self.buffer, self.looked, &self.progress, &mut self.seen)? {
                caller.check(self.events_each)?;
                self.progress.ended.fetch_add(1, Ordering::Relaxed);
                self.running -= 1;
            }
        }
        if ready < AT_ONCE {
            self.looked = day;
        }
        Ok((self.running == 0).then(|| std::mem::take(&mut self.seen)))
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> String {
    format!("{what}: {error}")
}

impl Caller {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            reader: Reader::new(Side::Answers),
            asked: 0,
            begun: Vec::new(),
            events: 0,
            sent: Vec::new(),
            delay: None,
            is_done: false,
        }
    }

    fn ask(&mut self, request: &[u8]) -> Result<(), String> {
        self.asked = clock::of_day();
        let all = self.stream.write_all(request);
        all.map_err(|error| format!("a request was not taken: {error}"))
    }

    /// Reads what has come, since the look at all streams `before` at the earliest. Says whether the answer is complete.
    fn read(
        &mut self,
        buffer: &mut [u8],
        before: u64,
        progress: &Progress,
        seen: &mut Streams,
    ) -> Result<bool, String> {
        let (size, came) = match arrival::read(&self.stream, buffer) {
            Ok(Some(read)) => read,
            Ok(None) => {
                return Err("the connection was closed before the stream was complete".into());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("the connection failed: {error}")),
        };
        let (mut refused, mut is_complete) = (None, false);
        let Self { reader, begun, sent, is_done, .. } = self;
        let fed = reader.feed(&buffer[..size], |part| match part {
            Part::Head(head) if head.status() != 200 => refused = Some(head.first_line()),
            Part::Head(_) => {}
            Part::Body(piece) => split(begun, piece, |event| {
                *is_done |= event.starts_with(DONE);
                sent.extend(sent_at(event));
            }),
            Part::End => is_complete = true,
        });
        fed.map_err(|error| error.to_string())?;
        self.count(came, before, progress, seen)?;
        refused.map_or(Ok(is_complete), Err)
    }

    /// Counts the events that have just been read, the last of which came at that time.
    fn count(
        &mut self,
        came: u64,
        before: u64,
        progress: &Progress,
        seen: &mut Streams,
    ) -> Result<(), String> {
        let together = self.sent.len();
        for (place, sent) in self.sent.drain(..).enumerate() {
            let took = came.checked_sub(sent);
            let took =
                took.ok_or("an event came before it was sent: the clock was set meanwhile")?;
            let is_known = place + 1 == together || came.saturating_sub(before) < UNSURE_MAX;
            let took = is_known.then_some(took);
            let former = std::mem::replace(&mut self.delay, took);
            self.events += 1;
            progress.events.fetch_add(1, Ordering::Relaxed);
            if self.events == 1 {
                seen.first_event.push(nanoseconds(came.saturating_sub(self.asked)));
                progress.begun.fetch_add(1, Ordering::Relaxed);
            } else if progress.counts.load(Ordering::Relaxed) {
                seen.unknown += u64::from(!is_known);
                seen.delay.extend(took.map(nanoseconds));
                let added = took.zip(former).map(|(took, former)| took.saturating_sub(former));
                seen.added_gap.extend(added.map(|added| (came, nanoseconds(added))));
            }
        }
        Ok(())
    }

    fn check(&self, events: u64) -> Result<(), String> {
        if self.events != events || !self.is_done {
            let end = if self.is_done { "with" } else { "without" };
            return Err(format!("a stream had {} of {events} events, {end} an end", self.events));
        }
        Ok(())
    }
}

fn nanoseconds(time: u64) -> u32 {
    u32::try_from(time).unwrap_or(u32::MAX)
}

/// Hands over every event that is complete, and keeps what has come of the next.
fn split(begun: &mut Vec<u8>, mut piece: &[u8], mut on: impl FnMut(&[u8])) {
    if !begun.is_empty() {
        begun.extend_from_slice(piece);
        let whole = std::mem::take(begun);
        let rest = events(&whole, &mut on);
        begun.extend_from_slice(rest);
        return;
    }
    piece = events(piece, &mut on);
    begun.extend_from_slice(piece);
}

fn events<'a>(mut bytes: &'a [u8], on: &mut impl FnMut(&[u8])) -> &'a [u8] {
    while let Some(end) = memmem::find(bytes, b"\n\n") {
        on(&bytes[..end]);
        bytes = &bytes[end + 2..];
    }
    bytes
}

/// When an event was sent, if it tells.
fn sent_at(event: &[u8]) -> Option<u64> {
    let at = memmem::find(event, TIME_MARK)? + TIME_MARK.len();
    let digits = event.get(at..at + TIME_DIGITS)?;
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Caller::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap())
    }

    #[test]
    fn an_event_read_with_a_later_one_came_with_it_or_is_left_out_if_nobody_has_looked_for_long() {
        let (mut caller, mut seen, progress) = (caller(), Streams::default(), Progress::default());
        progress.counts.store(true, Ordering::Relaxed);
        let mut read = |sent: &[u64], came, before| {
            caller.sent.extend(sent);
            caller.count(came, before, &progress, &mut seen)
        };
        read(&[1_000], 1_400, 0).unwrap();
        read(&[2_000], 2_500, 1_900).unwrap();
        read(&[3_000, 4_000], 4_200, 2_900).unwrap();
        let late = 10_000 + UNSURE_MAX;
        read(&[5_000, late], late + 700, 4_900).unwrap();
        read(&[late + 1_000], late + 1_900, late + 900).unwrap();
        assert_eq!(seen.delay, [500, 1_200, 200, 700, 900]);
        let gaps: Vec<_> = seen.added_gap.iter().map(|(_, gap)| *gap).collect();
        assert_eq!(gaps, [100, 700, 0, 200]);
        assert_eq!((seen.unknown, seen.first_event.len()), (1, 1));
    }

    #[test]
    fn a_clock_that_was_set_meanwhile_is_an_error() {
        let mut caller = caller();
        caller.sent.push(7);
        let counted = caller.count(6, 0, &Progress::default(), &mut Streams::default());
        assert!(counted.unwrap_err().contains("the clock was set"));
    }

    #[test]
    fn events_are_the_same_however_their_bytes_come() {
        let text = b"data: a\n\ndata: {\"x\":1}\n\n: note\n\ndata: [DONE]\n\n";
        for size in 1..text.len() {
            let (mut begun, mut found) = (Vec::new(), Vec::new());
            for piece in text.chunks(size) {
                split(&mut begun, piece, |event| {
                    found.push(String::from_utf8(event.to_vec()).unwrap())
                });
            }
            assert_eq!(found, ["data: a", "data: {\"x\":1}", ": note", "data: [DONE]"], "{size}");
            assert_eq!(begun, b"");
        }
    }

    #[test]
    fn an_event_tells_when_it_was_sent_or_does_not() {
        let event = br#"data: {"delta":{"content":"@00000000001234567890"}}"#;
        assert_eq!(sent_at(event), Some(1_234_567_890));
        assert_eq!(sent_at(br#"data: {"delta":{"content":"@12"}}"#), None);
        assert_eq!(sent_at(br#"data: {"delta":{"content":"hello"}}"#), None);
    }
}
