//! The lock: the state directory belongs to one supervisor at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Name of the lock within the directory.
const LOCK: &str = "lock";

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
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // The number is for people; the lock holds without it, on a full disk too.
                let _ = lock
                    .set_len(0)
                    .and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
                Ok(Self { lock: Held::Taken(lock) })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "(unknown)".to_owned(),
                    pid => pid.chars().take(20).collect(),
                };
                Err(StateError::InUse { path: directory.to_owned(), owner })
            }
            Err((_, errno)) => Err(failed(&path)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
