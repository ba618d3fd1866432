//! A new bundle on its way into force: proved by a heartbeat, then kept, then in force. Pure: inputs and time go in, what
//! is to be done comes out.
//!
//! ```text
//!         Offer              Proved
//! Idle ─────────► Proving ──────────► Idle, Commit
//!                  │   ▲
//!      Refused,    ▼   │ Tick at its time
//!      Unreachable Waiting           (the Cloud's own renewals are not tried again once refused: it is asked anew)
//! ```
//!
//! There is one candidate at a time, the latest offered. What is in force is none of this machine's business: it stays
//! until a commit.

use std::time::Instant;

use super::Bundle;
use crate::backoff::Backoff;

/// Who wants a new bundle in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Files that have changed.
    Files,
    /// The Cloud, which was asked to renew.
    Cloud,
}

/// A checked bundle that should come into force.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The bundle.
    pub bundle: Bundle,
    /// Where it came from.
    pub by: By,
}

/// What can happen.
#[derive(Debug)]
pub enum Input {
    /// Another candidate.
    Offer(Box<Candidate>),
    /// The files no longer hold what they offered.
    Withdraw,
    /// The Cloud has accepted a heartbeat with it.
    Proved,
    /// The Cloud, or TLS, would not have it.
    Refused,
    /// The Cloud could not be asked.
    Unreachable,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Send a heartbeat over a fresh connection with this bundle; a proof under way is dropped.
    Prove(Box<Candidate>),
    /// Keep this bundle and put it in force.
    Commit(Box<Candidate>),
    /// Ask the Cloud for another.
    GiveUp,
    /// Drop the proof under way.
    Drop,
}

/// Where a rotation is.
#[derive(Debug, Default)]
pub enum Rotation {
    /// Nothing is on its way.
    #[default]
    Idle,
    /// A heartbeat is under way.
    Proving(Box<Candidate>, Backoff),
    /// It will be tried again.
    Waiting {
        /// What will be tried.
        candidate: Box<Candidate>,
        /// How often it has failed.
        backoff: Backoff,
        /// When.
        retry_at: Instant,
    },
}

impl Rotation {
    /// One step. `chance` is between 0 and 1.
    pub fn step(self, input: Input, now: Instant, chance: f64) -> (Self, Option<Action>) {
        match (self, input) {
            (_, Input::Offer(new)) => {
                (Self::Proving(new.clone(), Backoff::default()), Some(Action::Prove(new)))
            }
            (Self::Proving(new, _), Input::Proved) => (Self::Idle, Some(Action::Commit(new))),
            (Self::Proving(candidate, _), Input::Refused) if candidate.by == By::Cloud => {
                (Self::Idle, Some(Action::GiveUp))
            }
            // Refused may be too early: a file of a new CA can be there before the manager's certificate.
            (Self::Proving(candidate, mut backoff), Input::Refused | Input::Unreachable) => {
                let retry_at = now + backoff.failed(chance);
                (Self::Waiting { candidate, backoff, retry_at }, None)
            }
            (Self::Waiting { candidate, backoff, retry_at }, Input::Tick) if now >= retry_at => {
                (Self::Proving(candidate.clone(), backoff), Some(Action::Prove(candidate)))
            }
            (Self::Proving(candidate, _) | Self::Waiting { candidate, .. }, Input::Withdraw)
                if candidate.by == By::Files =>
            {
                (Self::Idle, Some(Action::Drop))
            }
            (
                state,
                Input::Withdraw | Input::Proved | Input::Refused | Input::Unreachable | Input::Tick,
            ) => (state, None),
        }
    }

    /// When the next [`Input::Tick`] matters.
    pub fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Waiting { retry_at, .. } => Some(*retry_at),
            Self::Idle | Self::Proving(..) => None,
        }
    }

    /// Whether the Cloud may be asked for a new certificate. A bundle of files that waits may be refused for ever, and must
    /// not hold up a renewal.
    pub fn may_renew(&self) -> bool {
        match self {
            Self::Idle => true,
            Self::Waiting { candidate, .. } => candidate.by == By::Files,
            Self::Proving(..) => false,
        }
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }
}

