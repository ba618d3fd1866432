//! The projection: this environment's resources, from etcd to what the workers get.
//!
//! ```text
//! connect ─► load ─► watch      the store: one connection, pages of one revision, then every change
//!                 │ Observed
//!                 ▼
//!          state ─► last_good   document by document: key, JSON, document/, the last good form of each
//!            │ Update      │ canonical, hash, names, partial, report
//!         pending          ▼
//!            ▼          /status/config, heartbeat, metrics
//!        the workers
//! ```
//!
//! All of it runs on a thread of its own, so that a large load never holds up the supervisor. Promises:
//! 1. nothing stops the start: a store that cannot be reached is tried again, for ever;
//! 2. what one transaction of the store wrote becomes visible in one [`Update`];
//! 3. a document that cannot be taken affects no other, and its older good form stays served;
//! 4. a change costs what the change is worth, not what the set is, and a burst of them is few updates;
//! 5. what cannot be enforced is told, and workers know what it guards;
//! 6. what a snapshot has kept is handed out before the store is asked, and the store then for what came after it.

mod canonical;
pub mod connect;
pub mod document;
mod file;
mod hash;
pub mod key;
pub mod last_good;
pub(crate) mod load;
mod names;
mod partial;
mod pending;
pub mod report;
mod state;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use shared::dial::Dial;
use shared::id::Revision;
use shared::resource::Model;
use shared::update::Change;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::sleep_until;

pub use connect::{Source, SourceTls};
pub use file::{Reload, start as start_from_file};
pub use load::load;
pub use report::Report;

use crate::changes::Quarantine;
use crate::findings::{Findings, Topic};
use crate::state::snapshot::Snapshot;
use crate::state::snapshot::file::Moment;
use crate::state::snapshot::restore::From;

use pending::Pending;
use state::State;
use watch::Follower;

/// Updates that may wait for the supervisor; then the store is read no further.
const UPDATES_MAX: usize = 16;

/// A disk that does not give back the snapshot within this is not waited for any longer.
const RESTORE_LIMIT: Duration = Duration::from_secs(10);

/// What has changed for the workers.
#[derive(Debug)]
pub struct Update {
    /// The store's revision with these changes.
    pub revision: Revision,
    /// The changes are the entire set: nothing was there before. Every later update, one after a complete reload
    /// included, holds only what is different.
    pub whole: bool,
    /// To be applied in this order; may be empty, where only the revision is new to the workers.
    pub changes: Vec<Change>,
}

/// The thread has ended, as it does when nobody takes its updates any more.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the projection is not running")]
pub struct NotRunning;

enum Question {
    /// Everything there is to tell, while this is what every worker has confirmed.
    Report(Revision, oneshot::Sender<Report>),
    /// The models in force.
    Models(oneshot::Sender<Arc<[Model]>>),
}

impl Question {
    /// Answers it. Who asked may have given up waiting.
    fn answer(self, state: &mut State) {
        match self {
            Self::Report(applied, answer) => drop(answer.send(state.report(applied, now()))),
            Self::Models(answer) => drop(answer.send(state.models())),
        }
    }
}

/// Asks the projection. The thread ends when every handle is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    questions: mpsc::Sender<Question>,
    quarantine: Quarantine,
}

impl Handle {
    /// Everything there is to tell. `applied` is the revision that every worker has confirmed.
    pub async fn report(&self, applied: Revision) -> Result<Report, NotRunning> {
        let (answer, report) = oneshot::channel();
        let question = Question::Report(applied, answer);
        self.questions.send(question).await.map_err(|_| NotRunning)?;
        let mut report = report.await.map_err(|_| NotRunning)?;
        report.add_quarantined(&self.quarantine);
        Ok(report)
    }

    /// The models in force, sorted by id.
    pub async fn models(&self) -> Result<Arc<[Model]>, NotRunning> {
        let (answer, models) = oneshot::channel();
        self.questions.send(Question::Models(answer)).await.map_err(|_| NotRunning)?;
        models.await.map_err(|_| NotRunning)
    }

