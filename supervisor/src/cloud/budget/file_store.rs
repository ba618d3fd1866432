//! Decisions in one sealed file, written whole by a thread of its own. A damaged file is as none.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{fs, io};

use tracing::warn;

use crate::cloud::decision_store::DecisionStore;
use crate::state::seal::{DataKey, SALT_BYTES, new_salt};

const PURPOSE: &str = "budget decisions";

type Decisions = BTreeMap<String, Vec<u8>>;
type Changes = Vec<(String, Option<Vec<u8>>)>;

/// The file, and the thread that writes it.
pub struct FileStore {
    loaded: Vec<(String, Vec<u8>)>,
    changes: Mutex<Option<Sender<Changes>>>,
    writer: Option<JoinHandle<()>>,
}

impl FileStore {
    /// Reads the file in that state directory.
    pub fn open(directory: &Path, data_key: DataKey, env_id: &str) -> io::Result<Self> {
        let file =
            File { path: directory.join("budget_decisions"), data_key, env_id: env_id.to_owned() };
        let decisions = file.read().unwrap_or_default();
        let loaded = decisions.clone().into_iter().collect();
        let (changes, queue) = channel();
        let writer = thread::Builder::new()
            .name("budgets".to_owned())
            .spawn(move || write(&file, decisions, &queue))?;
        Ok(Self { loaded, changes: Mutex::new(Some(changes)), writer: Some(writer) })
    }
}

impl DecisionStore for FileStore {
    fn load(&self) -> Vec<(String, Vec<u8>)> {
        self.loaded.clone()
    }

    fn store(&self, changes: Changes) {
        let sender = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer ends only with this store.
        let _ = sender.as_ref().map(|sender| sender.send(changes));
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // It writes what is left; a panic of its own has been told already.
        let _ = self.writer.take().map(JoinHandle::join);
    }
}

struct File {
    path: PathBuf,
    data_key: DataKey,
    env_id: String,
}

impl File {
    fn read(&self) -> Option<Decisions> {
        let bytes = fs::read(&self.path).ok()?;
        let (salt, sealed) = bytes.split_first_chunk::<SALT_BYTES>()?;
        let sealer = self.data_key.sealer(salt, PURPOSE, &self.env_id).ok()?;
        serde_json::from_slice(&sealer.open(b"all", sealed).ok()?).ok()
    }

    fn write(&self, decisions: &Decisions) -> io::Result<()> {
        let salt = new_salt().map_err(io::Error::other)?;
        let sealer =
            self.data_key.sealer(&salt, PURPOSE, &self.env_id).map_err(io::Error::other)?;
        let plain = serde_json::to_vec(decisions)?;
        let sealed = sealer.seal(b"all", &plain).map_err(io::Error::other)?;
        let next = self.path.with_extension("next");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        file.write_all(&salt)?;
        file.write_all(&sealed)?;
        fs::rename(next, &self.path)
    }
}

fn write(file: &File, mut decisions: Decisions, queue: &Receiver<Changes>) {
    let mut is_failing = false;
    while let Ok(changes) = queue.recv() {
        for (id, bytes) in changes.into_iter().chain(queue.try_iter().flatten()) {
            match bytes {
                Some(bytes) => drop(decisions.insert(id, bytes)),
                None => drop(decisions.remove(&id)),
            }
        }
        match file.write(&decisions) {
            Ok(()) => is_failing = false,
            Err(error) if !is_failing => {
                is_failing = true;
                warn!(path = %file.path.display(), %error, "budget decisions are not kept");
            }
            Err(_) => {}
        }
    }
}
