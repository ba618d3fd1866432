//! Usage events on their way from the spool to the Cloud.
//!
//! Whoever has events appends them through the [`Telemetry`] handle and does not wait; one task sends them, and an event
//! leaves the spool when the manager has accepted it, or will never accept it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;
use shared::usage::UsageEvent;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info, warn};

use super::batch::{Answer, Batches, Step, Verdict};
use super::manager::Session;
use super::spend::SpendSink;
use crate::backoff::chance;
use crate::spool::{Counters, Spool};

const PATH: &str = "/dp/telemetry";

#[derive(Serialize)]
struct Body<'a> {
    events: Vec<&'a UsageEvent>,
}

/// What became of the events so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events that wait.
    pub waiting: usize,
    /// The spool's counters.
    pub spool: Counters,
    /// Events that the Cloud has accepted.
    pub accepted: u64,
    /// Events that the Cloud would not accept on their own.
    pub rejected: u64,
    /// When a batch was last accepted.
    pub last_success: Option<SystemTime>,
    /// Why the latest batch was not accepted; `None` while they are.
    pub error: Option<String>,
}

#[derive(Default)]
struct State {
    spool: Spool,
    accepted: u64,
    rejected: u64,
    last_success: Option<SystemTime>,
    error: Option<String>,
}

#[derive(Default)]
struct Common {
    state: Mutex<State>,
    appended: Notify,
}

/// Takes usage events and tells what became of them. Clones share one spool.
#[derive(Clone)]
pub struct Telemetry {
    common: Arc<Common>,
    hurry: watch::Sender<bool>,
    empty: watch::Receiver<bool>,
}

/// The task that sends.
pub struct Upload {
    common: Arc<Common>,
    session: Option<Session>,
    batches: Batches,
    hurry: watch::Receiver<bool>,
    empty: watch::Sender<bool>,
    spending: Option<Arc<dyn SpendSink>>,
}

/// A handle, and the task to be spawned for it. Without a session (no Cloud) events pass through the spool and
/// are let go.
pub fn new(spool: Spool, session: Option<Session>) -> (Telemetry, Upload) {
    let state = State { spool, ..State::default() };
    let common = Arc::new(Common { state: Mutex::new(state), appended: Notify::new() });
    let (hurry, hurry_seen) = watch::channel(false);
    let (empty, empty_seen) = watch::channel(true);
    let telemetry = Telemetry { common: Arc::clone(&common), hurry, empty: empty_seen };
    let batches = Batches::default();
    (telemetry, Upload { common, session, batches, hurry: hurry_seen, empty, spending: None })
}

impl Common {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telemetry {
    /// Takes events into the spool.
    pub fn append(&self, events: Vec<UsageEvent>) {
        let shed = self.common.state().spool.append(events);
        if shed > 0 {
            error!("the spool is full: {shed} usage events, the oldest, were dropped undelivered");
        }
        self.common.appended.notify_one();
    }

    /// Sends what waits without gathering, until nothing waits or `deadline` has come. Says how many events are left.
    pub async fn flush(&mut self, deadline: Instant) -> usize {
        self.hurry.send_replace(true);
        self.common.appended.notify_one();
        // The sender says "empty" only after it has looked; an append just before is seen here.
        while !self.common.state().spool.is_empty() {
            if timeout_at(deadline, self.empty.changed()).await.is_err() {
                break;
            }
        }
        self.common.state().spool.len()
    }

    /// What became of the events so far.
    pub fn report(&self) -> Report {
        let state = self.common.state();
        Report {
            waiting: state.spool.len(),
            spool: state.spool.counters(),
            accepted: state.accepted,
            rejected: state.rejected,
            last_success: state.last_success,
            error: state.error.clone(),
        }
    }
}

impl Upload {
    /// Tells `spending` what the Cloud has accepted, or never will.
    pub fn telling(mut self, spending: Arc<dyn SpendSink>) -> Self {
        self.spending = Some(spending);
        self
    }

    /// Sends until it is dropped.
    pub async fn run(mut self) {
        loop {
            let waiting = self.common.state().spool.len();
            if self.hurry.has_changed().unwrap_or(false) {
                self.hurry.mark_unchanged();
                self.batches.hurry();
            }
            match self.batches.next(waiting, Instant::now()) {
                Step::Idle => {
                    self.empty.send_replace(true);
                    self.common.appended.notified().await;
                }
                Step::Wait(until) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = self.common.appended.notified() => {}
                },
                Step::Send(events) => self.send(events).await,
            }
        }
    }

    async fn send(&mut self, events: usize) {
        let batch = self.common.state().spool.next_batch(events);
        let result = match &mut self.session {
            Some(session) => {
                let body = Body { events: batch.iter().map(|(_, event)| &**event).collect() };
                // Nothing in an event can fail to serialize.
                let body = Bytes::from(serde_json::to_vec(&body).unwrap_or_default());
                session.post(PATH, body).await.map(drop)
            }
            None => Ok(()),
        };
        let answer =
            result.as_ref().map_or_else(|error| Answer::from(&error.reason), |()| Answer::Accepted);
        let verdict = self.batches.answered(batch.len(), answer, chance(), Instant::now());
        let mut state = self.common.state();
        let count = batch.len() as u64;
        match (verdict, &result) {
            (Verdict::Delivered, _) => {
                if state.error.take().is_some() {
                    info!("usage is delivered to the Cloud again");
                }
                if self.session.is_some() {
                    state.accepted += count;
                    state.last_success = Some(SystemTime::now());
                }
            }
            (Verdict::GiveUp, Err(error)) => {
                for (_, event) in &batch {
                    warn!(
                        event_id = event.event_id,
                        "the Cloud will not accept this usage event: {error}"
                    );
                }
                state.rejected += count;
            }
            (Verdict::Keep, Err(error)) if matches!(answer, Answer::Later(_)) => {
                let text = error.to_string();
                if state.error.as_deref() != Some(text.as_str()) {
                    warn!("usage is not delivered: {text}; trying again");
                }
                state.error = Some(text);
            }
            (Verdict::GiveUp | Verdict::Keep, _) => {}
        }
        if verdict != Verdict::Keep {
            let now = std::time::Instant::now();
            for event in self.spending.iter().flat_map(|_| &batch).map(|(_, event)| event) {
                if let Some(spending) = &self.spending {
                    spending.delivered(&event.api_key_id, event.cost_usd, now);
                }
            }
            state.spool.acknowledge(batch.iter().map(|(sequence, _)| *sequence));
        }
    }
}
