//! Helper roles (egress, signer) and whom they serve: every proxy worker has a channel of its own to each helper, made here
//! when the later of the two is welcomed. A helper that is started anew is introduced to everybody anew.

use std::io;
use std::os::fd::OwnedFd;

use shared::channel;
use shared::id::Role;
use shared::message::{Client, ToWorker};
use tracing::error;

use super::member::Member;
use super::{Fleet, Happening};

impl Fleet {
    /// Introduces the worker in `slot`, which has just been welcomed, to those it works with.
    pub(super) fn introduce(&mut self, slot: usize, happenings: &mut Vec<Happening>) {
        let Some(role) = self.member(slot).map(|member| member.role) else { return };
        let others: Vec<usize> = (0..self.slots.len())
            .filter(|other| {
                let member = self.member(*other);
                member.is_some_and(|it| it.is_welcome() && are_partners(role, it.role))
            })
            .collect();
        for other in others {
            let (helper, worker) = if role.is_helper() { (slot, other) } else { (other, slot) };
            if let Err(error) = self.connect(helper, worker) {
                error!(%role, %error, "cannot make a channel between a worker and its helper");
            }
        }
        if role == Role::Egress {
            match channel::pair() {
                Ok((ours, theirs)) => {
                    self.tell_client(slot, Client::Supervisor, theirs);
                    happenings.push(Happening::Egress(ours));
                }
                Err(error) => error!(%error, "cannot make a channel to the egress worker"),
            }
        }
    }

    fn connect(&mut self, helper: usize, worker: usize) -> io::Result<()> {
        let (Some(role), Some(id)) = (
            self.member(helper).map(|member| member.role),
            self.member(worker).map(|member| member.id),
        ) else {
            return Ok(());
        };
        let (workers_end, helpers_end) = channel::pair()?;
        if role == Role::Signer {
            // The thread of handshakes waits in its calls, with a time-out of its own.
            channel::make_waiting(&workers_end)?;
        }
        self.tell_client(helper, Client::Worker(id), helpers_end);
        if let Some(member) = self.slots.get_mut(worker).and_then(|slot| slot.member.as_mut()) {
            member.hand_over(ToWorker::Peer(role), workers_end);
        }
        Ok(())
    }

    fn tell_client(&mut self, helper: usize, client: Client, channel: OwnedFd) {
        if let Some(member) = self.slots.get_mut(helper).and_then(|slot| slot.member.as_mut()) {
            member.hand_over(ToWorker::Client(client), channel);
        }
    }

    fn member(&self, slot: usize) -> Option<&Member> {
        self.slots.get(slot)?.member.as_ref()
    }
}

/// Whether two roles have a channel between them.
fn are_partners(one: Role, other: Role) -> bool {
    (one == Role::Proxy && other.is_helper()) || (one.is_helper() && other == Role::Proxy)
}
