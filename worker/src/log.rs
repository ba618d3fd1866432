//! Log lines to the supervisor, as [`shared::log_line`] writes them, into a pipe that never blocks.
//!
//! Lines that say what happens wait until the thread has nothing else to do, so that many share one `write`: no longer than one
//! turn of its loop, and no more than a pipe takes in one piece. Failures, and what other threads say, are written at once. A full
//! pipe drops lines and counts them; the number is told with the next line that there is room for. The filter can be changed
//! while we run.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::{mem, panic};

use shared::log_line::{self, Fields, LINE_BYTES_MAX, Level, Line};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
static PIPE: OnceLock<Arc<Pipe>> = OnceLock::new();

thread_local! {
    /// This thread calls [`flush`] before it waits.
    static FLUSHES: Cell<bool> = const { Cell::new(false) };
}

/// Starts logging into `pipe` with the given filter directives.
pub fn start(pipe: OwnedFd, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let pipe = Arc::new(Pipe::new(pipe.into()));
    // Fails only if there is one already, which then goes on.
    if tracing_subscriber::registry().with(filter).with(Lines(Arc::clone(&pipe))).try_init().is_ok()
    {
        let _ = FILTER.set(handle);
        let _ = PIPE.set(pipe);
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            flush();
            told(panic);
        }));
    }
}

/// Puts other directives in force. Those that cannot be understood change nothing; the supervisor has seen that they can.
pub fn change(filter: &str) {
    if let (Some(handle), Ok(filter)) = (FILTER.get(), EnvFilter::try_new(filter)) {
        let _ = handle.reload(filter);
    }
}

/// Writes what waits. Who calls it does so each time before it waits, and at its end.
pub fn flush() {
    FLUSHES.set(true);
    let Some(pipe) = PIPE.get() else { return };
    match pipe.0.try_lock() {
        Ok(mut waiting) => waiting.write(),
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().write(),
        // Another thread writes, and takes all of it along; or this one has panicked over it.
        Err(TryLockError::WouldBlock) => {}
    }
}

/// Says what happens, of that target, with the fields that `tell` adds: the line that an event of [`tracing`] would be, without the
/// way through it. For what is said with every request, by whoever has asked whether it is wanted.
pub fn say(target: &str, message: &str, tell: impl Fn(&mut Fields<'_>)) {
    let Some(pipe) = PIPE.get() else { return };
    let mut waiting = pipe.lock();
    waiting.add(|text| log_line::append(text, Level::Info, target, message, tell));
    if !FLUSHES.get() {
        waiting.write();
    }
}

struct Lines(Arc<Pipe>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let is_failure = shared::log_event::level(event).is_failure();
        let mut waiting = self.0.lock();
        waiting.add(|text| shared::log_event::write(event, text));
        if is_failure || !FLUSHES.get() {
            waiting.write();
        }
    }
}

struct Pipe(Mutex<Waiting>);

impl Pipe {
    fn new(file: File) -> Self {
        let text = String::with_capacity(2 * LINE_BYTES_MAX);
        Self(Mutex::new(Waiting { file, text, lines: 0, dropped: 0 }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that are not in the pipe yet.
struct Waiting {
    file: File,
    text: String,
    lines: u64,
    dropped: u64,
}

impl Waiting {
    /// Adds a line that `write` appends. What waited before goes first if a pipe would not take both in one piece.
    fn add(&mut self, write: impl FnOnce(&mut String)) {
        let before = self.text.len();
        write(&mut self.text);
        if before > 0 && self.text.len() > LINE_BYTES_MAX {
            self.write_first(before);
        }
        self.lines += 1;
    }

    fn write(&mut self) {
        self.write_first(self.text.len());
    }

    /// Writes so many bytes.
    fn write_first(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let lines = mem::take(&mut self.lines);
        let written = (&self.file).write(self.text.as_bytes().get(..bytes).unwrap_or_default());
        self.text.drain(..bytes);
        if written.is_err() {
            self.dropped += lines;
            return;
        }
        let dropped = mem::take(&mut self.dropped);
        if dropped > 0 {
            let note = Line::new(
                Level::Warn,
                module_path!(),
                format!("{dropped} log lines dropped: the log pipe was full"),
            );
            // If there is no room for this line either, the number is kept for the next.
            if (&self.file).write(&log_line::encode(&note.with("lines", dropped))).is_err() {
                self.dropped += dropped;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    fn pipe() -> (File, Waiting) {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let pipe = Pipe::new(writing.into());
        (reading.into(), pipe.0.into_inner().unwrap())
    }

    fn read(reading: &mut File) -> String {
        let mut all = vec![0; 1024 * 1024];
        let bytes = reading.read(&mut all).unwrap_or(0);
        String::from_utf8_lossy(&all[..bytes]).into_owned()
    }

    #[test]
    fn what_a_full_pipe_does_not_take_is_counted_and_told() {
        let (mut reading, mut waiting) = pipe();
        let line = "x".repeat(1_000) + "\n";
        while waiting.dropped < 3 {
            waiting.add(|text| text.push_str(&line));
            waiting.write();
        }
        read(&mut reading);
        waiting.add(|text| text.push_str(&line));
        waiting.write();
        let told = read(&mut reading);
        assert!(told.contains("3 log lines dropped") && told.contains("lines#3"), "{told}");
    }

    #[test]
    fn lines_wait_for_each_other_as_long_as_a_pipe_takes_them_in_one_piece() {
        let (mut reading, mut waiting) = pipe();
        let line = "x".repeat(999) + "\n";
        for lines in 1..=5 {
            waiting.add(|text| text.push_str(&line));
            let there = read(&mut reading).len();
            assert_eq!(there, if lines == 5 { 4_000 } else { 0 }, "after {lines} lines");
        }
        waiting.write();
        assert_eq!(read(&mut reading), line);
        waiting.write();
        assert_eq!(read(&mut reading), "");
    }
}
