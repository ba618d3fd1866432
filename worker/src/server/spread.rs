//! Connections are spread by their number: a worker that has more than another leaves new ones to that one.
//!
//! All workers wait at one listener, and whoever is awake takes what comes. Connections that come at once and are kept would
//! all stay with one. So each tells the others how many it has (`shared/src/counters/`), and one that is ahead takes another
//! connection only after a while: the longer, the further it is ahead, since the other may only be busy.
//!
//! ```text
//! a connection waits ──not ahead──▶ taken
//!    └── ahead ──▶ left to others ──level again, or ahead by no more than the time allows──▶ taken
//!                      └── for PATIENCE ──▶ all that wait are taken
//! ```
//! So no caller waits for longer than [`PATIENCE`] because of this, whatever has become of the other workers. One to which
//! connections were left for as long, and that tells the same number as before, counts for nothing until it tells another, or
//! for a second: a long run of connections does not wait for it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use shared::counters::{Counters, LANES, connections_of};
use tokio::time::Instant;

/// How many more than another a worker may have and be level: so many, or this part of the other's.
const AHEAD_MAX: u64 = 2;
const AHEAD_PART: u64 = 16;
/// In this time, while nobody who has fewer takes one, a worker may get ahead by one more.
const TIME_OF_ONE: Duration = Duration::from_millis(5);
/// A worker that has not come after this time does not come. Several turns of a core that others want too.
const PATIENCE: Duration = Duration::from_millis(50);
/// After this time it is looked again who else there is, and nobody is known not to come.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The connections of this worker, and how many the others tell of.
#[derive(Debug)]
pub(super) struct Spread {
    counters: Counters,
    mine: Rc<Mine>,
    others: Vec<Other>,
    looked: Option<Instant>,
    /// While connections wait that are left to others.
    left: Option<Left>,
}

#[derive(Debug)]
struct Mine {
    told: Option<&'static AtomicU64>,
    live: Cell<usize>,
    accepts: Cell<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    since: Instant,
    /// When another worker took one for the last time.
    taken: Instant,
    /// When it was looked at last.
    looked: Instant,
}

/// Another worker.
#[derive(Debug)]
struct Other {
    told: &'static AtomicU64,
    /// What it told when it was looked last: its connections and one, or zero if it does not accept.
    seen: u64,
    /// For how long connections were left to it since it told that.
    awaited: Duration,
}

impl Mine {
    fn tell(&self) {
        if let Some(told) = self.told {
            let live = u64::try_from(self.live.get()).unwrap_or(u64::MAX);
            told.store(if self.accepts.get() { live.saturating_add(1) } else { 0 }, Relaxed);
        }
    }
}

impl Other {
    /// Says whether it has more than before.
    fn look(&mut self) -> bool {
        let (before, told) = (self.seen, self.told.load(Relaxed));
        if told != before {
            (self.seen, self.awaited) = (told, Duration::ZERO);
        }
        told > before
    }

    /// Whether it comes to accept, as far as is known.
    fn comes(&self) -> bool {
        self.awaited < PATIENCE
    }

    /// By how many one that has `mine` is too far ahead of it.
    fn is_behind_by(&self, mine: u64) -> u64 {
        match self.seen.checked_sub(1) {
            Some(its) => mine.saturating_sub(its.saturating_add((its / AHEAD_PART).max(AHEAD_MAX))),
            None => 0,
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
        Self { counters, mine, others: Vec::new(), looked: None, left: None }
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

    /// Whether a connection that waits is left to others for now. To be asked again soon.
    pub(super) fn leaves_it(&mut self, now: Instant) -> bool {
        let is_old = |looked| now.saturating_duration_since(looked) >= LOOK_AGAIN_AFTER;
        if self.looked.is_none_or(is_old) {
            self.find();
            self.looked = Some(now);
        }
        let mut has_taken = false;
        for other in &mut self.others {
            has_taken |= other.look();
        }
        let mut left = self.left.unwrap_or(Left { since: now, taken: now, looked: now });
        if has_taken {
            left.taken = now;
        }
        let mine = u64::try_from(self.live()).unwrap_or(u64::MAX);
        let mut ahead = 0;
        for other in &mut self.others {
            let by = other.is_behind_by(mine);
            if by > 0 {
                other.awaited += now.saturating_duration_since(left.looked);
            }
            if other.comes() {
                ahead = ahead.max(by);
            }
        }
        left.looked = now;
        if now.saturating_duration_since(left.since) >= PATIENCE {
            self.left = Some(left);
            return false;
        }
        self.left = (ahead > 0).then_some(left);
        let time = TIME_OF_ONE.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX));
        now.saturating_duration_since(left.taken) < time
    }

    /// No connection waits.
    pub(super) fn nothing_waits(&mut self) {
        self.left = None;
    }

