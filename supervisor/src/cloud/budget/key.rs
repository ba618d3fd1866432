//! One caller key: the latest decision, what was spent since, and what follows from both. Pure: time is passed in.
//!
//! ```text
//! decision, younger than the stale limit   the decision; no, once the allowance is used up
//! decision, older                          its fail mode
//! none                                     once the Cloud gives none: as configured for unknown keys
//! ```
//! The Cloud "gives none" once a call has failed, or nothing has come of one in [`DECIDED_WITHIN`].
//!
//! A request of a key with a decision waits for nothing, with one exception: while the Cloud answers, a key that would be
//! refused only for the age of its decision is asked for first, within [`DECIDED_WITHIN`]. That is rare, because a
//! decision is asked for anew before it comes to that, whether the key is used or not.

use shared::budget::{Denial, Verdict, WAIT_MAX};

use super::decision::{Decision, FailMode};

/// A moment, in milliseconds since 1970 UTC.
pub type Moment = i64;

/// A decision is used without a call for so long, whatever the stale limit. As published.
pub const FRESH: Moment = 5_000;
/// A decision in use is asked for anew at this age, so that it is never older than [`FRESH`].
const REFRESH_AT: Moment = 4_000;
/// A key is in use for so long after a request.
pub const USE_LASTS: Moment = 10_000;
/// A "no" of that age is asked for again before others: the caller may have been given more.
const NO_LASTS: Moment = 10_000;
/// A key without a decision is decided by then: before the worker stops waiting, which began to wait earlier.
pub const DECIDED_WITHIN: Moment = WAIT_MAX.as_millis() as Moment * 3 / 4;
/// A decision that nobody uses is asked for anew so long before it is too old, or at half of its time.
const AHEAD: Moment = 60_000;
/// Pauses after failed calls for a key in use, and for one that is not.
const PAUSE_IN_USE: (Moment, Moment) = (500, 4_000);
const PAUSE_IDLE: (Moment, Moment) = (2_000, 60_000);

const NO_DECISION: &str = "cp-api unreachable and no cached decision";
const FAIL_CLOSED: &str = "cp-api unreachable; fail_mode=closed";
const STALE: &str = "cp-api unreachable; cached decision stale";

/// What was configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// A decision older than this counts only as far as its fail mode says.
    pub stale_max: Moment,
    /// Keys that nothing is known of may spend.
    pub unknown_allowed: bool,
}

/// How the Cloud is, as calls for any keys tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// It answers in time, or nothing is known yet.
    Well,
    /// The latest call failed, or nothing has come in time.
    Doubtful,
    /// It does not answer at all.
    Away,
}

/// How urgent a question is; the first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A request waits for the answer, or is refused for want of it.
    Waiting,
    /// The key is in use, its decision is about to be too old.
    InUse,
    /// Ahead of any use.
    Idle,
}

/// The latest decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What the Cloud said.
    pub decision: Decision,
    /// When it said so.
    pub at: Moment,
}

/// What a key has spent, in dollars, as far as the latest decision does not know of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spend {
    /// The Cloud has not been told yet.
    pub undelivered: f64,
    /// The Cloud was told after the question of the latest decision was asked.
    pub since_answer: f64,
    /// The Cloud was told after the question that is open now was asked.
    since_question: f64,
}

/// One caller key.
#[derive(Debug, Default)]
pub struct Key {
    /// For metrics.
    pub team_id: Option<String>,
    /// For metrics.
    pub user_id: Option<String>,
    /// The latest decision.
    pub answer: Option<Answer>,
    /// What it does not know of.
    pub spend: Spend,
    /// When a request last needed it.
    pub used_at: Option<Moment>,
    /// Requests, the older the less they count.
    pub uses: u64,
    /// When the open question was asked.
    pub asked_at: Option<Moment>,
    /// What the workers were told.
    pub told: Option<Verdict>,
    /// Calls that failed since the latest answer.
    pub failures: u32,
    /// The Cloud gives no answer for this key.
    unanswered: bool,
    /// Since when a request waits for a decision.
    waiting_since: Option<Moment>,
    /// Not asked before this moment.
    retry_at: Moment,
    /// It was answered in the life of this process.
    is_confirmed: bool,
    /// Something has happened that only a new answer can settle.
    is_urgent: bool,
}

