//! Where requests begin: what is in progress goes first, and who cannot be served soon is told so.
//!
//! A worker has one thread. A request that has begun goes on whenever it is ready; of the others only so many begin in a
//! round over everything that is ready, and the rest waits here, in the order in which it came. Waiting costs nothing.
//!
//! ```text
//! request ──few have begun since nothing was to be done──▶ begins
//!    ├───── otherwise ──▶ waits ──its turn, or nothing else to do──▶ begins
//!    └───── overload, or as many as the process can hold ──▶ refused: 503, Retry-After
//! ```
//! Overload: for [`OVERLOAD_AFTER`] whoever began had waited [`WAIT_MAX`] or longer. A burst is none, however large. It is over
//! when for [`OVER_AFTER`] nobody has waited for long. Meanwhile whoever comes is refused while others have waited for [`WAIT_IN_OVERLOAD`]: thousands who wait
//! are more than the processor's caches hold, and each of them costs a quarter more than one of a few hundred.
//!
//! Since a refusal costs a good part of what an answer costs, there is one at most for every [`BEGUN_PER_REFUSAL`] requests
//! that begin, and whoever was refused is not heard before it is time (`connection`), or the overload is over: callers who ask
//! again at once cannot take the time of those that are served. Who waits is never refused.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Requests that begin in one round. A few milliseconds of work, so that those in progress are not kept waiting for longer.
const ROUND_MAX: usize = 32;
/// A request that waits no longer than this is not kept waiting.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Everybody has to have waited longer for this time before anybody is refused.
const OVERLOAD_AFTER: Duration = Duration::from_secs(1);
/// In overload nobody is refused while all wait for less.
const WAIT_IN_OVERLOAD: Duration = Duration::from_millis(10);
/// Overload is over when this has been so for this time: callers may only be a little late.
const OVER_AFTER: Duration = Duration::from_secs(1);
/// When whoever is refused may ask again, in seconds: the least, and how many different ones there are.
const RETRY_AFTER: u32 = 3;
const RETRY_AFTER_SPREAD: u32 = 5;
/// Requests begin for each that is refused.
const BEGUN_PER_REFUSAL: usize = 4;
/// Refusals in a row, at most, when there were none for a while.
const REFUSALS_IN_A_ROW: usize = 256;
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
}

/// A request that is not served, since there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Seconds after which the caller may ask again; not the same for all.
    pub retry_after: u32,
}

#[derive(Debug)]
struct Inner {
    pressure: Pressure,
    line: VecDeque<Waiting>,
    /// The pauses when it was looked last.
    pauses: u64,
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
            refused: 0,
            told: None,
        });
        Rc::new(Self { inner, over: Notify::new() })
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
            if self.inner.borrow_mut().pressure.is_over(Instant::now()) {
                return self.over.notify_waiters();
            }
        }
    }

    /// Returns when there is no overload.
    pub async fn is_over(&self) {
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
        let turn = u32::try_from(self.refused % u64::from(RETRY_AFTER_SPREAD)).unwrap_or(0);
        Refused { retry_after: RETRY_AFTER + turn }
    }
}

/// What becomes of a request when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Begins,
    Waits,
    Refused,
}

/// How much there is to do. Decides, and knows no clock.
#[derive(Debug)]
struct Pressure {
    requests_max: usize,
    begun_in_round: usize,
    waiting: usize,
    /// Since when everybody has waited for too long.
    late_since: Option<Instant>,
    is_overload: bool,
    /// Who was first in the line at the last round had waited for longer than anybody should in overload.
    is_long: bool,
    /// When that was so for the last time.
    long_at: Option<Instant>,
    /// Begun for refusals to come.
    begun_ahead: usize,
}

impl Pressure {
    fn new(requests_max: usize) -> Self {
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

    fn arrives(&mut self, in_progress: usize) -> Arrival {
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
    fn paused(&mut self) {
        self.begun_in_round = 0;
    }

    /// Another round begins; whoever is first in the line has waited for so long.
    fn round(&mut self, longest: Option<Duration>, now: Instant) {
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

    /// Whether an overload is over.
    fn is_over(&mut self, now: Instant) -> bool {
        let recently = |at| now.saturating_duration_since(at) < OVER_AFTER;
        self.is_overload &= self.long_at.is_some_and(recently);
        !self.is_overload
    }

    fn has_room_in_round(&self) -> bool {
        self.begun_in_round < ROUND_MAX
    }

    /// One that has waited begins.
    fn begins(&mut self) {
        self.leaves();
        self.begun_in_round += 1;
        self.begun_ahead = (self.begun_ahead + 1).min(BEGUN_PER_REFUSAL * REFUSALS_IN_A_ROW);
    }

    /// One waits no longer.
    fn leaves(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.late_since = None;
            self.is_long = false;
        }
    }
}

#[cfg(test)]
mod tests {
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
            self.pressure.is_over(self.now);
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
    fn refusals_do_not_all_name_the_same_time() {
        run(0, |entrance| async move {
            let mut times = Vec::new();
            for _ in 0..4 {
                times.push(entrance.pass(0).await.unwrap_err().retry_after);
            }
            assert_eq!(times, [4, 5, 6, 7]);
        });
    }
}
