//! Turns on a worker's one thread.
//!
//! What is written wakes whoever reads it: a caller, a provider or a proxy in front, which may be on this machine. One that sleeps
//! between two messages is woken up for each, and whoever writes pays for that. So a worker that has much to do reads and works
//! first, and then writes for all: the other side is still at work when the next message comes. Where nothing else is ready they
//! are written at once. Requests to providers and the ends of answers over HTTP/1.1 are; an event of a stream waits for nobody.

use std::future::poll_fn;
use std::mem;
use std::task::Poll;

/// Returns when everything that is ready now has had its turn.
pub async fn last() {
    let mut is_last = false;
    poll_fn(|context| {
        if mem::replace(&mut is_last, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::server::tests::run;

    #[test]
    fn all_that_are_ready_work_before_the_first_of_them_writes() {
        run(async {
            let done = Rc::new(RefCell::new(Vec::new()));
            let tasks = (0..3).map(|number| {
                let done = done.clone();
                tokio::task::spawn_local(async move {
                    done.borrow_mut().push(("works", number));
                    last().await;
                    done.borrow_mut().push(("writes", number));
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            let each = |what| (0..3).map(move |number| (what, number));
            assert_eq!(*done.borrow(), each("works").chain(each("writes")).collect::<Vec<_>>());
        });
    }
}
