//! Roles that run only while the projection asks for them: the cache while a policy keeps answers on this node, the export
//! role while there is an exporter. Their process comes with the first such resource and goes with the last; what it kept
//! goes with it.

use std::collections::BTreeSet;
use std::time::Instant;

use shared::id::Role;
use shared::message::ToWorker;
use shared::resource::{Kind, Resource};
use shared::update::Change;
use tracing::{error, info};

use super::{Fleet, Slot};
use crate::exporters::Exporters;

/// The policies that need the cache, by id. Pure.
#[derive(Debug, Default)]
pub struct CachePolicies(BTreeSet<String>);

impl CachePolicies {
    /// Takes in a change of the projection.
    pub fn apply(&mut self, whole: bool, changes: &[Change]) {
        if whole {
            self.0.clear();
        }
        for change in changes {
            match change {
                Change::Put(resource) => match &**resource {
                    Resource::CachePolicy(policy) if policy.in_redis => {
                        self.0.remove(&policy.id);
                    }
                    Resource::CachePolicy(policy) => {
                        self.0.insert(policy.id.clone());
                    }
                    _ => {}
                },
                Change::Delete(Kind::CachePolicy, id) => {
                    self.0.remove(id);
                }
                Change::Delete(..) => {}
            }
        }
    }

    /// How many cache workers are needed.
    pub fn workers(&self) -> usize {
        usize::from(!self.0.is_empty())
    }
}

impl Fleet {
    /// A change of the projection: what it asks for is started or told to leave where that changes whether it is needed.
    pub fn demand_changed(&mut self, whole: bool, changes: &[Change], now: Instant) {
        let before = (self.cache_policies.workers(), self.exporters.workers());
        self.cache_policies.apply(whole, changes);
        if self.exporters.apply(whole, changes) {
            self.tell_exporters();
        }
        let needed = (self.cache_policies.workers(), self.exporters.workers());
        if needed.0 != before.0 {
            match needed.0 {
                0 => info!("no cache policy keeps answers on this node any more: the cache leaves"),
                _ => info!("a cache policy keeps answers on this node: the cache is started"),
            }
            self.resize(Role::Cache, needed.0, now);
        }
        if needed.1 != before.1 {
            match needed.1 {
                0 => info!("nobody is told of traces any more: the export worker leaves"),
                _ => info!("an exporter wants traces: the export worker is started"),
            }
            self.resize(Role::Export, needed.1, now);
        }
    }

    fn resize(&mut self, role: Role, workers: usize, now: Instant) {
        let post = self.posts.iter().find(|post| post.role == role);
        if let Some(settings) = post.map(|post| post.settings.clone()) {
            self.configure(role, workers, settings, now);
        }
    }

    /// How many workers of a role there should be, if the settings say `configured`.
    pub(super) fn workers_of(&self, role: Role, configured: usize) -> usize {
        match role {
            Role::Cache => self.cache_policies.workers(),
            Role::Export => self.exporters.workers(),
            Role::Proxy | Role::Status | Role::Egress | Role::Signer => configured,
        }
    }

    /// Whether a slot is one that callers can do without: what is kept nowhere is asked of providers, and a trace that is
    /// sent to nobody fails no request.
    pub(super) fn is_dispensable(&self, slot: &Slot) -> bool {
        let role = self.posts.get(slot.post).map(|post| post.role);
        matches!(role, Some(Role::Cache | Role::Export))
    }

    /// The exporters, which are shared with whoever tells of them.
    pub fn with_exporters(self, exporters: Exporters) -> Self {
        Self { exporters, ..self }
    }

    /// The exporters, and how they are doing.
    pub fn exporters(&self) -> &Exporters {
        &self.exporters
    }

    /// Tells every export worker whom to send to.
    fn tell_exporters(&mut self) {
        let exporters = self.exporters.clone();
        let told = |member: &&mut super::Member| member.role == Role::Export && member.is_welcome();
        for member in self.members_mut().filter(told) {
            match exporters.seal() {
                Ok(memory) => member.hand_over(ToWorker::Exporters, memory),
                // With its next change it is told of this one as well.
                Err(error) => error!(%error, "cannot hand the exporters to the export worker"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::resource::{CachePolicy, CacheSubject};

    use super::*;

    fn put(id: &str, in_redis: bool) -> Change {
        Change::Put(Box::new(Resource::CachePolicy(CachePolicy {
            id: id.to_owned(),
            name: id.to_owned(),
            applies_to: CacheSubject::Everything,
            in_redis,
            generation: 0,
            is_shared: false,
            ttl_seconds: 60,
        })))
    }

    fn delete(kind: Kind, id: &str) -> Change {
        Change::Delete(kind, id.to_owned())
    }

    #[test]
    fn the_cache_is_needed_from_the_first_policy_of_this_node_to_the_last() {
        let mut policies = CachePolicies::default();
        let mut after = |whole, changes: &[Change]| {
            policies.apply(whole, changes);
            policies.workers()
        };
        assert_eq!(after(true, &[]), 0);
        assert_eq!(after(false, &[put("a", true)]), 0, "what Redis keeps needs no cache");
        assert_eq!(after(false, &[put("b", false), put("c", false)]), 1);
        assert_eq!(after(false, &[delete(Kind::CachePolicy, "b")]), 1);
        assert_eq!(after(false, &[delete(Kind::Model, "c")]), 1, "another kind's id");
        assert_eq!(after(false, &[put("c", true)]), 0, "it was moved to Redis");
        assert_eq!(after(false, &[put("c", false)]), 1);
        assert_eq!(after(true, &[put("a", true)]), 0, "a whole takes the place of everything");
    }
}
