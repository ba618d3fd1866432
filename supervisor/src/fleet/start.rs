//! Starts the worker of a slot, with what it is born with.

use std::os::fd::AsFd;
use std::time::Instant;

use shared::id::{Role, WorkerId};
use shared::worker_settings::RoleSettings;
use tracing::{error, warn};

use super::member::{Member, Place};
use super::restart::DELAY_MAX;
use super::{Fleet, Happening, handover};
use crate::backoff::chance;
use crate::metrics;
use crate::process::launch::Launch;

impl Fleet {
    /// Starts the worker that is due in a slot.
    pub(super) fn start(&mut self, slot: usize, now: Instant, happenings: &mut Vec<Happening>) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.start_at = None;
        }
        if let Err(reason) = self.launch(slot, Place::Holder, now, happenings) {
            error!("{reason}");
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.start_at = Some(slot.restart.ended(now, now, chance(), DELAY_MAX));
            }
        }
    }

    /// Starts a worker for a slot.
    pub(super) fn launch(
        &mut self,
        slot: usize,
        place: Place,
        now: Instant,
        happenings: &mut Vec<Happening>,
    ) -> Result<(), String> {
        let id = WorkerId(self.next_id);
        let post = self.slots.get(slot).and_then(|slot| self.posts.get(slot.post));
        let Some(post) = post else { return Ok(()) };
        let role = post.role;
        // Each step names what it was.
        let metrics = metrics::new_memory()
            .map_err(|error| format!("cannot make metric slots of a {role} worker: {error}"))?;
        let ring = match role {
            Role::Proxy => Some(self.rings.make(id)),
            Role::Status | Role::Egress | Role::Signer | Role::Cache | Role::Export => None,
        };
        let ring = ring.transpose();
        let ring = ring.map_err(|error| format!("cannot make a usage ring: {error}"))?;
        let usage = ring.as_ref().map(|(_, writer, _)| writer.as_fd());
        let adoption = ring
            .as_ref()
            .filter(|_| self.outlive)
            .and_then(|(ring, ..)| handover::adoption(ring, &mut self.cannot_outlive));
        let launch = Launch {
            role,
            id,
            policy: self.sandbox.name(),
            user: self.users.of(role),
            listener: post.listener.as_ref().map(AsFd::as_fd),
            tls: matches!(&post.settings.role, RoleSettings::Proxy(proxy) if proxy.tls),
            metrics: metrics.as_fd(),
            usage,
            adoption: adoption.as_ref().map(AsFd::as_fd),
        };
        let launched = self.program.launch(&launch).map_err(|error| error.to_string());
        let launched = match launched {
            Ok(launched) => launched,
            Err(reason) => {
                // Nobody will write to it: it would stay until the next start.
                let removed = ring.map(|(ring, ..)| ring.remove());
                if let Some(Err(error)) = removed {
                    warn!(%error, "a usage ring without a worker cannot be removed");
                }
                return Err(reason);
            }
        };
        // The writing end is the worker's alone from here on.
        let ring = ring.map(|(ring, _, reason)| Happening::Ring(id, ring, reason));
        happenings.extend(ring);
        self.next_id = self.next_id.wrapping_add(1);
        let seat = (slot, place, self.generation);
        self.members.push(Member::new(id, role, seat, launched, self.events.clone(), now));
        happenings.push(Happening::Started(id, metrics));
        Ok(())
    }
}
