//! The supervisor's part in a change: takes it in, and carries out what is decided.

use std::time::Instant;

use super::Order;
use crate::destinations::place_bedrock;
use crate::findings::Topic;
use crate::projection::Update;
use crate::supervisor::Supervisor;

impl Supervisor {
    pub(crate) fn take_in(&mut self, mut update: Update) {
        let now = self.now();
        place_bedrock(&mut update.changes, self.parts.bedrock_endpoint.as_ref());
        if let Some(budgets) = &self.parts.sources.budgets {
            budgets.projected(update.whole, &update.changes);
        }
        // Before the workers: what they are told of can be reached.
        self.parts.fleet.destinations_changed(update.whole, &update.changes);
        self.parts.fleet.demand_changed(update.whole, &update.changes, now);
        self.note_exporters();
        self.parts.fleet.identity_providers_changed(update.whole, &update.changes);
        let orders = self.changes.take_in(update, &self.parts.fleet.proxies(), now);
        self.obey(orders, now);
    }

    pub(crate) fn obey(&mut self, orders: Vec<Order>, now: Instant) {
        for order in orders {
            match order {
                Order::Tell(id, delivery) => self.parts.fleet.deliver_to(id, &delivery),
                Order::TellAll(delivery, except) => {
                    self.parts.fleet.deliver(&delivery, except);
                }
                Order::Owe => self.owed = true,
                Order::End(id) => self.parts.fleet.silent(id, now),
                Order::Undone(changes) => {
                    self.parts.fleet.destinations_changed(false, &changes);
                    self.parts.fleet.demand_changed(false, &changes, now);
                    self.note_exporters();
                    self.parts.fleet.identity_providers_changed(false, &changes);
                    if let Some(budgets) = &self.parts.sources.budgets {
                        budgets.projected(false, &changes);
                    }
                    self.parts.nudge.notify_one();
                }
                Order::Retry => self.parts.fleet.forgive(now),
            }
        }
    }

    pub(crate) fn replaced(&mut self, done: Result<(), String>) {
        if let Err(reason) = &done
            && self.is_taking_over()
        {
            return self.go_back(format!("its workers do not serve: {reason}"));
        }
        let findings = &self.parts.sources.findings;
        match done {
            Ok(()) => findings.settled(Topic::Replacement),
            Err(reason) => findings.found(
                Topic::Replacement,
                format!(
                    "the replacement of the workers was given up: {reason}; those that were there go on, and new ones are \
                     told the former settings; the lines of the worker before this one say why; then reload again"
                ),
            ),
        }
    }
}
