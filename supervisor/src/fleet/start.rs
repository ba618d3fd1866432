//! Starts the worker of a slot, with what it is born with.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use shared::id::{Role, WorkerId};
use tracing::{error, warn};

use super::member::Member;
use super::{Fleet, Happening, Post, Sandbox};
use crate::backoff::chance;
use crate::metrics;
use crate::process::identity::Users;
use crate::process::launch::{Launch, Launched, Program};

impl Fleet {
    pub(super) fn start(&mut self, index: usize, now: Instant, happenings: &mut Vec<Happening>) {
        let id = WorkerId(self.next_id);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(post) = self.posts.get(slot.post) else { return };
        slot.start_at = None;
        // Each step names what it was.
        let launched = metrics::new_memory()
            .map_err(|error| format!("cannot make metric slots: {error}"))
            .and_then(|metrics| {
                let ring = match post.role {
                    Role::Proxy => Some(self.rings.make(id)),
                    Role::Status | Role::Egress | Role::Signer => None,
                };
                let ring = ring.transpose();
                let ring = ring.map_err(|error| format!("cannot make a usage ring: {error}"))?;
                let usage = ring.as_ref().map(|(_, writer, _)| writer.as_fd());
                let launched =
                    launch(&self.program, &self.users, self.sandbox, post, id, &metrics, usage);
                match launched {
                    Ok(launched) => Ok((launched, metrics, ring)),
                    Err(reason) => {
                        // Nobody will write to it: it would stay until the next start.
                        let removed = ring.map(|(ring, ..)| ring.remove());
                        if let Some(Err(error)) = removed {
                            warn!(%error, "a usage ring without a worker cannot be removed");
                        }
                        Err(reason)
                    }
                }
            });
        match launched {
            Ok((launched, metrics, ring)) => {
                // The writing end is the worker's alone from here on.
                let ring = ring.map(|(ring, _, reason)| Happening::Ring(id, ring, reason));
                happenings.extend(ring);
                self.next_id = self.next_id.wrapping_add(1);
                let member = Member::new(id, post.role, launched, self.events.clone(), now);
                slot.member = Some(member);
                happenings.push(Happening::Started(id, metrics));
            }
            Err(reason) => {
                error!(role = %post.role, "{reason}");
                slot.start_at = Some(slot.restart.ended(now, now, chance()));
            }
        }
    }
}

fn launch(
    program: &Program,
    users: &Users,
    sandbox: Sandbox,
    post: &Post,
    id: WorkerId,
    metrics: &OwnedFd,
    usage: Option<BorrowedFd<'_>>,
) -> Result<Launched, String> {
    let launch = Launch {
        role: post.role,
        id,
        policy: sandbox.name(),
        user: users.of(post.role),
        listener: post.listener.as_ref().map(AsFd::as_fd),
        metrics: metrics.as_fd(),
        usage,
    };
    program.launch(&launch).map_err(|error| error.to_string())
}
