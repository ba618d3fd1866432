//! Helper roles (egress, signer, cache, export) and whom they serve: every proxy worker has a channel of its own to each
//! helper, and the export role has one to egress; made here
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
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != index);
        let pairs: Vec<(usize, usize)> = others
            .filter_map(|(other, it)| {
                if serves(role, it.role) {
                    return it.is_welcome().then_some((index, other));
                }
                let can_serve = it.place == Place::Holder && it.life.is_serving();
                (serves(it.role, role) && can_serve).then_some((other, index))
            })
            .collect();
        for (helper, worker) in pairs {
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
        let role = self.member(helper).map(|member| member.role);
        let client = self.member(worker).map(|member| (member.role, member.id));
        let (Some(role), Some((client, id))) = (role, client) else { return Ok(()) };
        let client = match client {
            Role::Export => Client::Exporter(id),
            _ => Client::Worker(id),
        };
        let (workers_end, helpers_end) = channel::pair()?;
        if role == Role::Signer {
            // The thread of handshakes waits in its calls, with a time-out of its own.
            channel::make_waiting(&workers_end)?;
        }
        self.tell_client(helper, client, helpers_end);
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

/// Whether a helper serves workers of that role.
fn serves(helper: Role, client: Role) -> bool {
    match client {
        Role::Proxy => helper.is_helper(),
        Role::Export => helper == Role::Egress,
        Role::Status | Role::Egress | Role::Signer | Role::Cache => false,
    }
}
