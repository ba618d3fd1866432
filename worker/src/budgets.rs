//! Whether a caller key may spend more, as the supervisor has told it.
//!
//! 1. A key of which a verdict is known costs a look-up: nothing waits.
//! 2. A request of an undecided key waits at most [`WAIT_MAX`] for a verdict, then what was configured for that case applies.
//! 3. The supervisor hears of a key at its first use at once, and then at most once a second, together with others.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use shared::budget::{Denial, Verdict, WAIT_MAX};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// How long a key in use is not told again.
const TOLD_FOR: Duration = Duration::from_secs(1);
/// After so long, a use is a first use again.
const FIRST_AFTER: Duration = Duration::from_secs(5);
/// How long keys that are known to be in use are gathered.
const GATHER: Duration = Duration::from_millis(250);
/// Keys of one message, and the bytes of their ids: well within a frame.
const KEYS_MAX: usize = 256;
const ID_BYTES_MAX: usize = 32 * 1024;

/// What is known of the budgets of caller keys.
pub struct Budgets {
    /// What applies while nothing is known; `None` = nobody keeps budgets, and every key may.
    unknown: Option<Ruling>,
    /// Only keys that are in use or decided, which are keys of the projection: the supervisor says which to forget.
    keys: RefCell<HashMap<String, Key>>,
    /// Keys to be told. Each is there once, so there are never more than in `keys`.
    queue: RefCell<VecDeque<String>>,
    /// When the queue is to be told; `None` while it is empty.
    tell_at: Cell<Option<Instant>>,
    queued: Notify,
    decided: Notify,
}

/// What the verdict means for a request.
type Ruling = Result<(), Rc<Denial>>;

#[derive(Default)]
struct Key {
    ruling: Option<Ruling>,
    /// Requests since it was last told.
    uses: u32,
    is_queued: bool,
    told_at: Option<Instant>,
}

impl Budgets {
    /// No verdict is known yet. `unknown` applies to keys of which none comes in time.
    pub fn new(unknown: Option<Verdict>) -> Self {
        Self {
            unknown: unknown.map(|verdict| ruling(verdict).unwrap_or(Ok(()))),
            keys: RefCell::default(),
            queue: RefCell::default(),
            tell_at: Cell::new(None),
            queued: Notify::new(),
            decided: Notify::new(),
        }
    }

    /// Whether a request of the caller key may be served.
    pub async fn admit(&self, key_id: &str) -> Result<(), Rc<Denial>> {
        let Some(unknown) = &self.unknown else { return Ok(()) };
        let now = Instant::now();
        self.note_use(key_id, now);
        loop {
            // Made before the look, so that no verdict comes in between.
            let decided = self.decided.notified();
            let known = self.keys.borrow().get(key_id).and_then(|key| key.ruling.clone());
            if let Some(ruling) = known {
                return ruling;
            }
            if timeout_at(now + WAIT_MAX, decided).await.is_err() {
                return unknown.clone();
            }
        }
    }

    /// Takes over verdicts: in place of everything (`whole`), or on top of what is there.
    pub fn take_in(&self, whole: bool, verdicts: Vec<(String, Verdict)>) {
        let mut keys = self.keys.borrow_mut();
        if whole {
            keys.retain(|_, key| {
                key.ruling = None;
                key.is_queued
            });
        }
        for (id, verdict) in verdicts {
            match ruling(verdict) {
                Some(ruling) => keys.entry(id).or_default().ruling = Some(ruling),
                None => drop(keys.remove(&id)),
            }
        }
        self.decided.notify_waiters();
    }

    /// The keys in use that are to be told now, each with the number of requests since it was last told. May be dropped
    /// and asked again at any time.
    pub async fn in_use(&self) -> Vec<(String, u32)> {
        loop {
            let queued = self.queued.notified();
            match self.tell_at.get() {
                None => queued.await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => return self.take_queued(Instant::now()),
                    () = queued => {}
                },
            }
        }
    }

    fn note_use(&self, key_id: &str, now: Instant) {
        let mut keys = self.keys.borrow_mut();
        let key = match keys.get_mut(key_id) {
            Some(key) => key,
            None => keys.entry(key_id.to_owned()).or_default(),
        };
        key.uses = key.uses.saturating_add(1);
        let since = key.told_at.map(|at| now.saturating_duration_since(at));
        if key.is_queued || since.is_some_and(|since| since < TOLD_FOR) {
            return;
        }
        key.is_queued = true;
        let is_first = key.ruling.is_none() || since.is_none_or(|since| since >= FIRST_AFTER);
        self.queue.borrow_mut().push_back(key_id.to_owned());
        let at = if is_first { now } else { now + GATHER };
        if self.tell_at.get().is_none_or(|planned| at < planned) {
            self.tell_at.set(Some(at));
            self.queued.notify_one();
        }
    }

    fn take_queued(&self, now: Instant) -> Vec<(String, u32)> {
        let (mut keys, mut queue) = (self.keys.borrow_mut(), self.queue.borrow_mut());
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(id) = queue.pop_front() {
            bytes += id.len();
            // One that was forgotten meanwhile has been used all the same.
            let uses = match keys.get_mut(&id) {
                Some(key) => {
                    (key.is_queued, key.told_at) = (false, Some(now));
                    std::mem::take(&mut key.uses).max(1)
                }
                None => 1,
            };
            taken.push((id, uses));
            if taken.len() >= KEYS_MAX || bytes >= ID_BYTES_MAX {
                break;
            }
        }
        self.tell_at.set((!queue.is_empty()).then_some(now));
        taken
    }
}