#[cfg(test)]
mod tests {
    use shared::secret::Secret;

    use super::*;
    use crate::bundle::Origin;

    fn candidate(name: &str, by: By) -> Box<Candidate> {
        let bundle = Bundle {
            env_id: "e".to_owned(),
            dp_id: Some("d".to_owned()),
            chain_pem: name.to_owned(),
            key_pem: Secret::new(String::new()),
            roots_pem: String::new(),
            extra_roots_pem: None,
            not_before_unix: 0,
            not_after_unix: 0,
            origin: Origin::Supplied,
            why: "",
            findings: Vec::new(),
            lasting: Vec::new(),
            unkept: None,
        };
        Box::new(Candidate { bundle, by })
    }

    fn proving(name: &str, by: By) -> Rotation {
        let offered = Input::Offer(candidate(name, by));
        let (rotation, action) = Rotation::default().step(offered, Instant::now(), 1.0);
        assert_eq!(action, Some(Action::Prove(candidate(name, by))));
        rotation
    }

    #[test]
    fn what_is_proved_is_committed_and_nothing_else_is() {
        let now = Instant::now();
        let (rotation, action) = proving("a", By::Files).step(Input::Proved, now, 1.0);
        assert_eq!(action, Some(Action::Commit(candidate("a", By::Files))));
        for input in [Input::Proved, Input::Refused, Input::Unreachable, Input::Tick] {
            assert_eq!(Rotation::default().step(input, now, 1.0).1, None);
        }
        assert!(rotation.is_idle());
    }

    #[test]
    fn a_bundle_of_files_is_tried_again_with_growing_pauses_for_as_long_as_it_is_there() {
        let start = Instant::now();
        let mut now = start;
        let mut rotation = proving("a", By::Files);
        for input in [Input::Refused, Input::Unreachable, Input::Refused] {
            (rotation, _) = rotation.step(input, now, 1.0);
            let retry_at = rotation.wake_at().unwrap();
            assert!(retry_at - now > now - start, "the pause grows");
            let (early, action) = rotation.step(Input::Tick, now, 1.0);
            assert_eq!(action, None);
            now = retry_at;
            let (again, action) = early.step(Input::Tick, now, 1.0);
            assert_eq!(action, Some(Action::Prove(candidate("a", By::Files))));
            rotation = again;
        }
        assert!(!rotation.may_renew());
        (rotation, _) = rotation.step(Input::Refused, now, 1.0);
        assert!(rotation.may_renew(), "what is refused for ever holds up no renewal");
        let (rotation, action) = rotation.step(Input::Withdraw, now, 1.0);
        assert!(rotation.is_idle() && action == Some(Action::Drop));
    }

    #[test]
    fn a_renewal_that_is_refused_is_given_up_and_one_that_could_not_be_tried_is_not() {
        let now = Instant::now();
        let (rotation, action) = proving("a", By::Cloud).step(Input::Refused, now, 1.0);
        assert!(rotation.is_idle() && action == Some(Action::GiveUp));
        let (rotation, action) = proving("a", By::Cloud).step(Input::Unreachable, now, 1.0);
        assert!(rotation.wake_at().is_some() && action.is_none() && !rotation.may_renew());
        let (rotation, _) = rotation.step(Input::Withdraw, now, 1.0);
        assert!(!rotation.is_idle(), "files have no say in it");
    }

    #[test]
    fn the_latest_offer_takes_the_place_of_the_one_before() {
        let now = Instant::now();
        let offered = Input::Offer(candidate("b", By::Files));
        let (rotation, action) = proving("a", By::Files).step(offered, now, 1.0);
        assert_eq!(action, Some(Action::Prove(candidate("b", By::Files))));
        let (_, action) = rotation.step(Input::Proved, now, 1.0);
        assert_eq!(action, Some(Action::Commit(candidate("b", By::Files))));
    }
}
