//! The bundle in force on disk, in the published layout, replaced as a whole or not at all.
//!
//! ```text
//! <mtls_dir>/ca.crt, client.crt    0644
//! <mtls_dir>/client.key, env_id    0600
//! <mtls_dir>/seal                  0600   the data key, wrapped under client.key: see state/seal.rs
//! <dp_id_file>                     0600
//! <mtls_dir>/next/                 0700   a bundle on its way in
//! <mtls_dir>/next/commit                  with this file it counts, without it never existed
//! ```
//!
//! A new bundle is written complete into `next/` and synced; the marker is the transaction. Then each file is moved to its
//! place. Whoever finds the marker later moves what is left, so that a kill at any step leaves one usable identity.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
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
            fs::remove_dir_all(&next).map_err(failed("remove", &next))
        } else {
            Ok(())
        }
    }

    /// What is kept; `None` unless certificate, key and CA are all there.
    pub fn read(&self) -> Result<Option<Kept>, StoreError> {
        let [roots, chain, key] = [ROOTS, CHAIN, KEY].map(|name| self.mtls_dir.join(name));
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
            env_id: note(&self.mtls_dir.join(ENV_ID)),
            dp_id: note(self.dp_id_file),
            seal: note(&self.mtls_dir.join(SEAL)),
        }))
    }

    /// Makes `bundle` the one that is kept, in one transaction. What is kept already is not written again.
    pub fn keep(&self, bundle: &Kept) -> Result<(), StoreError> {
        self.recover()?;
        if self.read()?.as_ref() == Some(bundle) {
            return Ok(());
        }
        self.write(bundle)?;
        self.roll_forward(&self.mtls_dir.join(NEXT))
    }

    /// Everything up to the marker.
    fn write(&self, bundle: &Kept) -> Result<(), StoreError> {
        make_folder(self.mtls_dir)?;
        let next = self.mtls_dir.join(NEXT);
        make_folder(&next)?;
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
                create(&next.join(name), content, mode)?;
            }
        }
        sync(&next)?;
        create(&next.join(COMMIT), "", PRIVATE)?;
        sync(&next)?;
        sync(self.mtls_dir)
    }

    /// Everything after the marker. Can be interrupted and repeated anywhere.
    fn roll_forward(&self, next: &Path) -> Result<(), StoreError> {
        let dp_id = next.join(DP_ID);
        if let Ok(id) = fs::read_to_string(&dp_id) {
            // May be on another file system: cannot be moved there.
            replace(self.dp_id_file, &id, PRIVATE)?;
        }
        for name in [ROOTS, CHAIN, KEY, ENV_ID, SEAL] {
            let place = self.mtls_dir.join(name);
            match fs::rename(next.join(name), &place) {
                // Moved before the interruption.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                moved => moved.map_err(failed("write", &place))?,
            }
        }
        sync(self.mtls_dir)?;
        fs::remove_dir_all(next).map_err(failed("remove", next))?;
        sync(self.mtls_dir)
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

/// A folder for its owner alone, with those above it where they are missing.
fn make_folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path).map_err(failed("create", path))?;
    // One that was there may be wider. Not an error where it is somebody else's: it can be written all the same.
    let _ = fs::set_permissions(path, Permissions::from_mode(FOLDER));
    Ok(())
}

/// A new file with exactly this mode, on disk when this returns.
fn create(path: &Path, content: &str, mode: u32) -> Result<(), StoreError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        // Beside the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content.as_bytes())?;
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
    fs::rename(&temporary, path).map_err(failed("write", path))?;
    sync(folder)
}

