//! The cache policies in force, and which of them a request is under: the one for its key, else the one for its model, else
//! the one for everything; of several of a kind the one with the lowest id.

use std::collections::BTreeMap;
use std::rc::Rc;

use shared::resource::{CachePolicy, CacheSubject};

/// Policies by id.
#[derive(Debug, Default)]
pub struct CachePolicies(BTreeMap<String, Rc<CachePolicy>>);

impl CachePolicies {
    /// Takes a policy in, in place of any of that id.
    pub fn put(&mut self, policy: CachePolicy) {
        self.0.insert(policy.id.clone(), Rc::new(policy));
    }

    /// Takes a policy away.
    pub fn delete(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// The policy for requests of a caller key for a model, which has one of these names.
    pub fn find(&self, api_key_id: &str, names: [&str; 2]) -> Option<&Rc<CachePolicy>> {
        let rank = |policy: &CachePolicy| match &policy.applies_to {
            CacheSubject::ApiKey(id) => (id == api_key_id).then_some(0),
            CacheSubject::Model(name) => names.contains(&name.as_str()).then_some(1),
            CacheSubject::Everything => Some(2),
            CacheSubject::Nothing => None,
        };
        // The first of those that are ranked alike: they are in the order of their ids.
        let ranked = self.0.values().filter_map(|policy| Some((rank(policy)?, policy)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, policy)| policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(all: &[(&str, CacheSubject)]) -> CachePolicies {
        let mut policies = CachePolicies::default();
        for (id, applies_to) in all {
            policies.put(CachePolicy {
                id: (*id).to_owned(),
                name: format!("name of {id}"),
                applies_to: applies_to.clone(),
                in_redis: false,
                generation: 0,
                is_shared: false,
                ttl_seconds: 60,
            });
        }
        policies
    }

    #[test]
    fn the_narrowest_policy_counts_and_of_two_alike_the_lowest_id() {
        let model = CacheSubject::Model("chat".to_owned());
        let key = CacheSubject::ApiKey("k-1".to_owned());
        let mut policies = policies(&[
            ("a", CacheSubject::Nothing),
            ("b", CacheSubject::Everything),
            ("c", CacheSubject::Everything),
            ("d", model),
            ("e", key),
        ]);
        let found = |policies: &CachePolicies, key, names| {
            policies.find(key, names).map(|policy| policy.id.clone())
        };
        let is = |id: &str| Some(id.to_owned());
        assert_eq!(found(&policies, "k-1", ["chat", "chat"]), is("e"));
        assert_eq!(found(&policies, "k-2", ["chat", "c*"]), is("d"), "the name the caller sent");
        assert_eq!(found(&policies, "k-2", ["other", "chat"]), is("d"), "the model's own");
        assert_eq!(found(&policies, "k-2", ["other", "other"]), is("b"));
        policies.delete("b");
        policies.delete("c");
        assert_eq!(found(&policies, "k-2", ["other", "other"]), None);
    }
}
