//! Carries out the replacement of all workers (`rollout`), and what becomes of a slot whose worker has gone.

use std::time::{Duration, Instant};

use shared::id::{Role, WorkerId};
use shared::worker_settings::WorkerSettings;
use tracing::info;

use super::life::Input;
use super::member::{Death, Member, Place};
use super::restart::{DELAY_MAX, DELAY_MAX_ALONE};
use super::rollout::{self, Seat, Step};
use super::{Fleet, Happening, Slot};
use crate::backoff::chance;

/// The longest that a helper which keeps dying is waited with.
const HELPER_DELAY_MAX: Duration = Duration::from_millis(500);

/// A helper that was replaced goes on for so long: longer than a connection may take to be made.
const HELPER_GRACE: Duration = Duration::from_secs(6);

/// A replacement of all workers that is being carried out.
#[derive(Debug)]
pub struct Roll {
    /// What workers were told before, by post: in force again if those that are told something else do not become ready.
    former: Vec<WorkerSettings>,
}

impl Roll {
    /// What workers were told before.
    pub(super) fn former_mut(&mut self) -> impl Iterator<Item = &mut WorkerSettings> {
        self.former.iter_mut()
    }
}

impl Fleet {
    /// Begins to replace every worker, one after the other: the new one serves before the old one is told to finish. Asked
    /// for while it is being done, it is done for those that are not new enough.
    pub fn replace_all(&mut self, now: Instant) {
        self.generation += 1;
        // Before anybody sees it: who is started from now on is new enough.
        info!(generation = self.generation, "replacing every worker, one after the other");
        if self.roll.is_none() {
            self.roll = Some(Roll { former: self.settings() });
        }
        self.next_ping = self.next_ping.min(now);
    }

    /// Whether workers are being replaced.
    pub fn is_replacing(&self) -> bool {
        self.roll.is_some()
    }

    /// What workers that are started from now on are told, and how many there are of a role. Who runs learns nothing: see
    /// [`Fleet::replace_all`], which is asked for first.
    pub fn configure(
        &mut self,
        role: Role,
        workers: usize,
        settings: WorkerSettings,
        now: Instant,
    ) {
        let Some(post) = self.posts.iter().position(|post| post.role == role) else { return };
        let workers = self.workers_of(role, workers);
        if let Some(post) = self.posts.get_mut(post) {
            post.settings = settings;
            post.workers = workers;
        }
        let of_post = |slot: &&mut Slot| slot.post == post;
        let mut closed = Vec::new();
        for (number, slot) in self.slots.iter_mut().filter(of_post).enumerate() {
            let wanted = number < workers;
            if wanted && !slot.wanted {
                slot.start_at = Some(now);
            } else if !wanted {
                slot.start_at = None;
            }
            slot.wanted = wanted;
        }
        let slots = self.slots.iter().filter(|slot| slot.post == post).count();
        self.slots.extend((slots..workers).map(|_| Slot::new(post, now)));
        for (index, member) in self.members.iter().enumerate() {
            if self.slots.get(member.slot).is_some_and(|slot| !slot.wanted) {
                closed.push(index);
            }
        }
        closed.into_iter().for_each(|index| self.dismiss(index, now));
    }

    /// How long workers that are replaced may take to finish; `None` = for ever.
    pub fn set_replace_drain(&mut self, limit: Option<Duration>) {
        self.replace_drain = limit;
    }

    /// Proxy workers that wait for their start because others died before them start now: what they died of is over.
    pub fn forgive(&mut self, now: Instant) {
        for slot in &mut self.slots {
            let role = self.posts.get(slot.post).map(|post| post.role);
            if role == Some(Role::Proxy) {
                slot.restart = Default::default();
                slot.start_at = slot.start_at.map(|_| now);
            }
        }
    }

    /// Ends a worker that has not answered in a time that the owner of the fleet has set.
    pub fn silent(&mut self, id: WorkerId, now: Instant) {
        if let Some(index) = self.index_of(id) {
            self.input(index, Input::Silent, now);
        }
    }

