//! What came of the requests to each model so far: the few families that the history is made of, read without the others.

use std::collections::BTreeMap;
use std::io;

use shared::id::WorkerId;
use shared::metric::Family;
use shared::metric::family::{REQUEST_DURATION, REQUESTS, TOKENS_CONSUMED};

use super::Collector;
use super::source::Source;
use super::values::{Chunks, Values};

/// Where all three families have the model among their labels.
const MODEL: usize = 1;
/// The label of [`REQUESTS`] that says what was answered.
const STATUS: usize = 2;
/// The label of [`REQUESTS`] that says what came of a request.
const OUTCOME: usize = 3;

/// What came of the requests to one model. Every number only grows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelTotals {
    /// Answered.
    pub requests: u64,
    /// Of those, with a status of 400 or above.
    pub errors: u64,
    /// Of those, with a status of 500 or above: not the caller's doing.
    pub failures: u64,
    /// Prompt and completion tokens.
    pub tokens: u64,
    /// How long they took.
    pub durations: Durations,
}

/// How long requests took, as counts that can be added up and subtracted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations(Chunks);

impl ModelTotals {
    /// What has come since `before`, an earlier state of the same.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            failures: self.failures.saturating_sub(before.failures),
            tokens: self.tokens.saturating_sub(before.tokens),
            durations: Durations(self.durations.0.since(&before.durations.0)),
        }
    }

    /// Adds what came of other requests.
    pub fn add(&mut self, more: &Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.errors = self.errors.saturating_add(more.errors);
        self.failures = self.failures.saturating_add(more.failures);
        self.tokens = self.tokens.saturating_add(more.tokens);
        self.durations.add(&more.durations);
    }

    /// Adds a series of one of the three families.
    fn add_series(&mut self, labels: &[String], values: &Values) {
        match values {
            // Only REQUESTS has so many labels.
            Values::Counter(count) if labels.len() > OUTCOME => {
                let status =
                    labels.get(STATUS).and_then(|status| status.parse().ok()).unwrap_or(0u16);
                self.requests = self.requests.saturating_add(*count);
                if status >= 400 {
                    self.errors = self.errors.saturating_add(*count);
                }
                if status >= 500 {
                    self.failures = self.failures.saturating_add(*count);
                }
            }
            Values::Counter(count) => self.tokens = self.tokens.saturating_add(*count),
            Values::Summary { chunks, .. } => self.durations.0.add(chunks),
            Values::Gauge(_) | Values::Histogram { .. } | Values::Latest { .. } => {}
        }
    }
}

impl Durations {
    /// Adds others.
    pub fn add(&mut self, more: &Self) {
        self.0.add(&more.0);
    }

    /// The duration in microseconds that a share `quantile` (0 to 1) of all does not exceed; `None` if there are none.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        self.0.quantile(quantile)
    }

    /// Durations in microseconds.
    #[cfg(test)]
    pub(crate) fn of(micros: &[u64]) -> Self {
        Self(Chunks::of(micros))
    }
}

impl Collector {
    /// What came of the requests to each model, looked up now.
    pub fn by_model(&mut self) -> BTreeMap<String, ModelTotals> {
        let mut models: BTreeMap<String, ModelTotals> = BTreeMap::new();
        for family in [&REQUESTS, &TOKENS_CONSUMED, &REQUEST_DURATION] {
            self.read(family);
            for (labels, values) in self.series_of(family) {
                let Some(model) = labels.get(MODEL) else { continue };
                match models.get_mut(model) {
                    Some(totals) => totals.add_series(labels, values),
                    None => models.entry(model.clone()).or_default().add_series(labels, values),
                }
            }
        }
        models
    }

    /// Reads one family of every live worker.
    pub(super) fn read(&mut self, family: &Family) {
        for (worker, source) in &mut self.live {
            told(*worker, source.refresh_family(family));
        }
    }

    fn series_of<'a>(
        &'a self,
        family: &'a Family,
    ) -> impl Iterator<Item = (&'a Vec<String>, &'a Values)> {
        let live = self.live.values().flat_map(Source::series);
        let live = live.filter(|series| series.family.number == family.number);
        self.dead.of(family).chain(live.map(|series| (&series.labels, &series.values)))
    }
}

fn told(worker: WorkerId, read: io::Result<()>) {
    if let Err(error) = read {
        tracing::warn!(%worker, %error, "cannot read a worker's metrics, its last numbers stay");
    }
}
