//! Log lines to the supervisor, as [`shared::log_line`] writes them: one `write` a line into a pipe that never blocks.
//!
//! A full pipe drops lines and counts them; the number is told with the next line that there is room for. The filter can be
//! changed while we run.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use shared::log_line::{self, Level, Line};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging into `pipe` with the given filter directives.
pub fn start(pipe: OwnedFd, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let pipe = Pipe { file: pipe.into(), dropped: AtomicU64::new(0) };
    // Fails only if there is one already, which then goes on.
    if tracing_subscriber::registry().with(filter).with(pipe).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Puts other directives in force. Those that cannot be understood change nothing; the supervisor has seen that they can.
pub fn change(filter: &str) {
    if let (Some(handle), Ok(filter)) = (FILTER.get(), EnvFilter::try_new(filter)) {
        let _ = handle.reload(filter);
    }
}

struct Pipe {
    file: File,
    dropped: AtomicU64,
}

impl<S: Subscriber> Layer<S> for Pipe {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.write(&shared::log_event::line(event));
    }
}

impl Pipe {
    fn write(&self, line: &Line) {
        if (&self.file).write(&log_line::encode(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let note = Line::new(
                Level::Warn,
                module_path!(),
                format!("{dropped} log lines dropped: the log pipe was full"),
            );
            // If there is no room for this line either, the number is kept for the next.
            if (&self.file).write(&log_line::encode(&note.with("lines", dropped))).is_err() {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
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

    #[test]
    fn what_a_full_pipe_does_not_take_is_counted_and_told() {
        let (reading, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let pipe = Pipe { file: writing.into(), dropped: AtomicU64::new(0) };
        let line = Line::new(Level::Info, "t", "x".repeat(1_000));
        while pipe.dropped.load(Ordering::Relaxed) < 3 {
            pipe.write(&line);
        }
        let mut reading = File::from(reading);
        let mut all = vec![0; 1024 * 1024];
        let _ = reading.read(&mut all).unwrap();
        pipe.write(&line);
        let bytes = reading.read(&mut all).unwrap();
        let told = String::from_utf8_lossy(&all[..bytes]);
        assert!(told.contains("3 log lines dropped") && told.contains("lines#3"), "{told}");
    }
}