    /// Takes the replacement as far as it will go now.
    pub(super) fn roll(&mut self, now: Instant, happenings: &mut Vec<Happening>) {
        while self.roll.is_some() && !self.retired {
            match rollout::next(&self.seats(), self.generation) {
                Step::Wait => return,
                Step::Start(slot) => {
                    if let Err(reason) = self.launch(slot, Place::Successor, now, happenings) {
                        self.give_up(&reason, happenings);
                    }
                }
                Step::HandOver(slot) => self.hand_over(slot, now),
                Step::Done => {
                    self.roll = None;
                    info!(
                        "every worker is replaced; those from before finish what they have begun"
                    );
                    happenings.push(Happening::Replaced(Ok(())));
                }
            }
        }
    }

    /// What becomes of the slot of a worker that has gone.
    pub(super) fn vacate(
        &mut self,
        gone: &Member,
        death: Death,
        now: Instant,
        happenings: &mut Vec<Happening>,
    ) {
        match gone.place {
            Place::Leaving => return,
            Place::Successor => {
                let reason = format!("a new {} worker ended before it was ready", gone.role);
                return self.give_up(&reason, happenings);
            }
            Place::Holder => {}
        }
        if self.leaving.contains(&gone.role) {
            return;
        }
        *self.restarts.entry((gone.role, death)).or_default() += 1;
        let has_successor =
            self.members.iter().any(|it| it.slot == gone.slot && it.place == Place::Successor);
        let is_alone = self.serving(gone.role) == 0;
        let is_short = is_alone || death == Death::Killed;
        let limit = if is_short { DELAY_MAX_ALONE } else { DELAY_MAX };
        let Some(slot) = self.slots.get_mut(gone.slot) else { return };
        let next = slot.restart.ended(gone.started, now, chance(), limit);
        // Everybody waits for a helper that is not there, for a second at most.
        let next = if gone.role.is_helper() { next.min(now + HELPER_DELAY_MAX) } else { next };
        if slot.wanted && !has_successor {
            slot.start_at = Some(next);
        }
    }

    fn seats(&self) -> Vec<Seat> {
        let seat = |(index, slot): (usize, &Slot)| {
            let role = self.posts.get(slot.post).map(|post| post.role);
            let successor =
                self.members.iter().find(|it| it.slot == index && it.place == Place::Successor);
            Seat {
                wanted: slot.wanted && role.is_some_and(|role| !self.leaving.contains(&role)),
                holder: self.holder(index).map(|member| member.generation),
                successor: successor.map(|member| member.life.is_serving()),
            }
        };
        self.slots.iter().enumerate().map(seat).collect()
    }

    /// The successor holds the slot from now on; who held it finishes and leaves.
    fn hand_over(&mut self, slot: usize, now: Instant) {
        let held = self.members.iter().position(|it| it.slot == slot && it.place == Place::Holder);
        if let Some(index) = held {
            self.dismiss(index, now);
        }
        let successor = |it: &&mut Member| it.slot == slot && it.place == Place::Successor;
        if let Some(member) = self.members.iter_mut().find(successor) {
            member.place = Place::Holder;
        }
    }

    /// A worker is told to finish and to leave, and nobody comes in its place. A helper leaves a little later: everybody has
    /// its successor already, but may have asked it for something before.
    pub(super) fn dismiss(&mut self, index: usize, now: Instant) {
        let deadline = self.replace_drain.map(|limit| now + limit);
        let Some(member) = self.member_mut(index) else { return };
        member.place = Place::Leaving;
        if member.role.is_helper() && member.life.is_serving() {
            member.leaves_at = Some(now + HELPER_GRACE);
        } else {
            self.input(index, Input::Drain(deadline), now);
        }
    }

    /// Helpers that were replaced leave when their time has come.
    pub(super) fn see_off(&mut self, now: Instant) {
        for index in 0..self.members.len() {
            let is_due = |member: &&mut Member| member.leaves_at.is_some_and(|at| at <= now);
            if let Some(member) = self.member_mut(index).filter(is_due) {
                member.leaves_at = None;
                self.input(index, Input::Drain(Some(now + HELPER_GRACE)), now);
            }
        }
    }

    fn give_up(&mut self, reason: &str, happenings: &mut Vec<Happening>) {
        let Some(roll) = self.roll.take() else { return };
        for (post, former) in self.posts.iter_mut().zip(roll.former) {
            post.settings = former;
        }
        happenings.push(Happening::Replaced(Err(reason.to_owned())));
    }

    fn settings(&self) -> Vec<WorkerSettings> {
        self.posts.iter().map(|post| post.settings.clone()).collect()
    }
}
