//! The cache runs only while a policy of the projection keeps answers on this node: its process comes with the first such
//! policy and goes with the last. What it kept goes with it.

use std::collections::BTreeSet;
use std::time::Instant;

use shared::id::Role;
use shared::resource::{Kind, Resource};
use shared::update::Change;
use tracing::info;

use super::{Fleet, Slot};

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
    /// A change of the projection: the cache is started or told to leave where that changes whether it is needed.
    pub fn cache_policies_changed(&mut self, whole: bool, changes: &[Change], now: Instant) {
        let before = self.cache_policies.workers();
        self.cache_policies.apply(whole, changes);
        let workers = self.cache_policies.workers();
        if workers == before {
            return;
        }
        match workers {
            0 => info!("no cache policy keeps answers on this node any more: the cache leaves"),
            _ => info!("a cache policy keeps answers on this node: the cache is started"),
        }
        let post = self.posts.iter().find(|post| post.role == Role::Cache);
        if let Some(settings) = post.map(|post| post.settings.clone()) {
            self.configure(Role::Cache, workers, settings, now);
        }
    }

    /// How many workers of a role there should be, if the settings say `configured`.
    pub(super) fn workers_of(&self, role: Role, configured: usize) -> usize {
        if role == Role::Cache { self.cache_policies.workers() } else { configured }
    }

    /// Whether a slot is one that callers can do without: what is kept nowhere is asked of providers.
    pub(super) fn is_dispensable(&self, slot: &Slot) -> bool {
        self.posts.get(slot.post).is_some_and(|post| post.role == Role::Cache)
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
