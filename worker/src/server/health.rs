//! What this worker tells of itself: whether it serves, and how much is in its hands.

use std::cell::Cell;
use std::rc::Rc;

/// The state behind the health routes.
#[derive(Debug, Default)]
pub struct Health {
    is_retiring: Cell<bool>,
    is_leaving: Cell<bool>,
    is_configured: Cell<bool>,
    in_flight: Rc<Cell<usize>>,
}

/// Counts a request as in flight until dropped.
#[derive(Debug)]
pub struct InFlight(Rc<Cell<usize>>);

impl Health {
    /// Not retiring, not configured, nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on the health routes answer 503 and HTTP/1.1 answers carry `connection: close`.
    pub fn retire(&self) {
        self.is_retiring.set(true);
    }

    /// Whether [`Health::retire`] was called.
    pub fn is_retiring(&self) -> bool {
        self.is_retiring.get()
    }

    /// This worker accepts no connection any more: from now on HTTP/1.1 answers carry `connection: close`.
    pub fn leave(&self) {
        self.is_leaving.set(true);
    }

    /// Whether callers are to come back over another connection.
    pub fn closes(&self) -> bool {
        self.is_retiring.get() || self.is_leaving.get()
    }

    /// A configuration is in force.
    pub fn configured(&self) {
        self.is_configured.set(true);
    }

    /// Whether [`Health::configured`] was called.
    pub fn is_configured(&self) -> bool {
        self.is_configured.get()
    }

    /// Requests in flight: from their head to the last byte of their answer, streamed ones too. Health routes do not count.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Counts one more, until the guard is dropped.
    pub fn enter(&self) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(self.in_flight.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
