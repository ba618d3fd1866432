//! What waits for one exporter, and when it is time for the next batch. Pure: the time is passed in.
//!
//! The spans of a request stay together. A batch in hand is never taken away from whoever sends it; beyond
//! [`QUEUE_BYTES_MAX`] the oldest of the others make room for what comes.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;

/// Spans of one batch at most; those of one request may be more than are left.
pub const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for others.
pub const BATCH_TIME: Duration = Duration::from_secs(5);
/// Everything that waits for one exporter takes no more, the batch in hand included.
pub const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The spans of one request, which several queues may share.
#[derive(Clone, Debug)]
pub struct Item {
    /// The spans.
    pub spans: Rc<[Span]>,
    /// What they take in memory.
    pub bytes: usize,
}

/// What waits for an exporter.
#[derive(Debug, Default)]
pub struct Queue {
    in_hand: Vec<Item>,
    waiting: VecDeque<(Instant, Item)>,
    bytes: usize,
    /// Of those that wait.
    spans: usize,
}

impl Queue {
    /// Adds the spans of a request. Returns how many spans had to go for it, or were too many themselves.
    pub fn put(&mut self, item: Item, now: Instant) -> usize {
        let mut gone = 0;
        while self.bytes.saturating_add(item.bytes) > QUEUE_BYTES_MAX {
            let Some((_, oldest)) = self.waiting.pop_front() else {
                return gone + item.spans.len();
            };
            gone += oldest.spans.len();
            self.spans = self.spans.saturating_sub(oldest.spans.len());
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
        }
        self.bytes = self.bytes.saturating_add(item.bytes);
        self.spans = self.spans.saturating_add(item.spans.len());
        self.waiting.push_back((now, item));
        gone
    }

    /// When the next batch should be sent; `None` while nothing waits. `hurries`: nothing more will come.
    pub fn due_at(&self, hurries: bool, now: Instant) -> Option<Instant> {
        let (since, _) = self.waiting.front()?;
        let is_due = hurries || self.spans >= BATCH_SPANS_MAX;
        Some(if is_due { now } else { *since + BATCH_TIME })
    }

    /// Takes the next batch in hand, the oldest first.
    pub fn take_up(&mut self) -> Vec<Rc<[Span]>> {
        let mut count = self.len_in_hand();
        while let Some((_, next)) = self.waiting.front() {
            let spans = next.spans.len();
            if count > 0 && count + spans > BATCH_SPANS_MAX {
                break;
            }
            let Some((_, item)) = self.waiting.pop_front() else { break };
            count += spans;
            self.spans = self.spans.saturating_sub(spans);
            self.in_hand.push(item);
        }
        self.in_hand.iter().map(|item| Rc::clone(&item.spans)).collect()
    }

    /// Nobody has to do anything about the batch in hand any more. Returns how many spans it had.
    pub fn done(&mut self) -> usize {
        let mut spans = 0;
        for item in self.in_hand.drain(..) {
            spans += item.spans.len();
            self.bytes = self.bytes.saturating_sub(item.bytes);
        }
        spans
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.in_hand.is_empty() && self.waiting.is_empty()
    }

    /// How many spans there are.
    pub fn len(&self) -> usize {
        self.spans + self.len_in_hand()
    }

    /// How many spans the batch in hand has.
    pub fn len_in_hand(&self) -> usize {
        self.in_hand.iter().map(|item| item.spans.len()).sum()
    }

    /// The same for somebody else: the batch in hand waits again, before the others.
    pub fn handed_on(mut self, now: Instant) -> Self {
        for item in self.in_hand.drain(..).rev() {
            self.spans = self.spans.saturating_add(item.spans.len());
            self.waiting.push_front((now, item));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(name: usize, spans: usize, bytes: usize) -> Item {
        let span = Span { name: name.to_string(), ..Span::default() };
        Item { spans: vec![span; spans].into(), bytes }
    }

    fn names(batch: &[Rc<[Span]>]) -> Vec<usize> {
        batch.iter().map(|spans| spans[0].name.parse().unwrap()).collect()
    }

    #[test]
    fn a_batch_is_sent_when_it_is_full_or_its_first_span_has_waited_long_enough() {
        let now = Instant::now();
        let mut queue = Queue::default();
        assert_eq!(queue.due_at(true, now), None);
        queue.put(item(1, 2, 10), now);
        let later = now + Duration::from_secs(1);
        queue.put(item(2, 2, 10), later);
        assert_eq!(queue.due_at(false, later), Some(now + BATCH_TIME));
        assert_eq!(queue.due_at(true, later), Some(later));
        queue.put(item(3, BATCH_SPANS_MAX, 10), later);
        assert_eq!(queue.due_at(false, later), Some(later));
        assert_eq!(names(&queue.take_up()), [1, 2]);
        assert_eq!(queue.done(), 4);
        assert_eq!(names(&queue.take_up()), [3]);
        assert_eq!((queue.done(), queue.is_empty()), (BATCH_SPANS_MAX, true));
    }

    #[test]
    fn the_oldest_make_room_but_for_the_batch_in_hand() {
        let now = Instant::now();
        let third = QUEUE_BYTES_MAX / 3;
        let mut queue = Queue::default();
        queue.put(item(1, 1, third), now);
        assert_eq!(names(&queue.take_up()), [1]);
        assert_eq!(queue.put(item(2, 3, third), now), 0);
        assert_eq!(queue.put(item(3, 1, third), now), 0);
        assert_eq!(queue.put(item(4, 1, third), now), 3);
        assert_eq!(queue.put(item(5, 7, 2 * QUEUE_BYTES_MAX), now), 9, "too large at any time");
        assert_eq!(queue.done(), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_is_handed_on_is_in_order_and_complete() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for name in 1..=3 {
            queue.put(item(name, BATCH_SPANS_MAX / 2, 1), now);
        }
        assert_eq!(names(&queue.take_up()), [1, 2]);
        let mut next = queue.handed_on(now);
        assert_eq!(next.len(), BATCH_SPANS_MAX / 2 * 3);
        assert_eq!(names(&next.take_up()), [1, 2]);
        next.done();
        assert_eq!(names(&next.take_up()), [3]);
    }

    proptest! {
        #[test]
        fn no_span_is_sent_twice_or_forgotten_uncounted(
            steps in prop::collection::vec((0..4_u8, 1..600_usize, 1..QUEUE_BYTES_MAX), 1..60),
        ) {
            let now = Instant::now();
            let mut queue = Queue::default();
            let (mut put, mut gone, mut sent) = (0, 0, 0);
            for (step, spans, bytes) in steps {
                match step {
                    0 | 1 => {
                        put += spans;
                        gone += queue.put(item(1, spans, bytes), now);
                    }
                    2 => drop(queue.take_up()),
                    _ => sent += queue.done(),
                }
                prop_assert!(queue.bytes <= QUEUE_BYTES_MAX);
                prop_assert_eq!(put, gone + sent + queue.len());
            }
        }
    }
}
