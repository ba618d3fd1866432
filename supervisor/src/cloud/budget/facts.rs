//! What is told of budgets: metrics, and the status page.

use serde::{Deserialize, Serialize};

use super::decision::FailMode;
use super::key::{Answer, Cloud, Key, Moment, Rules};
use super::{Budgets, Verdict};
use crate::metrics::{ChannelFacts, Own, OwnFamily, table as of};
use crate::projection::report::rfc3339;

/// Caller keys whose budgets are shown in metrics: those used last.
const KEYS_SHOWN_MAX: usize = 1_000;

/// Budgets on the status page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Caller keys of the projection.
    pub keys: usize,
    /// Those with a decision.
    pub decided: usize,
    /// Those that requests needed in the last ten seconds.
    pub in_use: usize,
    /// Those that may not spend now.
    pub denied: usize,
    /// Those that wait to be asked for.
    pub waiting: usize,
    /// Those whose decision is not handed to the store yet.
    pub unkept: usize,
    /// Those that the Cloud does not decide about.
    pub refused: usize,
    /// Calls so far.
    pub calls: u64,
    /// Of those, how many brought no decision.
    pub failed_calls: u64,
    /// When a decision last came.
    pub last_decision_at: Option<String>,
    /// Age of the oldest decision in use, in seconds.
    pub oldest_in_use_seconds: Option<f64>,
    /// Why the latest call failed; `None` while they do not.
    pub error: Option<String>,
    /// `well`, `doubtful` or `away`: whether the Cloud decides.
    pub cloud: String,
    /// Keys with a decision by what applies once it is too old: go on.
    pub fail_open: usize,
    /// The same: refuse.
    pub fail_closed: usize,
    /// The same: refuse if the Cloud is away.
    pub fail_sticky: usize,
    /// `allow` or `deny`: what applies to keys without a decision.
    pub unknown_keys: String,
    /// Age at which a decision is too old, in seconds.
    pub stale_after_secs: u64,
}

impl Budgets {
    /// For the status page.
    pub fn status(&self) -> Status {
        let (now, ahead) = (self.0.clock.now(), self.0.clock.ahead());
        let rules = &self.0.rules;
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
            cloud: cloud_name(table.calls().cloud(now)).to_owned(),
            fail_open: 0,
            fail_closed: 0,
            fail_sticky: 0,
            unknown_keys: if rules.unknown_allowed { "allow" } else { "deny" }.to_owned(),
            stale_after_secs: u64::try_from(rules.stale_max / 1_000).unwrap_or_default(),
        };
        for (_, key) in table.keys() {
            status.keys += 1;
            status.decided += usize::from(key.answer.is_some());
            match key.answer.as_ref().map(|answer| answer.decision.fail_mode) {
                Some(FailMode::Open) => status.fail_open += 1,
                Some(FailMode::Closed) => status.fail_closed += 1,
                Some(FailMode::Sticky) => status.fail_sticky += 1,
                None => {}
            }
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

fn cloud_name(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Well => "well",
        Cloud::Doubtful => "doubtful",
        Cloud::Away => "away",
    }
}

fn oldest<'a>(keys: impl Iterator<Item = &'a Key>, now: Moment) -> Option<f64> {
    let decided = keys.filter(|key| key.is_in_use(now)).filter_map(|key| key.answer.as_ref());
    decided.map(|answer| (now - answer.at) as f64 / 1_000.0).reduce(f64::max)
}

fn labels(id: &str, key: &Key) -> Vec<String> {
    let known = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![id.to_owned(), known(&key.team_id), known(&key.user_id)]
}
