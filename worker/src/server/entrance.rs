//! Where requests begin: what is in progress goes first, and who cannot be served soon is told so.
//!
//! A worker has one thread. A request that has begun goes on whenever it is ready; of the others only so many begin in a
//! round over everything that is ready, and the rest waits here, in the order in which it came. Waiting costs nothing: most wait
//! before their request is even read (`connection`).
//!
//! ```text
//! request ──few have begun since nothing was to be done──▶ begins
//!    ├───── otherwise ──▶ waits ──its turn, or nothing else to do──▶ begins
//!    └───── overload, or as many as the process can hold ──▶ refused: 503, Retry-After
//! ```
//! What an overload is, and who is refused in it, `pressure` decides; when it may ask again, `come_back`. Whoever was refused is not heard before it is time
//! (`connection`), or the overload is over: callers who ask again at once cannot take the time of those that are served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::come_back::ComeBack;
use super::pressure::{Arrival, OVER_AFTER, Pressure};

/// So many that wait are more than the processor's caches hold, with all that a connection in use has.
const CROWD: usize = 64;
/// The log is told again after this time.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

thread_local! {
    /// How often this thread had nothing to do.
    static PAUSES: Cell<u64> = const { Cell::new(0) };
}

/// Nothing is to be done on this thread: said by the runtime, whenever it begins to wait.
pub fn paused() {
    PAUSES.set(PAUSES.get().wrapping_add(1));
}

/// The entrance of a worker.
#[derive(Debug)]
pub struct Entrance {
    inner: RefCell<Inner>,
    /// Told when an overload is over.
    over: Notify,
    /// Who waits for that.
    unheard: Cell<usize>,
}

/// One who waits for the end of an overload.
struct Unheard<'a>(&'a Cell<usize>);

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A request that is not served, since there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Seconds after which the caller may ask again (`come_back`).
    pub retry_after: u32,
}

#[derive(Debug)]
struct Inner {
    pressure: Pressure,
    line: VecDeque<Waiting>,
    /// The pauses when it was looked last.
    pauses: u64,
    come_back: ComeBack,
    /// Refused in all, and when the log was told last.
    refused: u64,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    begin: oneshot::Sender<()>,
}

impl Entrance {
    /// An entrance for so many requests at a time, those that wait included.
    pub fn new(requests_max: usize) -> Rc<Self> {
        let inner = RefCell::new(Inner {
            pressure: Pressure::new(requests_max),
            line: VecDeque::new(),
            pauses: PAUSES.get(),
            come_back: ComeBack::default(),
            refused: 0,
            told: None,
        });
        Rc::new(Self { inner, over: Notify::new(), unheard: Cell::new(0) })
    }

    /// Returns when a request may begin. `in_progress` have begun and are not over.
    ///
    /// # Errors
    /// It is not served.
    pub async fn pass(self: &Rc<Self>, in_progress: usize) -> Result<(), Refused> {
        let turn = {
            let mut inner = self.inner.borrow_mut();
            let pauses = PAUSES.get();
            if inner.pauses != pauses {
                inner.pauses = pauses;
                inner.pressure.paused();
            }
            match inner.pressure.arrives(in_progress) {
                Arrival::Begins => return Ok(()),
                Arrival::Refused => return Err(inner.refuse(Instant::now())),
                Arrival::Waits => inner.wait(self),
            }
        };
        // The line outlives everybody in it.
        let _ = turn.await;
        Ok(())
    }

    /// Whether so many wait that a connection gives back at once what it has used.
    pub fn is_crowded(&self) -> bool {
        self.inner.borrow().line.len() >= CROWD
    }

    /// Lets those begin whose turn it is, a round after the other, until nobody waits.
    async fn admit(self: Rc<Self>) {
        while !self.inner.borrow().line.is_empty() {
            // The runtime wakes us when everything that is ready has been queued before us.
            tokio::task::yield_now().await;
            let begins = self.inner.borrow_mut().round(Instant::now());
            if begins {
                tokio::task::spawn_local(Rc::clone(&self).look_for_end());
            }
        }
    }

    /// Ends an overload when it is over.
    async fn look_for_end(self: Rc<Self>) {
        loop {
            tokio::time::sleep(OVER_AFTER / 8).await;
            let unheard = self.unheard.get();
            if self.inner.borrow_mut().pressure.is_over(unheard, Instant::now()) {
                return self.over.notify_waiters();
            }
        }
    }

    /// Returns when there is no overload. Whoever waits for it counts as not heard.
    pub async fn is_over(&self) {
        self.unheard.set(self.unheard.get() + 1);
        let _unheard = Unheard(&self.unheard);
        while self.inner.borrow().pressure.is_overload {
            self.over.notified().await;
        }
    }
}

