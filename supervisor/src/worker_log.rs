//! Log lines of workers: read from their pipes, and passed on under the worker's name.
//!
//! A worker that was taken over can write anything, but only under its own name. What is of the form of
//! [`shared::log_line`] is told with its fields, all else as raw text: a panic, a forbidden call, or nonsense.
//! Failures that a worker repeats are summarised, each worker's for itself, so that none can hide what another one says.
//!
//! The first line after a silence is read at once. From then on the pipe is not watched but looked at every [`PAUSE`], until
//! there is nothing in it: a worker under load wakes this process two hundred times a second, and not for every line. Where both have one
//! core a request may have to wait for such a turn: many short ones are better than a few long ones.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::Pid;
use shared::descriptor;
use shared::id::{Role, WorkerId};
use shared::log_line::{self, LINE_BYTES_MAX, Level, Line};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

use crate::log::{self, Alike, Repeats, Said, Speaker};

/// Read at a time, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// What a proxy worker's pipe may hold, in bytes, where the system permits it: its lines of 100 ms.
const PIPE_BYTES: i32 = 1024 * 1024;
/// How long lines gather while a worker goes on writing.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the last lines of workers that are gone are waited for.
const FINISH_LIMIT: Duration = Duration::from_millis(200);
/// Passed on per second and worker, in bytes: an access log at its busiest. More is dropped, and the drop is told.
const BYTES_PER_SECOND_MAX: usize = 64 * 1024 * 1024;
/// What a line counts beside its bytes: short ones cost as much work as long ones.
const LINE_COST: usize = 256;

/// Lines that were dropped since the start, by role.
static DROPPED: [AtomicU64; Role::ALL.len()] = [const { AtomicU64::new(0) }; Role::ALL.len()];

/// How many lines of workers were dropped since the start, by role: each by its end.
pub fn dropped() -> Vec<(&'static str, u64)> {
    let counts = DROPPED.iter().map(|count| count.load(Ordering::Relaxed));
    Role::ALL.into_iter().map(Role::name).zip(counts).collect()
}

