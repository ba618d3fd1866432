//! What is told of budgets: metrics, and the status page.

use serde::Serialize;

use super::key::{Answer, Key, Moment, Rules};
use super::{Budgets, Verdict};
use crate::metrics::{ChannelFacts, Own, OwnFamily, table as of};
use crate::projection::report::rfc3339;

/// Caller keys whose budgets are shown in metrics: those used last.
const KEYS_SHOWN_MAX: usize = 1_000;

/// Budgets on the status page.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Caller keys of the projection.
    keys: usize,
    /// Those with a decision.
    decided: usize,
    /// Those that requests needed in the last ten seconds.
    in_use: usize,
    /// Those that may not spend now.
    denied: usize,
    /// Those that wait to be asked for.
    waiting: usize,
    /// Those whose decision is not handed to the store yet.
    unkept: usize,
    /// Those that the Cloud does not decide about.
    refused: usize,
    /// Calls so far, and how many of them brought no decision.
    calls: u64,
    failed_calls: u64,
    /// When a decision last came.
    last_decision_at: Option<String>,
    /// Age of the oldest decision in use, in seconds.
    oldest_in_use_seconds: Option<f64>,
    /// Why the latest call failed; `None` while they do not.
    error: Option<String>,
}

impl Budgets {
    /// For the status page.
    pub fn status(&self) -> Status {
        let (now, ahead) = (self.0.clock.now(), self.0.clock.ahead());
        let table = self.table();
        let mut status = Status {
            keys: 0,
            decided: 0,
            in_use: 0,
            denied: 0,
            waiting: table.waiting(),
            unkept: table.unkept(),
            refused: table.refused().map_or(0, |(_, _, count)| count),
            calls: table.calls().made,
            failed_calls: table.calls().failed,
            last_decision_at: table.calls().decided_at.map(|at| rfc3339((at + ahead) / 1_000)),
            oldest_in_use_seconds: oldest(table.keys().map(|(_, key)| key), now),
            error: table.calls().reason.clone(),
        };
        for (_, key) in table.keys() {
            status.keys += 1;
            status.decided += usize::from(key.answer.is_some());
            status.in_use += usize::from(key.is_in_use(now));
            status.denied += usize::from(matches!(key.told, Some(Verdict::Deny(_))));
        }
        status
    }

    /// For the metrics.
    pub fn families(&self) -> Vec<OwnFamily> {
        let now = self.0.clock.now();
        let table = self.table();
        let mut shown: Vec<(&str, &Key)> =
            table.keys().filter(|(_, key)| key.used_at.is_some() && key.answer.is_some()).collect();
        if shown.len() > KEYS_SHOWN_MAX {
            shown.select_nth_unstable_by_key(KEYS_SHOWN_MAX, |(_, key)| {
                std::cmp::Reverse(key.used_at)
            });
            shown.truncate(KEYS_SHOWN_MAX);
        }
        let each = |own: &Own, value: fn(&super::decision::Decision) -> Option<f64>| {
            own.each(shown.iter().filter_map(|(id, key)| {
                Some((labels(id, key), value(&key.answer.as_ref()?.decision)?))
            }))
        };
        let calls = table.calls();
        vec![
            each(&of::BUDGET_LIMIT, |it| it.budget.limit),
            each(&of::BUDGET_SPENT, |it| it.budget.spent),
            each(&of::BUDGET_REMAINING, |it| it.budget.remaining),
            each(&of::BUDGET_RESET, |it| it.reset_seconds),
            each(&of::BUDGET_DETAILS, |it| Some(f64::from(it.has_details))),
            of::BUDGET_CHECKS.number(calls.made as f64),
            of::BUDGET_FAILURES.number(calls.failed as f64),
            of::BUDGET_OLDEST.known(oldest(table.keys().map(|(_, key)| key), now)),
            of::BUDGET_KEYS.by(states(table.keys().map(|(_, key)| key), &self.0.rules, now)),
        ]
    }

    /// How the Cloud is reached for decisions; `None` while it was not asked.
    pub fn channel(&self) -> Option<ChannelFacts> {
        let ahead = self.0.clock.ahead();
        let table = self.table();
        let calls = table.calls();
        (calls.made > 0).then(|| ChannelFacts {
            name: "budgets",
            is_up: (calls.failed > 0 || calls.decided_at.is_some()).then(|| !table.is_away()),
            last_success_at_unix: calls.decided_at.map(|at| (at + ahead) / 1_000),
            failures: calls.failed,
        })
    }
}

/// How many keys are in which state. One may be in several.
fn states<'a>(
    keys: impl Iterator<Item = &'a Key>,
    rules: &Rules,
    now: Moment,
) -> [(&'static str, f64); 6] {
    let mut counts = [0.0; 6];
    for key in keys {
        let in_use = key.is_in_use(now);
        let is_stale = |answer: &Answer| now - answer.at >= rules.stale_max;
        let states = [
            true,
            key.answer.is_some(),
            in_use,
            in_use && key.answer.is_none(),
            in_use && key.answer.as_ref().is_some_and(is_stale),
            matches!(key.told, Some(Verdict::Deny(_))),
        ];
        for (count, is) in counts.iter_mut().zip(states) {
            *count += f64::from(is);
        }
    }
    let [known, decided, in_use, undecided, stale, denied] = counts;
    [
        ("known", known),
        ("decided", decided),
        ("in_use", in_use),
        ("undecided", undecided),
        ("stale", stale),
        ("denied", denied),
    ]
}

fn oldest<'a>(keys: impl Iterator<Item = &'a Key>, now: Moment) -> Option<f64> {
    let decided = keys.filter(|key| key.is_in_use(now)).filter_map(|key| key.answer.as_ref());
    decided.map(|answer| (now - answer.at) as f64 / 1_000.0).reduce(f64::max)
}

fn labels(id: &str, key: &Key) -> Vec<String> {
    let known = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![id.to_owned(), known(&key.team_id), known(&key.user_id)]
}
