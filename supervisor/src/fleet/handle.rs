//! What workers say and how they end: checked, carried out, passed on.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use shared::channel::{ChannelError, Received};
use shared::id::{Role, WorkerId};
use shared::message::{self, Hello, Message, ToSupervisor, ToWorker};
use tracing::{error, info, warn};

use super::life::{Action, Input, Life};
use super::member::{Death, Member};
use super::{Event, Fleet, Happening, Sandbox, Unconfined, listener_tls};
use crate::broker;
use crate::cloud::budget::Budgets;
use crate::configuration::Configuration;

/// How much of a worker's own words goes into the log, in characters.
const REASON_CHARS_MAX: usize = 500;

/// What a worker is told that knows nothing.
struct Told<'a> {
    configuration: &'a mut Configuration,
    budgets: Option<&'a Budgets>,
}

impl Fleet {
    /// Takes in what a worker's tasks report. `configuration` and `budgets` are what a worker that says hello is told.
    pub fn handle(
        &mut self,
        event: Event,
        configuration: &mut Configuration,
        budgets: Option<&Budgets>,
        now: Instant,
    ) -> Result<Vec<Happening>, Unconfined> {
        let mut happenings = Vec::new();
        let (Event::Said(id, _) | Event::Ended(id, _)) = &event;
        let id = *id;
        let Some(index) = self.index_of(id) else { return Ok(happenings) };
        match event {
            Event::Ended(_, exit) => {
                self.counters.gone(id);
                self.note_end(index, |member| member.exit = Some(exit));
            }
            Event::Said(_, Err(error)) => {
                if !matches!(error, ChannelError::Closed) {
                    warn!(worker = %id, %error, "a worker broke the protocol");
                    self.input(index, Input::Misbehaved, now);
                }
                self.note_end(index, |member| member.closed = true);
            }
            Event::Said(_, Ok(received)) => {
                let told = Told { configuration, budgets };
                self.said(index, id, received, told, now, &mut happenings)?;
            }
        }
        self.end_overflowed(now);
        self.finish(index, now, &mut happenings);
        self.roll(now, &mut happenings);
        Ok(happenings)
    }

    fn said(
        &mut self,
        index: usize,
        id: WorkerId,
        received: Received<ToSupervisor>,
        told: Told<'_>,
        now: Instant,
        happenings: &mut Vec<Happening>,
    ) -> Result<(), Unconfined> {
        let Some(member) = self.member_mut(index) else { return Ok(()) };
        let permitted = received.descriptor.is_none()
            && broker::permits(member.role, member.life, member.usage_told, &received.message);
        if !permitted && member.life == Life::Doomed {
            return Ok(());
        }
        if !permitted {
            warn!(worker = %id, role = %member.role, kind = received.message.kind(),
                "a worker said what it may not say now");
            self.input(index, Input::Misbehaved, now);
            return Ok(());
        }
        match received.message {
            ToSupervisor::Hello(hello) => {
                let accepted = self.accept(index, &hello)?;
                let input = if accepted { Input::Hello } else { Input::Misbehaved };
                if self.input(index, input, now) == Some(Action::Welcome) {
                    self.welcome(index, told, now);
                    match self.member(index).map(|member| member.role) {
                        Some(Role::Egress) => self.brief_egress(index),
                        Some(role) if !role.is_helper() => self.introduce(index, happenings),
                        _ => {}
                    }
                }
                return Ok(());
            }
            ToSupervisor::Ready => {
                if self.input(index, Input::Ready, now) == Some(Action::Announce)
                    && self.member(index).is_some_and(|member| member.role.is_helper())
                {
                    self.introduce(index, happenings);
                }
                happenings.push(Happening::Serving);
                return Ok(());
            }
            // It cannot serve what it was never sent.
            ToSupervisor::Applied(revision) if member.told.is_none_or(|told| revision > told) => {
                self.input(index, Input::Misbehaved, now);
                return Ok(());
            }
            ToSupervisor::Applied(revision) => {
                member.applied = Some(revision);
                happenings.push(Happening::Applied(id, revision));
            }
            ToSupervisor::Refused(revision, reason) => {
                // With a gap in its configuration it must not go on; the next one starts from the whole.
                let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
                error!(worker = %id, %revision, ?reason, "a worker could not apply a revision");
                happenings.push(Happening::Refused);
                member.refused = true;
                self.input(index, Input::Misbehaved, now);
                return Ok(());
            }
            ToSupervisor::Usage(last) => {
                member.usage_told = true;
                happenings.push(Happening::Usage(id, last));
            }
            ToSupervisor::KeysInUse(keys) => happenings.push(Happening::KeysInUse(keys)),
            ToSupervisor::Series(series) => happenings.push(Happening::Series(id, series)),
            ToSupervisor::Pong(round, in_flight) => {
                member.answered = round;
                member.in_flight = in_flight;
                if member.role == Role::Proxy {
                    happenings.push(Happening::Answered(id));
                }
            }
            ToSupervisor::KeyTaken(number) => self.key_confirmed(number),
            ToSupervisor::KeySet(set) => self.share_keys(set),
            ToSupervisor::ExporterHealth(health) => {
                self.exporters.heard(id, health);
                happenings.push(Happening::Exporters);
            }
            ToSupervisor::Fetch(page) => {
                happenings.push(Happening::Fetch(id, page, received.request_id));
            }
        }
        self.input(index, Input::Heard, now);
        Ok(())
    }

