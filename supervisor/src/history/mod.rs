//! What came of the requests to each model in the last fifteen minutes, in steps of ten seconds: for the status page.
//!
//! 1. Nothing is lost or counted twice: the steps of all models together are what the metrics have gone up by, whichever
//!    worker counted it and whether it still lives.
//! 2. What is kept is bounded: [`MODELS_MAX`] models by their traffic; what came of requests to all the others is told
//!    together, as `other`, and so is what a model had before it was among them.
//! 3. It costs next to nothing while nobody asks for anything ([`keeper`]).
//!
//! Pure, but for the keeper: totals and time are given.

mod keeper;
mod line;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use shared::metric::OTHER;

pub use self::keeper::Keeper;
use self::line::{Line, LineReport};
use crate::metrics::ModelTotals;
use crate::pages::moment;

/// Length of a step.
const STEP: Duration = Duration::from_secs(10);
/// Steps kept: fifteen minutes.
const STEPS: usize = 90;
/// Models that are told apart.
const MODELS_MAX: usize = 50;
/// Models whose totals are remembered one by one; those that come later are one.
const TOTALS_MAX: usize = 1_000;

/// The last fifteen minutes.
#[derive(Debug)]
pub struct History {
    began: Instant,
    /// The step that is being counted, by its number since then.
    step: u64,
    /// Totals when they were last looked at; `None` before the first look.
    totals: Option<BTreeMap<String, ModelTotals>>,
    all: Line,
    other: Line,
    models: BTreeMap<String, Line>,
}

/// The last fifteen minutes, as the status page is told. Lists go from the oldest step to the one that is being counted.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Length of a step.
    step_secs: u64,
    /// How much of the latest step is over.
    latest_secs: f64,
    /// When the first step began that anything is known of.
    since: String,
    /// Everything together.
    all: LineReport,
    /// Models by their requests, most first.
    models: Vec<LineReport>,
    /// Those that are not told apart; null if there are none.
    other: Option<LineReport>,
}

impl History {
    /// Nothing is known before `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            step: 0,
            totals: None,
            all: Line::default(),
            other: Line::default(),
            models: BTreeMap::new(),
        }
    }

    /// Takes in the totals of all models. What the first ones hold came before.
    pub fn take_in(&mut self, totals: BTreeMap<String, ModelTotals>, now: Instant) {
        self.advance(now);
        let totals = bounded(totals, self.totals.as_ref());
        let Some(before) = self.totals.replace(totals.clone()) else { return };
        let zero = ModelTotals::default();
        let counted = |name: &str| totals.get(name).map_or(0, |total| total.requests);
        // What the collector gives up telling apart goes over to its own `other`: nothing has come of it.
        let is_joined = before.iter().any(|(name, total)| counted(name) < total.requests);
        let before = |name: &str| before.get(name).unwrap_or(&zero);
        for (name, total) in &totals {
            if is_joined && name == OTHER {
                continue;
            }
            let more = total.since(before(name));
            if more.requests > 0 || more.tokens > 0 || more.durations.quantile(1.0).is_some() {
                let step = self.step;
                self.all.add(step, &more);
                self.line(name, more.requests).add(step, &more);
            }
        }
    }

    /// Goes on to the step of that time.
    fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        let step = since.as_secs() / STEP.as_secs();
        if step == self.step {
            return;
        }
        let passed = step.saturating_sub(self.step);
        self.step = step;
        for line in self.models.values_mut().chain([&mut self.all, &mut self.other]) {
            line.advance(step, passed);
        }
        self.models.retain(|_, line| !line.is_empty());
    }

    /// Where a model is counted that has `more` requests.
    fn line(&mut self, name: &str, more: u64) -> &mut Line {
        if name == OTHER {
            return &mut self.other;
        }
        if !self.models.contains_key(name) && self.models.len() >= MODELS_MAX {
            let requests = |line: &Line| line.sum().requests;
            let least = self.models.iter().min_by_key(|(_, line)| requests(line));
            let least = least.filter(|(_, line)| requests(line) < more);
            let Some(least) = least.map(|(name, _)| name.clone()) else { return &mut self.other };
            if let Some(line) = self.models.remove(&least) {
                self.other.join(&line);
            }
        }
        self.models.entry(name.to_owned()).or_default()
    }

    /// As it is told.
    pub fn report(&mut self, now: Instant, wall: SystemTime) -> Report {
        self.advance(now);
        let over = now.saturating_duration_since(self.began).as_millis();
        let latest = over.saturating_sub(u128::from(self.step) * STEP.as_millis()) as f64 / 1e3;
        let known = (self.step + 1).min(STEPS as u64);
        let known = STEP.as_secs_f64() * known.saturating_sub(1) as f64 + latest;
        let since = Duration::try_from_secs_f64(known).ok().and_then(|it| wall.checked_sub(it));
        let step = self.step;
        let mut models: Vec<_> =
            self.models.iter().map(|(name, line)| line.report(name, step)).collect();
        models.sort_by_key(|model| std::cmp::Reverse(model.requests()));
        Report {
            step_secs: STEP.as_secs(),
            latest_secs: latest,
            since: moment(since.unwrap_or(wall)),
            all: self.all.report("all", step),
            models,
            other: (!self.other.is_empty()).then(|| self.other.report(OTHER, step)),
        }
    }
}

/// Totals of which no more are told apart than are remembered.
fn bounded(
    totals: BTreeMap<String, ModelTotals>,
    before: Option<&BTreeMap<String, ModelTotals>>,
) -> BTreeMap<String, ModelTotals> {
    if totals.len() <= TOTALS_MAX {
        return totals;
    }
    let is_known = |name: &str| before.is_some_and(|before| before.contains_key(name));
    let (mut kept, new): (BTreeMap<_, _>, Vec<_>) = {
        let (kept, new): (Vec<_>, Vec<_>) =
            totals.into_iter().partition(|(name, _)| is_known(name) || name == OTHER);
        (kept.into_iter().collect(), new)
    };
    for (name, total) in new {
        let name = if kept.len() < TOTALS_MAX { name } else { OTHER.to_owned() };
        kept.entry(name).or_insert_with(ModelTotals::default).add(&total);
    }
    kept
}
