//! The lock: the state directory belongs to one supervisor at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Name of the lock within the directory.
const LOCK: &str = "lock";
/// A supervisor that is killed while it starts a worker leaves the lock with that for a moment: until it executes its own program.
const LEFT_BEHIND: Duration = Duration::from_secs(1);
/// How often that is looked at. The kernel tells nobody.
const LOOK: Duration = Duration::from_millis(10);

/// Why the state directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or written.
    #[error("cannot use the state directory {}: {source}; make it writable by the user that runs the gateway", path.display())]
    Use {
        /// The directory or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another supervisor has it.
    #[error("the state directory {} is in use by process {owner}; stop that gateway first, or give this one a directory of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Process id of the other, as it wrote it down.
        owner: String,
    },
}

/// Holds the state directory for as long as it lives, and not beyond the process, whatever program that executes.
#[derive(Debug)]
pub struct StateLock {
    lock: Held,
}

#[derive(Debug)]
enum Held {
    Taken(Flock<File>),
    /// By the program that this process ran before: the lock belongs to the open file.
    Handed(OwnedFd),
}

impl StateLock {
    /// The lock that the program before has handed on.
    pub fn handed(lock: OwnedFd) -> Self {
        Self { lock: Held::Handed(lock) }
    }

    /// The open file that is locked, to be handed on. A copy holds the lock as well.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        match &self.lock {
            Held::Taken(lock) => lock.as_fd().try_clone_to_owned(),
            Held::Handed(lock) => lock.try_clone(),
        }
    }

    /// Takes the directory, which is made if it is not there.
    pub fn take(directory: &Path) -> Result<Self, StateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| StateError::Use { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed(directory))?;
        let path = directory.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match lock(file) {
            Ok(mut lock) => {
                // The number is for people; the lock holds without it, on a full disk too.
                let _ = lock
                    .set_len(0)
                    .and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
                Ok(Self { lock: Held::Taken(lock) })
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let owner = match owner(&file) {
                    text if text.is_empty() => "(unknown)".to_owned(),
                    text => text,
                };
                Err(StateError::InUse { path: directory.to_owned(), owner })
            }
            Err((_, errno)) => Err(failed(&path)(errno.into())),
        }
    }
}

/// Locks the file, if need be as soon as what a killed owner has left behind is gone.
fn lock(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    let deadline = Instant::now() + LEFT_BEHIND;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((locked, Errno::EWOULDBLOCK))
                if has_ended(&owner(&locked)) && Instant::now() < deadline =>
            {
                file = locked;
                thread::sleep(LOOK);
            }
            result => return result,
        }
    }
}

/// Who has written down its number.
fn owner(file: &File) -> String {
    let mut text = [0; 20];
    let length = file.read_at(&mut text, 0).unwrap_or_default();
    String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim().to_owned()
}

fn has_ended(owner: &str) -> bool {
    let pid = owner.parse().ok().filter(|pid| *pid > 0).map(Pid::from_raw);
    pid.is_some_and(|pid| kill(pid, None) == Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_a_killed_supervisor_has_left_behind_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOCK);
        // No process has such a number.
        fs::write(&path, format!("{}\n", i32::MAX)).unwrap();
        let left =
            Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        let leaves = thread::spawn(move || drop(left));
        StateLock::take(folder.path()).unwrap();
        leaves.join().unwrap();
    }

    #[test]
    fn a_second_supervisor_is_told_who_has_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let lock = StateLock::take(&state).unwrap();
        let error = StateLock::take(&state).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        StateLock::take(&state).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateLock::take(&file.join("state")).unwrap_err().to_string();
        assert!(error.contains("file/state"), "{error}");
    }
}
