//! The end: in the order of `shutdown.rs`, and what is left to do when nothing runs any more but helpers.

use std::time::Duration;

use shared::id::Role;
use tracing::{error, info, warn};

use super::Supervisor;
use crate::shutdown::{Order, Running, Stage};

/// How often the log tells what the end still waits for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last usage events may take to reach the Cloud.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// How long helpers may take to leave; they are killed, so only a machine in trouble needs any of it.
const HELPERS_LIMIT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Tells the Cloud what there is to tell, and keeps the rest.
    pub(super) async fn finish(&mut self) {
        let deadline = tokio::time::Instant::now() + FLUSH_LIMIT;
        let telemetry = &mut self.parts.sources.telemetry;
        let left = telemetry.flush(deadline).await;
        let unwritten = telemetry.report().spool.unwritten;
        match left.saturating_sub(unwritten) {
            0 if unwritten == 0 => info!("ended in order"),
            0 => {}
            kept => warn!("ended; {kept} usage events wait in the spool for the next start"),
        }
        if unwritten > 0 {
            error!(
                "ended; {unwritten} usage events could neither be sent nor written, and are lost but for those that are still in the rings of workers: look at the disk that the spool is on"
            );
        }
        self.end_helpers().await;
        // After the last delivery, which decides what the Cloud knows of.
        if let Some(budgets) = &self.parts.sources.budgets {
            budgets.keep();
        }
    }

    /// Helpers go last: the final upload needed them.
    async fn end_helpers(&mut self) {
        let deadline = tokio::time::Instant::now() + HELPERS_LIMIT;
        let now = self.now();
        for role in Role::HELPERS {
            self.parts.fleet.drain(role, Some(now + HELPERS_LIMIT), now);
        }
        while Role::HELPERS.iter().any(|role| self.parts.fleet.running(*role) > 0) {
            let now = self.now();
            self.parts.fleet.tick(now, &mut Vec::new());
            match tokio::time::timeout_at(deadline, self.parts.events.recv()).await {
                Ok(Some(event)) => drop(self.handle(event)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    pub(super) fn signalled(&mut self, name: &str) {
        let now = self.now();
        let (stage, order) = self.stage.signalled(self.parts.limits, now);
        if order.is_some() {
            info!("{name}: ending; health routes answer 503 from now on");
            self.notifier.stopping();
            self.no_upgrade_any_more();
            self.drain_orphans();
        }
        self.stage = stage;
        self.carry_out(order);
    }

    /// Takes the end as far as it will go now.
    pub(super) fn advance(&mut self) {
        if self.stage == Stage::Running {
            return;
        }
        let now = self.now();
        loop {
            let running = Running {
                proxies: self.parts.fleet.running(Role::Proxy) + self.upgrade.orphans(now),
                statuses: self.parts.fleet.running(Role::Status)
                    + self.parts.fleet.running(Role::Export),
                idle: self.parts.fleet.is_idle(),
            };
            let (stage, order) = self.stage.step(running, self.parts.limits, now);
            let moved = stage != self.stage;
            let begins = matches!(stage, Stage::Finishing { .. } | Stage::DrainingProxies);
            if begins && matches!(self.stage, Stage::Announced { .. }) {
                self.progress_at = now + PROGRESS_INTERVAL;
            }
            self.stage = stage;
            self.carry_out(order);
            if !moved {
                break;
            }
        }
        let waits = matches!(self.stage, Stage::Finishing { .. } | Stage::DrainingProxies);
        if waits && now >= self.progress_at {
            self.progress_at = now + PROGRESS_INTERVAL;
            let in_flight = self.parts.fleet.in_flight();
            info!("waiting for {in_flight} requests in flight");
            self.notifier.extend();
        }
    }

    fn carry_out(&mut self, order: Option<Order>) {
        match order {
            None => {}
            Some(Order::Retire) => self.parts.fleet.retire(),
            Some(Order::Ask) => self.parts.fleet.ask(),
            Some(Order::Drain(role, deadline)) => {
                self.upgrade.orphans_until = deadline;
                let now = self.now();
                self.parts.fleet.drain(role, deadline, now);
                // Nobody has anything to tell it any more, and it still needs egress.
                if role == Role::Status {
                    self.parts.fleet.drain(Role::Export, deadline, now);
                }
            }
        }
    }
}
