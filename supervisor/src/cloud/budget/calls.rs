//! What comes of calls to the Cloud, and whether it is there.

use super::decision::Decision;
use super::key::{Cloud, DECIDED_WITHIN, Moment};

/// Failed calls in a row after which the Cloud counts as away.
const AWAY_AFTER: u32 = 3;
/// Refused calls in a row, of whatever keys, after which the Cloud counts as deciding nothing.
const REFUSING_AFTER: u32 = 20;

/// What came of a call.
#[derive(Debug)]
pub enum Outcome {
    /// The Cloud has decided.
    Decided(Box<Decision>),
    /// It has not, but it is there: it refused to decide about this key, or said something else.
    Refused(String),
    /// It is not there, or not well. It may say for how long, in milliseconds.
    Away(String, Option<Moment>),
}

/// Counters of calls.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// Made.
    pub made: u64,
    /// Without a decision.
    pub failed: u64,
    /// Failed in a row for the Cloud's own sake.
    pub away: u32,
    /// Why the latest of those failed.
    pub reason: Option<String>,
    /// When a decision last came.
    pub decided_at: Option<Moment>,
    /// Refused in a row.
    refused: u32,
    /// Being made.
    open: u32,
    /// Since when calls are open, or have been, without an answer in time.
    silent_since: Option<Moment>,
}

impl Calls {
    /// A call is made.
    pub fn begin(&mut self, now: Moment) {
        self.made += 1;
        self.open += 1;
        self.silent_since.get_or_insert(now);
    }

    /// A call is over that was made at `asked_at`, if that is known.
    pub fn note(&mut self, outcome: &Outcome, asked_at: Option<Moment>, now: Moment) {
        self.open = self.open.saturating_sub(1);
        let is_in_time = asked_at.is_some_and(|asked_at| now - asked_at < DECIDED_WITHIN);
        if is_in_time && !matches!(outcome, Outcome::Away(..)) {
            self.silent_since = (self.open > 0).then_some(now);
        }
        self.failed += u64::from(!matches!(outcome, Outcome::Decided(_)));
        match outcome {
            Outcome::Decided(_) => {
                self.decided_at = Some(now);
                (self.away, self.refused, self.reason) = (0, 0, None);
            }
            // It is there, whatever it thinks of this key.
            Outcome::Refused(_) => {
                self.refused = self.refused.saturating_add(1);
                (self.away, self.reason) = (0, None);
            }
            Outcome::Away(reason, _) => {
                self.away = self.away.saturating_add(1);
                self.reason = Some(reason.clone());
            }
        }
    }

    /// Whether the Cloud does not answer at all.
    pub fn is_away(&self) -> bool {
        self.away >= AWAY_AFTER
    }

    /// Whether there is little sense in calls: few are made.
    pub fn is_vain(&self) -> bool {
        self.is_away() || self.refused >= REFUSING_AFTER
    }

    /// How the Cloud is.
    pub fn cloud(&self, now: Moment) -> Cloud {
        let is_silent = self.silent_since.is_some_and(|since| now - since >= DECIDED_WITHIN);
        match self.away {
            AWAY_AFTER.. => Cloud::Away,
            0 if !is_silent => Cloud::Well,
            _ => Cloud::Doubtful,
        }
    }
}
