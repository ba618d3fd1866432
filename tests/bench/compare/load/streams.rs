//! Callers of streams: all open theirs one after the other, and read until all have ended.
//!
//! An event has come when the kernel says that its bytes have, not when this thread comes to read them; so it works only when the
//! upstream, which shares its core, does not, and the upstream sends in time.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use memchr::memmem;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::{Target, arrival};
use crate::upstream::{TIME_DIGITS, TIME_MARK};
use crate::wire::{Part, Reader, Side};
use crate::{clock, cpu};

/// How long nothing may come, in nanoseconds.
const SILENCE_MAX: u64 = 10_000_000_000;
/// Between two streams that are opened, in milliseconds.
const OPENING_MS: u16 = 1;
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
    /// By how much longer the gap before an event was when it came than when it was sent; 0 if it was shorter.
    pub added_gap: Vec<u32>,
    /// From the sending of an event to its coming.
    pub delay: Vec<u32>,
    /// Of these, events that were read together with a later one of the same stream, whose time then stands for theirs.
    pub together: u64,
}

struct Caller {
    stream: TcpStream,
    reader: Reader,
    asked: u64,
    /// The event that has come in part.
    begun: Vec<u8>,
    events: u64,
    /// How long the event before took.
    delay: Option<u64>,
    is_done: bool,
}

/// Opens so many streams of so many events each, and reads them to their ends.
pub fn streams(
    target: &Target,
    callers: usize,
    events_each: u64,
    progress: &Progress,
) -> Result<Streams, String> {
    let request = target.stream_request(events_each);
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    cpu::wait_for_a_turn().map_err(|it| failed("the load gets no scheduling policy", &it))?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|it| failed("epoll", &it))?;
    let mut open: Vec<Caller> = Vec::with_capacity(callers);
    for index in 0..callers {
        let stream = TcpStream::connect(target.address).map_err(|it| failed("connect", &it))?;
        stream.set_nodelay(true).map_err(|it| failed("TCP_NODELAY", &it))?;
        stream.set_nonblocking(true).map_err(|it| failed("O_NONBLOCK", &it))?;
        arrival::keep(&stream).map_err(|it| failed("SO_TIMESTAMPNS", &it))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&stream, event).map_err(|it| failed("epoll", &it))?;
        open.push(Caller::new(stream));
    }
    let mut seen = Streams::default();
    let (mut asked, mut running, mut last) = (0, callers, clock::now());
    let mut next = last;
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = vec![0; 64 * 1024];
    while running > 0 {
        let ready = match epoll.wait(&mut events, OPENING_MS) {
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready.map_err(|it| failed("epoll", &it))?,
        };
        let now = clock::now();
        if asked < callers && now >= next {
            open[asked].ask(&request)?;
            asked += 1;
            next = now + u64::from(OPENING_MS) * 1_000_000;
        }
        if ready > 0 {
            last = now;
        } else if now - last > SILENCE_MAX {
            return Err(format!(
                "{running} streams were silent for {} s",
                SILENCE_MAX / 1_000_000_000
            ));
        }
        for event in events.iter().take(ready) {
            let caller = &mut open[usize::try_from(event.data()).unwrap_or_default()];
            if caller.read(&mut buffer, progress, &mut seen)? {
                caller.check(events_each)?;
                progress.ended.fetch_add(1, Ordering::Relaxed);
                running -= 1;
            }
        }
    }
    Ok(seen)
}

impl Caller {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            reader: Reader::new(Side::Answers),
            asked: 0,
            begun: Vec::new(),
            events: 0,
            delay: None,
            is_done: false,
        }
    }

    fn ask(&mut self, request: &[u8]) -> Result<(), String> {
        self.asked = clock::of_day();
        let all = self.stream.write_all(request);
        all.map_err(|error| format!("a request was not taken: {error}"))
    }

    /// Reads what has come. Says whether the answer is complete.
    fn read(
        &mut self,
        buffer: &mut [u8],
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
        let (mut refused, mut is_complete, mut counted) = (None, false, 0_u64);
        let mut was_set = false;
        let Self { reader, asked, begun, events, delay, is_done, .. } = self;
        let fed = reader.feed(&buffer[..size], |part| match part {
            Part::Head(head) if head.status() != 200 => refused = Some(head.first_line()),
            Part::Head(_) => {}
            Part::Body(piece) => split(begun, piece, |event| {
                if event.starts_with(DONE) {
                    *is_done = true;
                }
                let Some(sent) = sent_at(event) else { return };
                *events += 1;
                progress.events.fetch_add(1, Ordering::Relaxed);
                was_set |= came < sent;
                let took = came.saturating_sub(sent);
                match delay.replace(took) {
                    None => {
                        seen.first_event.push(nanoseconds(came.saturating_sub(*asked)));
                        progress.begun.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(before) if progress.counts.load(Ordering::Relaxed) => {
                        counted += 1;
                        seen.delay.push(nanoseconds(took));
                        seen.added_gap.push(nanoseconds(took.saturating_sub(before)));
                    }
                    Some(_) => {}
                }
            }),
            Part::End => is_complete = true,
        });
        fed.map_err(|error| error.to_string())?;
        if was_set {
            return Err("an event came before it was sent: the clock was set meanwhile".into());
        }
        seen.together += counted.saturating_sub(1);
        refused.map_or(Ok(is_complete), Err)
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
