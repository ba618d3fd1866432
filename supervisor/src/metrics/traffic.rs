//! How much was answered: the sum of all workers and of each, for people.

use std::collections::BTreeMap;
use std::time::SystemTime;

use shared::id::WorkerId;
use shared::metric::family::REQUESTS;

use super::source::Source;
use super::values::Values;
use super::{Collector, refresh};

/// The label of [`REQUESTS`] that says what came of a request.
const OUTCOME: usize = 3;
const SUCCESS: &str = "success";

/// Requests that were answered since the start of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// All of them.
    pub answered: u64,
    /// Those with a status below 400.
    pub succeeded: u64,
    /// When the latest of those was first seen to be counted.
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
    /// What was answered so far, looked up now.
    pub fn traffic(&mut self, now: SystemTime) -> Traffic {
        let mut traffic = Traffic::default();
        for (worker, source) in &mut self.live {
            refresh(*worker, source);
            let answered = answered(source, &mut traffic);
            traffic.workers.insert(*worker, answered);
        }
        for ((family, labels), (_, values)) in self.dead.totals() {
            if family == REQUESTS.number {
                traffic.add(labels, &values);
            }
        }
        if traffic.succeeded > self.succeeded {
            self.succeeded = traffic.succeeded;
            self.last_success = Some(now);
        }
        Traffic { last_success: self.last_success, ..traffic }
    }
}

impl Traffic {
    /// Adds a series of the family, and returns its count.
    fn add(&mut self, labels: &[String], values: &Values) -> u64 {
        let Values::Counter(count) = values else { return 0 };
        self.answered = self.answered.saturating_add(*count);
        if labels.get(OUTCOME).is_some_and(|outcome| outcome == SUCCESS) {
            self.succeeded = self.succeeded.saturating_add(*count);
        }
        *count
    }
}

fn answered(source: &Source, traffic: &mut Traffic) -> u64 {
    let series = source.series().iter().filter(|series| series.family.number == REQUESTS.number);
    series.fold(0u64, |sum, series| sum.saturating_add(traffic.add(&series.labels, &series.values)))
}
