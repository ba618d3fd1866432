//! What is told of budgets: metrics, and the status page.

use serde::Serialize;

use super::key::{Key, Moment};
use super::{Budgets, Verdict};
use crate::metrics::{OwnFamily, OwnKind, OwnSample};
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
        let each = |name, help, value: fn(&super::decision::Decision) -> Option<f64>| {
            let sample = |(id, key): &(&str, &Key)| {
                let value = value(&key.answer.as_ref()?.decision)?;
                Some(OwnSample { labels: labels(id, key), value })
            };
            let samples = shown.iter().filter_map(sample).collect();
            OwnFamily { name, help, kind: OwnKind::Gauge, samples }
        };
        let one = |name, help, kind, value: Option<f64>| {
            let samples = value.map(|value| OwnSample { labels: Vec::new(), value });
            OwnFamily { name, help, kind, samples: samples.into_iter().collect() }
        };
        let calls = table.calls();
        vec![
            each("aisix_budget_limit_usd", "Budget of a caller key.", |it| it.budget.limit),
            each("aisix_budget_spent_usd", "What was spent of it.", |it| it.budget.spent),
            each("aisix_budget_remaining_usd", "What is left of it.", |it| it.budget.remaining),
            each("aisix_budget_reset_seconds", "Time until it begins anew.", |it| it.reset_seconds),
            each("aisix_budget_details_present", "Whether the Cloud tells amounts.", |it| {
                Some(f64::from(it.has_details))
            }),
            one(
                "aisix_budget_checks_total",
                "Budget decisions asked of the control plane.",
                OwnKind::Counter,
                Some(calls.made as f64),
            ),
            one(
                "aisix_budget_check_failures_total",
                "Of those, how many brought no decision.",
                OwnKind::Counter,
                Some(calls.failed as f64),
            ),
            one(
                "aisix_budget_oldest_decision_seconds",
                "Age of the oldest decision of a caller key in use.",
                OwnKind::Gauge,
                oldest(table.keys().map(|(_, key)| key), now),
            ),
        ]
    }
}

fn oldest<'a>(keys: impl Iterator<Item = &'a Key>, now: Moment) -> Option<f64> {
    let decided = keys.filter(|key| key.is_in_use(now)).filter_map(|key| key.answer.as_ref());
    decided.map(|answer| (now - answer.at) as f64 / 1_000.0).reduce(f64::max)
}

fn labels(id: &str, key: &Key) -> Vec<(&'static str, String)> {
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    vec![
        ("api_key_id", id.to_owned()),
        ("team_id", known(&key.team_id)),
        ("user_id", known(&key.user_id)),
    ]
}