impl Rules {
    /// What applies to a key that nothing is known of.
    pub fn unknown(&self) -> Verdict {
        if self.unknown_allowed { Verdict::Allow } else { deny(Denial::because(NO_DECISION)) }
    }

    /// The age at which a decision counts no more while the Cloud answers.
    fn lapses_at(&self) -> Moment {
        self.stale_max.max(FRESH)
    }

    /// The age at which a decision is asked for anew that nobody uses.
    fn ahead(&self) -> Moment {
        let lapses_at = self.lapses_at();
        (lapses_at - AHEAD).max(lapses_at / 2).max(REFRESH_AT)
    }
}

impl Spend {
    /// Everything that the latest decision does not know of.
    pub fn total(&self) -> f64 {
        self.undelivered + self.since_answer
    }
}

impl Key {
    /// What applies now; `None` = a request waits for the answer of the Cloud.
    pub fn verdict(&self, rules: &Rules, cloud: Cloud, now: Moment) -> Option<Verdict> {
        let unanswered = self.is_unanswered(now);
        let Some(answer) = &self.answer else {
            return (unanswered || cloud == Cloud::Away).then(|| rules.unknown());
        };
        let age = now - answer.at;
        if age < rules.stale_max || (!unanswered && age < FRESH) {
            return Some(self.by_decision(&answer.decision));
        }
        match answer.decision.fail_mode {
            FailMode::Open => Some(Verdict::Allow),
            FailMode::Closed | FailMode::Sticky if cloud == Cloud::Well && !unanswered => None,
            FailMode::Closed => Some(deny(Denial::because(FAIL_CLOSED))),
            FailMode::Sticky => Some(deny(Denial::because(STALE))),
        }
    }

    fn by_decision(&self, decision: &Decision) -> Verdict {
        if !decision.allow {
            deny(decision.denial())
        } else if self.has_used_up(decision) {
            deny(decision.used_up())
        } else {
            Verdict::Allow
        }
    }

    fn has_used_up(&self, decision: &Decision) -> bool {
        decision.allowance().is_some_and(|allowance| self.spend.total() >= allowance)
    }

    /// Whether the Cloud gives no answer for this key.
    pub fn is_unanswered(&self, now: Moment) -> bool {
        let open = |since: Option<Moment>| since.is_some_and(|since| now - since >= DECIDED_WITHIN);
        self.unanswered || open(self.asked_at) || open(self.waiting_since)
    }

    /// Whether a request needed it lately.
    pub fn is_in_use(&self, now: Moment) -> bool {
        self.used_at.is_some_and(|at| now - at < USE_LASTS)
    }

    /// When it is to be asked for, and how urgent that will be; `None` = not before something happens.
    pub fn question(&self, rules: &Rules, now: Moment) -> Option<(Moment, Class)> {
        if self.asked_at.is_some() {
            return None;
        }
        let Some(answer) = &self.answer else {
            let class = if self.is_in_use(now) { Class::Waiting } else { Class::Idle };
            let is_due = self.is_in_use(now) || !self.is_confirmed;
            return is_due.then_some((self.retry_at, class));
        };
        if !self.is_in_use(now) {
            let at = if self.is_confirmed { answer.at + rules.ahead() } else { self.retry_at };
            return Some((self.retry_at.max(at), Class::Idle));
        }
        let age = now - answer.at;
        let is_old_no = age >= NO_LASTS && self.by_decision(&answer.decision) != Verdict::Allow;
        if self.is_urgent || is_old_no || age >= rules.lapses_at() {
            Some((self.retry_at, Class::Waiting))
        } else {
            Some((self.retry_at.max(answer.at + REFRESH_AT), Class::InUse))
        }
    }

