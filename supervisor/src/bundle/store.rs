//! The bundle in force on disk, in the published layout, replaced as a whole or not at all.
//!
//! ```text
//! <mtls_dir>/ca.crt, client.crt    0644
//! <mtls_dir>/client.key, env_id    0600
//! <mtls_dir>/seal                  0600   the data key, wrapped under client.key: see state/seal.rs
//! <mtls_dir>/seal.lost-<time>      0600   one that nothing opens any more, moved aside
//! <dp_id_file>                     0600
//! <mtls_dir>/previous/             0700   the bundle before the last replacement, with its seal
//! <mtls_dir>/next/                 0700   a bundle on its way in, with `previous/` as it will be
//! <mtls_dir>/next/commit                  with this file it counts, without it never existed
//! ```
//!
//! A new bundle is written complete into `next/` and synced; the marker is the transaction. Then each file is moved to its
//! place. Whoever finds the marker reads what has not been moved from `next/`, and moves it when it may write: a kill at
//! any step leaves one usable identity, on a disk that can no longer be written too.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shared::secret::Secret;

use super::check::Parts;

const ROOTS: &str = "ca.crt";
const CHAIN: &str = "client.crt";
const KEY: &str = "client.key";
const ENV_ID: &str = "env_id";
const DP_ID: &str = "dp_id";
const SEAL: &str = "seal";
const NEXT: &str = "next";
const PREVIOUS: &str = "previous";
const COMMIT: &str = "commit";

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;
const FOLDER: u32 = 0o700;

/// Where the bundle is kept.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// Folder of the certificate, key and CA.
    pub mtls_dir: &'a Path,
    /// File of the data plane's id.
    pub dp_id_file: &'a Path,
}

/// What was found on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The bundle.
    pub parts: Parts,
    /// The environment's id as noted beside it; `None` = there is none, or an empty one.
    pub env_id: Option<String>,
    /// The data plane's id as noted; `None` = there is none, or an empty one.
    pub dp_id: Option<String>,
    /// The data key, wrapped; `None` = there is none, or an empty one.
    pub seal: Option<String>,
}

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StoreError {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system said.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError { action, path: path.to_owned(), source }
}

impl Store<'_> {
    /// Completes a replacement that was interrupted after its marker, and clears one that was interrupted before.
    pub fn recover(&self) -> Result<(), StoreError> {
        let next = self.mtls_dir.join(NEXT);
        if next.join(COMMIT).exists() {
            self.roll_forward(&next)
        } else if next.exists() {
            remove(&next)
        } else {
            Ok(())
        }
    }

    /// Where a file is right now: on its way in, if it counts and has not been moved yet.
    fn locate(&self, name: &str) -> PathBuf {
        let next = self.mtls_dir.join(NEXT);
        let waiting = next.join(name);
        if waiting.exists() && next.join(COMMIT).exists() { waiting } else { self.place(name) }
    }

    fn place(&self, name: &str) -> PathBuf {
        if name == DP_ID { self.dp_id_file.to_owned() } else { self.mtls_dir.join(name) }
    }

    /// What is kept; `None` unless certificate, key and CA are all there.
    pub fn read(&self) -> Result<Option<Kept>, StoreError> {
        let [roots, chain, key] = [ROOTS, CHAIN, KEY].map(|name| self.locate(name));
        if ![&roots, &chain, &key].into_iter().all(|path| path.is_file()) {
            return Ok(None);
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(failed("read", path));
        // Ids are only notes: the certificate carries both.
        let note = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let parts =
            Parts { chain: read(&chain)?, key: Secret::new(read(&key)?), roots: read(&roots)? };
        Ok(Some(Kept {
            parts,
            env_id: note(&self.locate(ENV_ID)),
            dp_id: note(&self.locate(DP_ID)),
            seal: note(&self.locate(SEAL)),
        }))
    }

    /// The data key as it was wrapped: in force, and of the bundle before. `Ok(None)` only where there is none.
    pub fn seals(&self) -> [io::Result<Option<String>>; 2] {
        let places = [self.locate(SEAL), self.mtls_dir.join(PREVIOUS).join(SEAL)];
        places.map(|path| match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                Ok(Some(text).filter(|text| !text.is_empty()))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(error),
            },
        })
    }

    /// The private keys beside them, where they can be read.
    pub fn client_keys(&self) -> impl Iterator<Item = Secret<String>> {
        let places = [self.locate(KEY), self.mtls_dir.join(PREVIOUS).join(KEY)];
        places.into_iter().filter_map(|path| fs::read_to_string(path).ok().map(Secret::new))
    }

    /// Moves the data key's wrap out of the way of a new one, and says where it is.
    pub fn move_seal_aside(&self, now_unix: i64) -> io::Result<PathBuf> {
        let to = self.mtls_dir.join(format!("{SEAL}.lost-{now_unix}"));
        fs::rename(self.locate(SEAL), &to)?;
        Ok(to)
    }

    /// Makes `bundle` the one that is kept, in one transaction. What is kept already is not written again.
    pub fn keep(&self, bundle: &Kept) -> Result<(), StoreError> {
        self.recover()?;
        // What cannot be read is replaced all the same.
        let there = self.read().ok().flatten();
        if there.as_ref() == Some(bundle) {
            return Ok(());
        }
        // Notes that are completed make no new bundle: the one before stays what it was.
        let previous = there.filter(|there| there.parts != bundle.parts);
        self.write(bundle, previous.as_ref())?;
        self.roll_forward(&self.mtls_dir.join(NEXT))
    }

    /// Everything up to the marker.
    fn write(&self, bundle: &Kept, previous: Option<&Kept>) -> Result<(), StoreError> {
        make_folder(self.mtls_dir)?;
        let next = self.mtls_dir.join(NEXT);
        write_all(&next, bundle)?;
        if let Some(previous) = previous {
            write_all(&next.join(PREVIOUS), previous)?;
            sync(&next)?;
        }
        create(&next.join(COMMIT), "", PRIVATE)?;
        sync(&next)?;
        sync(self.mtls_dir)
    }

    /// Everything after the marker. Can be interrupted and repeated anywhere.
    fn roll_forward(&self, next: &Path) -> Result<(), StoreError> {
        let (previous, place) = (next.join(PREVIOUS), self.mtls_dir.join(PREVIOUS));
        if previous.exists() {
            if place.exists() {
                remove(&place)?;
            }
            rename(&previous, &place)?;
        }
        let dp_id = next.join(DP_ID);
        if let Ok(id) = fs::read_to_string(&dp_id) {
            // May be on another file system: cannot be moved there.
            replace(self.dp_id_file, &id, PRIVATE)?;
        }
        for name in [ROOTS, CHAIN, KEY, ENV_ID, SEAL] {
            // What is not there was moved before an interruption.
            if next.join(name).exists() {
                rename(&next.join(name), &self.mtls_dir.join(name))?;
            }
        }
        sync(self.mtls_dir)?;
        // The marker first: without it, what is left of the folder never existed.
        let marker = next.join(COMMIT);
        step().and_then(|()| fs::remove_file(&marker)).map_err(failed("remove", &marker))?;
        sync(next)?;
        remove(next)?;
        sync(self.mtls_dir)
    }

    /// The file of the kept private key, wherever it is right now.
    pub fn key_file(&self) -> PathBuf {
        self.locate(KEY)
    }

    /// Takes the key away from users who are neither its owner nor in its group. Says what it found, if anything.
    pub fn tighten(&self) -> Option<String> {
        let key = self.mtls_dir.join(KEY);
        let mode = fs::metadata(&key).ok()?.permissions().mode() & 0o777;
        if mode & 0o007 == 0 {
            return None;
        }
        let found = format!("{} was accessible to every user (mode {mode:03o})", key.display());
        Some(match fs::set_permissions(&key, Permissions::from_mode(PRIVATE)) {
            Ok(()) => format!("{found}; its mode is 600 now"),
            Err(error) => format!("{found} and cannot be changed ({error}): run chmod 600 on it"),
        })
    }
}

