//! `/etc/hosts` and `/etc/resolv.conf`, for the egress worker, which opens no file: read at the start, and again when
//! they change. A thread of its own looks every two seconds, since a file system may hang; what a path leads to now
//! counts, so that links which are swapped, files which are renamed and files which are written in place are all noticed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use shared::egress::Resolver;
use tokio::sync::mpsc;
use tracing::{info, warn};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// What is longer is cut: both together have to fit a value of the encoding between processes.
const FILE_BYTES_MAX: u64 = 7 * 1024 * 1024;

/// What tells two states of a file apart.
type State = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// The files as they are now, and as they are after each change. One change waits at a time; the thread does then.
pub fn start() -> io::Result<(Resolver, mpsc::Receiver<Resolver>)> {
    // The state first: what changes while we read is read again.
    let seen = states();
    let first = read();
    let (changes_in, changes) = mpsc::channel(1);
    let last = first.clone();
    thread::Builder::new()
        .name("resolver-files".to_owned())
        .spawn(move || watch(seen, last, &changes_in))?;
    Ok((first, changes))
}

fn watch(mut seen: [State; 2], mut last: Resolver, changes: &mpsc::Sender<Resolver>) {
    while !changes.is_closed() {
        thread::sleep(INTERVAL);
        let now = states();
        if now == seen {
            continue;
        }
        seen = now;
        let files = read();
        if files == last {
            continue;
        }
        info!("{HOSTS} or {RESOLV_CONF} has changed; names are resolved with it from now on");
        last = files.clone();
        if changes.blocking_send(files).is_err() {
            return;
        }
    }
}

fn states() -> [State; 2] {
    [HOSTS, RESOLV_CONF].map(|path| {
        let it = fs::metadata(path).ok()?;
        Some((
            it.dev(),
            it.ino(),
            it.size(),
            it.mtime(),
            it.mtime_nsec(),
            it.ctime(),
            it.ctime_nsec(),
        ))
    })
}

/// The files as they are now.
pub fn read() -> Resolver {
    Resolver { hosts: text(HOSTS), resolv_conf: text(RESOLV_CONF) }
}

/// A file that is not there is as if it were empty, as elsewhere.
fn text(path: &str) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(%error, "cannot read {path}; names are resolved without it"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
