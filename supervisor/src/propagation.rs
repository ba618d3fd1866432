//! How long a change of the configuration takes: from when its revision was seen in the store until every worker serves it.
//!
//! Each revision that workers are told of counts once, however many travel together: a burst that is joined into one update
//! is as many values, each from the moment at which its own message of the store was complete. What workers are not told of
//! is not counted: a revision that changes nothing here, or of which everything was rejected. Neither is what was under way
//! when the program was replaced, or overtaken by a store that was set back.
//!
//! At most [`UNDER_WAY_MAX`] messages of the store are told apart; beyond, revisions are as old as the ones before them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::metrics::Counts;

/// Messages of the store whose revisions may be on their way.
const UNDER_WAY_MAX: usize = 4096;
/// Edges of the histogram, in seconds. Never changed under the same name: counts go on after an upgrade.
const EDGES: [f64; 13] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What was seen and what was served. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Propagation(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    under_way: VecDeque<UnderWay>,
    /// The latest revision that every worker served.
    served: Option<i64>,
    counts: [u64; EDGES.len()],
    above: u64,
    sum: f64,
}

/// Revisions that came in one message.
#[derive(Debug)]
struct UnderWay {
    latest: i64,
    revisions: u64,
    seen: Instant,
}

impl Propagation {
    /// So many revisions, of which this is the latest, were seen then, and are on their way to the workers.
    pub fn seen(&self, latest: i64, revisions: u64, seen: Instant) {
        let mut state = self.lock();
        // The store was set back, or says again what is served.
        if state.served.is_some_and(|served| latest <= served) {
            state.under_way.clear();
            return;
        }
        if state.under_way.back().is_some_and(|before| before.latest > latest) {
            state.under_way.clear();
        }
        if state.under_way.len() < UNDER_WAY_MAX {
            state.under_way.push_back(UnderWay { latest, revisions, seen });
        } else if let Some(before) = state.under_way.back_mut() {
            before.latest = latest;
            before.revisions = before.revisions.saturating_add(revisions);
        }
    }

    /// Every worker serves that revision since now; the one before was another.
    pub fn served(&self, revision: i64, now: Instant) {
        let mut state = self.lock();
        state.served = Some(revision);
        while let Some(served) = state.under_way.pop_front_if(|it| it.latest <= revision) {
            let took = now.saturating_duration_since(served.seen).as_secs_f64();
            let bucket = EDGES.partition_point(|edge| *edge < took);
            let State { counts, above, .. } = &mut *state;
            *counts.get_mut(bucket).unwrap_or(above) += served.revisions;
            state.sum += took * served.revisions as f64;
        }
    }

    /// What was counted, how many revisions are under way, and for how long the oldest of them is, in seconds.
    pub fn facts(&self, now: Instant) -> (Counts, (u64, f64)) {
        let state = self.lock();
        let buckets = EDGES.into_iter().zip(state.counts).collect();
        let counts = Counts { buckets, above: state.above, sum: state.sum };
        let under_way = state.under_way.iter().map(|it| it.revisions).sum();
        let oldest = state.under_way.front().map(|it| now.saturating_duration_since(it.seen));
        (counts, (under_way, oldest.unwrap_or_default().as_secs_f64()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Buckets that are not empty by their edge, the last one as 0; the sum; how many are under way.
    fn told(propagation: &Propagation, now: Instant) -> (Vec<(f64, u64)>, f64, u64) {
        let (counts, (under_way, _)) = propagation.facts(now);
        let buckets = counts.buckets.into_iter().chain([(0.0, counts.above)]);
        (buckets.filter(|(_, count)| *count > 0).collect(), counts.sum, under_way)
    }

    #[test]
    fn each_revision_counts_once_from_when_it_was_seen() {
        let (start, propagation) = (Instant::now(), Propagation::default());
        let at = |millis| start + Duration::from_millis(millis);
        propagation.seen(10, 1, at(0));
        propagation.seen(13, 3, at(500));
        propagation.seen(14, 1, at(600));
        assert_eq!(propagation.facts(at(900)).1, (5, 0.9));
        propagation.served(13, at(1_000));
        assert_eq!(told(&propagation, at(1_000)), (vec![(0.5, 3), (1.0, 1)], 2.5, 1));
        propagation.served(14, at(100_600));
        assert_eq!(told(&propagation, start), (vec![(0.5, 3), (1.0, 1), (0.0, 1)], 102.5, 0));
    }

    #[test]
    fn a_store_that_was_set_back_is_not_taken_for_a_fast_one() {
        let (now, propagation) = (Instant::now(), Propagation::default());
        propagation.served(100, now);
        propagation.seen(101, 1, now);
        propagation.seen(50, 1, now);
        assert_eq!(told(&propagation, now), (vec![], 0.0, 0));
        propagation.served(50, now);
        propagation.seen(51, 1, now);
        propagation.served(51, now);
        assert_eq!(told(&propagation, now), (vec![(0.005, 1)], 0.0, 0));
    }

    #[test]
    fn no_number_of_messages_takes_more_memory_or_loses_a_revision() {
        let (now, propagation) = (Instant::now(), Propagation::default());
        let messages = UNDER_WAY_MAX as i64 + 100;
        (1..=messages).for_each(|revision| propagation.seen(revision, 1, now));
        assert_eq!(propagation.lock().under_way.len(), UNDER_WAY_MAX);
        propagation.served(messages, now);
        assert_eq!(told(&propagation, now), (vec![(0.005, messages as u64)], 0.0, 0));
    }
}
