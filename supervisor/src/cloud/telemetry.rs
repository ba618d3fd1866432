//! Usage events on their way from the spool to the Cloud.
//!
//! A few lanes, each with a connection of its own, take events out of the spool and send them; `batch` decides, without
//! I/O, what an answer means. Events leave the spool when the manager has accepted them, or will never accept them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::batch::{Answer, Batch, LANES, Pace, Permit, Step};
use super::manager::{Reason, Session};
use super::spend::SpendSink;
use crate::backoff::chance;
use crate::findings::{Findings, Topic};
use crate::spool::dead_letters::DeadLetter;
use crate::spool::store::End;
use crate::spool::{Body, Facts, Leased, Spool};

const PATH: &str = "/dp/telemetry";
/// How long a lane waits that found less in the spool than it was told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Batches whose events were all refused alone, and that wait to be told apart. Beyond, lanes take no new events.
const PARKED_MAX: usize = 16;
/// How long such a batch waits before it is tried again although nothing else was accepted.
const PARKED_PAUSE: Duration = Duration::from_secs(20);
/// Billionths of a dollar in a dollar.
const NANOS: f64 = 1e9;

/// What became of the events so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How the spool stands.
    pub spool: Facts,
    /// Events that the Cloud has accepted.
    pub accepted: u64,
    /// Events that the Cloud would not accept on their own.
    pub rejected: u64,
    /// When a batch was last accepted.
    pub last_success: Option<SystemTime>,
    /// Why the latest batch was not accepted; `None` while they are.
    pub error: Option<String>,
    /// Batches that were not.
    pub failures: u64,
}

#[derive(Default)]
struct Outcome {
    accepted: u64,
    rejected: u64,
    last_success: Option<SystemTime>,
    error: Option<String>,
    failures: u64,
}

/// Tells what became of usage events, and ends their delivery in order. Clones are the same.
#[derive(Clone)]
pub struct Telemetry {
    spool: Spool,
    facts: watch::Receiver<Facts>,
    outcome: Arc<Mutex<Outcome>>,
    hurry: watch::Sender<bool>,
}

/// The tasks that send.
pub struct Upload {
    shared: Rc<Lanes>,
    sessions: Vec<Session>,
    hurry: watch::Receiver<bool>,
}

/// What the lanes share.
struct Lanes {
    spool: Spool,
    facts: watch::Receiver<Facts>,
    outcome: Arc<Mutex<Outcome>>,
    pace: RefCell<Pace>,
    parked: RefCell<VecDeque<Job>>,
    /// Something has changed that lanes wait for.
    changed: Notify,
    spend: Option<Arc<dyn SpendSink>>,
    findings: Findings,
    /// A finding says that the Cloud refuses everything.
    refuses_all: Cell<bool>,
}

/// Events on their way.
struct Job {
    leased: Leased,
    /// What its events cost, by caller key, in billionths of a dollar.
    spent: HashMap<String, u64>,
    batch: Batch,
    /// What the Cloud said of the event that it refused last.
    reason: String,
    retry_at: Instant,
}

/// A handle, and the task to be spawned for it. `session` makes connections to the Cloud.
pub fn new(
    spool: Spool,
    session: impl Fn() -> Option<Session>,
    spend: Option<Arc<dyn SpendSink>>,
    findings: Findings,
) -> (Telemetry, Upload) {
    let facts = spool.facts();
    let outcome = Arc::<Mutex<Outcome>>::default();
    let (hurry, hurry_seen) = watch::channel(false);
    let shared = Lanes {
        spool: spool.clone(),
        facts: facts.clone(),
        outcome: Arc::clone(&outcome),
        pace: RefCell::default(),
        parked: RefCell::default(),
        changed: Notify::new(),
        spend,
        findings,
        refuses_all: Cell::new(false),
    };
    let sessions = (0..LANES).filter_map(|_| session()).collect();
    let upload = Upload { shared: Rc::new(shared), sessions, hurry: hurry_seen };
    (Telemetry { spool, facts, outcome, hurry }, upload)
}

