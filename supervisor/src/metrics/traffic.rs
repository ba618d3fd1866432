//! How much was answered: the sum of all workers and of each, for people.

use std::collections::BTreeMap;
use std::time::SystemTime;

use shared::id::WorkerId;
use shared::metric::family::REQUESTS;

use super::values::Values;
use super::{Collector, OwnFamily, table};

/// The label of [`REQUESTS`] that says what came of a request.
const OUTCOME: usize = 3;
const SUCCESS: &str = "success";
const UPSTREAM_ERROR: &str = "upstream_error";

/// Requests that were answered since the start of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// All of them.
    pub answered: u64,
    /// Those with a status below 400.
    pub succeeded: u64,
    /// Those that an upstream has failed, or that nobody could send to one.
    pub failed_upstream: u64,
    /// How many of these have come since a request was last seen to have succeeded.
    pub failed_since: u64,
    /// When a success was last seen to be counted.
    pub last_success: Option<SystemTime>,
    workers: BTreeMap<WorkerId, u64>,
}

impl Traffic {
    /// Requests that a running worker has answered.
    pub fn of(&self, worker: WorkerId) -> u64 {
        self.workers.get(&worker).copied().unwrap_or_default()
    }
}

impl Collector {
    /// What was answered so far, looked up now: a few bytes for each series.
    pub fn traffic(&mut self, now: SystemTime) -> Traffic {
        self.read(&REQUESTS);
        let mut traffic = Traffic::default();
        for (worker, source) in &self.live {
            let of_requests =
                source.series().iter().filter(|series| series.family.number == REQUESTS.number);
            let answered = of_requests.fold(0u64, |sum, series| {
                sum.saturating_add(traffic.add(&series.labels, &series.values))
            });
            traffic.workers.insert(*worker, answered);
        }
        for (labels, values) in self.dead.of(&REQUESTS) {
            traffic.add(labels, values);
        }
        if traffic.succeeded > self.succeeded {
            (self.succeeded, self.last_success) = (traffic.succeeded, Some(now));
            self.failed_before = traffic.failed_upstream;
        }
        let failed_since = traffic.failed_upstream.saturating_sub(self.failed_before);
        Traffic { last_success: self.last_success, failed_since, ..traffic }
    }

    /// What each worker that has answered any has answered.
    pub(super) fn requests_by_worker(&mut self, now: SystemTime) -> OwnFamily {
        let workers = self.traffic(now).workers.into_iter().filter(|(_, answered)| *answered > 0);
        table::WORKER_REQUESTS.by(workers.map(|(id, answered)| (id.to_string(), answered as f64)))
    }
}

impl Traffic {
    /// Adds a series of the family, and returns its count.
    fn add(&mut self, labels: &[String], values: &Values) -> u64 {
        let Values::Counter(count) = values else { return 0 };
        self.answered = self.answered.saturating_add(*count);
        match labels.get(OUTCOME).map(String::as_str) {
            Some(SUCCESS) => self.succeeded = self.succeeded.saturating_add(*count),
            Some(UPSTREAM_ERROR) => {
                self.failed_upstream = self.failed_upstream.saturating_add(*count);
            }
            _ => {}
        }
        *count
    }
}
