//! Who does the work of a connection: a task of its own while nobody waits for anything over it, else who waits, in the middle
//! of its own task. What comes is then there with the first wake-up, and no other task has to have its turn for it.
//!
//! ```text
//! idle: the task ── lent ──▶ who waits for an answer ── given back ──▶ the task
//!                              └── ended ──▶ the connection is gone, and so is the task
//! ```

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::task::AtomicWaker;

/// So often in a row who waits goes on working before others have their turn.
const ROUNDS_MAX: usize = 32;

/// The work of one connection.
pub(super) struct Work {
    /// `None` when it has ended.
    connection: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    own: Arc<Own>,
    /// Wakes the task, unless the work is lent.
    waker: Waker,
    bell: Arc<Bell>,
}

/// The work, in the hands of who waits for an answer.
pub(super) struct Worker {
    work: Rc<Work>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Wakes the task that has the work while it is not lent: whoever has it then looks at the connection in any case.
#[derive(Default)]
struct Own {
    task: AtomicWaker,
    is_lent: AtomicBool,
}

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_lent.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

/// Wakes who waits, unless it is awake: then it looks again before it waits.
#[derive(Default)]
struct Bell {
    sleeper: AtomicWaker,
    is_awake: AtomicBool,
    has_rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::SeqCst);
        if !self.is_awake.load(Ordering::SeqCst) {
            self.sleeper.wake();
        }
    }
}

impl Work {
    /// Starts the task, within a `LocalSet`.
    pub(super) fn start(connection: impl Future<Output = ()> + 'static) -> Rc<Self> {
        let own = Arc::<Own>::default();
        let work = Rc::new(Self {
            connection: RefCell::new(Some(Box::pin(connection))),
            waker: own.clone().into(),
            own,
            bell: Arc::default(),
        });
        let of_task = work.clone();
        tokio::task::spawn_local(poll_fn(move |context| {
            of_task.own.task.register(context.waker());
            if of_task.own.is_lent.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            of_task.poll(&mut Context::from_waker(&of_task.waker))
        }));
        work
    }

    /// Takes the work over.
    pub(super) fn lend(self: &Rc<Self>) -> Worker {
        self.own.is_lent.store(true, Ordering::SeqCst);
        let bell = self.bell.clone();
        Worker { work: self.clone(), waker: bell.clone().into(), bell }
    }

    /// Ends the connection at once, whatever it is doing.
    pub(super) fn end(&self) {
        // Dropped when nothing is borrowed any more.
        let connection = self.connection.take();
        drop(connection);
        self.take_back();
    }

    /// Lets the task go on with it, which is woken only when there is something to do.
    pub(super) fn take_back(&self) {
        self.own.is_lent.store(false, Ordering::SeqCst);
        if self.poll(&mut Context::from_waker(&self.waker)).is_ready() {
            self.own.task.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut connection = self.connection.borrow_mut();
        if let Some(open) = &mut *connection {
            ready!(open.as_mut().poll(context));
            *connection = None;
        }
        Poll::Ready(())
    }
}

impl Worker {
    /// Polls what is waited for, and works until it is there or there is nothing to do.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut awaited: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { work, bell, waker } = self;
        let mut quiet = Context::from_waker(waker);
        bell.sleeper.register(context.waker());
        bell.is_awake.store(true, Ordering::SeqCst);
        let mut result = Poll::Pending;
        for _ in 0..ROUNDS_MAX {
            result = awaited(&mut quiet);
            if result.is_ready() {
                break;
            }
            bell.has_rung.store(false, Ordering::SeqCst);
            let has_ended = work.poll(&mut quiet).is_ready();
            if has_ended {
                // Whatever it had to say it has said.
                result = awaited(&mut quiet);
                break;
            }
            if !bell.has_rung.load(Ordering::SeqCst) {
                break;
            }
        }
        bell.is_awake.store(false, Ordering::SeqCst);
        if result.is_pending() && bell.has_rung.load(Ordering::SeqCst) {
            context.waker().wake_by_ref();
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    /// A connection over which pieces come, as hyper's is driven: it keeps the waker of its last poll, hands over one piece with
    /// each poll, and rings for it.
    #[derive(Default)]
    struct Line {
        waiting: Cell<usize>,
        taken: Cell<usize>,
        has_closed: Cell<bool>,
        waker: RefCell<Option<Waker>>,
        is_gone: Cell<bool>,
    }

    /// What of a line is a connection.
    struct End(Rc<Line>);

    impl Future for End {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let line = &self.0;
            *line.waker.borrow_mut() = Some(context.waker().clone());
            if let Some(left) = line.waiting.get().checked_sub(1) {
                line.waiting.set(left);
                line.taken.set(line.taken.get() + 1);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if line.has_closed.get() { Poll::Ready(()) } else { Poll::Pending }
        }
    }

    impl Drop for End {
        fn drop(&mut self) {
            self.0.is_gone.set(true);
        }
    }

    impl Line {
        /// Pieces come, and whoever polled last is woken, once.
        fn come(&self, pieces: usize) {
            self.waiting.set(self.waiting.get() + pieces);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }

        fn has(&self, pieces: usize) -> Poll<usize> {
            let taken = self.taken.get();
            if taken >= pieces { Poll::Ready(taken) } else { Poll::Pending }
        }
    }

    /// The task of who waits: whether it was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Woken {
        fn take(&self) -> bool {
            self.0.swap(false, Ordering::SeqCst)
        }
    }

    fn run(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, test());
    }

    /// Lets every task of the runtime come to rest.
    async fn rest() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    /// A connection whose task has begun, and the task of who waits.
    async fn start() -> (Rc<Line>, Rc<Work>, Arc<Woken>) {
        let line = Rc::<Line>::default();
        let work = Work::start(End(line.clone()));
        rest().await;
        (line, work, Arc::default())
    }

