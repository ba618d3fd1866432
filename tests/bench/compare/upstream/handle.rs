//! An upstream that runs, and what its thread does beside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::eventfd::EventFd;

/// What the upstream's thread does beside: a little at a time, until it says that there is no more to do.
pub type Companion = Box<dyn FnMut() -> bool + Send>;

/// An upstream that runs, as long as this program.
pub struct Handle {
    /// Where it listens.
    pub address: SocketAddr,
    pub(super) companions: Sender<Companion>,
    pub(super) bell: Arc<EventFd>,
}

impl Handle {
    /// Has its thread do something beside, one thing at a time, step by step, until there is a result or an error. Where it is told.
    pub fn in_turns<T: Send + 'static>(
        &self,
        mut step: impl FnMut() -> Result<Option<T>, String> + Send + 'static,
    ) -> Result<Receiver<Result<T, String>>, String> {
        let (end, ends) = channel();
        let companion = move || {
            let Some(ended) = step().transpose() else { return true };
            // Who is not there any more has given up.
            let _ = end.send(ended);
            false
        };
        let ended = |error: &dyn std::fmt::Display| format!("the upstream has ended: {error}");
        self.companions.send(Box::new(companion)).map_err(|error| ended(&error))?;
        self.bell.write(1).map_err(|error| ended(&error))?;
        Ok(ends)
    }
}
