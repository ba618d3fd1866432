//! One change, told to one worker first. Pure: what happened and time go in, what comes of it goes out.
//!
//! ```text
//! waiting ──a worker serves──► asked ──applied, then answered──► passed
//!    ▲                           │ died, or silent until the deadline and killed
//!    └──────── first time ───────┴──────── second time ────────► condemned
//! ```

use std::time::{Duration, Instant};

use shared::id::{Revision, WorkerId};
use shared::update::Change;

use crate::configuration::Delivery;
use crate::fleet::Death;

/// Deaths that condemn a change.
pub const DEATHS_MAX: u32 = 2;
/// A worker that has been told a small change and has not answered by then hangs: far more than a busy one needs.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);
/// Taken in within a second, on a slow machine.
const BYTES_PER_SECOND: u64 = 1024 * 1024;
/// No worker to tell for so long: the change comes into force untried, as it may be what helps.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// What has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Nothing,
    /// It may come into force.
    Passed,
    /// This worker does not answer.
    Silent(WorkerId),
}

/// What the death of a worker means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was not the one that was told.
    NotConcerned,
    /// Another one is to be told.
    Again,
    /// The change is to be set aside.
    Condemned,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    worker: WorkerId,
    applied: bool,
    /// It has been found silent, and is being ended.
    given_up: bool,
}

/// One change on trial.
#[derive(Debug)]
pub struct Trial {
    /// The change as workers are told it.
    pub delivery: Delivery,
    /// The change.
    pub changes: Vec<Change>,
    asked: Option<Asked>,
    deaths: u32,
    deadline: Instant,
}

impl Trial {
    /// A change that nobody has been told.
    pub fn new(delivery: Delivery, changes: Vec<Change>, now: Instant) -> Self {
        Self { delivery, changes, asked: None, deaths: 0, deadline: now + WAIT_LIMIT }
    }

    /// When [`Trial::tick`] has something to say.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Chooses the worker to tell, if none has been chosen and there is one.
    pub fn ask(&mut self, serving: &[WorkerId], now: Instant) -> Option<WorkerId> {
        let worker = *serving.first().filter(|_| self.asked.is_none())?;
        self.asked = Some(Asked { worker, applied: false, given_up: false });
        let millis = self.delivery.bytes.saturating_mul(1000) / BYTES_PER_SECOND;
        self.deadline = now + ANSWER_LIMIT + Duration::from_millis(millis);
        Some(worker)
    }

    /// Who has been told, and what.
    pub fn told(&self) -> Option<(WorkerId, Delivery)> {
        self.asked.map(|asked| (asked.worker, self.delivery.clone()))
    }

    /// A worker serves this revision.
    pub fn applied(&mut self, worker: WorkerId, revision: Revision) {
        let told = self.delivery.revision;
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.worker == worker) {
            asked.applied |= revision == told;
        }
    }

    /// A worker has answered a question. Messages keep their order: after it applied the change it was asked after it.
    pub fn answered(&self, worker: WorkerId) -> Outcome {
        match self.asked {
            Some(asked) if asked.worker == worker && asked.applied => Outcome::Passed,
            _ => Outcome::Nothing,
        }
    }

    /// A worker has ended.
    pub fn died(&mut self, worker: WorkerId, death: Death) -> Heard {
        let Some(asked) = self.asked.take_if(|asked| asked.worker == worker) else {
            return Heard::NotConcerned;
        };
        let tied = match death {
            Death::Crashed | Death::Hung | Death::Refused | Death::Killed => true,
            Death::Left => asked.given_up,
        };
        self.deaths += u32::from(tied);
        if self.deaths >= DEATHS_MAX { Heard::Condemned } else { Heard::Again }
    }

    /// Nobody is asked: the wait begins again.
    pub fn wait(&mut self, now: Instant) {
        if self.asked.is_none() {
            self.deadline = now + WAIT_LIMIT;
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Outcome {
        if now < self.deadline {
            return Outcome::Nothing;
        }
        match &mut self.asked {
            None => Outcome::Passed,
            Some(asked) => {
                let outcome =
                    if asked.given_up { Outcome::Nothing } else { Outcome::Silent(asked.worker) };
                asked.given_up = true;
                // Its end is reported; should that not come, it is asked for again.
                self.deadline = now + WAIT_LIMIT;
                outcome
            }
        }
    }
}