fn lines_in(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

fn note_dropped(role: Role, lines: u64) {
    let of_role = Role::ALL.iter().position(|it| *it == role).and_then(|it| DROPPED.get(it));
    if let Some(count) = of_role {
        count.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Pipes that are read.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// A worker is gone: its last lines are not waited for.
static HURRY: Notify = Notify::const_new();
/// A pipe was read to its end.
static ENDED: Notify = Notify::const_new();

/// Counts a pipe that is read.
struct Open;

impl Open {
    fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
        ENDED.notify_waiters();
    }
}

/// Returns when every pipe was read to its end: all workers are gone. What a stranger holds open is not waited for.
pub async fn finish() {
    let ended = async {
        loop {
            let ended = ENDED.notified();
            if OPEN.load(Ordering::Relaxed) == 0 {
                return;
            }
            HURRY.notify_waiters();
            // One that began to wait just now was not told.
            let _ = timeout(PAUSE, ended).await;
        }
    };
    let _ = timeout(FINISH_LIMIT, ended).await;
}

/// Passes lines on until the worker's end of the pipe is closed.
pub async fn forward(id: WorkerId, role: Role, pid: Pid, pipe: OwnedFd) {
    let _open = Open::new();
    if role == Role::Proxy {
        // Refused where a user has too much of that already: then it holds what it holds.
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }
    let Ok(file) = pipe.try_clone().map(File::from) else { return };
    let mut hearing = Hearing::new(Speaker { worker: Some((role, id)), pid: pid.as_raw() }, role);
    let mut buffer = vec![0; READ_BYTES];
    let (mut pipe, mut goes_on) = (pipe, true);
    while goes_on {
        let Ok(watched) = descriptor::watched(pipe) else { break };
        loop {
            tokio::select! {
                ready = watched.readable() => {
                    goes_on = ready.is_ok();
                    break;
                }
                () = until(hearing.repeats.next()) => hearing.tell_repeats(Instant::now()),
            }
        }
        // Not watched any more: the next lines wake nobody.
        pipe = watched.into_inner();
        while goes_on {
            match (&file).read(&mut buffer) {
                Ok(0) => goes_on = false,
                Ok(bytes) => {
                    hearing.hear(buffer.get(..bytes).unwrap_or_default(), Instant::now());
                    if bytes < READ_BYTES {
                        let _ = timeout(PAUSE, HURRY.notified()).await;
                    } else {
                        // A worker that never stops writing is not the only one there is.
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => goes_on = false,
            }
        }
    }
    hearing.finish();
}

/// What is heard of one worker, and passed on.
struct Hearing {
    speaker: Speaker,
    role: Role,
    lines: Lines,
    alike: Alike,
    repeats: Repeats,
    budget: Budget,
}

impl Hearing {
    fn new(speaker: Speaker, role: Role) -> Self {
        let (lines, alike, repeats) = (Lines::default(), Alike::default(), Repeats::default());
        Self { speaker, role, lines, alike, repeats, budget: Budget::new(Instant::now()) }
    }

    /// Takes what was read.
    fn hear(&mut self, read: &[u8], now: Instant) {
        let Self { lines, alike, repeats, .. } = self;
        let dropped = match self.budget.take(read.len(), lines_in(read), now) {
            Taken::All => 0,
            Taken::After { dropped } => dropped,
            Taken::Nothing => {
                note_dropped(self.role, lines_in(read) as u64);
                return lines.lose(read);
            }
        };
        let lost = log::telling(self.speaker, |telling| {
            if dropped > 0 {
                telling.say(&Said::Line(dropped_note(dropped)));
            }
            lines.push(read, |line| {
                if telling.say_alike(line, alike) {
                    return;
                }
                let as_it_is =
                    std::str::from_utf8(line).ok().filter(|_| !log_line::tells_failure(line));
                if as_it_is.is_some_and(|line| telling.say_written(line, alike)) {
                    return;
                }
                match log_line::decode(line) {
                    Some(line) if !repeats.hear(&line, now) => {}
                    Some(line) => telling.say(&Said::Line(line)),
                    None => telling.say(&raw(line)),
                }
            });
        });
        note_dropped(self.role, lost);
    }

    /// Tells of failures that were repeated, whose time has come.
    fn tell_repeats(&mut self, now: Instant) {
        let due = self.repeats.due(now);
        log::telling(self.speaker, |telling| {
            due.into_iter().for_each(|line| telling.say(&Said::Line(line)));
        });
    }

    /// There is nothing more to be heard.
    fn finish(mut self) {
        let Self { speaker, lines, repeats, budget, .. } = &mut self;
        let lost = log::telling(*speaker, |telling| {
            lines.finish(&mut |line| match log_line::decode(line) {
                Some(line) => telling.say(&Said::Line(line)),
                None => telling.say(&raw(line)),
            });
            repeats.finish().into_iter().for_each(|line| telling.say(&Said::Line(line)));
            if budget.dropped > 0 {
                telling.say(&Said::Line(dropped_note(budget.dropped)));
            }
        });
        note_dropped(self.role, lost);
    }
}

fn raw(line: &[u8]) -> Said {
    Said::Raw(String::from_utf8_lossy(line).into_owned())
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn dropped_note(dropped: usize) -> Line {
    let text = format!("{dropped} bytes of log dropped: too many at once");
    let bytes = u64::try_from(dropped).unwrap_or(u64::MAX);
    Line::new(Level::Warn, module_path!(), text).with("bytes", bytes)
}

/// How much of one worker's log is passed on. Pure.
struct Budget {
    second: Instant,
    left: usize,
    dropped: usize,
}

/// What becomes of bytes that were read.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// They are passed on.
    All,
    /// They are passed on; so many before them were not.
    After {
        /// In bytes.
        dropped: usize,
    },
    /// They are dropped.
    Nothing,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { second: now, left: BYTES_PER_SECOND_MAX, dropped: 0 }
    }

    /// Whether these bytes, and so many lines in them, are passed on.
    fn take(&mut self, bytes: usize, lines: usize, now: Instant) -> Taken {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            *self = Self { dropped: self.dropped, ..Self::new(now) };
        }
        let cost = bytes.saturating_add(lines.saturating_mul(LINE_COST));
        match self.left.checked_sub(cost) {
            None => {
                self.dropped = self.dropped.saturating_add(bytes);
                Taken::Nothing
            }
            Some(left) => {
                self.left = left;
                match std::mem::take(&mut self.dropped) {
                    0 => Taken::All,
                    dropped => Taken::After { dropped },
                }
            }
        }
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    /// The current line has lost its beginning: it is none.
    is_torn: bool,
}

impl Lines {
    /// Takes bytes, and lets `tell` have the whole lines that they complete.
    fn push(&mut self, bytes: &[u8], mut tell: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            if self.partial.is_empty() && !self.is_torn {
                let line = line.get(..LINE_BYTES_MAX).unwrap_or(line);
                if !line.is_empty() {
                    tell(line);
                }
            } else {
                self.extend(line);
                self.finish(&mut tell);
            }
            rest = after.get(1..).unwrap_or_default();
        }
        self.extend(rest);
    }

    /// What was dropped, and with it the line that it began or went on with.
    fn lose(&mut self, bytes: &[u8]) {
        self.partial.clear();
        self.is_torn = bytes.last() != Some(&b'\n');
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Lets `tell` have what there is of the current line, as a line; nothing if there is nothing.
    fn finish(&mut self, tell: &mut impl FnMut(&[u8])) {
        if !std::mem::take(&mut self.is_torn) && !self.partial.is_empty() {
            tell(&self.partial);
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &[u8]) -> Said {
        log_line::decode(line).map_or_else(|| super::raw(line), |line| Said::Line(line.to_owned()))
    }

    fn said(lines: &mut Lines, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        lines.push(bytes, |line| said.push(one(line)));
        said
    }

    fn last(lines: &mut Lines) -> Option<Said> {
        let mut last = None;
        lines.finish(&mut |line| last = Some(one(line)));
        last
    }

    fn raw(text: &str) -> Said {
        Said::Raw(text.to_owned())
    }

    #[test]
    fn lines_and_raw_words_come_in_order() {
        let line = Line::new(Level::Info, "worker", "ready").with("status", 200);
        let written =
            [b"panicked\n", &*log_line::encode(&line), b"\x1eI\x1fbroken\n\nlast"].concat();
        let mut lines = Lines::default();
        let expected = [raw("panicked"), Said::Line(line), raw("\x1eI\x1fbroken")];
        assert_eq!(said(&mut lines, &written), expected);
        assert_eq!(last(&mut lines), Some(raw("last")));
        assert_eq!(last(&mut lines), None);
    }

    #[test]
    fn a_flood_is_dropped_until_the_next_second_and_then_told() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!(budget.take(BYTES_PER_SECOND_MAX - LINE_COST, 1, now), Taken::All);
        assert_eq!(budget.take(100, 1, now), Taken::Nothing);
        assert_eq!(budget.take(200, 1, now), Taken::Nothing);
        let later = now + Duration::from_secs(1);
        assert_eq!(budget.take(1, 1, later), Taken::After { dropped: 300 });
        assert_eq!(budget.take(1, 1, later), Taken::All);
    }

    #[test]
    fn what_is_left_of_a_line_is_not_taken_for_one() {
        let mut lines = Lines::default();
        assert_eq!(said(&mut lines, b"whole\nbeg"), [raw("whole")]);
        lines.lose(b"un\nand anoth");
        assert_eq!(said(&mut lines, b"er\nwhole\n"), [raw("whole")]);
        lines.lose(b"x\n");
        assert_eq!(said(&mut lines, b"whole\n"), [raw("whole")]);
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_takes_no_more_memory() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert_eq!(said(&mut lines, &[b'x'; 1000]), []);
        }
        assert!(lines.partial.capacity() <= 2 * LINE_BYTES_MAX);
        assert_eq!(said(&mut lines, b"\n"), [raw(&"x".repeat(LINE_BYTES_MAX))]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_reads_were_split(bytes: Vec<u8>, size in 1..50usize) {
            let mut whole = Lines::default();
            let mut expected = said(&mut whole, &bytes);
            expected.extend(last(&mut whole));
            let mut split = Lines::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                found.extend(said(&mut split, piece));
            }
            found.extend(last(&mut split));
            prop_assert_eq!(found, expected);
        }
    }
}
