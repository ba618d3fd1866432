//! What comes of a change that has passed its trial, or that workers have died of.

use std::collections::BTreeMap;
use std::time::Instant;

use shared::id::{Revision, WorkerId};
use shared::update::Change;
use tracing::{error, info};

use super::probation::Entry;
use super::trial::Trial;
use super::{Changes, Order};
use crate::configuration::{Delivery, Key, key_of};
use crate::findings::Topic;
use crate::fleet::Death;

/// Deaths of workers by which the first configuration is suspected.
const FIRST_DEATHS_MAX: u32 = 2;

impl Changes {
    /// The change on trial comes into force.
    pub(super) fn pass(&mut self, first: Option<WorkerId>, now: Instant) -> Vec<Order> {
        let Some(trial) = self.trial.take() else { return Vec::new() };
        self.put_in_force(trial.delivery.revision, false, trial.changes, now);
        vec![Order::TellAll(trial.delivery, first)]
    }

    pub(super) fn put_in_force(
        &mut self,
        revision: Revision,
        whole: bool,
        changes: Vec<Change>,
        now: Instant,
    ) {
        let before = self.configuration.revision();
        let inverse = self.configuration.apply(revision, whole, changes);
        if let Some(before) = before.filter(|_| !whole) {
            self.probation.begin((before, revision), inverse, now);
        }
    }

    /// The change on trial is set aside; whoever was told it is gone.
    pub(super) fn refuse_trial(&mut self) -> Vec<Order> {
        let Some(trial) = self.trial.take() else { return Vec::new() };
        let keys: Vec<Key> = trial.changes.iter().map(key_of).collect();
        let present = self.configuration.present(keys.into_iter());
        let revision = trial.delivery.revision;
        self.set_aside(revision, &present);
        vec![Order::Undone(present), Order::Retry]
    }

    /// Changes in force are undone and set aside.
    pub(super) fn undo(&mut self, condemned: Vec<Entry>) -> Vec<Order> {
        let (Some(first), Some(last)) = (condemned.first(), condemned.last()) else {
            return Vec::new();
        };
        let (before, newest) = (first.before, last.revision);
        let back: BTreeMap<Key, Change> = self.probation.inverse(condemned);
        let in_force = self.configuration.revision().unwrap_or(before);
        // Where later changes stay, theirs is the revision in force.
        let revision = if in_force == newest { before } else { in_force };
        let changes: Vec<Change> = back.into_values().collect();
        self.set_aside(newest, &changes);
        let delivery = Delivery::new(revision, false, changes.len(), changes.iter());
        self.configuration.apply(revision, false, changes.clone());
        let told = match delivery {
            Ok(delivery) => Order::TellAll(delivery, None),
            Err(error) => {
                error!(%revision, %error, "cannot tell the workers what was before; trying again");
                Order::Owe
            }
        };
        let mut orders = vec![told];
        // It has what is on trial already, and the way back may have changed that.
        if let Some((worker, delivery)) = self.trial.as_ref().and_then(Trial::told) {
            orders.push(Order::Tell(worker, delivery));
        }
        orders.extend([Order::Undone(changes), Order::Retry]);
        orders
    }

    fn set_aside(&mut self, revision: Revision, former: &[Change]) {
        self.quarantine.hold(revision, former);
        error!(%revision, keys = self.quarantine.names().join(" "),
            "two workers died of a change of the configuration: it is set aside");
        self.tell_quarantine();
    }

    pub(super) fn tell_quarantine(&self) {
        match self.quarantine.text() {
            Some(text) => self.findings.found(Topic::Quarantine, text),
            None => self.findings.settled(Topic::Quarantine),
        }
    }

    /// A worker has died that was not told a change first.
    pub(super) fn note_first(&mut self, death: Death) {
        let Some(deaths) = &mut self.first_deaths else { return };
        if !matches!(death, Death::Crashed | Death::Hung | Death::Refused) {
            return;
        }
        *deaths += 1;
        let Some(revision) = self.configuration.revision() else { return };
        if *deaths >= FIRST_DEATHS_MAX {
            self.findings.found(
                Topic::Quarantine,
                format!(
                    "workers have died since the first configuration of this process, revision {revision}, and there is \
                     no earlier one to go back to; they are started again, ever later; the reason is in the lines of the \
                     workers before this one: change or remove the resource that they die of"
                ),
            );
        }
    }

    /// Workers that serve for long enough are well: what dies later does not die of the first configuration.
    pub(super) fn note_health(&mut self, now: Instant, serving: &[WorkerId]) {
        let well = !serving.is_empty() && self.configuration.revision().is_some();
        match (&mut self.first_well_at, well) {
            (since @ None, true) => *since = Some(now),
            (since @ Some(_), false) => *since = None,
            (Some(since), true)
                if now.saturating_duration_since(*since) >= super::probation::PROBATION =>
            {
                if self.first_deaths.take().is_some_and(|deaths| deaths >= FIRST_DEATHS_MAX) {
                    info!("workers are well with the first configuration");
                    self.tell_quarantine();
                }
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}
