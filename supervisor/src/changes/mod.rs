//! Changes of configuration on their way to the workers, one after the other, each to one worker first.
//!
//! ```text
//! update ─► Trial: one worker is told ─ applied and answered ─► in force: the others are told ─► Probation ─ time ─► good
//!              │ two deaths                                                 │ two deaths
//!              └────────────────────────► set aside (Quarantine) ◄──────────┘ undone first
//! ```
//! Promises:
//! 1. no worker but the first is told a change before that one has applied it and answered; who starts meanwhile is told
//!    what was in force before, so with a single worker, too, the former configuration is at hand;
//! 2. changes reach every worker in the order in which they came: while one is tried, no other is taken in;
//! 3. a change that two workers have died of is set aside: what it had changed is as it was before, in every worker;
//! 4. a later change of a resource that was set aside is tried like any other, and changes of other resources go on.
//!
//! A death is *tied* to a change, if the worker
//! - had been told the change first, and ended before it had applied it and answered: by a fault of its own, by SIGKILL
//!   (the kernel, for want of memory), because it refused, or because we killed it when it did not answer in time; or
//! - ended within [`probation::PROBATION`] after the change had come into force everywhere: by a fault of its own, because
//!   it refused, or because we killed it for its silence. A SIGKILL of somebody else does not count here: an operator and
//!   a lack of memory look alike. Nor does the death of a worker if others died just as well before the change came.
//!
//! The first configuration of this process has nothing before it to go back to: workers that die of it are started again
//! with back-off, readiness is refused, and a finding says so. That includes what the snapshot held after a restart.

mod obey;
mod orders;
mod probation;
mod quarantine;
#[cfg(test)]
mod tests;
mod trial;

use std::time::Instant;

use shared::id::{Revision, WorkerId};
use shared::update::Change;

use self::probation::Probation;
pub use self::quarantine::{Held, Quarantine, QuarantineStatus};
use self::trial::{Heard, Outcome, Trial};
use crate::configuration::{Configuration, Delivery, key_of};
use crate::findings::Findings;
use crate::fleet::Death;
use crate::projection::Update;

/// What is to be done.
#[derive(Debug)]
pub enum Order {
    /// Tell this worker, and ask it for a sign of life.
    Tell(WorkerId, Delivery),
    /// Tell every worker but this one.
    TellAll(Delivery, Option<WorkerId>),
    /// Changes could not be written down: every worker has to be told everything as soon as that can be.
    Owe,
    /// End this worker, which does not answer.
    End(WorkerId),
    /// These resources are as they were before.
    Undone(Vec<Change>),
    /// What workers died of may be over: those that wait for their start need not wait.
    Retry,
}

/// Everything in force, and what is on its way.
pub struct Changes {
    configuration: Configuration,
    trial: Option<Trial>,
    probation: Probation,
    quarantine: Quarantine,
    findings: Findings,
    /// Workers that have died since the first configuration came and before any of them was well.
    first_deaths: Option<u32>,
    /// Since when workers serve the first configuration without a gap.
    first_well_at: Option<Instant>,
}

impl Changes {
    /// Nothing in force yet.
    pub fn new(quarantine: Quarantine, findings: Findings) -> Self {
        Self {
            configuration: Configuration::default(),
            trial: None,
            probation: Probation::default(),
            quarantine,
            findings,
            first_deaths: Some(0),
            first_well_at: None,
        }
    }

    /// What a worker that has nothing is told.
    pub fn configuration(&mut self) -> &mut Configuration {
        &mut self.configuration
    }

    /// Whether another update may be taken in.
    pub fn is_free(&self) -> bool {
        self.trial.is_none()
    }

    /// When [`Changes::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Instant> {
        self.trial.as_ref().map(Trial::deadline)
    }

    /// Takes in an update, when [`Changes::is_free`]. `serving`: proxy workers that accept connections, the fittest first.
    pub fn take_in(&mut self, update: Update, serving: &[WorkerId], now: Instant) -> Vec<Order> {
        let Update { revision, whole, changes } = update;
        if self.quarantine.lift(changes.iter().map(key_of)) {
            self.tell_quarantine();
        }
        let delivery = Delivery::new(revision, whole, changes.len(), changes.iter());
        let is_tried = !whole
            && !changes.is_empty()
            && !serving.is_empty()
            && self.configuration.revision().is_some();
        match delivery {
            Ok(delivery) if is_tried => {
                self.trial = Some(Trial::new(delivery, changes, now));
                self.ask(serving, now)
            }
            Ok(delivery) => {
                self.put_in_force(revision, whole, changes, now);
                let mut orders = vec![Order::TellAll(delivery, None)];
                // Nobody serves: perhaps because of what this changes.
                orders.extend(serving.is_empty().then_some(Order::Retry).filter(|_| !whole));
                orders
            }
            Err(error) => {
                tracing::error!(%revision, %error, "cannot hand a change to the workers; trying again");
                self.put_in_force(revision, whole, changes, now);
                vec![Order::Owe]
            }
        }
    }

    /// A worker serves this revision.
    pub fn applied(&mut self, worker: WorkerId, revision: Revision) {
        if let Some(trial) = &mut self.trial {
            trial.applied(worker, revision);
        }
    }

    /// A worker has answered a question.
    pub fn answered(&mut self, worker: WorkerId, now: Instant) -> Vec<Order> {
        match self.trial.as_mut().map(|trial| trial.answered(worker)) {
            Some(Outcome::Passed) => self.pass(Some(worker), now),
            Some(_) | None => Vec::new(),
        }
    }

    /// Another worker accepts connections.
    pub fn serving(&mut self, serving: &[WorkerId], now: Instant) -> Vec<Order> {
        self.ask(serving, now)
    }

    /// A worker has ended.
    pub fn died(
        &mut self,
        worker: WorkerId,
        death: Death,
        serving: &[WorkerId],
        now: Instant,
    ) -> Vec<Order> {
        match self.trial.as_mut().map_or(Heard::NotConcerned, |trial| trial.died(worker, death)) {
            Heard::Condemned => self.refuse_trial(),
            Heard::Again => {
                if let Some(trial) = &mut self.trial {
                    trial.wait(now);
                }
                self.ask(serving, now)
            }
            Heard::NotConcerned => {
                self.note_first(death);
                let condemned = self.probation.died(death, now);
                if condemned.is_empty() { Vec::new() } else { self.undo(condemned) }
            }
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, serving: &[WorkerId], now: Instant) -> Vec<Order> {
        self.note_health(now, serving);
        match self.trial.as_mut().map(|trial| trial.tick(now)) {
            Some(Outcome::Silent(worker)) => vec![Order::End(worker)],
            // Nobody serves: what is in force does not help anybody, and this may.
            Some(Outcome::Passed) => self.pass(None, now),
            Some(Outcome::Nothing) | None => Vec::new(),
        }
    }

    fn ask(&mut self, serving: &[WorkerId], now: Instant) -> Vec<Order> {
        let Some(trial) = &mut self.trial else { return Vec::new() };
        match trial.ask(serving, now) {
            Some(worker) => vec![Order::Tell(worker, trial.delivery.clone())],
            None => Vec::new(),
        }
    }
}