    #[test]
    fn who_waits_goes_on_for_as_long_as_the_connection_rings_without_being_woken() {
        run(async || {
            let (line, work, woken) = start().await;
            let (mut worker, waker) = (work.lend(), woken.clone().into());
            line.come(7);
            let done = worker.poll(&mut Context::from_waker(&waker), |_| line.has(7));
            assert_eq!((done, woken.take()), (Poll::Ready(7), false));
        });
    }

    #[test]
    fn who_waits_leaves_others_their_turn_and_is_woken_for_the_rest() {
        run(async || {
            let (line, work, woken) = start().await;
            let (mut worker, waker) = (work.lend(), woken.clone().into());
            line.come(ROUNDS_MAX * 2);
            let mut poll =
                || worker.poll(&mut Context::from_waker(&waker), |_| line.has(ROUNDS_MAX * 2));
            assert_eq!(poll(), Poll::Pending);
            assert_eq!((line.taken.get(), woken.take()), (ROUNDS_MAX, true));
            assert_eq!((poll(), woken.take()), (Poll::Pending, true));
            assert_eq!(poll(), Poll::Ready(ROUNDS_MAX * 2));
        });
    }

    #[test]
    fn a_connection_that_rings_wakes_who_waits_and_not_the_task_it_was_lent_by() {
        run(async || {
            let (line, work, woken) = start().await;
            let (mut worker, waker) = (work.lend(), woken.clone().into());
            let mut poll = || worker.poll(&mut Context::from_waker(&waker), |_| line.has(1));
            assert_eq!((poll(), woken.take()), (Poll::Pending, false));
            line.come(1);
            rest().await;
            assert_eq!((line.taken.get(), woken.take()), (0, true));
            assert_eq!(poll(), Poll::Ready(1));
        });
    }

    #[test]
    fn what_a_connection_has_said_before_it_ended_is_there_at_once() {
        run(async || {
            let (line, work, woken) = start().await;
            let (mut worker, waker) = (work.lend(), woken.clone().into());
            line.has_closed.set(true);
            line.come(1);
            let mut asked = 0;
            let done = worker.poll(&mut Context::from_waker(&waker), |_| {
                asked += 1;
                if line.is_gone.get() { Poll::Ready(asked) } else { Poll::Pending }
            });
            assert!(matches!(done, Poll::Ready(2..)), "{done:?}");
            work.take_back();
            rest().await;
            assert_eq!(Rc::strong_count(&work), 2, "the task has ended with its connection");
        });
    }

    #[test]
    fn a_connection_that_is_given_back_is_worked_on_by_its_task() {
        run(async || {
            let (line, work, woken) = start().await;
            let (mut worker, waker) = (work.lend(), woken.clone().into());
            let waiting = worker.poll(&mut Context::from_waker(&waker), |_| line.has(1));
            assert_eq!(waiting, Poll::Pending);
            line.come(3);
            work.take_back();
            rest().await;
            assert_eq!(line.taken.get(), 3);
            line.come(2);
            rest().await;
            assert_eq!(line.taken.get(), 5);
        });
    }

    #[test]
    fn a_connection_that_is_ended_is_gone_before_anything_else_happens_lent_or_not() {
        run(async || {
            for is_lent in [false, true] {
                let (line, work, woken) = start().await;
                let worker = is_lent.then(|| work.lend());
                work.end();
                assert!(line.is_gone.get());
                if let Some(mut worker) = worker {
                    let waker = woken.into();
                    let done = worker.poll(&mut Context::from_waker(&waker), |_| line.has(0));
                    assert_eq!(done, Poll::Ready(0));
                }
                rest().await;
                assert_eq!(Rc::strong_count(&work), 1, "its task has ended");
            }
        });
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Come(usize),
        Lend,
        GiveBack,
        /// Who waits has a turn if it was woken.
        Turn,
        /// The tasks of the runtime have theirs.
        Rest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..ROUNDS_MAX * 3).prop_map(Step::Come),
            Just(Step::Lend),
            Just(Step::GiveBack),
            Just(Step::Turn),
            Just(Step::Rest),
        ]
    }

    proptest! {
        #[test]
        fn no_wake_up_is_lost_in_any_order_of_events(
            steps in proptest::collection::vec(step(), 0..40),
        ) {
            run(async || {
                let (line, work, woken) = start().await;
                let waker = woken.clone().into();
                let (mut worker, mut come): (Option<Worker>, usize) = (None, 0);
                let turn = |worker: &mut Option<Worker>, pieces| {
                    if let Some(worker) = worker && woken.take() {
                        let _ = worker.poll(&mut Context::from_waker(&waker), |_| line.has(pieces));
                        return true;
                    }
                    false
                };
                for step in steps {
                    match step {
                        Step::Come(pieces) => {
                            come += pieces;
                            line.come(pieces);
                        }
                        // Who takes it over begins by looking.
                        Step::Lend if worker.is_none() => {
                            worker = Some(work.lend());
                            woken.0.store(true, Ordering::SeqCst);
                        }
                        Step::GiveBack if worker.take().is_some() => work.take_back(),
                        Step::Turn => drop(turn(&mut worker, usize::MAX)),
                        Step::Rest => rest().await,
                        Step::Lend | Step::GiveBack => {}
                    }
                }
                // Nobody does anything now but who was woken.
                while turn(&mut worker, usize::MAX) {}
                for _ in 0..1 + come / 100 {
                    rest().await;
                }
                assert_eq!(line.taken.get(), come);
            });
        }
    }
}
