//! Helper roles (egress, signer, cache) and whom they serve: every proxy worker has a channel of its own to each helper, made here
//! when the helper serves or the worker is welcomed, whichever is later. A helper that is started anew is introduced to
//! everybody anew, and one that is replaced leaves only when everybody has its successor.

use std::io;
use std::os::fd::OwnedFd;

use shared::channel;
use shared::id::Role;
use shared::message::{Client, ToWorker};
use tracing::error;

use super::member::Place;
use super::{Fleet, Happening};

impl Fleet {
    /// Introduces a worker that was just welcomed to those it works with; a helper when it serves: before, those that have
    /// another are better off.
    pub(super) fn introduce(&mut self, index: usize, happenings: &mut Vec<Happening>) {
        let Some(role) = self.member(index).map(|member| member.role) else { return };
        let others: Vec<usize> = (0..self.members.len())
            .filter(|other| {
                self.member(*other).is_some_and(|it| {
                    let can_work = if it.role.is_helper() {
                        it.place == Place::Holder && it.life.is_serving()
                    } else {
                        it.is_welcome()
                    };
                    can_work && are_partners(role, it.role)
                })
            })
            .collect();
        for other in others {
            let (helper, worker) = if role.is_helper() { (index, other) } else { (other, index) };
            if let Err(error) = self.connect(helper, worker) {
                error!(%role, %error, "cannot make a channel between a worker and its helper");
            }
        }
        if role == Role::Egress {
            self.introduce_supervisor(index, happenings);
        }
    }

    /// Makes our own channel to the egress worker at `index`.
    pub(super) fn introduce_supervisor(&mut self, index: usize, happenings: &mut Vec<Happening>) {
        match channel::pair() {
            Ok((ours, theirs)) => {
                self.tell_client(index, Client::Supervisor, theirs);
                happenings.push(Happening::Egress(ours));
            }
            Err(error) => error!(%error, "cannot make a channel to the egress worker"),
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
        if let Some(member) = self.member_mut(worker) {
            member.hand_over(ToWorker::Peer(role), workers_end);
        }
        Ok(())
    }

    fn tell_client(&mut self, helper: usize, client: Client, channel: OwnedFd) {
        if let Some(member) = self.member_mut(helper) {
            member.hand_over(ToWorker::Client(client), channel);
        }
    }
}

/// Whether two roles have a channel between them.
fn are_partners(one: Role, other: Role) -> bool {
    (one == Role::Proxy && other.is_helper()) || (one.is_helper() && other == Role::Proxy)
}
