//! Connections are spread evenly over the workers: one that has more than another lets that one accept first.
//!
//! All workers wait at one listener, and whoever is awake takes what comes. Connections that come at once and are kept would
//! all stay with one. So each tells the others how many it has (`shared/src/counters/`), and pauses behind a connection that
//! puts it ahead. A pause is short, and no condition: what is still there after it nobody else has time for, and is taken.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared::counters::{Counters, LANES, connections_of};
use tokio::time::Instant;

/// Long enough for another worker to wake up.
pub(super) const PAUSE: Duration = Duration::from_millis(2);
/// How many more than another a worker may have: so many, or this part of the other's.
const AHEAD_MAX: u64 = 2;
const AHEAD_PART: u64 = 16;
/// Connections that are taken without a pause after one that nobody else has taken.
const TAKEN_FREELY: usize = 16;
/// After this time it is looked again who else there is.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The connections of this worker, and how many the others tell of.
#[derive(Debug)]
pub(super) struct Spread {
    counters: Counters,
    mine: Rc<Mine>,
    others: Vec<&'static AtomicU64>,
    looked: Option<Instant>,
    taken_freely: usize,
}

#[derive(Debug)]
struct Mine {
    told: Option<&'static AtomicU64>,
    live: Cell<usize>,
    accepts: Cell<bool>,
}

impl Mine {
    fn tell(&self) {
        if let Some(told) = self.told {
            let live = u64::try_from(self.live.get()).unwrap_or(u64::MAX);
            told.store(if self.accepts.get() { live.saturating_add(1) } else { 0 }, Relaxed);
        }
    }
}

/// One connection, as long as it is there.
#[derive(Debug)]
pub(super) struct Live(Rc<Mine>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.set(self.0.live.get().saturating_sub(1));
        self.0.tell();
    }
}

impl Spread {
    /// A worker that accepts from now on.
    pub(super) fn new(counters: Counters) -> Self {
        let told = counters.cell(connections_of(counters.lane()));
        let mine = Rc::new(Mine { told, live: Cell::new(0), accepts: Cell::new(true) });
        mine.tell();
        Self { counters, mine, others: Vec::new(), looked: None, taken_freely: 0 }
    }

    /// Whether this worker accepts.
    pub(super) fn accepts(&self, accepts: bool) {
        if self.mine.accepts.replace(accepts) != accepts {
            self.mine.tell();
        }
    }

    /// How many connections it has.
    pub(super) fn live(&self) -> usize {
        self.mine.live.get()
    }

    /// There is another connection.
    pub(super) fn one(&self) -> Live {
        self.mine.live.set(self.live() + 1);
        self.mine.tell();
        Live(Rc::clone(&self.mine))
    }

    /// Whether others should take the next one.
    pub(super) fn lets_others(&mut self, now: Instant) -> bool {
        if self.taken_freely > 0 {
            self.taken_freely -= 1;
            return false;
        }
        let is_old = |looked| now.saturating_duration_since(looked) >= LOOK_AGAIN_AFTER;
        if self.looked.is_none_or(is_old) {
            self.look();
            self.looked = Some(now);
        }
        let others = self.others.iter().map(|told| told.load(Relaxed));
        // Zero is one that does not accept.
        let fewest = others.filter_map(|told| told.checked_sub(1)).min();
        is_ahead(u64::try_from(self.live()).unwrap_or(u64::MAX), fewest)
    }

    /// Nobody else has taken one during a pause.
    pub(super) fn nobody_else_came(&mut self) {
        self.taken_freely = TAKEN_FREELY;
    }

    fn look(&mut self) {
        let lanes = (0..LANES).filter(|lane| *lane != self.counters.lane());
        self.others = lanes.filter_map(|it| self.counters.known_cell(connections_of(it))).collect();
    }
}

/// Whether so many are too many, where another has so few.
fn is_ahead(mine: u64, fewest: Option<u64>) -> bool {
    fewest.is_some_and(|fewest| mine > fewest.saturating_add((fewest / AHEAD_PART).max(AHEAD_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ahead_by_more_than_two_and_more_than_a_sixteenth() {
        for (mine, fewest, expected) in [
            (1_000, None, false),
            (2, Some(0), false),
            (3, Some(0), true),
            (35, Some(33), false),
            (36, Some(33), true),
            (1_062, Some(1_000), false),
            (1_063, Some(1_000), true),
        ] {
            assert_eq!(is_ahead(mine, fewest), expected, "{mine} {fewest:?}");
        }
    }

    #[test]
    fn connections_that_come_at_once_are_spread_evenly_and_those_of_the_dead_count_no_more() {
        let counters = Counters::private();
        let mut workers: Vec<_> =
            (0..4).map(|lane| Spread::new(counters.with_lane(lane).unwrap())).collect();
        let mut held: Vec<Vec<Live>> = (0..4).map(|_| Vec::new()).collect();
        let now = Instant::now();
        for _ in 0..64 {
            // The first is always awake first.
            let taker = (0..4).find(|worker| !workers[*worker].lets_others(now)).unwrap();
            held[taker].push(workers[taker].one());
        }
        let counts: Vec<_> = held.iter().map(Vec::len).collect();
        assert!(counts.iter().all(|count| (14..=18).contains(count)), "{counts:?}");
        held[1].clear();
        assert!(workers[0].lets_others(now));
        // The second one ends, the third does not accept any more, the fourth is as full.
        counters.abandon(1);
        workers[2].accepts(false);
        held[0].truncate(14);
        assert!(!workers[0].lets_others(now));
    }

    #[test]
    fn what_nobody_else_takes_is_taken_without_a_pause_each() {
        let counters = Counters::private();
        let mut busy = Spread::new(counters);
        let _idle = Spread::new(counters.with_lane(1).unwrap());
        let now = Instant::now();
        let _live: Vec<_> = (0..10).map(|_| busy.one()).collect();
        assert!(busy.lets_others(now));
        busy.nobody_else_came();
        assert!((0..TAKEN_FREELY).all(|_| !busy.lets_others(now)));
        assert!(busy.lets_others(now));
    }
}
