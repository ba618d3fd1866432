//! The way to one exporter: its queue, the task that empties it, and how that goes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use shared::export::{Health, Numbered, REASON_CHARS_MAX};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};
use tracing::{info, warn};

use super::collector::{Collector, Failure, Taken};
use super::queue::{Item, Queue};
use super::role::Common;

/// Between two tries: at first, then ever longer.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest, where the collector has asked for none.
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// One exporter.
pub struct Lane {
    /// Which one.
    pub numbered: Numbered,
    collector: Collector,
    queue: RefCell<Queue>,
    health: RefCell<Health>,
    more: Notify,
    hurried: Notify,
    hurries: Cell<bool>,
}

impl Lane {
    /// A lane with what was left of one before.
    pub fn new(numbered: Numbered, queue: Queue) -> Self {
        let health = Health { number: numbered.number, ..Health::default() };
        Self {
            collector: Collector::new(&numbered.exporter),
            numbered,
            queue: RefCell::new(queue),
            health: RefCell::new(health),
            more: Notify::new(),
            hurried: Notify::new(),
            hurries: Cell::new(false),
        }
    }

    /// Adds the spans of a request. Returns how many spans had to go.
    pub fn put(&self, item: Item, now: Instant) -> usize {
        let gone = self.queue.borrow_mut().put(item, now);
        self.more.notify_one();
        gone
    }

    /// What is left, for another lane or for nobody.
    pub fn left(&self, now: Instant) -> Queue {
        self.queue.take().handed_on(now)
    }

    /// How it is doing.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// Nothing more will come: what there is should be sent at once, and is tried once.
    pub fn hurry(&self) {
        self.hurries.set(true);
        self.more.notify_one();
        self.hurried.notify_one();
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Sends what there is, for ever.
    pub async fn run(self: Rc<Self>, common: Rc<Common>) {
        loop {
            self.due().await;
            let spans = self.queue.borrow_mut().take_up();
            let batch = common.batch(&spans);
            drop(spans);
            let mut pause = BACKOFF_MIN;
            loop {
                let tried = self.collector.post(&common.upstreams, batch.clone()).await;
                let lost = match tried {
                    Ok(taken) => Some(self.delivered(taken)),
                    Err(Failure::Never(reason)) => {
                        self.failed(&common, &reason);
                        Some((self.queue.borrow().len_in_hand(), "refused"))
                    }
                    Err(Failure::Later(reason, after)) => {
                        self.failed(&common, &reason);
                        if self.hurries.get() {
                            Some((self.queue.borrow().len_in_hand(), "unreached"))
                        } else {
                            tokio::select! {
                                // What asks for no pause gets one all the same.
                                () = sleep(after.map_or(pause, |after| after.max(pause))) => {}
                                () = self.hurried.notified() => {}
                            }
                            pause = (pause * 2).min(BACKOFF_MAX);
                            None
                        }
                    }
                };
                common.news.notify_one();
                if let Some((lost, why)) = lost {
                    common.metrics.export_dropped(self.name(), why, lost);
                    break;
                }
            }
            self.queue.borrow_mut().done();
            common.emptied.notify_waiters();
        }
    }

    /// Returns when a batch should be sent.
    async fn due(&self) {
        loop {
            let now = Instant::now();
            let due_at = self.queue.borrow().due_at(self.hurries.get(), now);
            match due_at {
                Some(at) if at <= now => return,
                Some(at) => tokio::select! {
                    () = sleep_until(at.into()) => {}
                    () = self.more.notified() => {}
                },
                None => self.more.notified().await,
            }
        }
    }

    fn name(&self) -> &str {
        &self.numbered.exporter.name
    }

    /// Returns how many spans the collector has not taken all the same.
    fn delivered(&self, taken: Taken) -> (usize, &'static str) {
        let mut health = self.health.borrow_mut();
        if std::mem::take(&mut health.failed_in_a_row) > 0 {
            info!(exporter = self.name(), "traces get through again");
        }
        health.delivered = health.delivered.saturating_add(1);
        health.last_success_unix = Some(now_unix());
        if taken.rejected > 0 {
            let reason = format!("{} spans were not taken: {}", taken.rejected, taken.reason);
            if health.last_error.as_ref() != Some(&reason) {
                warn!(exporter = self.name(), ?reason, "a collector has taken a part of a batch");
            }
            health.last_error = Some(cut(&reason));
        }
        (taken.rejected.min(self.queue.borrow().len_in_hand()), "rejected")
    }

    fn failed(&self, common: &Common, reason: &str) {
        common.metrics.export_failed(self.name());
        let mut health = self.health.borrow_mut();
        let reason = cut(reason);
        // Each reason once; that it lasts is a finding of the supervisor's.
        if health.failed_in_a_row == 0 || health.last_error.as_ref() != Some(&reason) {
            warn!(exporter = self.name(), "traces do not get through: {reason}");
        }
        health.failed = health.failed.saturating_add(1);
        health.failed_in_a_row = health.failed_in_a_row.saturating_add(1);
        health.last_failure_unix = Some(now_unix());
        health.last_error = Some(reason);
    }
}

fn cut(reason: &str) -> String {
    let plain = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(REASON_CHARS_MAX).collect()
}

fn now_unix() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
