//! The spool: usage events between the worker that counted them and the Cloud that has accepted them.
//!
//! Held in memory and bounded: what has not been accepted when the process ends is lost, and past
//! [`EVENTS_MAX`] or [`BYTES_MAX`] the oldest events are shed, counted, to make room for new ones.
//!
//! Invariants, each with a test of that name:
//! 1. an event stays until it is acknowledged or shed;
//! 2. events come out oldest first;
//! 3. nothing disappears uncounted: appended = waiting + acknowledged + shed.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::codec;
use shared::usage::UsageEvent;

/// The most events that wait. At some 600 bytes each, 60 MB.
pub const EVENTS_MAX: usize = 100_000;

/// The most memory that waiting events take, in bytes as they are encoded: whatever a worker sends.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;

/// Place of an event in the spool; grows, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// What has happened to events so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Put in.
    pub appended: u64,
    /// Taken out, because the Cloud has them or will never take them.
    pub acknowledged: u64,
    /// Dropped, oldest first, because the spool was full.
    pub shed: u64,
}

/// An event, and how large it is.
#[derive(Debug)]
struct Waiting {
    event: Arc<UsageEvent>,
    bytes: usize,
}

/// Events that wait for the Cloud. No clock, no I/O.
#[derive(Debug)]
pub struct Spool {
    waiting: BTreeMap<Sequence, Waiting>,
    bytes: usize,
    next: u64,
    events_max: usize,
    counters: Counters,
}

impl Default for Spool {
    fn default() -> Self {
        Self::with_capacity(EVENTS_MAX)
    }
}

impl Spool {
    /// A spool that holds at most `events_max` events.
    pub fn with_capacity(events_max: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            bytes: 0,
            next: 0,
            events_max,
            counters: Counters::default(),
        }
    }

    /// Takes `events` into keeping and says how many old ones had to go for them.
    pub fn append(&mut self, events: Vec<UsageEvent>) -> u64 {
        let shed_before = self.counters.shed;
        for event in events {
            let bytes = codec::encode(&event).map_or(0, |encoded| encoded.len());
            let event = Arc::new(event);
            self.waiting.insert(Sequence(self.next), Waiting { event, bytes });
            self.bytes += bytes;
            self.next += 1;
            self.counters.appended += 1;
            while self.waiting.len() > self.events_max || self.bytes > BYTES_MAX {
                let Some((_, oldest)) = self.waiting.pop_first() else { break };
                self.bytes -= oldest.bytes;
                self.counters.shed += 1;
            }
        }
        self.counters.shed - shed_before
    }

    /// The oldest events, at most `max`. They stay until they are acknowledged.
    pub fn next_batch(&self, max: usize) -> Vec<(Sequence, Arc<UsageEvent>)> {
        let batch = self.waiting.iter().take(max);
        batch.map(|(sequence, waiting)| (*sequence, Arc::clone(&waiting.event))).collect()
    }

    /// Lets events go. Those that were shed meanwhile are passed over.
    pub fn acknowledge(&mut self, sequences: impl IntoIterator<Item = Sequence>) {
        for sequence in sequences {
            if let Some(waiting) = self.waiting.remove(&sequence) {
                self.bytes -= waiting.bytes;
                self.counters.acknowledged += 1;
            }
        }
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What has happened to events so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn large_events_cannot_take_more_memory_than_there_is_for_all() {
        let mut spool = Spool::default();
        let large = UsageEvent { error_message: "x".repeat(1024 * 1024), ..UsageEvent::default() };
        for _ in 0..BYTES_MAX / (1024 * 1024) + 10 {
            spool.append(vec![large.clone()]);
        }
        assert!(spool.bytes <= BYTES_MAX && spool.counters().shed >= 10);
        let all: Vec<_> = spool.next_batch(usize::MAX).into_iter().map(|(n, _)| n).collect();
        spool.acknowledge(all);
        assert_eq!((spool.bytes, spool.len()), (0, 0));
    }

    fn events(range: std::ops::Range<usize>) -> Vec<UsageEvent> {
        range.map(|n| UsageEvent { event_id: n.to_string(), ..UsageEvent::default() }).collect()
    }

    fn ids(spool: &Spool, max: usize) -> Vec<String> {
        spool.next_batch(max).iter().map(|(_, event)| event.event_id.clone()).collect()
    }

    #[test]
    fn an_event_stays_until_it_is_acknowledged_or_shed() {
        let mut spool = Spool::with_capacity(3);
        spool.append(events(0..2));
        assert_eq!(ids(&spool, 9), ["0", "1"]);
        assert_eq!(ids(&spool, 9), ["0", "1"]);
        let first = spool.next_batch(1)[0].0;
        spool.acknowledge([first, first]);
        assert_eq!(ids(&spool, 9), ["1"]);
        assert_eq!(spool.append(events(2..5)), 1);
        assert_eq!(ids(&spool, 9), ["2", "3", "4"]);
        assert_eq!(spool.counters(), Counters { appended: 5, acknowledged: 1, shed: 1 });
    }

    proptest! {
        #[test]
        fn events_come_out_oldest_first_and_nothing_disappears_uncounted(
            steps in proptest::collection::vec((0..20usize, 0..20usize), 0..40)
        ) {
            let mut spool = Spool::with_capacity(50);
            let mut appended = 0;
            for (more, taken) in steps {
                spool.append(events(appended..appended + more));
                appended += more;
                let batch = spool.next_batch(taken);
                prop_assert!(batch.is_sorted_by_key(|(sequence, _)| *sequence));
                spool.acknowledge(batch.into_iter().map(|(sequence, _)| sequence));
            }
            let counters = spool.counters();
            prop_assert_eq!(counters.appended, appended as u64);
            let accounted = spool.len() as u64 + counters.acknowledged + counters.shed;
            prop_assert_eq!(counters.appended, accounted);
        }
    }
}
