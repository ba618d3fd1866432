//! Log lines of workers: read from their pipes, made harmless, passed on with the worker's name in front.
//!
//! A line is never interpreted: a worker that was taken over can write anything, but only under its own name.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shared::descriptor;
use shared::id::{Role, WorkerId};

/// A longer line is cut, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// Read at a time, in bytes: what a pipe holds by default.
const READ_BYTES: usize = 64 * 1024;
/// Passed on per second and worker, in bytes: an access log at its busiest. More is dropped, and the drop is told.
const BYTES_PER_SECOND_MAX: usize = 16 * 1024 * 1024;

/// Lines that were dropped since the start, by role.
static DROPPED: [AtomicU64; Role::ALL.len()] = [const { AtomicU64::new(0) }; Role::ALL.len()];

/// How many lines of workers were dropped since the start, by role: each by its end.
pub fn dropped() -> Vec<(&'static str, u64)> {
    let counts = DROPPED.iter().map(|count| count.load(Ordering::Relaxed));
    Role::ALL.into_iter().map(Role::name).zip(counts).collect()
}

fn note_dropped(role: Role, bytes: &[u8]) {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    let of_role = Role::ALL.iter().position(|it| *it == role).and_then(|it| DROPPED.get(it));
    if let Some(count) = of_role {
        count.fetch_add(lines as u64, Ordering::Relaxed);
    }
}

/// Passes lines on until the worker's end of the pipe is closed.
pub async fn forward(id: WorkerId, role: Role, pipe: OwnedFd) {
    let Ok(pipe) = descriptor::watched(pipe) else { return };
    let Ok(file) = pipe.get_ref().try_clone().map(File::from) else { return };
    let name = format!("{role}[{id}]");
    let mut lines = Lines::default();
    let mut budget = Budget::new(Instant::now());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let Ok(mut ready) = pipe.readable().await else { return };
        match (&file).read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => {
                let read = buffer.get(..bytes).unwrap_or_default();
                let text = match budget.take(bytes, Instant::now()) {
                    Taken::All => lines.push(&name, read),
                    Taken::After { dropped } => {
                        let note =
                            format!("{name} {dropped} bytes of log dropped: too many at once\n");
                        note + &lines.push(&name, read)
                    }
                    Taken::Nothing => {
                        note_dropped(role, read);
                        String::new()
                    }
                };
                // One write for all: lines of the supervisor itself do not come in between.
                let _ = io::stderr().write_all(text.as_bytes());
                // A worker that never stops writing is not the only one there is.
                tokio::task::yield_now().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = io::stderr().write_all(lines.finish(&name).as_bytes());
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

    fn take(&mut self, bytes: usize, now: Instant) -> Taken {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            *self = Self { dropped: self.dropped, ..Self::new(now) };
        }
        match self.left.checked_sub(bytes) {
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
}

impl Lines {
    /// The whole lines that `bytes` complete, ready to be written.
    fn push(&mut self, name: &str, bytes: &[u8]) -> String {
        let mut text = String::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.extend(line);
            text.push_str(&self.finish(name));
            rest = after.get(1..).unwrap_or_default();
        }
        self.extend(rest);
        text
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// What there is of the current line, as a line; nothing if there is nothing.
    fn finish(&mut self, name: &str) -> String {
        if self.partial.is_empty() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&self.partial);
        let mut line = format!("{name} ");
        for character in text.chars() {
            if character.is_control() && character != '\t' {
                line.extend(character.escape_default());
            } else {
                line.push(character);
            }
        }
        line.push('\n');
        self.partial.clear();
        line
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_cannot_pretend_to_be_another_process() {
        let mut lines = Lines::default();
        let text = lines.push("proxy[1]", b"hello\x1b[2J\rsupervisor says\nnext");
        assert_eq!(text, "proxy[1] hello\\u{1b}[2J\\rsupervisor says\n");
        assert_eq!(lines.finish("proxy[1]"), "proxy[1] next\n");
    }

    #[test]
    fn a_flood_is_dropped_until_the_next_second_and_then_told() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        assert_eq!(budget.take(BYTES_PER_SECOND_MAX, now), Taken::All);
        assert_eq!(budget.take(100, now), Taken::Nothing);
        assert_eq!(budget.take(200, now), Taken::Nothing);
        let later = now + Duration::from_secs(1);
        assert_eq!(budget.take(1, later), Taken::After { dropped: 300 });
        assert_eq!(budget.take(1, later), Taken::All);
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_takes_no_more_memory() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            assert_eq!(lines.push("w", &[b'x'; 1000]), "");
        }
        assert_eq!(lines.push("w", b"\n").len(), LINE_BYTES_MAX + "w \n".len());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_reads_were_split(bytes: Vec<u8>, size in 1..50usize) {
            let mut whole = Lines::default();
            let expected = whole.push("w", &bytes) + &whole.finish("w");
            let mut split = Lines::default();
            let mut text = String::new();
            for piece in bytes.chunks(size) {
                text.push_str(&split.push("w", piece));
            }
            text.push_str(&split.finish("w"));
            prop_assert_eq!(text, expected);
        }
    }
}
