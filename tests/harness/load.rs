//! Callers that ask one request after another, each over a connection of its own, and what they have seen.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::task::LocalSet;

use crate::{Caller, ClientError, caller, wait};

/// What the callers of a load have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Ids of requests with a complete answer.
    pub answered: RefCell<Vec<String>>,
    /// What went wrong, in words.
    pub failed: RefCell<Vec<String>>,
    /// Connections that nobody accepted.
    pub refused: Cell<usize>,
    enough: Cell<bool>,
}

/// Runs `what` while `callers` callers ask. Returns what they have seen when the last of them has its answer.
pub async fn during<T>(
    caller: Caller,
    callers: usize,
    what: impl AsyncFnOnce(&Seen) -> T,
) -> (Rc<Seen>, T) {
    let seen = Rc::new(Seen::default());
    let asking = LocalSet::new();
    for _ in 0..callers {
        asking.spawn_local(ask(caller.clone(), Rc::clone(&seen)));
    }
    let done = asking
        .run_until(async {
            seen.more().await;
            let done = what(&seen).await;
            seen.more().await;
            seen.enough.set(true);
            done
        })
        .await;
    asking.await;
    (seen, done)
}

async fn ask(caller: Caller, seen: Rc<Seen>) {
    while !seen.enough.get() {
        match whole_answer(&caller).await {
            Ok((200, id)) => seen.answered.borrow_mut().push(id),
            Ok((status, _)) => seen.failed.borrow_mut().push(format!("status {status}")),
            Err(ClientError::Connect { .. }) => {
                seen.refused.set(seen.refused.get() + 1);
                // Refused at once, and again: other tests want the processor too.
                tokio::task::yield_now().await;
            }
            Err(error) => seen.failed.borrow_mut().push(error.to_string()),
        }
    }
}

async fn whole_answer(caller: &Caller) -> Result<(u16, String), ClientError> {
    let answer = caller.try_chat(&caller::chat("small-1", "hello")).await?;
    let seen = (answer.status.as_u16(), answer.header("x-aisix-request-id").to_owned());
    answer.bytes().await?;
    Ok(seen)
}

impl Seen {
    /// Waits for some more answers.
    pub async fn more(&self) {
        let before = self.answered.borrow().len();
        wait::until("the load runs", async || {
            let more = self.answered.borrow().len() - before;
            if more >= 20 { Ok(()) } else { Err(format!("{more} answers")) }
        })
        .await;
    }

    /// Every request was answered.
    ///
    /// # Panics
    /// If one was not.
    pub fn nothing_failed(&self) {
        assert_eq!(self.refused.get(), 0, "the port never refuses");
        assert_eq!(*self.failed.borrow(), Vec::<String>::new(), "no request fails");
        println!("{} requests answered, none failed", self.answered.borrow().len());
    }
}
