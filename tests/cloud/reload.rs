//! The resources file in force: read at the start, and again whenever it changes.
//!
//! A change becomes one revision. An edit that cannot be taken is reported, and the resources in force stay. Revisions
//! never repeat over restarts (`DATA/revision`), so that a gateway that comes back never misses a change.

use crate::{
    cloud::Cloud,
    durable,
    etcd::Memory,
    resources::{Resources, ResourcesError},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(100);
/// A file still being written is read only once it has been left alone for so long.
const SETTLE: Duration = Duration::from_millis(30);

/// A watched resources file.
pub struct ResourcesFile {
    path: PathBuf,
    prefix: String,
    revision_path: PathBuf,
    stamp: Option<Stamp>,
}

/// What changes when a file does: inode, size, modification in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

/// Why the resources are not as the file says.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file, or the place where the revision is kept, cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is not a resources file.
    #[error("{} is not taken", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        source: ResourcesError,
    },
}

impl ResourcesFile {
    /// Reads the file for the first time, into a projection of its own.
    pub fn open(
        path: &Path,
        prefix: &str,
        data: &Path,
    ) -> Result<(Self, Memory, Resources), ReloadError> {
        let file = Self {
            path: path.to_owned(),
            prefix: prefix.to_owned(),
            revision_path: data.join("revision"),
            stamp: stamp(path),
        };
        let mut resources = file.read()?;
        // One revision is left out: a gateway that watches from the next one on is told to load everything again.
        let revision = file.last_revision() + 2;
        file.keep_revision(revision)?;
        tracing::info!("resources: {} projected, revision {revision}", resources.entries.len());
        let memory = Memory::new(revision, std::mem::take(&mut resources.entries));
        Ok((file, memory, resources))
    }

    /// Follows the file for as long as the process lives.
    pub async fn follow(mut self, cloud: Arc<Cloud>, memory: Arc<Memory>) {
        loop {
            tokio::time::sleep(POLL).await;
            let seen = stamp(&self.path);
            if seen == self.stamp {
                continue;
            }
            tokio::time::sleep(SETTLE).await;
            if stamp(&self.path) != seen {
                continue;
            }
            self.stamp = seen;
            match self.take(&cloud, &memory) {
                Ok(0) => {
                    tracing::info!("{} holds the same resources as before", self.path.display())
                }
                Ok(changed) => {
                    tracing::info!("resources: {changed} changed, revision {}", memory.revision())
                }
                Err(error) => {
                    let why = crate::with_causes(&error);
                    tracing::warn!(
                        "{why}; the resources of revision {} stay in force",
                        memory.revision()
                    );
                }
            }
        }
    }

    fn take(&self, cloud: &Cloud, memory: &Memory) -> Result<usize, ReloadError> {
        let resources = self.read()?;
        // Kept first: a revision that somebody has seen is never given out again.
        self.keep_revision(memory.revision() + 1)?;
        *cloud.budgets.write().unwrap_or_else(PoisonError::into_inner) = resources.budgets;
        Ok(memory.replace(resources.entries))
    }

    fn read(&self) -> Result<Resources, ReloadError> {
        let path = &self.path;
        let yaml = fs::read_to_string(path)
            .map_err(|source| ReloadError::File { path: path.clone(), source })?;
        Resources::parse(&yaml, &self.prefix)
            .map_err(|source| ReloadError::Content { path: path.clone(), source })
    }

    fn last_revision(&self) -> i64 {
        fs::read_to_string(&self.revision_path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    fn keep_revision(&self, revision: i64) -> Result<(), ReloadError> {
        durable::replace(&self.revision_path, 0o600, format!("{revision}\n").as_bytes())
            .map_err(|source| ReloadError::File { path: self.revision_path.clone(), source })
    }
}

/// None while there is no such file.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}