fn lock(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Telemetry {
    /// The spool behind it.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Sends what waits without gathering, until nothing waits or `deadline` has come; then ends the spool. Says how many
    /// events are left for the next start.
    pub async fn flush(&mut self, deadline: Instant) -> u64 {
        self.hurry.send_replace(true);
        let sent = self.facts.wait_for(|facts| {
            facts.known && facts.waiting == 0 && facts.folded == 0 && facts.live_rings == 0
        });
        let _ = timeout_at(deadline, sent).await;
        self.spool.close().await;
        let facts = self.facts.borrow();
        facts.waiting.saturating_add(facts.folded)
    }

    /// What became of the events so far.
    pub fn report(&self) -> Report {
        let outcome = lock(&self.outcome);
        Report {
            spool: self.facts.borrow().clone(),
            accepted: outcome.accepted,
            rejected: outcome.rejected,
            last_success: outcome.last_success,
            error: outcome.error.clone(),
            failures: outcome.failures,
        }
    }
}

impl Upload {
    /// Sends until it is dropped.
    pub async fn run(mut self) {
        let lanes = self.sessions.into_iter().enumerate();
        let lanes =
            join_all(lanes.map(|(lane, session)| Rc::clone(&self.shared).run(lane, session)));
        let hurry = async {
            if self.hurry.wait_for(|hurry| *hurry).await.is_ok() {
                self.shared.pace.borrow_mut().hurry();
                self.shared.changed.notify_waiters();
            }
        };
        tokio::join!(lanes, hurry);
    }
}

impl Lanes {
    async fn run(self: Rc<Self>, lane: usize, mut session: Session) {
        let mut facts = self.facts.clone();
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let (revived, parked) = self.parked(now);
            if let Some(job) = revived {
                self.deliver(job, &mut session).await;
                continue;
            }
            let free = facts.borrow_and_update().free;
            let step = match parked {
                Some(until) if self.parked.borrow().len() >= PARKED_MAX => Step::Wait(until),
                _ => self.pace.borrow_mut().next(lane, free, now),
            };
            let until = match step {
                Step::Take { newest, max } => {
                    let end = if newest { End::Newest } else { End::Oldest };
                    let leased = self.spool.lease(end, max).await;
                    if !leased.is_empty() {
                        let batch = Batch::new(leased.len(), &self.pace.borrow());
                        let (spent, reason) = (HashMap::new(), String::new());
                        let job = Job { leased, spent, batch, reason, retry_at: now };
                        self.deliver(job, &mut session).await;
                        continue;
                    }
                    Some(now + LOOK_AGAIN)
                }
                Step::Wait(until) => Some(until),
                Step::Idle => None,
            };
            let until = until.into_iter().chain(parked).min().unwrap_or(now + LOOK_AGAIN * 60);
            tokio::select! {
                () = sleep_until(until) => {}
                () = changed => {}
                more = facts.changed() => if more.is_err() { return },
            }
        }
    }

    /// A parked batch that is to be sent again, or when the next one will be.
    fn parked(&self, now: Instant) -> (Option<Job>, Option<Instant>) {
        let (mut parked, pace) = (self.parked.borrow_mut(), self.pace.borrow());
        let ready = parked.iter_mut().position(|job| {
            let is_due = now >= job.retry_at;
            let revived = job.batch.revive(&pace);
            if is_due && !revived {
                job.batch.retry();
            }
            is_due || revived
        });
        let job = ready.and_then(|index| parked.remove(index));
        (job, parked.iter().map(|job| job.retry_at).min())
    }

    async fn deliver(&self, mut job: Job, session: &mut Session) {
        while let Some(range) = job.batch.next() {
            let changed = self.changed.notified();
            let permit = self.pace.borrow_mut().permit(Instant::now());
            match permit {
                Permit::Send => {}
                Permit::Hold => {
                    changed.await;
                    continue;
                }
                Permit::Wait(until) => {
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = changed => {}
                    }
                    continue;
                }
            }
            let Body { json, events: sent, spent } = job.leased.body(range);
            job.spent = spent;
            let result = session.post(PATH, Bytes::from(json)).await;
            let answer = match &result {
                Ok(_) => Answer::Accepted,
                Err(error) => Answer::from(&error.reason),
            };
            if let Err(error) = &result
                && let Reason::Status { .. } | Reason::WebPage { .. } = error.reason
            {
                job.reason = error.reason.to_string();
            }
            self.note(answer, result.as_ref().err().map(ToString::to_string), sent);
            let (now, chance) = (Instant::now(), chance());
            let mut pace = self.pace.borrow_mut();
            pace.answered(answer, chance, now);
            let could_send = pace.is_open(now);
            job.batch.answered(answer, &mut pace, chance, now);
            if could_send && !pace.is_open(now) {
                self.refuses_all.set(true);
                self.findings.found(
                    Topic::Usage,
                    format!(
                        "the Cloud refuses whatever usage event it is sent, which is kept and sent again: {}; is managed.cp_base_url the manager of this environment?",
                        job.reason
                    ),
                );
            }
            drop(pace);
            self.changed.notify_waiters();
        }
        self.conclude(job);
    }

    /// Every event of the job has been sent.
    fn conclude(&self, mut job: Job) {
        let Some(given_up) = job.batch.conclude(&self.pace.borrow()) else {
            job.retry_at = Instant::now() + PARKED_PAUSE;
            self.parked.borrow_mut().push_back(job);
            return;
        };
        let now = std::time::Instant::now();
        if let Some(sink) = &self.spend {
            for (key, nano_usd) in &job.spent {
                sink.delivered(key, *nano_usd as f64 / NANOS, now);
            }
        }
        let given_up: HashSet<usize> = given_up.into_iter().collect();
        let (blocks, reason) = (std::mem::take(&mut job.leased.blocks), job.reason);
        // Of most jobs nothing is: then they need not be read again.
        let events = if given_up.is_empty() { Vec::new() } else { job.leased.into_events() };
        let dead: Vec<_> = events
            .into_iter()
            .enumerate()
            .filter(|(index, _)| given_up.contains(index))
            .map(|(_, event)| DeadLetter { reason: reason.clone(), event })
            .collect();
        for letter in &dead {
            let event_id = &letter.event.event_id;
            warn!(event_id, "the Cloud will not accept this usage event: {reason}");
        }
        lock(&self.outcome).rejected += dead.len() as u64;
        self.spool.settle(blocks, job.spent.into_iter().collect(), dead);
    }

    fn note(&self, answer: Answer, error: Option<String>, events: usize) {
        let mut outcome = lock(&self.outcome);
        match (answer, error) {
            (Answer::Accepted, _) => {
                outcome.accepted += events as u64;
                outcome.last_success = Some(SystemTime::now());
                if self.refuses_all.replace(false) {
                    self.findings.settled(Topic::Usage);
                }
                if outcome.error.take().is_some() {
                    info!("usage is delivered to the Cloud again");
                }
            }
            (Answer::Later(_), Some(error)) => {
                if outcome.error.as_deref() != Some(error.as_str()) {
                    warn!("usage is not delivered: {error}; trying again");
                }
                outcome.error = Some(error);
                outcome.failures += 1;
            }
            (Answer::Refused | Answer::TooLarge | Answer::Later(_), _) => {}
        }
    }
}
