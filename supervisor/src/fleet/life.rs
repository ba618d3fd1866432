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
/// How often a worker is asked for a sign of life.
pub const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A worker that has left so many of them unanswered hangs. Counted in questions rather than in time, so that a supervisor
/// that was itself stopped for a while (a paused container or machine) does not take everybody for dead.
const UNANSWERED_MAX: u32 = 5;

/// Reasons to kill a worker that has said nothing.
const NO_HELLO: &str = "said no hello";
const NOT_READY: &str = "did not become ready";
const NO_ANSWER: &str = "does not answer";

/// Whether a worker that is killed for this reason had ceased to say anything.
pub fn is_silence(reason: &str) -> bool {
    [NO_HELLO, NOT_READY, NO_ANSWER].contains(&reason)
}

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
        /// Pings since it last said anything.
        unanswered: u32,
    },
    /// It finishes what is in flight.
    Draining {
        /// It is killed then; `None` waits for as long as it answers.
        deadline: Option<Instant>,
        /// Pings since it last said anything.
        unanswered: u32,
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
    /// It was asked for a sign of life.
    Pinged,
    /// It has been told something and has not answered within a time that only who told it knows.
    Silent,
    /// It broke the protocol, or left it to us to notice that it cannot go on.
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
    /// Where in its life a worker is, in a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Joining { .. } => "joining",
            Self::Serving { .. } => "serving",
            Self::Draining { .. } => "draining",
            Self::Doomed => "ending",
        }
    }

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
                (Self::Serving { unanswered: 0 }, Some(Action::Announce))
            }
            // Said just before it was told to leave.
            (Self::Draining { deadline, .. }, Input::Ready | Input::Heard) => {
                (Self::Draining { deadline, unanswered: 0 }, None)
            }
            (Self::Serving { .. }, Input::Heard) => (Self::Serving { unanswered: 0 }, None),
            (Self::Joining { .. } | Self::Serving { .. }, Input::Drain(deadline)) => {
                (Self::Draining { deadline, unanswered: 0 }, Some(Action::AskToDrain))
            }
            // It has no connection that could be finished.
            (Self::Starting { .. }, Input::Drain(_)) => kill("not needed any more"),
            // The earlier of two deadlines counts, and one rather than none.
            (Self::Draining { deadline: before, unanswered }, Input::Drain(deadline)) => {
                let deadline = before.into_iter().chain(deadline).min();
                (Self::Draining { deadline, unanswered }, None)
            }
            (Self::Serving { .. } | Self::Draining { .. }, Input::Silent) => kill(NO_ANSWER),
            (Self::Serving { unanswered } | Self::Draining { unanswered, .. }, Input::Pinged)
                if unanswered >= UNANSWERED_MAX =>
            {
                kill(NO_ANSWER)
            }
            (Self::Serving { unanswered }, Input::Pinged) => {
                (Self::Serving { unanswered: unanswered + 1 }, None)
            }
            (Self::Draining { deadline, unanswered }, Input::Pinged) => {
                (Self::Draining { deadline, unanswered: unanswered + 1 }, None)
            }
            (Self::Starting { deadline }, Input::Tick) if now >= deadline => kill(NO_HELLO),
            (Self::Joining { deadline }, Input::Tick) if now >= deadline => kill(NOT_READY),
            (Self::Draining { deadline: Some(deadline), .. }, Input::Tick) if now >= deadline => {
                kill("did not finish in time")
            }
            // Said out of turn: this worker can no longer be trusted.
            (Self::Starting { .. } | Self::Serving { .. }, Input::Ready)
            | (Self::Joining { .. } | Self::Serving { .. } | Self::Draining { .. }, Input::Hello)
            | (Self::Starting { .. }, Input::Heard)
            | (
                Self::Starting { .. }
                | Self::Joining { .. }
                | Self::Serving { .. }
                | Self::Draining { .. },
                Input::Misbehaved,
            ) => kill("broke the protocol"),
            (
                state @ Self::Joining { .. },
                Input::Heard | Input::Pinged | Input::Silent | Input::Tick,
            )
            | (state @ Self::Starting { .. }, Input::Pinged | Input::Silent | Input::Tick)
            | (state @ (Self::Serving { .. } | Self::Draining { .. }), Input::Tick) => {
                (state, None)
            }
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
        let deadline = now + Duration::from_secs(600);
        let (draining, action) = serving(now).step(Input::Drain(Some(deadline)), now);
        assert_eq!(action, Some(Action::AskToDrain));
        assert!(!killed(draining.step(Input::Tick, now)));
        assert!(killed(draining.step(Input::Tick, deadline)));
    }

    fn pinged(mut life: Life, times: u32) -> (Life, Option<Action>) {
        let mut action = None;
        for _ in 0..times {
            (life, action) = life.step(Input::Pinged, Instant::now());
        }
        (life, action)
    }

    #[test]
    fn a_worker_that_leaves_too_many_pings_unanswered_is_killed_while_it_drains_too() {
        let now = Instant::now();
        assert!(killed(pinged(serving(now), UNANSWERED_MAX + 1)));
        let (draining, _) = serving(now).step(Input::Drain(None), now);
        assert!(killed(pinged(draining, UNANSWERED_MAX + 1)));
    }

    #[test]
    fn one_answer_makes_up_for_all_pings_before_however_late_it_comes() {
        let now = Instant::now();
        let (life, _) = pinged(serving(now), UNANSWERED_MAX);
        let (life, _) = life.step(Input::Heard, now + Duration::from_secs(3600));
        assert!(!killed(pinged(life, UNANSWERED_MAX)));
    }

    #[test]
    fn a_worker_that_became_ready_while_it_was_told_to_leave_may_finish() {
        let now = Instant::now();
        let (joining, _) = Life::started(now).step(Input::Hello, now);
        let (draining, _) = joining.step(Input::Drain(None), now);
        assert!(!killed(draining.step(Input::Ready, now)));
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
    fn a_second_deadline_of_a_drain_counts_only_if_it_is_earlier() {
        let now = Instant::now();
        let (early, late) = (now + Duration::from_secs(1), now + Duration::from_secs(2));
        let draining = |first, second| {
            let (life, _) = serving(now).step(Input::Drain(first), now);
            life.step(Input::Drain(second), now).0
        };
        for (first, second) in [(Some(early), Some(late)), (Some(late), Some(early))] {
            assert!(killed(draining(first, second).step(Input::Tick, early)));
        }
        assert!(killed(draining(Some(early), None).step(Input::Tick, early)));
        assert!(killed(draining(None, Some(early)).step(Input::Tick, early)));
    }

    #[test]
    fn a_drain_without_a_deadline_waits_for_ever() {
        let now = Instant::now();
        let (draining, _) = serving(now).step(Input::Drain(None), now);
        assert!(!killed(draining.step(Input::Tick, now + Duration::from_secs(1_000_000))));
    }
}