    /// What was handed out and is set aside because workers died of it.
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }
}

/// Whom the projection tells about what happens in it.
#[derive(Clone, Debug)]
pub struct Told {
    /// What is configured and cannot be enforced.
    pub findings: Findings,
    /// Wants a heartbeat when documents begin or cease to be rejected.
    pub nudge: Arc<Notify>,
    /// Told once what the snapshot held is on its way, or that there is none.
    pub begun: Arc<Notify>,
}

impl Told {
    fn note_not_enforced(&self, state: &State) {
        match state.not_enforced() {
            Some(text) => self.findings.found(Topic::NotEnforced, text),
            None => self.findings.settled(Topic::NotEnforced),
        }
    }
}

/// Starts to follow `source` on a thread of its own.
pub fn start(
    source: Source,
    dial: Arc<dyn Dial>,
    told: Told,
    snapshot: Option<Snapshot>,
) -> io::Result<(Handle, mpsc::Receiver<Update>)> {
    let (questions, asked) = mpsc::channel(8);
    let (updates, received) = mpsc::channel(UPDATES_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let quarantine = Quarantine::new(&source.prefix);
    thread::Builder::new()
        .name("projection".to_owned())
        .spawn(move || runtime.block_on(run(source, dial, told, snapshot, asked, updates)))?;
    Ok((Handle { questions, quarantine }, received))
}

async fn run(
    source: Source,
    dial: Arc<dyn Dial>,
    told: Told,
    snapshot: Option<Snapshot>,
    mut asked: mpsc::Receiver<Question>,
    updates: mpsc::Sender<Update>,
) {
    let mut state = State::new(&source.prefix);
    let mut pending = Pending::default();
    // Before anything is dialled.
    let restored = match &snapshot {
        Some(snapshot) => snapshot.restored(RESTORE_LIMIT).await,
        None => None,
    };
    let mut resume = None;
    if let Some(restored) = restored {
        let Moment { revision, store, .. } = restored.moment;
        resume = (restored.from != From::Published).then_some((revision, store));
        let update = state.restore(restored, now());
        told.note_not_enforced(&state);
        if updates.send(update).await.is_err() {
            return;
        }
    }
    told.begun.notify_one();
    // One at a time: while a load is being decoded the next change waits in the connection.
    let (observed, mut seen) = mpsc::channel(1);
    let follower = Follower::new(source, dial, observed).resuming(resume);
    let follower = tokio::spawn(follower.run());
    loop {
        let moment = Instant::now();
        let due_at = pending.due_at(moment);
        tokio::select! {
            question = asked.recv() => match question {
                Some(question) => question.answer(&mut state),
                None => break,
            },
            Some(observed) = seen.recv(), if pending.has_room() => {
                let rejections = state.rejection_changes();
                if let Some(update) = state.observe(observed, now()) {
                    pending.add(update);
                }
                if state.rejection_changes() != rejections {
                    told.nudge.notify_one();
                }
                // After it is on its way to the workers.
                state.keep_in(snapshot.as_ref());
            }
            permit = updates.reserve(), if due_at.is_some_and(|due_at| due_at <= moment) => {
                let Ok(permit) = permit else { break };
                if let Some(update) = pending.take(Instant::now()) {
                    permit.send(update);
                }
                told.note_not_enforced(&state);
            }
            () = sleep_until(due_at.unwrap_or(moment).into()),
                if due_at.is_some_and(|due_at| due_at > moment) => {}
            () = wanted(snapshot.as_ref()) => state.keep_in(snapshot.as_ref()),
        }
    }
    follower.abort();
}

/// Waits until the snapshot wants everything; for ever where there is none.
async fn wanted(snapshot: Option<&Snapshot>) {
    match snapshot {
        Some(snapshot) => snapshot.wanted().await,
        None => std::future::pending().await,
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