    /// The next moment at which any of this is different, if nothing happens before.
    pub fn next_change(&self, rules: &Rules, now: Moment) -> Option<Moment> {
        let of_answer = |age: Moment| self.answer.as_ref().map(|answer| answer.at + age);
        let moments = [
            of_answer(FRESH),
            of_answer(rules.stale_max),
            of_answer(NO_LASTS),
            self.asked_at.map(|at| at + DECIDED_WITHIN),
            self.waiting_since.map(|at| at + DECIDED_WITHIN),
            self.used_at.map(|at| at + USE_LASTS),
            self.question(rules, now).map(|(at, _)| at),
            // Looked at again, until the Cloud is back.
            (self.unanswered && !self.is_in_use(now)).then_some(now + PAUSE_IDLE.1),
        ];
        moments.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Requests have needed it.
    pub fn used(&mut self, count: u32, rules: &Rules, cloud: Cloud, now: Moment) {
        self.used_at = Some(now);
        self.uses = self.uses.saturating_add(u64::from(count));
        if self.waiting_since.is_none() && self.verdict(rules, cloud, now).is_none() {
            self.waiting_since = Some(now);
            // That earlier attempts failed is no reason to let a request wait longer.
            self.retry_at = self.retry_at.min(now);
        }
    }

    /// Time has passed. A key that is not used any more is asked for anew at its next use, unless the Cloud is away.
    pub fn settle(&mut self, is_outage: bool, now: Moment) {
        if !self.is_in_use(now) {
            self.waiting_since = None;
            self.unanswered &= is_outage;
        } else if self.is_unanswered(now) {
            self.unanswered = true;
        }
    }

    /// Its question is asked.
    pub fn asked(&mut self, now: Moment) {
        self.asked_at = Some(now);
        self.spend.since_question = 0.0;
        self.uses /= 2;
        self.is_urgent = false;
    }

    /// The Cloud has decided.
    pub fn answered(&mut self, decision: Decision, now: Moment) {
        self.answer = Some(Answer { decision, at: now });
        self.spend.since_answer = self.spend.since_question;
        self.spend.since_question = 0.0;
        self.asked_at = None;
        self.waiting_since = None;
        (self.failures, self.retry_at) = (0, now);
        (self.unanswered, self.is_confirmed) = (false, true);
    }

    /// The call has failed. `chance` is between 0 and 1.
    pub fn failed(&mut self, now: Moment, chance: f64) {
        let (first, longest) = if self.is_in_use(now) { PAUSE_IN_USE } else { PAUSE_IDLE };
        let pause = first.saturating_mul(1 << self.failures.min(7)).min(longest);
        self.retry_at = now + (pause as f64 * chance.clamp(0.5, 1.0)) as Moment;
        self.failures = self.failures.saturating_add(1);
        self.asked_at = None;
        self.unanswered = true;
    }

    /// A usage event was taken in.
    pub fn spent(&mut self, cost: f64) {
        let was = self.is_used_up();
        self.spend.undelivered += cost;
        self.is_urgent |= !was && self.is_used_up();
    }

    /// The Cloud was told of an event at `at`.
    pub fn delivered(&mut self, cost: f64, at: Moment) {
        self.spend.undelivered = (self.spend.undelivered - cost).max(0.0);
        self.spend.since_answer += cost;
        if self.asked_at.is_some_and(|asked_at| at >= asked_at) {
            self.spend.since_question += cost;
        }
    }

    /// Whether what applies depends on how the Cloud is.
    pub fn depends_on_cloud(&self, rules: &Rules, now: Moment) -> bool {
        let is_old = |answer: &Answer| now - answer.at >= rules.stale_max;
        self.is_unanswered(now) || self.answer.as_ref().is_none_or(is_old)
    }

    /// Whether it has spent what the latest decision left.
    pub fn is_used_up(&self) -> bool {
        self.answer
            .as_ref()
            .is_some_and(|answer| answer.decision.allow && self.has_used_up(&answer.decision))
    }
}

fn deny(denial: Denial) -> Verdict {
    Verdict::Deny(Box::new(denial))
}

#[cfg(test)]
mod tests;