    fn find(&mut self) {
        let lanes = (0..LANES).filter(|lane| *lane != self.counters.lane());
        let cells = lanes.filter_map(|it| self.counters.known_cell(connections_of(it)));
        self.others = cells
            .map(|told| Other { told, seen: told.load(Relaxed), awaited: Duration::ZERO })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// So many workers, all on one thread, with connections that are kept.
    struct Node {
        workers: Vec<Spread>,
        held: Vec<Vec<Live>>,
        now: Instant,
    }

    impl Node {
        fn new(workers: usize) -> Self {
            let counters = Counters::private();
            let workers: Vec<_> =
                (0..workers).map(|lane| Spread::new(counters.with_lane(lane).unwrap())).collect();
            let held = workers.iter().map(|_| Vec::new()).collect();
            Self { workers, held, now: Instant::now() }
        }

        fn take(&mut self, worker: usize) {
            self.held[worker].push(self.workers[worker].one());
        }

        /// One connection waits until one of those who are awake takes it. For how long it did.
        fn one(&mut self, awake: impl Fn(Duration) -> Vec<usize>) -> Duration {
            let begin = self.now;
            loop {
                for worker in awake(self.now - begin) {
                    if !self.workers[worker].leaves_it(self.now) {
                        self.take(worker);
                        return self.now - begin;
                    }
                }
                self.now += MOMENT;
            }
        }

        fn nothing_waits(&mut self) {
            self.workers.iter_mut().for_each(Spread::nothing_waits);
        }

        fn counts(&self) -> Vec<usize> {
            self.held.iter().map(Vec::len).collect()
        }
    }

    #[test]
    fn a_worker_is_ahead_by_more_than_two_and_more_than_a_sixteenth() {
        for (mine, told, expected) in [
            (1_000, 0, 0),
            (2, 1, 0),
            (3, 1, 1),
            (9, 1, 7),
            (35, 34, 0),
            (36, 34, 1),
            (1_062, 1_001, 0),
            (1_063, 1_001, 1),
        ] {
            static TOLD: AtomicU64 = AtomicU64::new(0);
            let other = Other { told: &TOLD, seen: told, awaited: Duration::ZERO };
            assert_eq!(other.is_behind_by(mine), expected, "{mine} {told}");
        }
    }

    #[test]
    fn connections_that_come_at_once_are_spread_evenly_and_those_of_the_dead_count_no_more() {
        let mut node = Node::new(4);
        for _ in 0..64 {
            // The first is always awake first.
            assert_eq!(node.one(|_| (0..4).collect()), Duration::ZERO);
        }
        let counts = node.counts();
        assert!(counts.iter().all(|count| (14..=18).contains(count)), "{counts:?}");
        node.held[1].clear();
        assert!(node.workers[0].leaves_it(node.now));
        // The second one ends, the third does not accept any more, the fourth is as full.
        node.workers[0].counters.abandon(1);
        node.workers[2].accepts(false);
        node.held[0].truncate(14);
        assert!(!node.workers[0].leaves_it(node.now));
    }

    #[test]
    fn a_worker_that_comes_late_finds_its_share() {
        let mut node = Node::new(2);
        let late = node.now + Duration::from_millis(15);
        for _ in 0..64 {
            let begin = node.now;
            node.one(|waited| if begin + waited < late { vec![0] } else { vec![0, 1] });
        }
        let counts = node.counts();
        assert!(counts.iter().all(|count| (31..=33).contains(count)), "{counts:?}");
        assert!(node.now >= late);
    }

    #[test]
    fn what_waits_is_taken_after_a_while_if_nobody_else_comes_and_then_without_a_pause() {
        let mut node = Node::new(2);
        let waits: Vec<_> = (0..200).map(|_| node.one(|_| vec![0])).collect();
        assert_eq!(waits.iter().sum::<Duration>(), PATIENCE);
        assert!(waits[20..].iter().all(Duration::is_zero), "{waits:?}");
        // Also when they come one by one.
        node.nothing_waits();
        assert_eq!(node.one(|_| vec![0]), Duration::ZERO);
        node.nothing_waits();
        assert_eq!(node.one(|_| vec![0]), Duration::ZERO);
        // The other one takes one: it is there again.
        node.take(1);
        node.nothing_waits();
        assert!(node.workers[0].leaves_it(node.now));
        node.nothing_waits();
        assert_eq!(node.one(|_| vec![0]), PATIENCE);
        // It is given another chance after a while.
        node.now += LOOK_AGAIN_AFTER;
        node.nothing_waits();
        assert_eq!(node.one(|_| vec![0]), PATIENCE);
    }

    #[test]
    fn one_by_one_all_of_them_together_wait_no_longer_for_one_that_does_not_come() {
        let mut node = Node::new(2);
        let waits: Vec<_> = (0..100)
            .map(|_| {
                node.nothing_waits();
                node.one(|_| vec![0])
            })
            .collect();
        assert!(waits.iter().sum::<Duration>() <= PATIENCE, "{waits:?}");
        assert!(waits[20..].iter().all(Duration::is_zero), "{waits:?}");
    }

    #[test]
    fn one_that_stays_away_keeps_nobody_from_leaving_connections_to_another_that_comes() {
        let mut node = Node::new(3);
        // The third is stopped.
        for _ in 0..120 {
            node.nothing_waits();
            node.one(|_| vec![0, 1]);
        }
        let counts = node.counts();
        assert!(counts[0].abs_diff(counts[1]) <= 5, "{counts:?}");
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn whoever_is_left_with_connections_that_end_is_level_at_once() {
        let mut node = Node::new(2);
        (0..10).for_each(|_| node.take(0));
        assert!(node.workers[0].leaves_it(node.now));
        node.held[0].truncate(2);
        assert!(!node.workers[0].leaves_it(node.now));
    }
}
