//! The snapshot: the last good resources and the budget decisions, sealed on disk, so that a start serves before the Cloud
//! is there.
//!
//! ```text
//! projection ─ changes ─►  what waits: the latest of each key  ─►  keeper (a thread)  ─►  <path>            file.rs
//! budgets ─── changes ─►                                                │                 <path>.previous
//! projection ◄─ what the run before kept ─ restore.rs ◄─────────────────┘                 <mtls_dir>/generation
//! ```
//!
//! Promises:
//! 1. nobody waits for the disk: what cannot be written yet waits here, one entry per key at most;
//! 2. one change costs its own bytes on disk, not the set's;
//! 3. what is damaged, cut off, older than noted or of another environment or prefix is not served: the generation before it is;
//! 4. nothing of a document is on disk in clear;
//! 5. a disk that fails is a finding; once it is well again everything is written, into a new file.

pub mod file;
pub mod generation;
mod keeper;
pub mod published;
pub mod record;
pub mod restore;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use serde::{Serialize, Serializer};
use shared::secret::Secret;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tracing::warn;

use self::file::Moment;
use self::keeper::Keeper;
use self::restore::{Decisions, Restored};
use crate::cloud::decision_store::DecisionStore;
use crate::findings::Findings;
use crate::projection::last_good::Kept;
use crate::projection::report::rfc3339;
use crate::state::seal::DataKey;

/// The generation before is at most this much older.
const PREVIOUS_INTERVAL: Duration = Duration::from_secs(600);
/// Whoever asks for the decisions of the run before waits at most so long for a slow disk.
const LOAD_LIMIT: Duration = Duration::from_secs(2);

/// Where the snapshot is, and what it is bound to.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file in force.
    pub path: PathBuf,
    /// The generation before it.
    pub previous: PathBuf,
    /// Which generations were written last.
    pub note: PathBuf,
    /// The state directory.
    pub folder: PathBuf,
    /// What it is sealed with.
    pub key: DataKey,
    /// The environment.
    pub env_id: String,
    /// Full keys begin with this.
    pub prefix: String,
    /// Names this very build.
    pub build: String,
    /// How often the generation before is renewed.
    pub previous_interval: Duration,
}

impl Place {
    /// The snapshot at `path` of the environment `env_id`, with a note in `mtls_dir`.
    pub fn new(path: &Path, mtls_dir: &Path, key: DataKey, env_id: &str, prefix: &str) -> Self {
        let mut previous = path.as_os_str().to_owned();
        previous.push(".previous");
        Self {
            path: path.to_owned(),
            previous: previous.into(),
            note: mtls_dir.join(generation::NAME),
            folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
            key,
            env_id: env_id.to_owned(),
            prefix: prefix.to_owned(),
            build: build(),
            previous_interval: PREVIOUS_INTERVAL,
        }
    }
}

/// Names this build well enough for what only it may read: two builds may carry one version.
fn build() -> String {
    use std::os::unix::fs::MetadataExt;
    let version = shared::version::VERSION;
    match std::fs::metadata("/proc/self/exe") {
        Ok(of) => format!("{version} {} {}.{:09}", of.size(), of.mtime(), of.mtime_nsec()),
        Err(_) => version.to_owned(),
    }
}

/// Changes of documents, up to a moment. `None` = the document is gone.
#[derive(Debug, Default)]
pub struct Changed {
    /// What they belong to.
    pub moment: Moment,
    /// By full key.
    pub documents: Vec<(Vec<u8>, Option<Kept>)>,
}

/// State of the snapshot, for the status page and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SnapshotStatus {
    /// The file.
    pub path: String,
    /// What this run began with: `current`, `previous`, `published`, or nothing.
    pub restored_from: Option<&'static str>,
    /// Its revision.
    pub restored_revision: Option<i64>,
    /// Revision on disk.
    pub revision: Option<i64>,
    /// Generation on disk.
    pub generation: u64,
    /// Generation of the one before.
    pub previous_generation: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Written by this run, of both generations.
    pub written_bytes: u64,
    /// Writes of this run that failed.
    pub failures: u64,
    /// The last write, in seconds since 1970 UTC; RFC 3339 on the page.
    #[serde(rename = "last_write_at", serialize_with = "as_rfc3339")]
    pub last_write_at_unix: Option<i64>,
}

fn as_rfc3339<S: Serializer>(moment: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    moment.map(rfc3339).serialize(serializer)
}

