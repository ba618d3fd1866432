//! Log lines of workers: read from their pipes, and passed on under the worker's name.
//!
//! A worker that was taken over can write anything, but only under its own name. What is of the form of
//! [`shared::log_line`] is told with its fields, all else as raw text: a panic, a forbidden call, or nonsense.
//! Failures that a worker repeats are summarised, each worker's for itself, so that none can hide what another one says.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use shared::descriptor;
use shared::id::{Role, WorkerId};
use shared::log_line::{self, LINE_BYTES_MAX, Level, Line};
use tokio::time::sleep_until;

use crate::log::{self, Repeats, Said, Speaker};

/// Read at a time, in bytes: what a pipe holds by default.
const READ_BYTES: usize = 64 * 1024;
/// Passed on per second and worker, in bytes: an access log at its busiest. More is dropped, and the drop is told.
const BYTES_PER_SECOND_MAX: usize = 16 * 1024 * 1024;
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
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn note_dropped(role: Role, lines: u64) {
    let of_role = Role::ALL.iter().position(|it| *it == role).and_then(|it| DROPPED.get(it));
    if let Some(count) = of_role {
        count.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Passes lines on until the worker's end of the pipe is closed.
pub async fn forward(id: WorkerId, role: Role, pid: Pid, pipe: OwnedFd) {
    let Ok(pipe) = descriptor::watched(pipe) else { return };
    let Ok(file) = pipe.get_ref().try_clone().map(File::from) else { return };
    let speaker = Speaker { worker: Some((role, id)), pid: pid.as_raw() };
    let (mut lines, mut repeats) = (Lines::default(), Repeats::default());
    let mut budget = Budget::new(Instant::now());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let mut ready = tokio::select! {
            ready = pipe.readable() => match ready {
                Ok(ready) => ready,
                Err(_) => break,
            },
            () = until(repeats.next()) => {
                log::tell(&speaker, &summaries(repeats.due(Instant::now())));
                continue;
            }
        };
        match (&file).read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => {
                let (read, now) = (buffer.get(..bytes).unwrap_or_default(), Instant::now());
                let mut said = Vec::new();
                match budget.take(bytes, lines_in(read), now) {
                    Taken::All => lines.push(read, &mut said),
                    Taken::After { dropped } => {
                        said.push(Said::Line(dropped_note(dropped)));
                        lines.push(read, &mut said);
                    }
                    Taken::Nothing => {
                        note_dropped(role, lines_in(read) as u64);
                        lines.lose(read);
                    }
                }
                said.retain(|said| match said {
                    Said::Line(line) => repeats.hear(line, now),
                    Said::Raw(_) => true,
                });
                note_dropped(role, log::tell(&speaker, &said));
                // A worker that never stops writing is not the only one there is.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let mut said = Vec::from_iter(lines.finish());
    said.extend(summaries(repeats.finish()));
    if budget.dropped > 0 {
        said.push(Said::Line(dropped_note(budget.dropped)));
    }
    note_dropped(role, log::tell(&speaker, &said));
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn summaries(lines: Vec<Line>) -> Vec<Said> {
    lines.into_iter().map(Said::Line).collect()
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
    /// Appends the whole lines that `bytes` complete.
    fn push(&mut self, bytes: &[u8], said: &mut Vec<Said>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.extend(line);
            said.extend(self.finish());
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

    /// What there is of the current line, as a line; nothing if there is nothing.
    fn finish(&mut self) -> Option<Said> {
        let line = std::mem::take(&mut self.partial);
        if std::mem::take(&mut self.is_torn) || line.is_empty() {
            return None;
        }
        Some(match log_line::decode(&line) {
            Some(line) => Said::Line(line),
            None => Said::Raw(String::from_utf8_lossy(&line).into_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(lines: &mut Lines, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        lines.push(bytes, &mut said);
        said
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
        assert_eq!(lines.finish(), Some(raw("last")));
        assert_eq!(lines.finish(), None);
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
            expected.extend(whole.finish());
            let mut split = Lines::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                split.push(piece, &mut found);
            }
            found.extend(split.finish());
            prop_assert_eq!(found, expected);
        }
    }
}