impl Inner {
    fn wait(&mut self, entrance: &Rc<Entrance>) -> oneshot::Receiver<()> {
        let (begin, turn) = oneshot::channel();
        if self.line.is_empty() {
            tokio::task::spawn_local(Rc::clone(entrance).admit());
        }
        self.line.push_back(Waiting { since: Instant::now(), begin });
        turn
    }

    /// Says whether an overload begins.
    fn round(&mut self, now: Instant) -> bool {
        // Callers that have gone meanwhile are nobody's measure.
        while self.line.front().is_some_and(|first| first.begin.is_closed()) {
            self.line.pop_front();
            self.pressure.leaves();
        }
        let longest = self.line.front().map(|first| now.saturating_duration_since(first.since));
        let was_overload = self.pressure.is_overload;
        self.pressure.round(longest, now);
        while self.pressure.has_room_in_round()
            && let Some(next) = self.line.pop_front()
        {
            match next.begin.send(()) {
                Ok(()) => self.pressure.begins(),
                Err(()) => self.pressure.leaves(),
            }
        }
        self.pressure.is_overload && !was_overload
    }

    fn refuse(&mut self, now: Instant) -> Refused {
        self.refused = self.refused.wrapping_add(1);
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_AGAIN_AFTER) {
            self.told = Some(now);
            tracing::warn!(
                refused = self.refused,
                waiting = self.line.len(),
                "more requests come than this worker can serve, and some are answered with 503 and Retry-After; \
                 give the gateway more processors (proxy.workers) or more nodes, or have callers send less"
            );
        }
        let retry_after = if self.pressure.is_overload {
            self.come_back.seconds(now)
        } else {
            // As many as the process can hold: nobody waits, so that it may be over at once.
            self.come_back.seconds_of_any()
        };
        Refused { retry_after }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::pressure::ROUND_MAX;
    use super::*;

    const MANY: usize = 100_000;

    /// Runs a test with an entrance, on one thread that says when it pauses.
    fn run<T: Future<Output = ()>>(requests_max: usize, test: impl FnOnce(Rc<Entrance>) -> T) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().on_thread_park(paused).build().unwrap();
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, test(Entrance::new(requests_max)));
    }

    #[test]
    fn those_who_wait_begin_in_their_order_and_those_who_have_gone_are_passed_over() {
        run(MANY, |entrance| async move {
            let begun = Rc::new(RefCell::new(Vec::new()));
            let callers: Vec<_> = (0..ROUND_MAX * 10)
                .map(|number| {
                    let (entrance, begun) = (Rc::clone(&entrance), Rc::clone(&begun));
                    tokio::task::spawn_local(async move {
                        entrance.pass(0).await.unwrap();
                        begun.borrow_mut().push(number);
                    })
                })
                .collect();
            // Everybody has come when the first round is over; one in the middle goes.
            while begun.borrow().len() < ROUND_MAX {
                tokio::task::yield_now().await;
            }
            let gone = ROUND_MAX * 8;
            callers[gone].abort();
            for caller in callers {
                let _ = caller.await;
            }
            let expected: Vec<_> = (0..ROUND_MAX * 10).filter(|number| *number != gone).collect();
            assert_eq!(*begun.borrow(), expected);
            let inner = entrance.inner.borrow();
            assert_eq!((inner.line.len(), inner.pressure.waiting), (0, 0));
        });
    }

    #[test]
    fn a_thread_that_pauses_in_between_lets_everybody_begin_at_once() {
        run(MANY, |entrance| async move {
            for _ in 0..ROUND_MAX * 3 {
                entrance.pass(0).await.unwrap();
                // A timer is waited for with nothing to do.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(entrance.inner.borrow().pressure.begun_in_round, 1);
        });
    }

    #[test]
    fn who_waits_for_the_end_of_an_overload_counts_until_it_is_over_or_the_caller_has_gone() {
        run(MANY, |entrance| async move {
            entrance.inner.borrow_mut().pressure.is_overload = true;
            let waits = || {
                let entrance = Rc::clone(&entrance);
                tokio::task::spawn_local(async move { entrance.is_over().await })
            };
            let (stays, goes) = (waits(), waits());
            while entrance.unheard.get() < 2 {
                tokio::task::yield_now().await;
            }
            goes.abort();
            let _ = goes.await;
            assert_eq!(entrance.unheard.get(), 1);
            tokio::task::spawn_local(Rc::clone(&entrance).look_for_end());
            stays.await.unwrap();
            assert_eq!(entrance.unheard.get(), 0);
        });
    }
}
