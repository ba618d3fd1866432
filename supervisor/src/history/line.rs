//! What came of the requests to one model, step by step.

use serde::Serialize;

use super::STEPS;
use crate::metrics::{Durations, ModelTotals};

/// The steps of one model, in a ring: step n is at n modulo [`STEPS`].
#[derive(Debug)]
pub(super) struct Line {
    points: Box<[Point; STEPS]>,
    /// Durations of the step that is being counted.
    durations: Durations,
}

/// What came in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) failures: u64,
    pub(super) tokens: u64,
    /// Durations that half and 95 of 100 requests did not exceed, in microseconds.
    pub(super) latency: Option<(u64, u64)>,
}

/// A line as it is told. Latencies are in milliseconds, null where no request ended.
#[derive(Debug, Serialize)]
pub(super) struct LineReport {
    name: String,
    sum: Sum,
    requests: Vec<u64>,
    errors: Vec<u64>,
    failures: Vec<u64>,
    tokens: Vec<u64>,
    median_ms: Vec<Option<f64>>,
    p95_ms: Vec<Option<f64>>,
}

/// All steps together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sum {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) failures: u64,
    pub(super) tokens: u64,
}

impl Default for Line {
    fn default() -> Self {
        Self { points: Box::new([Point::default(); STEPS]), durations: Durations::default() }
    }
}

impl Line {
    /// Adds what has come in that step, which is the latest.
    pub(super) fn add(&mut self, step: u64, more: &ModelTotals) {
        self.durations.add(&more.durations);
        let latency = self.durations.quantile(0.5).zip(self.durations.quantile(0.95));
        let Some(point) = self.points.get_mut(place(step)) else { return };
        point.requests = point.requests.saturating_add(more.requests);
        point.errors = point.errors.saturating_add(more.errors);
        point.failures = point.failures.saturating_add(more.failures);
        point.tokens = point.tokens.saturating_add(more.tokens);
        point.latency = latency;
    }

    /// Goes on to a step, `passed` steps after the one before: nothing has come in those between.
    pub(super) fn advance(&mut self, step: u64, passed: u64) {
        self.durations = Durations::default();
        for back in 0..passed.min(STEPS as u64) {
            if let Some(point) = self.points.get_mut(place(step.saturating_sub(back))) {
                *point = Point::default();
            }
        }
    }

    /// Adds the numbers of another line. Its latencies are let go: they cannot be told together.
    pub(super) fn join(&mut self, other: &Self) {
        for (point, more) in self.points.iter_mut().zip(other.points.iter()) {
            point.requests = point.requests.saturating_add(more.requests);
            point.errors = point.errors.saturating_add(more.errors);
            point.failures = point.failures.saturating_add(more.failures);
            point.tokens = point.tokens.saturating_add(more.tokens);
        }
    }

    /// All steps together.
    pub(super) fn sum(&self) -> Sum {
        self.points.iter().fold(Sum::default(), |sum, point| Sum {
            requests: sum.requests.saturating_add(point.requests),
            errors: sum.errors.saturating_add(point.errors),
            failures: sum.failures.saturating_add(point.failures),
            tokens: sum.tokens.saturating_add(point.tokens),
        })
    }

    /// Nothing has come in any step.
    pub(super) fn is_empty(&self) -> bool {
        self.points.iter().all(|point| *point == Point::default())
    }

    /// As it is told, `step` being the latest.
    pub(super) fn report(&self, name: &str, step: u64) -> LineReport {
        // The place behind the latest one is that of the oldest.
        let (newer, older) = self.points.split_at(place(step).saturating_add(1).min(STEPS));
        let points = || older.iter().chain(newer);
        let ms = |micros: u64| micros as f64 / 1e3;
        LineReport {
            name: name.to_owned(),
            sum: self.sum(),
            requests: points().map(|point| point.requests).collect(),
            errors: points().map(|point| point.errors).collect(),
            failures: points().map(|point| point.failures).collect(),
            tokens: points().map(|point| point.tokens).collect(),
            median_ms: points().map(|point| point.latency.map(|(median, _)| ms(median))).collect(),
            p95_ms: points().map(|point| point.latency.map(|(_, p95)| ms(p95))).collect(),
        }
    }
}

impl LineReport {
    /// Requests in all steps.
    pub(super) fn requests(&self) -> u64 {
        self.sum.requests
    }
}

fn place(step: u64) -> usize {
    usize::try_from(step % STEPS as u64).unwrap_or_default()
}
