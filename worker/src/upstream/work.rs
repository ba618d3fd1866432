//! Who does the work of a connection: a task of its own while nobody waits for anything over it, else who waits, in the middle
//! of its own task. What comes is then there with the first wake-up, and no other task has to have its turn for it.
//!
//! ```text
//! idle: the task ── lent ──▶ who waits for an answer ── given back ──▶ the task
//!                              └── ended ──▶ the connection is gone, and so is the task
//! ```

use std::cell::{Cell, RefCell};
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
    is_lent: Cell<bool>,
    /// Wakes the task; a task of the runtime has one waker for all its life.
    task: RefCell<Option<Waker>>,
}

/// The work, in the hands of who waits for an answer.
pub(super) struct Worker {
    work: Rc<Work>,
    bell: Arc<Bell>,
    waker: Waker,
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
        let work = Rc::new(Self {
            connection: RefCell::new(Some(Box::pin(connection))),
            is_lent: Cell::new(false),
            task: RefCell::default(),
        });
        let of_task = work.clone();
        tokio::task::spawn_local(poll_fn(move |context| {
            of_task.task.borrow_mut().get_or_insert_with(|| context.waker().clone());
            if of_task.is_lent.get() { Poll::Pending } else { of_task.poll(context) }
        }));
        work
    }

    /// Takes the work over.
    pub(super) fn lend(self: &Rc<Self>) -> Worker {
        self.is_lent.set(true);
        let bell = Arc::<Bell>::default();
        Worker { work: self.clone(), waker: bell.clone().into(), bell }
    }

    /// Ends the connection at once, whatever it is doing.
    pub(super) fn end(&self) {
        // Dropped when nothing is borrowed any more.
        let connection = self.connection.take();
        drop(connection);
        self.take_back();
    }

    /// Lets the task go on with it.
    pub(super) fn take_back(&self) {
        self.is_lent.set(false);
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
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
