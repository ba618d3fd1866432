//! Which caller key the Cloud is asked for next. Pure: time is passed in.
//!
//! 1. At most [`CALLS_PER_SECOND`] calls, and far fewer while the Cloud is away.
//! 2. The more urgent first, and among those the more used.
//! 3. Prefetching of a large set keeps to [`CALLS_PER_SECOND_LARGE`], so that it costs little while it lasts.
//! 4. Whatever hangs leaves room for what is more urgent: prefetching takes at most half of the calls at a time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::key::{Class, Moment};

/// Calls at a time.
pub const CALLS_MAX: usize = 16;
/// Calls in a second.
const CALLS_PER_SECOND: Moment = 200;
/// Calls in a second for keys that nobody uses: few enough keys are done within a minute or two.
const CALLS_PER_SECOND_IDLE: Moment = 125;
/// The same while more keys than [`LARGE`] wait.
const CALLS_PER_SECOND_LARGE: Moment = 20;
/// More keys than this are a large set.
const LARGE: usize = 12_000;
/// Calls in a second while the Cloud is away.
const CALLS_PER_SECOND_AWAY: Moment = 10;

/// Keys that are to be asked for, and how many are being asked for.
#[derive(Debug, Default)]
pub struct Schedule {
    queue: BTreeSet<(Class, Reverse<u64>, Arc<str>)>,
    places: HashMap<Arc<str>, (Class, u64)>,
    asking: usize,
    not_before: Moment,
    idle_not_before: Moment,
}

impl Schedule {
    /// The key is to be asked for, in place of any earlier wish for it.
    pub fn want(&mut self, id: &Arc<str>, class: Class, uses: u64) {
        if self.places.get(id) == Some(&(class, uses)) {
            return;
        }
        self.unwant(id);
        self.places.insert(Arc::clone(id), (class, uses));
        self.queue.insert((class, Reverse(uses), Arc::clone(id)));
    }

    /// The key is not to be asked for.
    pub fn unwant(&mut self, id: &Arc<str>) {
        if let Some((class, uses)) = self.places.remove(id) {
            self.queue.remove(&(class, Reverse(uses), Arc::clone(id)));
        }
    }

    /// The next key, if one may be asked for now. It counts as being asked for until [`Schedule::done`].
    pub fn next(&mut self, is_away: bool, now: Moment) -> Option<Arc<str>> {
        if self.next_at(now)? > now {
            return None;
        }
        let (class, _, id) = self.queue.pop_first()?;
        self.places.remove(&id);
        self.asking += 1;
        let rate = if is_away { CALLS_PER_SECOND_AWAY } else { CALLS_PER_SECOND };
        self.not_before = now + 1_000 / rate;
        if class == Class::Idle {
            let is_large = self.queue.len() > LARGE;
            let rate = if is_large { CALLS_PER_SECOND_LARGE } else { CALLS_PER_SECOND_IDLE };
            self.idle_not_before = now + 1_000 / rate;
        }
        Some(id)
    }

    /// When there will be a next key; `None` = not before something happens.
    pub fn next_at(&self, now: Moment) -> Option<Moment> {
        let (class, ..) = self.queue.first()?;
        let (room, not_before) = match class {
            Class::Waiting => (CALLS_MAX, self.not_before),
            Class::InUse => (CALLS_MAX * 3 / 4, self.not_before),
            Class::Idle => (CALLS_MAX / 2, self.not_before.max(self.idle_not_before)),
        };
        (self.asking < room).then_some(not_before.max(now))
    }

    /// A call is over.
    pub fn done(&mut self) {
        self.asking = self.asking.saturating_sub(1);
    }

    /// Nothing is asked before then.
    pub fn pause(&mut self, until: Moment) {
        self.not_before = self.not_before.max(until);
    }

    /// How many wait to be asked for.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn the_more_urgent_goes_first_and_then_the_more_used() {
        let mut schedule = Schedule::default();
        schedule.want(&id("idle"), Class::Idle, 9);
        schedule.want(&id("seldom"), Class::InUse, 1);
        schedule.want(&id("often"), Class::InUse, 5);
        schedule.want(&id("urgent"), Class::Idle, 0);
        schedule.want(&id("urgent"), Class::Waiting, 0);
        schedule.want(&id("gone"), Class::Waiting, 7);
        schedule.unwant(&id("gone"));
        let order: Vec<_> = (0..5).filter_map(|n| schedule.next(false, n * 1_000)).collect();
        assert_eq!(order, ["urgent", "often", "seldom", "idle"].map(id));
    }

    #[test]
    fn prefetching_is_slow_and_holds_up_nobody_who_waits() {
        let mut schedule = Schedule::default();
        ["a", "b"].iter().for_each(|name| schedule.want(&id(name), Class::Idle, 0));
        assert_eq!(schedule.next(false, 0), Some(id("a")));
        assert_eq!(schedule.next_at(5), Some(1_000 / CALLS_PER_SECOND_IDLE));
        (0..=LARGE).for_each(|n| schedule.want(&id(&n.to_string()), Class::Idle, 0));
        schedule.next(false, 8);
        assert_eq!(schedule.next_at(9), Some(8 + 1_000 / CALLS_PER_SECOND_LARGE));
        schedule.want(&id("urgent"), Class::Waiting, 0);
        assert_eq!(schedule.next(false, 13), Some(id("urgent")));
    }

    #[test]
    fn what_is_less_urgent_leaves_room_for_what_is_more() {
        let mut schedule = Schedule::default();
        let mut fill = |class| {
            (0..CALLS_MAX).for_each(|n| schedule.want(&id(&format!("{class:?}{n}")), class, 0));
            (0..100).filter_map(|n| schedule.next(false, n * 1_000)).count()
        };
        assert_eq!(fill(Class::Idle), CALLS_MAX / 2);
        assert_eq!(fill(Class::InUse), CALLS_MAX / 4);
        assert_eq!(fill(Class::Waiting), CALLS_MAX / 4);
        assert_eq!(schedule.next_at(1_000_000), None);
        schedule.done();
        assert_eq!(schedule.next_at(1_000_000), Some(1_000_000));
    }

    proptest! {
        #[test]
        fn no_second_sees_more_calls_than_it_may(
            steps in prop::collection::vec((0..40i64, any::<bool>()), 1..400),
        ) {
            let mut schedule = Schedule::default();
            let (mut now, mut calls) = (0, Vec::new());
            for (number, (pause, is_away)) in steps.into_iter().enumerate() {
                now += pause;
                schedule.want(&id(&number.to_string()), Class::Waiting, 0);
                while schedule.next(is_away, now).is_some() {
                    calls.push(now);
                    schedule.done();
                }
            }
            for (index, start) in calls.iter().enumerate() {
                let within = calls[index..].iter().take_while(|at| **at < start + 1_000).count();
                prop_assert!(within <= 200, "{within}");
            }
        }
    }
}
