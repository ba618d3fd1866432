//! How much there is to do, and what that means for whoever comes: begins, waits, or is refused. Decides, and knows no clock.
//!
//! Overload: for [`OVERLOAD_AFTER`] whoever began had waited [`WAIT_MAX`] or longer. A burst is none, however large. It is over
//! when for [`OVER_AFTER`] nobody has waited for long and at most [`HEARD_AT_ONCE_MAX`] callers are not heard yet. Meanwhile
//! whoever comes is refused while others have waited for
//! [`WAIT_IN_OVERLOAD`]: thousands who wait are more than the processor's caches hold, and each of them costs a quarter more
//! than one of a few hundred.
//!
//! Since a refusal costs a good part of what an answer costs, there is one at most for every [`BEGUN_PER_REFUSAL`] requests
//! that begin. Who waits is never refused.

use std::time::Duration;

use tokio::time::Instant;

/// Requests that begin in one round. A few milliseconds of work, so that those in progress are not kept waiting for longer.
pub(super) const ROUND_MAX: usize = 32;
/// A request that waits no longer than this is not kept waiting.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Everybody has to have waited longer for this time before anybody is refused.
const OVERLOAD_AFTER: Duration = Duration::from_secs(1);
/// In overload nobody is refused while all wait for less.
const WAIT_IN_OVERLOAD: Duration = Duration::from_millis(10);
/// Overload is over when this has been so for this time: callers may only be a little late.
pub(super) const OVER_AFTER: Duration = Duration::from_secs(1);
/// Callers that are not heard yet when it is over. They are from then on, all at once: less than [`WAIT_IN_OVERLOAD`] of work.
const HEARD_AT_ONCE_MAX: usize = 256;
/// Requests begin for each that is refused.
const BEGUN_PER_REFUSAL: usize = 4;
/// Refusals in a row, at most, when there were none for a while.
const REFUSALS_IN_A_ROW: usize = 256;

/// What becomes of a request when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Begins,
    Waits,
    Refused,
}

/// How much there is to do.
#[derive(Debug)]
pub(super) struct Pressure {
    requests_max: usize,
    pub(super) begun_in_round: usize,
    pub(super) waiting: usize,
    /// Since when everybody has waited for too long.
    late_since: Option<Instant>,
    pub(super) is_overload: bool,
    /// Who was first in the line at the last round had waited for longer than anybody should in overload.
    is_long: bool,
    /// When that was so for the last time.
    long_at: Option<Instant>,
    /// Begun for refusals to come.
    begun_ahead: usize,
}

impl Pressure {
    pub(super) fn new(requests_max: usize) -> Self {
        Self {
            requests_max,
            begun_in_round: 0,
            waiting: 0,
            late_since: None,
            is_overload: false,
            is_long: false,
            long_at: None,
            begun_ahead: 0,
        }
    }

    pub(super) fn arrives(&mut self, in_progress: usize) -> Arrival {
        if in_progress.saturating_add(self.waiting) >= self.requests_max {
            return Arrival::Refused;
        }
        if self.waiting == 0 && self.has_room_in_round() {
            self.begun_in_round += 1;
            return Arrival::Begins;
        }
        if self.is_overload && self.is_long && self.begun_ahead >= BEGUN_PER_REFUSAL {
            self.begun_ahead -= BEGUN_PER_REFUSAL;
            return Arrival::Refused;
        }
        self.waiting += 1;
        Arrival::Waits
    }

    /// Nothing was to be done, so that nobody waited for anybody.
    pub(super) fn paused(&mut self) {
        self.begun_in_round = 0;
    }

    /// Another round begins; whoever is first in the line has waited for so long.
    pub(super) fn round(&mut self, longest: Option<Duration>, now: Instant) {
        self.begun_in_round = 0;
        let waited = longest.unwrap_or_default();
        self.is_long = waited >= WAIT_IN_OVERLOAD;
        if self.is_long {
            self.long_at = Some(now);
        }
        if waited >= WAIT_MAX {
            let since = *self.late_since.get_or_insert(now);
            self.is_overload |= now.saturating_duration_since(since) >= OVERLOAD_AFTER;
        } else {
            self.late_since = None;
        }
    }

    /// Whether an overload is over. So many callers are not heard yet.
    pub(super) fn is_over(&mut self, unheard: usize, now: Instant) -> bool {
        let recently = |at| now.saturating_duration_since(at) < OVER_AFTER;
        self.is_overload &= self.long_at.is_some_and(recently) || unheard > HEARD_AT_ONCE_MAX;
        !self.is_overload
    }

    pub(super) fn has_room_in_round(&self) -> bool {
        self.begun_in_round < ROUND_MAX
    }

    /// One that has waited begins.
    pub(super) fn begins(&mut self) {
        self.leaves();
        self.begun_in_round += 1;
        self.begun_ahead = (self.begun_ahead + 1).min(BEGUN_PER_REFUSAL * REFUSALS_IN_A_ROW);
    }

