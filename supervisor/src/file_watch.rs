//! Notices that files have changed: whoever writes them, in place, by renaming, or by swapping the symbolic link of a
//! mounted secret.
//!
//! The folders are watched, never the files (a file that is replaced is gone), and whatever happens in them only means:
//! wait until it is quiet, then look at all files together. They are looked at every few seconds too, for file systems
//! that do not tell, and for folders that were replaced or were not there. A thread of its own: a file system that hangs
//! holds up nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::{Config, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tracing::warn;

/// It is quiet when nothing has happened for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Files that never come to rest are looked at all the same after this long.
const RESTLESS: Duration = Duration::from_secs(2);
/// How often everything is looked at without any event.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same after a change, which may be half of one.
const AGAIN: Duration = Duration::from_secs(1);
/// Readings that wait; then the thread does.
const READINGS_MAX: usize = 1;

/// One look at the files.
#[derive(Debug)]
pub struct Look<T> {
    /// What was read.
    pub reading: T,
    /// Whether it differs from what was read before.
    pub has_changed: bool,
}

/// Looks at the files with `look` now and after every change, for as long as somebody takes what was read.
pub fn start<T: Send + 'static>(
    name: &str,
    files: Vec<PathBuf>,
    look: impl FnMut() -> Look<T> + Send + 'static,
) -> io::Result<mpsc::Receiver<T>> {
    let (readings_in, readings) = mpsc::channel(READINGS_MAX);
    if !files.is_empty() {
        let files = Files(files);
        let watching = move || watch(&files, look, &readings_in);
        thread::Builder::new().name(name.to_owned()).spawn(watching)?;
    }
    Ok(readings)
}

fn watch<T>(files: &Files, mut look: impl FnMut() -> Look<T>, readings: &mpsc::Sender<T>) {
    let (happened, happenings) = sync_channel(1);
    let mut folders = Folders::new(files.clone(), happened);
    loop {
        // First watched, then read: what changes in between is noticed.
        folders.watch(&files.folders());
        let Look { reading, has_changed } = look();
        let pause = if has_changed { AGAIN } else { INTERVAL };
        if readings.blocking_send(reading).is_err() {
            return;
        }
        if happenings.recv_timeout(pause).is_ok() {
            wait_until_quiet(&happenings);
        }
    }
}

fn wait_until_quiet(happenings: &Receiver<()>) {
    let start = Instant::now();
    while start.elapsed() < RESTLESS && happenings.recv_timeout(QUIET).is_ok() {}
}

/// What is watched.
#[derive(Clone, Debug)]
struct Files(Vec<PathBuf>);

impl Files {
    /// Whether an event at `path` may be about one of the files. In the folder above theirs (which may be as busy as
    /// `/tmp`) only what happens to theirs counts.
    fn may_concern(&self, path: &Path) -> bool {
        let above = |file: &PathBuf| file.ancestors().nth(2) == path.parent();
        let beside = |file: &PathBuf| file.parent() == path.parent() || file.starts_with(path);
        self.0.iter().any(beside) || !self.0.iter().any(above)
    }

    /// Where something can happen to a file: its folder, the folder that holds that (which may be replaced as a whole),
    /// and, where links lead elsewhere, the folder of what they lead to.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for file in &self.0 {
            let above = file.ancestors().skip(1).take(2).filter(|path| path.is_dir());
            folders.extend(above.map(Path::to_owned));
            let target = file.canonicalize().ok();
            folders.extend(target.as_deref().and_then(Path::parent).map(Path::to_owned));
        }
        folders
    }
}

/// The folders that are watched, each with what tells it from another of the same name.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Keeps the channel open where there is no watcher.
    _happened: SyncSender<()>,
}

impl Folders {
    fn new(files: Files, happened: SyncSender<()>) -> Self {
        let tell = happened.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            let is_change = event.map_or(true, |event| {
                // Reading the files is an event as well, and must not be the reason to read them.
                !matches!(event.kind, EventKind::Access(_))
                    && event.paths.iter().any(|path| files.may_concern(path))
            });
            if is_change {
                // One that waits says it all.
                let _ = tell.try_send(());
            }
        };
        let watcher = match RecommendedWatcher::new(handler, Config::default()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn!(
                    "changes of files are noticed within {INTERVAL:?} only: the kernel does not tell ({error})"
                );
                None
            }
        };
        Self { watcher, watched: BTreeMap::new(), _happened: happened }
    }

    fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let identity =
            |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        self.watched.retain(|folder, known| {
            let stays = folders.contains(folder) && identity(folder) == Some(*known);
            if !stays {
                // Fails for a folder that is gone, whose watch has gone with it.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        for folder in folders {
            // Where it fails, the next look tries again, and reads the files anyway.
            if !self.watched.contains_key(folder)
                && let Some(found) = identity(folder)
                && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(folder.clone(), found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_beside_the_folder_of_the_files_is_no_reason_to_read_them() {
        let file = |name: &str| PathBuf::from("/run/bundle").join(name);
        let files = Files(["c", "k", "a"].map(file).to_vec());
        for concerning in ["/run/bundle/c", "/run/bundle/..data", "/run/bundle", "/elsewhere/c"] {
            assert!(files.may_concern(Path::new(concerning)), "{concerning}");
        }
        assert!(!files.may_concern(Path::new("/run/another")));
    }

    #[test]
    fn files_are_read_whatever_becomes_of_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("bundle");
        let file = folder.join("file");
        let write = |text: &str| {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, text).unwrap();
        };
        let looked_at = file.clone();
        let look = move || {
            let reading = fs::read_to_string(&looked_at).unwrap_or_else(|error| error.to_string());
            Look { reading, has_changed: true }
        };
        let mut readings = start("test", vec![file.clone()], look).unwrap();
        let mut until = |text: &str| {
            while let Some(reading) = readings.blocking_recv() {
                if reading.contains(text) {
                    return;
                }
            }
        };
        until("No such file");
        write("first");
        until("first");
        write("in place");
        until("in place");
        fs::rename(&folder, root.path().join("old")).unwrap();
        write("another folder");
        until("another folder");
        write("in place again");
        until("in place again");
    }
}
