//! Budgets: may a caller key spend more? The Cloud decides; the supervisor asks ahead of time, and tells the workers.
//!
//! 1. A request of a key with a valid decision never waits for the Cloud.
//! 2. While the Cloud answers, the decision of a key in use is at most five seconds old.
//! 3. While it does not, the latest decision counts until the stale limit, then its fail mode, over restarts too.
//! 4. What was spent since a decision counts against what it left, and never twice.
//!
//! ```text
//! workers ─ keys in use ─►┐                    ┌─► schedule: whom to ask ─► run ─► GET /dp/budget_check
//! usage ─── spent ───────►├─ table ─► key: what applies                      │
//! projection ─ keys ─────►┘    │                                             ▼
//!                              ├─► verdicts that changed ─► workers       decision
//!                              └─► kept ─► the store
//! ```
//! `decision`, `key`, `schedule` and `table` are pure; `run` makes the calls.

mod calls;
mod decision;
mod facts;
mod kept;
mod key;
mod run;
mod schedule;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shared::budget::{self, Verdict};
use shared::update::Change;
use tokio::sync::Notify;

use super::decision_store::DecisionStore;
use super::manager::Session;
use super::spend::SpendSink;
use crate::findings::Findings;
use table::Table;

pub use facts::Status;
pub use key::{Moment, Rules};

/// The budgets of all caller keys. Clones share them.
#[derive(Clone)]
pub struct Budgets(Arc<Common>);

struct Common {
    rules: Rules,
    table: Mutex<Table>,
    store: Arc<dyn DecisionStore>,
    clock: Clock,
    /// There may be something to ask.
    wake: Notify,
    /// There is something to tell the workers.
    changed: Notify,
}

/// The time that counts: by the clock on the wall as it was at the start, and steady from there.
struct Clock {
    started: Instant,
    started_at: Moment,
}

impl Budgets {
    /// Takes over what was kept, and begins to ask. `session` makes a connection to the manager. Needs a `LocalSet`.
    pub fn start(
        rules: Rules,
        store: Arc<dyn DecisionStore>,
        session: impl Fn() -> Session + 'static,
        findings: Findings,
    ) -> Self {
        let clock = Clock::start();
        let table = Mutex::new(Table::new(rules, store.load(), clock.now()));
        let (wake, changed) = (Notify::new(), Notify::new());
        let budgets = Self(Arc::new(Common { rules, table, store, clock, wake, changed }));
        tokio::task::spawn_local(run::run(budgets.clone(), session, findings));
        budgets
    }

    /// Takes over the caller keys of a change of configuration.
    pub fn projected(&self, whole: bool, changes: &[Change]) {
        self.change(|table, now| table.projected(whole, changes, now));
    }

    /// A worker says that requests have needed these keys, each so many.
    pub fn used(&self, keys: &[(String, u32)]) {
        self.change(|table, now| table.used(keys, now));
    }

    /// Returns when there is something to tell the workers.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What the workers have not been told yet, if there is anything.
    pub fn news(&self) -> io::Result<Option<OwnedFd>> {
        let untold: BTreeMap<Arc<str>, Verdict> = self.table().take_untold();
        if untold.is_empty() {
            return Ok(None);
        }
        let entries = untold.iter().map(|(id, verdict)| (&**id, verdict));
        budget::write(untold.len(), entries)
            .map(Some)
            .inspect_err(|_| self.table().give_back(untold))
    }

    /// Everything that a worker which knows nothing is to be told.
    pub fn whole(&self) -> io::Result<OwnedFd> {
        let table = self.table();
        let verdicts = table.verdicts();
        budget::write(verdicts.len(), verdicts.into_iter())
    }

    /// Hands everything that is not kept yet to the store.
    pub fn keep(&self) {
        let clock = &self.0.clock;
        let unkept = self.table().take_unkept(true, clock.now(), clock.ahead());
        if !unkept.is_empty() {
            self.0.store.store(unkept);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Table, Moment)) {
        let now = self.0.clock.now();
        let mut table = self.table();
        change(&mut table, now);
        if table.has_untold() {
            self.0.changed.notify_one();
        }
        self.0.wake.notify_one();
    }

    /// As `change`, for what happens with every request: whoever asks is woken only if there is something to do.
    fn note(&self, note: impl FnOnce(&mut Table, Moment)) {
        let now = self.0.clock.now();
        let mut table = self.table();
        note(&mut table, now);
        if table.has_untold() {
            self.0.changed.notify_one();
            self.0.wake.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpendSink for Budgets {
    fn spent(&self, api_key_id: &str, cost_usd: f64) {
        if cost_usd > 0.0 {
            self.note(|table, now| table.spent(api_key_id, cost_usd, now));
        }
    }

    fn delivered(&self, api_key_id: &str, cost_usd: f64, at: Instant) {
        if cost_usd > 0.0 {
            let at = self.0.clock.of(at);
            self.note(|table, now| table.delivered(api_key_id, cost_usd, at, now));
        }
    }
}

impl Clock {
    fn start() -> Self {
        let started_at = wall();
        Self { started: Instant::now(), started_at }
    }

    fn now(&self) -> Moment {
        self.of(Instant::now())
    }

    /// By how much the clock on the wall is ahead by now: it may have been set since the start.
    fn ahead(&self) -> Moment {
        wall() - self.now()
    }

    fn of(&self, at: Instant) -> Moment {
        let since = at.saturating_duration_since(self.started).as_millis();
        self.started_at + Moment::try_from(since).unwrap_or(Moment::MAX / 4)
    }
}

fn wall() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment::try_from(since.as_millis()).unwrap_or(Moment::MAX / 2)
}
