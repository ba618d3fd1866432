//! The files of usage rings: where they are made, and which are left over from a supervisor that is gone.
//!
//! A ring is a file of fixed size, locked through the descriptor that its worker writes to: the lock lasts exactly as long
//! as the worker. So a start can tell a ring whose writer is gone, and no number of a process has to be believed. Where no
//! file can be made the ring is memory without a name: it outlives the worker, not the supervisor.
//!
//! ```text
//! /run/aisix/<hash of the state directory>/   where /run is memory, ours to write, and outlives us: in no container
//! <state>/run/                                everywhere else
//! ```
//! Beside a ring may lie a socket of the same name, `.sock`, by which the next supervisor finds a worker that has outlived
//! this one (`handover/orphans.rs`). It goes with the ring.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use shared::id::WorkerId;
use shared::memory;
use shared::ring::RING_BYTES;
use uuid::Uuid;

use crate::log::is_container;

/// Where rings are memory.
const RUNTIME: &str = "/run";
/// How the names of rings end.
const SUFFIX: &str = ".ring";

/// A ring as the supervisor reads it.
#[derive(Debug)]
pub struct RingFile {
    /// Its name, never used again.
    pub name: String,
    /// Where it is, if it has a name in the file system.
    pub path: Option<PathBuf>,
    /// Open for reading.
    pub file: Arc<File>,
}

/// Where rings are made.
#[derive(Clone, Debug, Default)]
pub struct RingFolders {
    folders: Vec<PathBuf>,
    /// What the names of this environment's rings begin with.
    prefix: String,
}

impl RingFolders {
    /// For the gateway of that state directory and environment.
    pub fn of(state: &Path, env_id: &str) -> Self {
        let runtime = Path::new(RUNTIME);
        let state_name = fs::canonicalize(state).unwrap_or_else(|_| state.to_owned());
        let ours = runtime.join("aisix").join(hash(state_name.as_os_str().as_encoded_bytes()));
        let is_memory =
            !is_container() && statfs(runtime).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC);
        let mut folders = vec![state.join("run")];
        if is_memory {
            folders.insert(0, ours);
        }
        Self { folders, prefix: hash(env_id.as_bytes()) }
    }

    /// A new ring for a worker: our end, and the descriptor that it is born with. The reason comes along where it could not
    /// be made as a file.
    pub fn make(&self, worker: WorkerId) -> io::Result<(RingFile, OwnedFd, Option<String>)> {
        let name = format!("{}-{}-worker-{worker}{SUFFIX}", self.prefix, Uuid::new_v4());
        let mut reasons = Vec::new();
        for folder in &self.folders {
            match make(folder, &name) {
                Ok((path, file, writer)) => {
                    let file = Arc::new(file);
                    return Ok((RingFile { name, path: Some(path), file }, writer, None));
                }
                Err(error) => reasons.push(format!("{}: {error}", folder.display())),
            }
        }
        let writer = memory::fixed_size("aisix-usage", RING_BYTES)?;
        let file = Arc::new(File::from(writer.try_clone()?));
        let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        Ok((RingFile { name, path: None, file }, writer, reason))
    }

    /// Where rings are, whether or not there is such a folder yet.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Rings of this environment that are there, whoever writes to them.
    pub fn left_over(&self) -> Vec<RingFile> {
        let entries = self.folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let rings = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_ours = name.starts_with(&self.prefix) && name.ends_with(SUFFIX);
            let path = entry.path();
            let file = Arc::new(is_ours.then(|| open(&path).ok()).flatten()?);
            Some(RingFile { name, path: Some(path), file })
        });
        rings.collect()
    }
}

impl RingFile {
    /// Whether its worker is gone.
    pub fn is_abandoned(&self) -> bool {
        !matches!(self.file.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Takes its name out of the file system, and that of the socket beside it.
    pub fn remove(&self) -> io::Result<()> {
        if let Some(path) = &self.path {
            // Most rings have none.
            let _ = fs::remove_file(path.with_extension("sock"));
        }
        match self.path.as_deref().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn make(folder: &Path, name: &str) -> io::Result<(PathBuf, File, OwnedFd)> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let owner = fs::symlink_metadata(folder)?;
    let us = nix::unistd::geteuid().as_raw();
    if !owner.is_dir() || owner.uid() != us || owner.mode() & 0o022 != 0 {
        return Err(io::Error::other("not a folder that only we can write to"));
    }
    let path = folder.join(name);
    // The worker reads nothing in it, but maps it, which only one may who could.
    let writer = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)?;
    let prepared = || {
        // A full disk shows here and not in the middle of a request.
        let bytes = i64::try_from(RING_BYTES).unwrap_or(i64::MAX);
        fallocate(&writer, FallocateFlags::empty(), 0, bytes)?;
        writer.lock()?;
        open(&path)
    };
    match prepared() {
        Ok(reader) => {
            debug_assert_ne!(reader.as_raw_fd(), writer.as_raw_fd());
            Ok((path, reader, writer.into()))
        }
        Err(error) => {
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}

/// Opens what is there as a ring: a plain file of the right size.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() >= RING_BYTES {
        // Who reads ahead leaves pieces in the page cache that are so large that each small write into one costs twice as much.
        // It is as right without.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM);
        Ok(file)
    } else {
        Err(io::Error::other("not a usage ring"))
    }
}

/// Sixteen hexadecimal digits that tell things apart.
fn hash(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folders(state: &Path, env_id: &str) -> RingFolders {
        RingFolders { folders: vec![state.join("run")], prefix: hash(env_id.as_bytes()) }
    }

    #[test]
    fn a_ring_is_abandoned_when_nobody_holds_the_writing_end() {
        let state = tempfile::tempdir().unwrap();
        let ours = folders(state.path(), "e");
        let (ring, writer, reason) = ours.make(WorkerId(3)).unwrap();
        assert_eq!(reason, None);
        assert!(!ring.is_abandoned());
        let workers_copy = writer.try_clone().unwrap();
        drop(writer);
        let left = ours.left_over().pop().unwrap();
        assert_eq!(left.name, ring.name);
        assert!(!left.is_abandoned(), "its worker lives");
        drop(workers_copy);
        assert!(left.is_abandoned());
        left.remove().unwrap();
        assert!(ours.left_over().is_empty());
    }

    #[test]
    fn rings_of_another_environment_are_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let _ring = folders(state.path(), "other").make(WorkerId(1)).unwrap();
        assert!(folders(state.path(), "e").left_over().is_empty());
    }

    #[test]
    fn where_no_file_can_be_made_the_ring_is_memory_and_the_reason_is_told() {
        let state = tempfile::tempdir().unwrap();
        let run = state.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
        let (ring, _writer, reason) = folders(state.path(), "e").make(WorkerId(1)).unwrap();
        assert_eq!(ring.path, None);
        assert!(reason.unwrap().contains("run: not a folder that only we can write to"));
    }
}