/// `None` for a verdict that is none.
fn ruling(verdict: Verdict) -> Option<Ruling> {
    match verdict {
        Verdict::Allow => Some(Ok(())),
        Verdict::Deny(denial) => Some(Err(Rc::new(*denial))),
        Verdict::Forget => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn budgets() -> Budgets {
        Budgets::new(Some(Verdict::Deny(Box::new(Denial::because("unknown")))))
    }

    fn deny(message: &str) -> Verdict {
        Verdict::Deny(Box::new(Denial::because(message)))
    }

    fn message(ruling: Result<(), Rc<Denial>>) -> String {
        ruling.map_or_else(|denial| denial.message.clone(), |()| "allowed".to_owned())
    }

    /// The future's result, if it needs to wait for nothing.
    fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_known_key_waits_for_nothing_and_an_undecided_one_for_its_verdict() {
        let budgets = budgets();
        budgets.take_in(false, vec![("a".into(), Verdict::Allow), ("b".into(), deny("no"))]);
        assert_eq!(at_once(budgets.admit("a")).map(message).unwrap(), "allowed");
        assert_eq!(at_once(budgets.admit("b")).map(message).unwrap(), "no");
        let mut waiting = pin!(budgets.admit("c"));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        budgets.take_in(false, vec![("c".into(), Verdict::Allow)]);
        assert_eq!(message(waiting.await), "allowed");
    }

    #[tokio::test]
    async fn a_key_without_a_verdict_is_decided_as_configured() {
        assert_eq!(message(budgets().admit("a").await), "unknown");
        assert_eq!(message(Budgets::new(Some(Verdict::Allow)).admit("a").await), "allowed");
        assert_eq!(at_once(Budgets::new(None).admit("a")).map(message).unwrap(), "allowed");
    }

    #[tokio::test]
    async fn a_whole_leaves_no_verdict_of_before_and_forget_takes_one_away() {
        let budgets = budgets();
        budgets.take_in(false, vec![("a".into(), deny("no")), ("b".into(), Verdict::Allow)]);
        budgets.take_in(true, vec![("b".into(), Verdict::Allow)]);
        assert!(at_once(budgets.admit("a")).is_none());
        assert!(at_once(budgets.admit("b")).is_some());
        budgets.take_in(false, vec![("b".into(), Verdict::Forget)]);
        assert!(at_once(budgets.admit("b")).is_none());
    }

    #[tokio::test]
    async fn a_first_use_is_told_at_once_and_later_ones_together_with_their_number() {
        let budgets = budgets();
        let now = Instant::now();
        budgets.note_use("a", now);
        budgets.note_use("a", now);
        assert_eq!(budgets.tell_at.get(), Some(now));
        assert_eq!(budgets.take_queued(now), [("a".to_owned(), 2)]);
        assert_eq!(budgets.tell_at.get(), None);
        budgets.take_in(false, vec![("a".into(), Verdict::Allow)]);
        budgets.note_use("a", now + TOLD_FOR / 2);
        assert_eq!(budgets.tell_at.get(), None, "told a moment ago");
        let later = now + TOLD_FOR;
        budgets.note_use("a", later);
        assert_eq!(budgets.tell_at.get(), Some(later + GATHER));
        assert_eq!(budgets.take_queued(later + GATHER), [("a".to_owned(), 2)]);
    }

    #[tokio::test]
    async fn what_is_told_at_a_time_is_bounded() {
        let budgets = budgets();
        let now = Instant::now();
        for number in 0..=KEYS_MAX {
            budgets.note_use(&number.to_string(), now);
        }
        assert_eq!(budgets.in_use().await.len(), KEYS_MAX);
        assert_eq!(budgets.in_use().await.len(), 1);
    }
}