/// What waits for the keeper. Bounded: one entry per key, and a newer one takes the older's place.
#[derive(Debug, Default)]
struct Waiting {
    moment: Option<Moment>,
    /// The documents are all there are.
    whole: bool,
    documents: BTreeMap<Vec<u8>, Option<Kept>>,
    decisions: BTreeMap<String, Option<Secret<Vec<u8>>>>,
    /// The process ends.
    ended: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.moment.is_none() && self.decisions.is_empty()
    }

    /// Takes in what came later.
    fn absorb(&mut self, later: Self) {
        if later.whole {
            self.documents.clear();
            self.whole = true;
        }
        self.moment = later.moment.or(self.moment);
        self.documents.extend(later.documents);
        self.decisions.extend(later.decisions);
        self.ended |= later.ended;
    }
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Something waits.
    came: Condvar,
    /// Nothing is kept: the place belongs to another gateway.
    off: AtomicBool,
    /// Everything is wanted from the projection.
    wants_all: AtomicBool,
    wanted: Notify,
    restored: Mutex<Option<oneshot::Receiver<Option<Restored>>>>,
    decisions: Mutex<Option<Decisions>>,
    /// The decisions of the run before are there.
    loaded: Condvar,
    /// The keeper has ended.
    finished: Mutex<bool>,
    done: Condvar,
    status: Mutex<SnapshotStatus>,
}

/// No holder of these locks can panic, and what they guard is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// What waits; at the latest at `until`, and then possibly nothing.
    fn take(&self, until: Option<Instant>) -> Waiting {
        let mut waiting = lock(&self.waiting);
        while waiting.is_empty() && !waiting.ended {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            waiting = match left {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    let woken = self.came.wait_timeout(waiting, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let ended = waiting.ended;
        mem::replace(&mut *waiting, Waiting { ended, ..Waiting::default() })
    }

    fn add(&self, later: Waiting) {
        if !self.off.load(Ordering::Acquire) {
            lock(&self.waiting).absorb(later);
            self.came.notify_one();
        }
    }

    fn ask_for_all(&self) {
        self.wants_all.store(true, Ordering::Release);
        self.wanted.notify_one();
    }
}

/// The snapshot of a running gateway. Clones are the same.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Shared>);

impl Snapshot {
    /// Begins to read what is at `place`, and to keep what comes, on a thread of its own.
    pub fn start(place: Place, findings: Findings) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (restored, will_be_restored) = oneshot::channel();
        *lock(&shared.restored) = Some(will_be_restored);
        lock(&shared.status).path = place.path.display().to_string();
        let keeper = Keeper::new(place, findings, Arc::clone(&shared));
        thread::Builder::new().name("snapshot".to_owned()).spawn(move || keeper.run(restored))?;
        Ok(Self(shared))
    }

    /// What the run before has kept; given away once, and waited for no longer than `limit`. Where nothing comes back
    /// everything is wanted: what is written may not be added to documents that nobody has seen.
    pub async fn restored(&self, limit: Duration) -> Option<Restored> {
        let restored = lock(&self.0.restored).take()?;
        let found = timeout(limit, restored).await.ok().and_then(Result::ok).flatten();
        if found.is_none() {
            self.0.ask_for_all();
        }
        found
    }

    /// Keeps these changes.
    pub fn keep(&self, changed: Changed) {
        self.add(changed, false);
    }

    /// Keeps these documents and no others.
    pub fn keep_all(&self, changed: Changed) {
        self.0.wants_all.store(false, Ordering::Release);
        self.add(changed, true);
    }

    fn add(&self, changed: Changed, whole: bool) {
        let Changed { moment, documents } = changed;
        let documents = documents.into_iter().collect();
        let later = Waiting { moment: Some(moment), whole, documents, ..Waiting::default() };
        self.0.add(later);
    }

    /// Whether all documents are wanted, rather than changes.
    pub fn wants_all(&self) -> bool {
        self.0.wants_all.load(Ordering::Acquire)
    }

    /// Waits until they are.
    pub async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// State of it.
    pub fn status(&self) -> SnapshotStatus {
        lock(&self.0.status).clone()
    }

    /// Waits until what came so far is written, for so long at most. To be called at the end of the process.
    pub fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        lock(&self.0.waiting).ended = true;
        self.0.came.notify_one();
        let mut finished = lock(&self.0.finished);
        while !*finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return warn!("the last changes of the snapshot are not written: the disk is slow");
            }
            let woken = self.0.done.wait_timeout(finished, left);
            finished = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl DecisionStore for Snapshot {
    fn load(&self) -> Vec<(String, Vec<u8>)> {
        let deadline = Instant::now() + LOAD_LIMIT;
        let mut decisions = lock(&self.0.decisions);
        loop {
            if let Some(decisions) = decisions.take() {
                let decisions = decisions.into_iter();
                return decisions.map(|(id, value)| (id, value.expose().clone())).collect();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            let woken = self.0.loaded.wait_timeout(decisions, left);
            decisions = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn store(&self, changes: Vec<(String, Option<Vec<u8>>)>) {
        let decisions = changes.into_iter().map(|(id, value)| (id, value.map(Secret::new)));
        let later = Waiting { decisions: decisions.collect(), ..Waiting::default() };
        self.0.add(later);
    }
}

#[cfg(test)]
mod tests;
