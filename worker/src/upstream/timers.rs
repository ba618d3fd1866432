//! Limits of time that nearly no request reaches: one timer after the other serves many requests, and the runtime hears of it only when it
//! goes off. Whoever has it then sets it to its own time.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that are kept for the requests that follow.
const SPARE_MAX: usize = 1024;

/// The timers that nobody has.
#[derive(Default)]
pub struct Timers {
    spare: RefCell<Vec<Pin<Box<Sleep>>>>,
}

impl Timers {
    /// What `work` brings, if it does so before the deadline; it is asked first.
    pub async fn within<T>(&self, deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut timer = Timer { timers: self, deadline, sleep: None };
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => timer.poll(context).map(|()| None),
        })
        .await
    }
}

/// A timer in somebody's hands.
struct Timer<'t> {
    timers: &'t Timers,
    deadline: Instant,
    /// What it has so far: set to the deadline or to an earlier time.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { timers, deadline, sleep } = self;
        let sleep = sleep.get_or_insert_with(|| {
            let spare = timers.spare.borrow_mut().pop();
            spare.unwrap_or_else(|| Box::pin(sleep_until(*deadline)))
        });
        if sleep.deadline() > *deadline {
            sleep.as_mut().reset(*deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(context));
            if sleep.deadline() >= *deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(*deadline);
        }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let mut spare = self.timers.spare.borrow_mut();
        if let Some(sleep) = self.sleep.take().filter(|_| spare.len() < SPARE_MAX) {
            spare.push(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;

    fn run(test: impl AsyncFnOnce()) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(test());
    }

    #[test]
    fn what_comes_in_time_comes_and_what_does_not_is_left() {
        run(async || {
            let timers = Timers::default();
            let soon = || Instant::now() + Duration::from_millis(5);
            let late = || Instant::now() + Duration::from_secs(3600);
            assert_eq!(timers.within(soon(), ready(1)).await, Some(1));
            assert!(timers.spare.borrow().is_empty(), "nobody had to wait");
            // By a timer that is new, that has gone off, and that is set to a later time.
            assert_eq!(timers.within(soon(), pending::<()>()).await, None);
            assert_eq!(timers.within(soon(), pending::<()>()).await, None);
            assert_eq!(timers.within(late(), yield_now()).await, Some(()));
            assert_eq!(timers.within(soon(), pending::<()>()).await, None);
            assert_eq!(timers.spare.borrow().len(), 1, "one has served them all");
        });
    }

    #[test]
    fn a_timer_that_was_set_to_an_earlier_time_ends_nobody_before_the_deadline() {
        run(async || {
            let timers = Timers::default();
            let early = Instant::now() + Duration::from_millis(5);
            timers.within(early, yield_now()).await.unwrap();
            let deadline = early + Duration::from_millis(20);
            assert_eq!(timers.within(deadline, pending::<()>()).await, None);
            assert!(Instant::now() >= deadline);
        });
    }
}
