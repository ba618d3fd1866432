//! What the upstream has served: the other side of the account that a gateway gives of itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not yet.
    Running,
    /// The whole answer was handed over, an error included.
    Answered,
    /// The upstream broke it off, as its script says.
    BrokenOff,
    /// The caller left before the answer was complete.
    CallerLeft,
}

/// One request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Served {
    /// `x-aisix-request-id`, as the gateway sent it.
    pub request_id: Option<String>,
    /// The model asked for.
    pub model: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Whether usage was asked for in the stream.
    pub include_usage: bool,
    /// Words of the request.
    pub prompt_tokens: u32,
    /// Words of the whole answer, whether or not they all were sent; 0 for an error.
    pub completion_tokens: u32,
    /// Which connection it came over: counted from 1.
    pub connection: u64,
    /// Whether the expected credential was presented. The credential itself is not kept.
    pub authorized: bool,
    /// Names of the headers that came, sorted.
    pub headers: Vec<String>,
    /// Names of the fields of its body, sorted.
    pub fields: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

/// All requests, in the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Vec<Served>>>);

/// A request that runs. Dropped before its end, it means that the caller left.
#[derive(Debug)]
pub struct Entry {
    ledger: Ledger,
    index: usize,
}

impl Ledger {
    /// Every request so far.
    pub fn all(&self) -> Vec<Served> {
        self.lock().clone()
    }

    /// A request has come.
    pub fn enter(&self, served: Served) -> Entry {
        let mut requests = self.lock();
        requests.push(Served { outcome: Outcome::Running, ..served });
        Entry { ledger: self.clone(), index: requests.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Served>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The whole answer is handed over.
    pub fn answered(&mut self) {
        self.settle(Outcome::Answered);
    }

    /// The script says to break it off.
    pub fn broke_off(&mut self) {
        self.settle(Outcome::BrokenOff);
    }

    /// The first outcome is the one.
    fn settle(&mut self, outcome: Outcome) {
        if let Some(served) = self.ledger.lock().get_mut(self.index)
            && served.outcome == Outcome::Running
        {
            served.outcome = outcome;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.settle(Outcome::CallerLeft);
    }
}