    /// One waits no longer.
    pub(super) fn leaves(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.late_since = None;
            self.is_long = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MANY: usize = 100_000;
    const ROUND: Duration = Duration::from_millis(10);

    /// A worker that serves `ROUND_MAX` requests in each round, and the wait of each request.
    struct Worker {
        pressure: Pressure,
        line: VecDeque<Instant>,
        now: Instant,
        begun: usize,
        refused: usize,
    }

    impl Worker {
        fn new(requests_max: usize) -> Self {
            let pressure = Pressure::new(requests_max);
            let now = Instant::now();
            Self { pressure, line: VecDeque::new(), now, begun: 0, refused: 0 }
        }

        fn round(&mut self, arrivals: usize) {
            for _ in 0..arrivals {
                match self.pressure.arrives(0) {
                    Arrival::Begins => self.begun += 1,
                    Arrival::Waits => self.line.push_back(self.now),
                    Arrival::Refused => self.refused += 1,
                }
            }
            self.now += ROUND;
            let longest = self.line.front().map(|since| self.now - *since);
            self.pressure.round(longest, self.now);
            while self.pressure.has_room_in_round() && self.line.pop_front().is_some() {
                self.pressure.begins();
                self.begun += 1;
            }
            self.pressure.is_over(0, self.now);
        }
    }

    #[test]
    fn nobody_waits_while_few_have_begun_since_nothing_was_to_be_done() {
        let mut pressure = Pressure::new(MANY);
        for _ in 0..3 {
            for _ in 0..ROUND_MAX {
                assert_eq!(pressure.arrives(0), Arrival::Begins);
            }
            pressure.paused();
        }
        for _ in 0..ROUND_MAX {
            assert_eq!(pressure.arrives(0), Arrival::Begins);
        }
        assert_eq!(pressure.arrives(0), Arrival::Waits);
        pressure.paused();
        assert_eq!(pressure.arrives(0), Arrival::Waits, "nobody overtakes one who waits");
    }

    #[test]
    fn a_burst_of_any_size_is_worked_off_and_nobody_of_it_is_refused() {
        let mut worker = Worker::new(MANY);
        worker.round(20_000);
        while !worker.line.is_empty() {
            worker.round(0);
        }
        assert_eq!((worker.begun, worker.refused), (20_000, 0));
        for _ in 0..=OVER_AFTER.as_millis() / ROUND.as_millis() {
            worker.round(1);
        }
        assert!(!worker.pressure.is_overload && worker.refused == 0);
    }

    #[test]
    fn what_comes_beyond_what_can_be_served_is_refused_in_part_as_long_as_it_lasts() {
        let mut worker = Worker::new(MANY);
        let rounds_until_overload = (WAIT_MAX + OVERLOAD_AFTER).as_millis() / ROUND.as_millis();
        // Four times what can be served.
        for _ in 0..rounds_until_overload {
            worker.round(ROUND_MAX * 4);
        }
        assert_eq!(worker.refused, 0);
        for _ in 0..500 {
            worker.round(ROUND_MAX * 4);
        }
        assert!(worker.refused > 500 * ROUND_MAX / BEGUN_PER_REFUSAL / 2, "{}", worker.refused);
        assert!(worker.refused * BEGUN_PER_REFUSAL <= worker.begun + ROUND_MAX);
        while !worker.line.is_empty() {
            worker.round(0);
        }
        let refused = worker.refused;
        for _ in 0..500 {
            worker.round(ROUND_MAX);
        }
        assert_eq!(worker.refused, refused, "nobody is refused when it is over");
    }

    #[test]
    fn it_is_not_over_while_so_many_are_not_heard_yet_that_they_would_be_the_next_one() {
        let mut worker = Worker::new(MANY);
        while !worker.pressure.is_overload {
            worker.round(ROUND_MAX * 4);
        }
        worker.pressure.long_at = Some(worker.now);
        assert!(!worker.pressure.is_over(0, worker.now));
        let later = worker.now + OVER_AFTER;
        assert!(!worker.pressure.is_over(HEARD_AT_ONCE_MAX + 1, later));
        assert!(worker.pressure.is_over(HEARD_AT_ONCE_MAX, later));
    }

    #[test]
    fn as_many_as_the_process_can_hold_is_the_end_whatever_it_costs() {
        let mut pressure = Pressure::new(3);
        assert_eq!(pressure.arrives(2), Arrival::Begins);
        assert_eq!(pressure.arrives(3), Arrival::Refused);
        let mut worker = Worker::new(ROUND_MAX + 2);
        (0..ROUND_MAX).for_each(|_| assert_eq!(worker.pressure.arrives(0), Arrival::Begins));
        assert_eq!(worker.pressure.arrives(ROUND_MAX), Arrival::Waits);
        assert_eq!(worker.pressure.arrives(ROUND_MAX), Arrival::Waits);
        assert_eq!(worker.pressure.arrives(ROUND_MAX), Arrival::Refused);
    }

    proptest! {
        #[test]
        fn everybody_begins_or_is_refused_and_refusals_have_their_bounds(
            arrivals in prop::collection::vec(0..200usize, 1..600),
            requests_max in 1..2_000usize,
        ) {
            let mut worker = Worker::new(requests_max);
            let mut beyond = 0;
            for count in &arrivals {
                let room = requests_max.saturating_sub(worker.line.len());
                // Those that find no room are refused whatever came before.
                beyond += count.saturating_sub(room);
                worker.round(*count);
                prop_assert!(worker.line.len() <= requests_max);
                prop_assert_eq!(worker.line.len(), worker.pressure.waiting);
            }
            while !worker.line.is_empty() {
                worker.round(0);
            }
            prop_assert_eq!(worker.begun + worker.refused, arrivals.iter().sum::<usize>());
            prop_assert!(worker.refused <= beyond + worker.begun / BEGUN_PER_REFUSAL + 1);
        }
    }
}