    /// Whether the worker is of our build and as confined as it must be.
    fn accept(&mut self, index: usize, hello: &Hello) -> Result<bool, Unconfined> {
        let sandbox = self.sandbox;
        let Some(member) = self.members.get_mut(index) else { return Ok(false) };
        let missing = match member.accept(hello) {
            Ok(missing) => missing,
            Err(reason) => {
                error!(worker = %member.id, role = %member.role, "worker not accepted: {reason}");
                return Ok(false);
            }
        };
        if sandbox != Sandbox::Required || missing.is_empty() {
            return Ok(true);
        }
        let unconfined = Unconfined { role: member.role, missing: missing.join("; ") };
        if self.served.contains(&member.role) {
            // Those that serve go on; this one is tried again.
            error!(worker = %member.id, "{unconfined}");
            return Ok(false);
        }
        Err(unconfined)
    }

    /// Settings first, then the configuration and the budgets if there are any, then the leave to serve.
    fn welcome(&mut self, index: usize, told: Told<'_>, now: Instant) {
        let Some(member) = self.members.get_mut(index) else { return };
        let slot = self.slots.get(member.slot);
        let Some(post) = slot.and_then(|slot| self.posts.get(slot.post)) else { return };
        let handed_over = message::welcome(&post.settings).and_then(|settings| match post.role {
            Role::Proxy => {
                let (lane, memory) = self.counters.hand_out(member.id)?;
                member.welcome(settings);
                let lane = u16::try_from(lane).unwrap_or(u16::MAX);
                member.hand_over(ToWorker::Counters { lane }, memory);
                if let Some(budgets) = told.budgets {
                    member.tell_budgets(true, Rc::new(budgets.whole()?));
                }
                told.configuration.whole()
            }
            Role::Export => {
                member.welcome(settings);
                member.hand_over(ToWorker::Exporters, self.exporters.seal()?);
                Ok(None)
            }
            Role::Status | Role::Egress | Role::Signer | Role::Cache => {
                member.welcome(settings);
                Ok(None)
            }
        });
        match handed_over {
            Ok(delivery) => {
                delivery.into_iter().for_each(|delivery| member.deliver(delivery));
                if self.retired {
                    member.tell(ToWorker::Retire);
                }
                if self.outlive && post.role.is_helper() {
                    member.tell(ToWorker::Outlive);
                }
                if let Some(tls) = &self.listener_tls {
                    listener_tls::hand_over(tls, member);
                }
                if post.role == Role::Proxy {
                    let sets = self.key_sets.all();
                    sets.for_each(|set| member.tell(ToWorker::KeySet(set.clone())));
                }
                member.tell(ToWorker::Activate);
            }
            Err(error) => {
                error!(worker = %member.id, %error, "cannot hand over settings and configuration");
                self.input(index, Input::Misbehaved, now);
            }
        }
    }

    /// One step of a worker's life. What can be done about it here is done; the action is returned all the same.
    pub(super) fn input(&mut self, index: usize, input: Input, now: Instant) -> Option<Action> {
        let member = self.members.get_mut(index)?;
        let (life, action) = member.life.step(input, now);
        if member.life.name() != life.name() {
            member.since = SystemTime::now();
        }
        member.life = life;
        match action {
            // Needs the configuration, which the caller has.
            None | Some(Action::Welcome) => {}
            Some(Action::Announce) => {
                self.served.insert(member.role);
                let summary = member.summary();
                info!(worker = %summary.id, role = %summary.role, pid = summary.pid,
                    uid = summary.uid.unwrap_or_default(), landlock = summary.landlock_abi, "worker serves");
            }
            Some(Action::AskToDrain) => member.tell(ToWorker::Drain),
            Some(Action::Kill(reason)) => {
                warn!(worker = %member.id, role = %member.role, pid = %member.pid, reason,
                    "worker is killed");
                member.kill(reason);
            }
        }
        action
    }

    fn note_end(&mut self, index: usize, note: impl FnOnce(&mut Member)) {
        if let Some(member) = self.member_mut(index) {
            note(member);
        }
    }

    /// A worker is gone when its process has ended and all that it said before has been heard.
    fn finish(&mut self, index: usize, now: Instant, happenings: &mut Vec<Happening>) {
        let Some(exit) = self.member(index).filter(|member| member.closed).and_then(|it| it.exit)
        else {
            return;
        };
        let member = self.members.swap_remove(index);
        let death = member.death(exit);
        if member.role == Role::Proxy {
            happenings.push(Happening::Died(member.id, death));
        }
        self.exporters.gone(member.id);
        happenings.push(Happening::Gone(member.id));
        if death == Death::Left && exit.is_success() {
            info!(worker = %member.id, role = %member.role, "worker drained");
        } else {
            warn!(worker = %member.id, role = %member.role, pid = %member.pid,
                "worker ended: {exit}");
        }
        self.vacate(&member, death, now, happenings);
    }
}
