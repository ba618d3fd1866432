//! Log lines to the supervisor: one `write` a line into a pipe that never blocks. A full pipe drops and counts.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What a pipe takes in one piece (`PIPE_BUF`), in bytes. A longer line is cut.
const LINE_BYTES_MAX: usize = 4096;

/// Starts logging into `pipe` with the given filter directives.
pub fn start(pipe: OwnedFd, filter: &str) {
    let pipe = Pipe { file: Arc::new(pipe.into()), dropped: Arc::default() };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(pipe);
    // Fails only if there is one already, which then goes on.
    let _ = subscriber.try_init();
}

#[derive(Clone)]
struct Pipe {
    file: Arc<File>,
    dropped: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for Pipe {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Pipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut short = Vec::new();
        let piece = if line.len() > LINE_BYTES_MAX {
            short.extend_from_slice(line.get(..LINE_BYTES_MAX - 1).unwrap_or(line));
            short.push(b'\n');
            &short
        } else {
            line
        };
        match (&*self.file).write(piece) {
            Ok(_) => {
                let dropped = self.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    // If there is no room for this line either, the number is kept for the next.
                    let note = format!("{dropped} log lines dropped: the log pipe was full\n");
                    if (&*self.file).write(note.as_bytes()).is_err() {
                        self.dropped.fetch_add(dropped, Ordering::Relaxed);
                    }
                }
            }
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
