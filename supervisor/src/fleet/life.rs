//! The life of one worker. Pure: time and inputs go in, what is to be done comes out.
//!
//! ```text
//! Starting --hello--> Joining --ready--> Serving --drain--> Draining
//!     |                  |                  |                  |
//!     +--- deadline -----+---- silence -----+---- deadline ----+--> Doomed --exit--> gone
//! ```

use std::time::{Duration, Instant};

/// From the start of the process to its hello: program load and confinement. Generous, for machines that swap.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
/// From the welcome to ready: the whole configuration is read meanwhile.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A serving worker that has said nothing for so long hangs. It is pinged every [`PING_INTERVAL`].
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
/// How often a worker is asked for a sign of life.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Where in its life a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The process runs; it has not said hello.
    Starting {
        /// It is killed then.
        deadline: Instant,
    },
    /// It has been told everything; it does not accept connections yet.
    Joining {
        /// It is killed then.
        deadline: Instant,
    },
    /// It accepts connections.
    Serving {
        /// When it last said anything.
        heard: Instant,
    },
    /// It finishes what is in flight.
    Draining {
        /// It is killed then; `None` waits for ever.
        deadline: Option<Instant>,
    },
    /// It was killed; the kernel has not told its end yet.
    Doomed,
}

/// What can happen to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its hello was accepted.
    Hello,
    /// It accepts connections.
    Ready,
    /// It said anything else that it may say.
    Heard,
    /// It should leave by the given time, if any.
    Drain(Option<Instant>),
    /// It broke the protocol.
    Misbehaved,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell it settings and configuration, and to accept connections.
    Welcome,
    /// It serves from now on.
    Announce,
    /// Tell it to leave.
    AskToDrain,
    /// End the process, for this reason.
    Kill(&'static str),
}

impl Life {
    /// A process that was started now.
    pub fn started(now: Instant) -> Self {
        Self::Starting { deadline: now + HELLO_LIMIT }
    }

    /// Whether it accepts connections.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Serving { .. })
    }

    /// One step.
    pub fn step(self, input: Input, now: Instant) -> (Self, Option<Action>) {
        let kill = |reason| (Self::Doomed, Some(Action::Kill(reason)));
        match (self, input) {
            (Self::Starting { .. }, Input::Hello) => {
                (Self::Joining { deadline: now + READY_LIMIT }, Some(Action::Welcome))
            }
            (Self::Joining { .. }, Input::Ready) => {
                (Self::Serving { heard: now }, Some(Action::Announce))
            }
            (Self::Serving { .. }, Input::Heard) => (Self::Serving { heard: now }, None),
            (Self::Joining { .. } | Self::Serving { .. }, Input::Drain(deadline)) => {
                (Self::Draining { deadline }, Some(Action::AskToDrain))
            }
            // It has no connection that could be finished.
            (Self::Starting { .. }, Input::Drain(_)) => kill("not needed any more"),
            (Self::Draining { .. }, Input::Drain(deadline)) => (Self::Draining { deadline }, None),
            (Self::Starting { deadline }, Input::Tick) if now >= deadline => kill("said no hello"),
            (Self::Joining { deadline }, Input::Tick) if now >= deadline => {
                kill("did not become ready")
            }
            (Self::Serving { heard }, Input::Tick) if now >= heard + SILENCE_LIMIT => {
                kill("does not answer")
            }
            (Self::Draining { deadline: Some(deadline) }, Input::Tick) if now >= deadline => {
                kill("did not finish in time")
            }
            // Said out of turn: this worker can no longer be trusted.
            (
                Self::Starting { .. } | Self::Serving { .. } | Self::Draining { .. },
                Input::Ready,
            )
            | (Self::Joining { .. } | Self::Serving { .. } | Self::Draining { .. }, Input::Hello)
            | (Self::Starting { .. }, Input::Heard)
            | (
                Self::Starting { .. }
                | Self::Joining { .. }
                | Self::Serving { .. }
                | Self::Draining { .. },
                Input::Misbehaved,
            ) => kill("broke the protocol"),
            (state @ (Self::Joining { .. } | Self::Draining { .. }), Input::Heard)
            | (
                state @ (Self::Starting { .. }
                | Self::Joining { .. }
                | Self::Serving { .. }
                | Self::Draining { .. }),
                Input::Tick,
            ) => (state, None),
            (Self::Doomed, _) => (Self::Doomed, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(now: Instant) -> Life {
        let (life, action) = Life::started(now).step(Input::Hello, now);
        assert_eq!(action, Some(Action::Welcome));
        let (life, action) = life.step(Input::Ready, now);
        assert_eq!(action, Some(Action::Announce));
        life
    }

    fn killed(step: (Life, Option<Action>)) -> bool {
        step.0 == Life::Doomed && matches!(step.1, Some(Action::Kill(_)))
    }

    #[test]
    fn a_worker_is_welcomed_once_and_serves_when_it_is_ready() {
        assert!(serving(Instant::now()).is_serving());
    }

    #[test]
    fn each_stage_has_its_deadline() {
        let now = Instant::now();
        let starting = Life::started(now);
        assert!(!killed(starting.step(Input::Tick, now + HELLO_LIMIT / 2)));
        assert!(killed(starting.step(Input::Tick, now + HELLO_LIMIT)));
        let (joining, _) = starting.step(Input::Hello, now);
        assert!(killed(joining.step(Input::Tick, now + READY_LIMIT)));
        assert!(killed(serving(now).step(Input::Tick, now + SILENCE_LIMIT)));
        let deadline = now + Duration::from_secs(600);
        let (draining, action) = serving(now).step(Input::Drain(Some(deadline)), now);
        assert_eq!(action, Some(Action::AskToDrain));
        assert!(!killed(draining.step(Input::Tick, now + SILENCE_LIMIT)));
        assert!(killed(draining.step(Input::Tick, deadline)));
    }

    #[test]
    fn a_worker_that_is_heard_is_not_killed() {
        let now = Instant::now();
        let later = now + SILENCE_LIMIT / 2;
        let (life, _) = serving(now).step(Input::Heard, later);
        assert!(!killed(life.step(Input::Tick, now + SILENCE_LIMIT)));
    }

    #[test]
    fn what_is_said_out_of_turn_costs_the_worker_its_life() {
        let now = Instant::now();
        assert!(killed(Life::started(now).step(Input::Ready, now)));
        assert!(killed(Life::started(now).step(Input::Heard, now)));
        assert!(killed(serving(now).step(Input::Hello, now)));
        assert!(killed(serving(now).step(Input::Ready, now)));
        assert!(killed(serving(now).step(Input::Misbehaved, now)));
    }

    #[test]
    fn a_drain_without_a_deadline_waits_for_ever() {
        let now = Instant::now();
        let (draining, _) = serving(now).step(Input::Drain(None), now);
        assert!(!killed(draining.step(Input::Tick, now + Duration::from_secs(1_000_000))));
    }
}
