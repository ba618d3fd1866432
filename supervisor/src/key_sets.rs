//! Keys of identity providers, as workers have fetched them: kept for workers that start later. Pure.
//!
//! What a worker says is kept only for a provider that there is, and only if it was fetched for what that provider's
//! document says now. It is not looked into.

use std::collections::BTreeMap;

use shared::key_set::KeySet;
use shared::resource::{Kind, Resource};
use shared::update::Change;

/// The latest keys of each provider.
#[derive(Debug, Default)]
pub struct KeySets {
    /// By the provider's id.
    providers: BTreeMap<String, Provider>,
}

#[derive(Debug)]
struct Provider {
    source: String,
    keys: Option<KeySet>,
}

impl KeySets {
    /// Takes in a change of the projection. A provider that is another than before has no keys any more.
    pub fn apply(&mut self, whole: bool, changes: &[Change]) {
        let mut before = if whole { std::mem::take(&mut self.providers) } else { BTreeMap::new() };
        for change in changes {
            match change {
                Change::Put(resource) => {
                    let Resource::OidcProvider(provider) = &**resource else { continue };
                    let source = provider.key_source();
                    let known = before.remove(&provider.id);
                    let known = known.or_else(|| self.providers.remove(&provider.id));
                    let keys = known.filter(|it| it.source == source).and_then(|it| it.keys);
                    self.providers.insert(provider.id.clone(), Provider { source, keys });
                }
                Change::Delete(Kind::OidcProvider, id) => drop(self.providers.remove(id)),
                Change::Delete(..) => {}
            }
        }
    }

    /// Keeps what a worker has fetched, in place of what was kept; `false` if there is no such provider.
    pub fn keep(&mut self, set: &KeySet) -> bool {
        let Some(provider) = self.providers.get_mut(&set.provider_id) else { return false };
        if provider.source != set.source || !set.fits() {
            return false;
        }
        provider.keys = Some(set.clone());
        true
    }

    /// All that is known.
    pub fn all(&self) -> impl Iterator<Item = &KeySet> {
        self.providers.values().filter_map(|provider| provider.keys.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use shared::key_set::KEY_SET_BYTES_MAX;
    use shared::resource::{KeySource, OidcProvider};

    use super::*;

    fn provider(id: &str, issuer: &str) -> OidcProvider {
        let keys = KeySource::of(issuer, None);
        OidcProvider { id: id.to_owned(), issuer: issuer.to_owned(), keys, ..Default::default() }
    }

    fn put(provider: &OidcProvider) -> Change {
        Change::Put(Box::new(Resource::OidcProvider(provider.clone())))
    }

    fn set(provider: &OidcProvider, at: u64) -> KeySet {
        KeySet {
            provider_id: provider.id.clone(),
            source: provider.key_source(),
            fetched_at_unix_ms: at,
            keys: b"{}".to_vec(),
        }
    }

    fn known(sets: &KeySets) -> Vec<(&str, u64)> {
        sets.all().map(|set| (set.provider_id.as_str(), set.fetched_at_unix_ms)).collect()
    }

    #[test]
    fn keys_are_kept_for_a_provider_that_there_is_until_it_changes_or_goes() {
        let (one, other) = (provider("o", "https://one"), provider("o", "https://other"));
        let mut sets = KeySets::default();
        assert!(!sets.keep(&set(&one, 1)), "nobody knows the provider");
        sets.apply(true, &[put(&one)]);
        assert!(sets.keep(&set(&one, 5)));
        assert!(!sets.keep(&set(&other, 9)), "fetched for what the document does not say");
        // The same again, as a whole and as a change.
        sets.apply(true, &[put(&one)]);
        sets.apply(false, &[put(&one)]);
        assert_eq!(known(&sets), [("o", 5)]);
        sets.apply(false, &[put(&other)]);
        assert_eq!(known(&sets), []);
        assert!(sets.keep(&set(&other, 6)));
        sets.apply(false, &[Change::Delete(Kind::OidcProvider, "o".to_owned())]);
        assert!(!sets.keep(&set(&other, 7)));
        assert_eq!(known(&sets), []);
    }

    #[test]
    fn a_whole_without_a_provider_takes_its_keys_away() {
        let (one, two) = (provider("o-1", "https://one"), provider("o-2", "https://two"));
        let mut sets = KeySets::default();
        sets.apply(true, &[put(&one), put(&two)]);
        assert!(sets.keep(&set(&one, 1)) && sets.keep(&set(&two, 2)));
        sets.apply(true, &[put(&two)]);
        assert_eq!(known(&sets), [("o-2", 2)]);
    }

    #[test]
    fn what_no_frame_to_a_worker_could_hold_is_not_kept() {
        let one = provider("o", "https://one");
        let mut sets = KeySets::default();
        sets.apply(true, &[put(&one)]);
        let mut large = set(&one, 1);
        large.keys = vec![b' '; KEY_SET_BYTES_MAX + 1];
        assert!(!sets.keep(&large));
    }
}