/// A whole bundle in a new folder.
fn write_all(folder: &Path, bundle: &Kept) -> Result<(), StoreError> {
    make_folder(folder)?;
    let Kept { parts, env_id, dp_id, seal } = bundle;
    for (name, content, mode) in [
        (ROOTS, Some(&parts.roots), PUBLIC),
        (CHAIN, Some(&parts.chain), PUBLIC),
        (KEY, Some(parts.key.expose()), PRIVATE),
        (ENV_ID, env_id.as_ref(), PRIVATE),
        (DP_ID, dp_id.as_ref(), PRIVATE),
        (SEAL, seal.as_ref(), PRIVATE),
    ] {
        if let Some(content) = content {
            create(&folder.join(name), content, mode)?;
        }
    }
    sync(folder)
}

/// Stands before everything that changes the disk, so that a test can end a replacement at each such step.
fn step() -> io::Result<()> {
    #[cfg(test)]
    tests::step()?;
    Ok(())
}

/// A folder for its owner alone, with those above it where they are missing.
fn make_folder(path: &Path) -> Result<(), StoreError> {
    let make = || DirBuilder::new().recursive(true).mode(FOLDER).create(path);
    step().and_then(|()| make()).map_err(failed("create", path))?;
    // One that was there may be wider. Not an error where it is somebody else's: it can be written all the same.
    let _ = fs::set_permissions(path, Permissions::from_mode(FOLDER));
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    step().and_then(|()| fs::rename(from, to)).map_err(failed("write", to))
}

/// Removes a folder, file by file.
fn remove(folder: &Path) -> Result<(), StoreError> {
    let each = || {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                remove(&path).map_err(|error| error.source)?;
            } else {
                step()?;
                fs::remove_file(path)?;
            }
        }
        step()?;
        fs::remove_dir(folder)
    };
    each().map_err(failed("remove", folder))
}

/// A new file with exactly this mode, on disk when this returns.
fn create(path: &Path, content: &str, mode: u32) -> Result<(), StoreError> {
    let write = || {
        step()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        step()?;
        // Beside the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content.as_bytes())?;
        step()?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

/// Replaces a file, or makes it: a reader sees the old content or the new, whatever happens.
fn replace(path: &Path, content: &str, mode: u32) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER)
        .create(folder)
        .map_err(failed("create", folder))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Left over from an interruption.
    let _ = fs::remove_file(&temporary);
    create(&temporary, content, mode)?;
    rename(&temporary, path)?;
    sync(folder)
}

/// Makes the entries of a folder durable.
fn sync(folder: &Path) -> Result<(), StoreError> {
    let sync = || File::open(folder).and_then(|folder| folder.sync_all());
    step().and_then(|()| sync()).map_err(failed("sync", folder))
}

#[cfg(test)]
mod tests;
