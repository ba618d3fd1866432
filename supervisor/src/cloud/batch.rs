//! When to send how many usage events, and what an answer means for them. Pure: time and chance are passed in.
//!
//! One batch is on its way at a time, always the oldest events. The manager judges a batch as a whole, so a batch that it
//! refuses is halved until the one event at fault is found: that one is given up, and all others are delivered.
//!
//! ```text
//! accepted                 the events are done
//! 400                      one of them is bad: halve; alone it is given up
//! 413                      too many at once: halve, and send smaller batches for a while; alone it is given up
//! 429, Retry-After         wait as told
//! anything else            wait 1-60 s, for ever
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::manager::Reason;
use crate::backoff::Backoff;

/// The most events in one request, as published.
pub const EVENTS_MAX: usize = 100;
/// The longest that an event waits for others to fill its batch.
const GATHERING: Duration = Duration::from_secs(1);
/// Pause after a failure while the process is leaving.
const HURRIED_PAUSE: Duration = Duration::from_millis(200);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until an event comes.
    Idle,
    /// Nothing, until then or until an event comes.
    Wait(Instant),
    /// Send this many of the oldest events.
    Send(usize),
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 2xx.
    Accepted,
    /// At least one event is unacceptable.
    Refused,
    /// Too large.
    TooLarge,
    /// Come back later.
    Later(Option<Duration>),
}

/// What that means for its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are done.
    Delivered,
    /// They stay.
    Keep,
    /// The one event of the batch will never be accepted.
    GiveUp,
}

impl From<&Reason> for Answer {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::Status { status: 400, .. } => Self::Refused,
            // A load balancer in between may say it with a page of its own.
            Reason::Status { status: 413, .. } | Reason::WebPage { status: 413 } => Self::TooLarge,
            Reason::Status { retry_after, .. } => Self::Later(*retry_after),
            Reason::Connection(_) | Reason::Timeout | Reason::TooLong | Reason::WebPage { .. } => {
                Self::Later(None)
            }
        }
    }
}

/// The sending of batches, as a state machine.
#[derive(Debug)]
pub struct Batches {
    /// How many events a request may hold at present.
    size_max: usize,
    /// This many of the oldest events are known to hold a bad one.
    suspects: Option<usize>,
    /// Since when events gather for the next batch.
    gathering_since: Option<Instant>,
    not_before: Option<Instant>,
    backoff: Backoff,
    hurried: bool,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            size_max: EVENTS_MAX,
            suspects: None,
            gathering_since: None,
            not_before: None,
            backoff: Backoff::default(),
            hurried: false,
        }
    }
}

impl Batches {
    /// What to do while `waiting` events wait.
    pub fn next(&mut self, waiting: usize, now: Instant) -> Step {
        if waiting == 0 {
            self.gathering_since = None;
            return Step::Idle;
        }
        let gathered = *self.gathering_since.get_or_insert(now) + GATHERING;
        if let Some(not_before) = self.not_before.filter(|not_before| now < *not_before) {
            return Step::Wait(not_before);
        }
        // Half of the suspects: an accepted half leaves the other one, a refused one is halved again.
        let half = self.suspects.map_or(self.size_max, |suspects| suspects.div_ceil(2));
        let size = half.min(self.size_max);
        let gathering = self.suspects.is_none() && waiting < size && !self.hurried;
        if gathering && now < gathered {
            Step::Wait(gathered)
        } else {
            Step::Send(size.min(waiting))
        }
    }

    /// The process is leaving: gather no more, wait less.
    pub fn hurry(&mut self) {
        self.hurried = true;
        self.not_before = None;
    }