/// Makes the entries of a folder durable.
fn sync(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn parts(text: &str) -> Parts {
        let [chain, key, roots] = ["chain", "key", "roots"].map(|part| format!("{part} {text}\n"));
        Parts { chain, key: Secret::new(key), roots }
    }

    fn keep(store: Store<'_>, text: &str) -> Result<(), StoreError> {
        store.keep(&bundle(text))
    }

    /// As [`keep`], killed after the marker.
    fn write(store: Store<'_>, text: &str) {
        store.write(&bundle(text)).unwrap();
    }

    fn bundle(text: &str) -> Kept {
        let [env_id, dp_id, seal] =
            ["env", "dp", "seal"].map(|note| Some(format!("{note}-{text}")));
        Kept { parts: parts(text), env_id, dp_id, seal }
    }

    fn kept(text: &str) -> Option<Kept> {
        Some(bundle(text))
    }

    /// Runs `test` with a store in a folder of its own.
    fn with_store(test: impl FnOnce(Store<'_>)) {
        let folder = TempDir::new().unwrap();
        let (mtls_dir, dp_id_file) = (folder.path().join("a/mtls"), folder.path().join("b/dp_id"));
        test(Store { mtls_dir: &mtls_dir, dp_id_file: &dp_id_file });
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_read_back_with_exact_modes() {
        with_store(|store| {
            assert_eq!(store.read().unwrap(), None);
            keep(store, "1").unwrap();
            assert_eq!(store.read().unwrap(), kept("1"));
            assert_eq!(mode(store.mtls_dir), 0o700);
            assert_eq!(mode(store.dp_id_file), 0o600);
            for (name, expected) in
                [(ROOTS, 0o644), (CHAIN, 0o644), (KEY, 0o600), (ENV_ID, 0o600), (SEAL, 0o600)]
            {
                assert_eq!(mode(&store.mtls_dir.join(name)), expected, "{name}");
            }
            assert!(!store.mtls_dir.join(NEXT).exists());
            assert_eq!(fs::read_to_string(store.dp_id_file).unwrap(), "dp-1");
        });
    }

    #[test]
    fn a_kill_before_the_marker_leaves_the_old_bundle() {
        with_store(|store| {
            keep(store, "old").unwrap();
            write(store, "new");
            fs::remove_file(store.mtls_dir.join(NEXT).join(COMMIT)).unwrap();
            store.recover().unwrap();
            assert_eq!(store.read().unwrap(), kept("old"));
            assert!(!store.mtls_dir.join(NEXT).exists());
        });
    }

    #[test]
    fn a_kill_at_any_step_after_the_marker_leaves_the_new_bundle() {
        for moved in 0..=5 {
            with_store(|store| {
                keep(store, "old").unwrap();
                write(store, "new");
                for name in [ROOTS, CHAIN, KEY, ENV_ID, SEAL].iter().take(moved) {
                    let next = store.mtls_dir.join(NEXT).join(name);
                    fs::rename(next, store.mtls_dir.join(name)).unwrap();
                }
                store.recover().unwrap();
                assert_eq!(store.read().unwrap(), kept("new"), "after {moved} files");
                assert!(!store.mtls_dir.join(NEXT).exists());
            });
        }
    }

    #[test]
    fn the_same_bundle_is_not_written_again() {
        with_store(|store| {
            keep(store, "1").unwrap();
            let written = || fs::metadata(store.mtls_dir.join(KEY)).unwrap().modified().unwrap();
            let first = written();
            keep(store, "1").unwrap();
            assert_eq!(written(), first);
        });
    }

    #[test]
    fn a_key_that_every_user_can_read_is_told_and_repaired() {
        with_store(|store| {
            keep(store, "1").unwrap();
            assert_eq!(store.tighten(), None);
            let key = store.mtls_dir.join(KEY);
            fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
            let told = store.tighten().unwrap();
            assert!(told.contains("client.key") && told.contains("644"), "{told}");
            assert_eq!(mode(&key), 0o600);
        });
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_with_the_reason() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let store = Store { mtls_dir: &file.join("mtls"), dp_id_file: &file.join("dp_id") };
        let told = keep(store, "1").unwrap_err().to_string();
        assert!(told.contains("/file/mtls") && told.contains("Not a directory"), "{told}");
    }
}
