//! What the fleet is asked about its workers: how many there are, how far they are, what they have in flight.

use shared::id::{Revision, Role, WorkerId};

use super::life::Life;
use super::member::{Death, Member, Place, Summary};
use super::{Fleet, Slot};

impl Fleet {
    /// Whether every proxy worker has answered the latest question, and none has anything in flight.
    pub fn is_idle(&self) -> bool {
        let mut proxies = self.members().filter(|member| member.role == Role::Proxy);
        proxies.all(|member| {
            !member.is_welcome() || (member.answered == self.round && member.in_flight == 0)
        })
    }

    /// What there is to tell about each running worker.
    pub fn summaries(&self) -> Vec<Summary> {
        let summary = |member: &Member| {
            let known = member.summary();
            Summary {
                user: known.uid.and_then(|uid| self.users.name(member.role, uid)),
                restarts: self.restarts(member.role),
                ..known
            }
        };
        self.members().map(summary).collect()
    }

    /// How many processes of a role there are.
    pub fn running(&self, role: Role) -> usize {
        self.members().filter(|member| member.role == role).count()
    }

    /// Requests in flight, as last told by each worker.
    pub fn in_flight(&self) -> u64 {
        self.members().map(|member| u64::from(member.in_flight)).sum()
    }

    /// Whether every slot that requests depend on has a worker that serves.
    pub fn is_complete(&self) -> bool {
        let wanted = |slot: &Slot| slot.wanted && !self.is_dispensable(slot);
        let mut wanted = self.slots.iter().enumerate().filter(|(_, slot)| wanted(slot));
        wanted.all(|(slot, _)| self.holder(slot).is_some_and(|member| member.life.is_serving()))
    }

    /// Proxy workers that hold a slot and accept connections, those that have answered everything first.
    pub fn proxies(&self) -> Vec<WorkerId> {
        let mut serving: Vec<_> = self
            .members()
            .filter(|member| member.role == Role::Proxy && member.place == Place::Holder)
            .filter_map(|member| match member.life {
                Life::Serving { unanswered } => Some((unanswered, member.id)),
                _ => None,
            })
            .collect();
        serving.sort_unstable();
        serving.into_iter().map(|(_, id)| id).collect()
    }

    /// How often a worker of a role was started in place of one that ended by itself.
    pub fn restarts(&self, role: Role) -> u64 {
        self.restarts_by_reason(role).map(|(_, count)| count).sum()
    }

    /// The same by why they had ended.
    pub fn restarts_by_reason(&self, role: Role) -> impl Iterator<Item = (&'static str, u64)> {
        let count = move |death| self.restarts.get(&(role, death)).copied().unwrap_or_default();
        Death::ALL.into_iter().map(move |death| (death.name(), count(death)))
    }

    /// How many workers of a role accept connections, without those that have been replaced.
    pub fn serving(&self, role: Role) -> usize {
        let serves = |member: &&Member| member.role == role && member.life.is_serving();
        self.members().filter(serves).filter(|member| member.place != Place::Leaving).count()
    }

    /// The revision that every serving proxy worker serves: `None` if there is none, or one of them has none yet, or
    /// still one of the time before the store was set back.
    pub fn applied(&self) -> Option<Revision> {
        let serving = || self.members().filter(|m| m.role == Role::Proxy && m.life.is_serving());
        if serving().any(|member| member.applied > member.latest) {
            return None;
        }
        serving().map(|member| member.applied).min().flatten()
    }
}
