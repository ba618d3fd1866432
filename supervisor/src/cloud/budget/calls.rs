//! What comes of calls to the Cloud, and whether it is there.

use super::decision::Decision;
use super::key::Moment;

/// Failed calls in a row after which the Cloud counts as away.
const AWAY_AFTER: u32 = 3;

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
}

impl Calls {
    /// A call is over.
    pub fn note(&mut self, outcome: &Outcome, now: Moment) {
        self.failed += u64::from(!matches!(outcome, Outcome::Decided(_)));
        match outcome {
            Outcome::Decided(_) => {
                self.decided_at = Some(now);
                (self.away, self.reason) = (0, None);
            }
            // It is there, whatever it thinks of this key.
            Outcome::Refused(_) => (self.away, self.reason) = (0, None),
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
}