    /// Takes the answer to a batch of `sent` events. `chance` is between 0 and 1.
    pub fn answered(&mut self, sent: usize, answer: Answer, chance: f64, now: Instant) -> Verdict {
        if let Answer::Later(told) = answer {
            let pause = match told {
                Some(told) => told,
                None => self.backoff.failed(chance),
            };
            let pause = if self.hurried { pause.min(HURRIED_PAUSE) } else { pause };
            self.not_before = Some(now + pause);
            return Verdict::Keep;
        }
        self.backoff.succeeded();
        self.not_before = None;
        match answer {
            Answer::Accepted => {
                self.gathering_since = None;
                self.size_max = (self.size_max + 1).min(EVENTS_MAX);
                let left = self.suspects.map(|suspects| suspects.saturating_sub(sent));
                self.suspects = left.filter(|left| *left > 0);
                Verdict::Delivered
            }
            Answer::Refused | Answer::TooLarge if sent <= 1 => {
                // The others have waited long enough: they do not gather again.
                self.suspects = None;
                Verdict::GiveUp
            }
            Answer::TooLarge => {
                self.size_max = sent.div_ceil(2);
                Verdict::Keep
            }
            Answer::Refused | Answer::Later(_) => {
                self.suspects = Some(sent);
                Verdict::Keep
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Delivers events 0..count to a manager that refuses a batch with any of `bad`, or of more than `large` events.
    fn deliver(count: usize, bad: &[usize], large: usize) -> (Vec<usize>, Vec<usize>, usize) {
        let mut batches = Batches::default();
        batches.hurry();
        let mut waiting: Vec<usize> = (0..count).collect();
        let (mut delivered, mut given_up, mut requests) = (Vec::new(), Vec::new(), 0);
        let now = Instant::now();
        while let Step::Send(size) = batches.next(waiting.len(), now) {
            requests += 1;
            assert!(requests < 100_000, "no end in sight");
            let batch = &waiting[..size];
            let answer = if size > large {
                Answer::TooLarge
            } else if batch.iter().any(|event| bad.contains(event)) {
                Answer::Refused
            } else {
                Answer::Accepted
            };
            match batches.answered(size, answer, 1.0, now) {
                Verdict::Delivered => delivered.extend(waiting.drain(..size)),
                Verdict::GiveUp => given_up.extend(waiting.drain(..size)),
                Verdict::Keep => {}
            }
        }
        (delivered, given_up, requests)
    }

    #[test]
    fn a_full_batch_goes_at_once_and_a_smaller_one_within_a_second() {
        let mut batches = Batches::default();
        let start = Instant::now();
        assert_eq!(batches.next(0, start), Step::Idle);
        assert_eq!(batches.next(1, start), Step::Wait(start + GATHERING));
        assert_eq!(batches.next(250, start), Step::Send(EVENTS_MAX));
        assert_eq!(batches.next(7, start + GATHERING), Step::Send(7));
    }

    #[test]
    fn after_a_bad_event_the_others_do_not_gather_again() {
        let mut batches = Batches::default();
        let start = Instant::now();
        assert_eq!(batches.next(2, start), Step::Wait(start + GATHERING));
        let now = start + GATHERING;
        assert_eq!(batches.next(2, now), Step::Send(2));
        assert_eq!(batches.answered(2, Answer::Refused, 1.0, now), Verdict::Keep);
        assert_eq!(batches.next(2, now), Step::Send(1));
        assert_eq!(batches.answered(1, Answer::Refused, 1.0, now), Verdict::GiveUp);
        assert_eq!(batches.next(1, now), Step::Send(1));
    }

    #[test]
    fn a_bad_event_is_found_in_few_requests() {
        let (delivered, given_up, requests) = deliver(100, &[70], 100);
        assert_eq!((delivered.len(), given_up), (99, vec![70]));
        assert!(requests <= 16, "{requests} requests");
    }

    #[test]
    fn a_failure_is_retried_for_ever_with_growing_pauses() {
        let mut batches = Batches::default();
        let now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(batches.answered(3, Answer::Later(None), 1.0, now), Verdict::Keep);
            let until = now + Duration::from_secs(seconds);
            assert_eq!(batches.next(500, now), Step::Wait(until));
            assert_eq!(batches.next(500, until), Step::Send(EVENTS_MAX));
        }
    }

    #[test]
    fn the_pause_that_the_manager_asks_for_is_kept() {
        let mut batches = Batches::default();
        let now = Instant::now();
        let told = Duration::from_secs(17);
        assert_eq!(batches.answered(3, Answer::Later(Some(told)), 1.0, now), Verdict::Keep);
        assert_eq!(batches.next(500, now), Step::Wait(now + told));
    }

    proptest! {
        #[test]
        fn one_bad_event_costs_no_other_event_and_no_order(
            count in 0..400usize,
            bad in proptest::collection::vec(0..400usize, 0..5),
            large in 1..120usize,
        ) {
            let (delivered, given_up, _) = deliver(count, &bad, large);
            let good: Vec<usize> = (0..count).filter(|event| !bad.contains(event)).collect();
            let mut refused: Vec<usize> = bad.into_iter().filter(|event| *event < count).collect();
            refused.sort_unstable();
            refused.dedup();
            prop_assert_eq!(delivered, good);
            prop_assert_eq!(given_up, refused);
        }
    }
}
