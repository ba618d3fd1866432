//! The resources in force, found by what a request carries: the hash of a key, the name of a model, an id.
//!
//! A change costs the same however many resources there are. Where two resources claim one name or one key, the one with
//! the highest id is found, whatever the order of their arrival; when it goes, the other is found again.

mod index;
mod wildcard;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use shared::codec::CodecError;
use shared::egress::Key;
use shared::resource::{ApiKey, KeyHash, Kind, Model, ModelKind, ProviderKey, Resource};
use shared::update::Change;

use self::index::Index;
use self::wildcard::Wildcard;
use crate::Map;
use crate::cache::CachePolicies;
use crate::export::Wanted;
use crate::guards::Guards;
use crate::hooks;
use crate::identity::Directory;
use crate::limits::Policies;
use crate::request::Target;
use crate::routes::Routes;
use crate::upstream::Place;

/// Everything a proxy worker serves from.
#[derive(Debug, Default)]
pub struct Tables {
    provider_keys: Map<String, Rc<ProviderKey>>,
    /// Where they lead to, as far as it was asked for.
    places: RefCell<Map<String, Rc<Place>>>,
    /// What stands behind models, by their ids, as far as it was asked for.
    targets: RefCell<Map<String, Rc<Target>>>,
    models: Map<String, Rc<Model>>,
    models_by_name: Index<String, Model>,
    wildcards: BTreeMap<Wildcard, Rc<Model>>,
    /// Those whose health is looked at in the background, by id.
    checked_models: Map<String, Rc<Model>>,
    api_keys: Map<String, Rc<ApiKey>>,
    api_keys_by_hash: Index<KeyHash, ApiKey>,
    guards: Guards,
    cache_policies: CachePolicies,
    identities: Directory,
    policies: Policies,
    routes: Routes,
    traces_wanted: Wanted,
}

/// How many resources are in force after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Provider keys.
    pub provider_keys: usize,
    /// Models.
    pub models: usize,
    /// Caller keys.
    pub api_keys: usize,
}

/// A model by the name that a caller sent.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundModel {
    /// The model.
    pub model: Rc<Model>,
    /// What the caller's name has in place of the `*` of the model's; `None` for a name without one.
    pub captured: Option<String>,
}

impl Tables {
    /// Takes changes over: in place of everything (`whole`), or on top of what is there.
    ///
    /// # Errors
    /// If a change cannot be read, nothing of the sequence is taken over.
    pub fn apply(
        &mut self,
        whole: bool,
        changes: impl Iterator<Item = Result<Change, CodecError>>,
    ) -> Result<Applied, CodecError> {
        if whole {
            let mut tables = Self::default();
            for change in changes {
                tables.change(change?);
            }
            *self = tables;
        } else {
            for change in changes.collect::<Result<Vec<_>, _>>()? {
                self.change(change);
            }
        }
        Ok(Applied {
            provider_keys: self.provider_keys.len(),
            models: self.models.len(),
            api_keys: self.api_keys.len(),
        })
    }

    /// The provider key of that id.
    pub fn provider_key(&self, id: &str) -> Option<Rc<ProviderKey>> {
        self.provider_keys.get(id).cloned()
    }

    /// Where the provider key leads to; `None` without an endpoint.
    pub fn place(&self, provider_key: &ProviderKey) -> Option<Rc<Place>> {
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get(&provider_key.id) {
            return Some(place.clone());
        }
        let key = Key::provider(&provider_key.id);
        let endpoint = provider_key.endpoint.clone()?;
        let place = Rc::new(Place::new(key, endpoint, provider_key.tls.clone()));
        places.insert(provider_key.id.clone(), place.clone());
        Some(place)
    }

    /// What stands behind a model that was found here: `make` finds it out, once as long as no model and no provider key changes.
    ///
    /// # Errors
    /// That of `make`.
    pub fn target<E>(
        &self,
        model: &Rc<Model>,
        make: impl FnOnce() -> Result<Rc<Target>, E>,
    ) -> Result<Rc<Target>, E> {
        let known = self.targets.borrow().get(&model.id).cloned();
        // A request may still hold a model that has changed since.
        if let Some(target) = known.filter(|target| Rc::ptr_eq(&target.model, model)) {
            return Ok(target);
        }
        let target = make()?;
        if self.models.get(&model.id).is_some_and(|known| Rc::ptr_eq(known, model)) {
            self.targets.borrow_mut().insert(model.id.clone(), target.clone());
        }
        Ok(target)
    }

    /// The caller key that hashes to `hash`.
    pub fn api_key(&self, hash: &KeyHash) -> Option<Rc<ApiKey>> {
        self.api_keys_by_hash.get(hash).cloned()
    }

    /// The model a caller means by `name`: the one of exactly that name, else the wildcard with the longest literal part.
    pub fn model(&self, name: &str) -> Option<FoundModel> {
        if let Some(model) = self.models_by_name.get(name) {
            return Some(FoundModel { model: model.clone(), captured: None });
        }
        self.wildcards.iter().find_map(|(wildcard, model)| {
            let captured = Some(wildcard.capture(name)?.to_owned());
            Some(FoundModel { model: model.clone(), captured })
        })
    }

    /// The models that have a name of their own, each name once, in no particular order.
    pub fn named_models(&self) -> impl Iterator<Item = &Rc<Model>> {
        self.models_by_name.found()
    }

    /// The caller key of that id.
    pub fn api_key_of_id(&self, id: &str) -> Option<Rc<ApiKey>> {
        self.api_keys.get(id).cloned()
    }

    /// Who vouches for callers, and for whom.
    pub fn identities(&self) -> &Directory {
        &self.identities
    }

    /// The direct models whose health is looked at in the background; a wildcard stands for none in particular.
    pub fn checked_models(&self) -> impl Iterator<Item = &Rc<Model>> {
        self.checked_models.values()
    }

    /// The passthrough routes.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Who wants to be told of requests.
    pub fn traces_wanted(&self) -> &Wanted {
        &self.traces_wanted
    }

    /// What guards traffic and cannot be enforced.
    pub fn guards(&self) -> &Guards {
        &self.guards
    }

    /// When answers are given again.
    pub fn cache_policies(&self) -> &CachePolicies {
        &self.cache_policies
    }

    /// The rate limit policies.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    fn change(&mut self, change: Change) {
        hooks::applying(&change);
        let kind = match &change {
            Change::Put(resource) => resource.kind(),
            Change::Delete(kind, _) => *kind,
        };
        if matches!(kind, Kind::Model | Kind::ProviderKey) {
            self.targets.get_mut().clear();
        }
        match change {
            Change::Put(resource) => match *resource {
                Resource::ProviderKey(provider_key) => {
                    self.places.get_mut().remove(&provider_key.id);
                    self.provider_keys.insert(provider_key.id.clone(), Rc::new(provider_key));
                }
                Resource::Model(model) => self.put_model(Rc::new(model)),
                Resource::ApiKey(api_key) => self.put_api_key(Rc::new(api_key)),
                Resource::Guardrail(guardrail) => self.guards.put_guardrail(guardrail),
                Resource::GuardrailAttachment(row) => self.guards.put_attachment(row),
                Resource::RateLimitPolicy(policy) => {
                    self.guards.delete(Kind::RateLimitPolicy, &policy.id);
                    if let Err(policy) = self.policies.put(policy) {
                        self.guards.put_policy(*policy);
                    }
                }
                Resource::OidcProvider(provider) => self.identities.put_provider(provider),
                Resource::ClaimMapping(mapping) => self.identities.put_mapping(mapping),
                Resource::CachePolicy(policy) => self.cache_policies.put(policy),
                Resource::Exporter(exporter) => self.traces_wanted.put(exporter),
                Resource::PassthroughRoute(route) => self.routes.put(route),
            },
            Change::Delete(Kind::ProviderKey, id) => {
                self.places.get_mut().remove(&id);
                self.provider_keys.remove(&id);
            }
            Change::Delete(Kind::Model, id) => self.delete_model(&id),
            Change::Delete(Kind::ApiKey, id) => self.delete_api_key(&id),
            Change::Delete(Kind::CachePolicy, id) => self.cache_policies.delete(&id),
            Change::Delete(Kind::Exporter, id) => self.traces_wanted.delete(&id),
            Change::Delete(Kind::OidcProvider, id) => self.identities.delete_provider(&id),
            Change::Delete(Kind::ClaimMapping, id) => self.identities.delete_mapping(&id),
            Change::Delete(Kind::RateLimitPolicy, id) => {
                self.policies.delete(&id);
                self.guards.delete(Kind::RateLimitPolicy, &id);
            }
            Change::Delete(Kind::PassthroughRoute, id) => self.routes.delete(&id),
            Change::Delete(guard, id) => self.guards.delete(guard, &id),
        }
    }

    fn put_model(&mut self, model: Rc<Model>) {
        self.delete_model(&model.id);
        match Wildcard::of(&model) {
            Some(wildcard) => drop(self.wildcards.insert(wildcard, model.clone())),
            None => {
                if matches!(&model.kind, ModelKind::Direct(direct) if direct.background_check.is_some())
                {
                    self.checked_models.insert(model.id.clone(), model.clone());
                }
                self.models_by_name.insert(model.display_name.clone(), model.clone());
            }
        }
        self.models.insert(model.id.clone(), model);
    }

    fn delete_model(&mut self, id: &str) {
        let Some(model) = self.models.remove(id) else { return };
        self.checked_models.remove(id);
        match Wildcard::of(&model) {
            Some(wildcard) => drop(self.wildcards.remove(&wildcard)),
            None => self.models_by_name.remove(&model.display_name, id),
        }
    }

    fn put_api_key(&mut self, api_key: Rc<ApiKey>) {
        self.delete_api_key(&api_key.id);
        if let Some(hash) = api_key.key_hash {
            self.api_keys_by_hash.insert(hash, api_key.clone());
        }
        self.identities.put_key(&api_key);
        self.api_keys.insert(api_key.id.clone(), api_key);
    }

    fn delete_api_key(&mut self, id: &str) {
        let Some(api_key) = self.api_keys.remove(id) else { return };
        if let Some(hash) = api_key.key_hash {
            self.api_keys_by_hash.remove(&hash, id);
        }
        self.identities.delete_key(&api_key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::resource::DirectModel;

    use super::*;

    fn model(id: &str, name: &str) -> Resource {
        Resource::Model(Model {
            id: id.to_owned(),
            display_name: name.to_owned(),
            kind: ModelKind::Direct(Box::new(DirectModel {
                provider: "openai".to_owned(),
                model_name: "upstream".to_owned(),
                provider_key_id: "pk".to_owned(),
                ..DirectModel::default()
            })),
            ..Model::default()
        })
    }

    fn api_key(id: &str, hash: u8) -> Resource {
        Resource::ApiKey(ApiKey {
            id: id.to_owned(),
            key_hash: Some([hash; 32]),
            ..ApiKey::default()
        })
    }

    fn put(resource: Resource) -> Change {
        Change::Put(Box::new(resource))
    }

    fn apply(tables: &mut Tables, changes: Vec<Change>) {
        tables.apply(false, changes.into_iter().map(Ok)).unwrap();
    }

    fn found(tables: &Tables, name: &str) -> Option<(String, Option<String>)> {
        tables.model(name).map(|found| (found.model.id.clone(), found.captured))
    }

    #[test]
    fn of_two_with_one_name_the_highest_id_is_found_and_its_end_reveals_the_other() {
        for order in [["m-1", "m-2"], ["m-2", "m-1"]] {
            let mut tables = Tables::default();
            apply(&mut tables, order.map(|id| put(model(id, "chat"))).into());
            assert_eq!(found(&tables, "chat").unwrap().0, "m-2");
            apply(&mut tables, vec![Change::Delete(Kind::Model, "m-2".to_owned())]);
            assert_eq!(found(&tables, "chat").unwrap().0, "m-1");
        }
    }

    #[test]
    fn a_resource_that_changes_its_name_or_hash_is_not_found_by_the_old_one() {
        let mut tables = Tables::default();
        apply(&mut tables, vec![put(model("m", "old")), put(api_key("k", 1))]);
        apply(&mut tables, vec![put(model("m", "new-*")), put(api_key("k", 2))]);
        assert_eq!(found(&tables, "old"), None);
        assert_eq!(found(&tables, "new-1"), Some(("m".to_owned(), Some("1".to_owned()))));
        assert_eq!(tables.api_key(&[1; 32]), None);
        assert!(tables.api_key(&[2; 32]).is_some());
    }

    #[test]
    fn an_exact_name_goes_first_and_then_the_longest_literal_part() {
        let mut tables = Tables::default();
        let names = [("a", "*"), ("b", "gpt-*"), ("c", "gpt-*-mini"), ("d", "gpt-4o-mini")];
        apply(&mut tables, names.map(|(id, name)| put(model(id, name))).into());
        let ids = ["gpt-4o-mini", "gpt-5-mini", "gpt-mini", "gpt-", "claude"]
            .map(|name| found(&tables, name).unwrap());
        let captured = |text: &str| Some(text.to_owned());
        assert_eq!(ids[0], ("d".to_owned(), None));
        assert_eq!(ids[1], ("c".to_owned(), captured("5")));
        assert_eq!(ids[2], ("b".to_owned(), captured("mini")));
        assert_eq!(ids[3], ("b".to_owned(), captured("")));
        assert_eq!(ids[4], ("a".to_owned(), captured("claude")));
    }

    #[test]
    fn a_sequence_that_cannot_be_read_to_its_end_changes_nothing() {
        for whole in [true, false] {
            let mut tables = Tables::default();
            apply(&mut tables, vec![put(model("m", "chat"))]);
            let changes = [Ok(put(model("n", "other"))), Err(CodecError::TrailingBytes(1))];
            assert!(tables.apply(whole, changes.into_iter()).is_err());
            assert!(found(&tables, "chat").is_some());
            assert!(found(&tables, "other").is_none());
        }
    }

    #[test]
    fn a_whole_takes_the_place_of_everything() {
        let mut tables = Tables::default();
        apply(&mut tables, vec![put(model("m", "chat")), put(api_key("k", 1))]);
        let applied = tables.apply(true, [Ok(put(model("n", "other")))].into_iter()).unwrap();
        assert_eq!(applied, Applied { models: 1, ..Applied::default() });
        assert!(found(&tables, "chat").is_none());
        assert!(tables.api_key(&[1; 32]).is_none());
    }

    proptest! {
        #[test]
        fn what_is_found_does_not_depend_on_the_way_there(
            steps in prop::collection::vec((0..5u8, 0..4u8, any::<bool>()), 0..40),
        ) {
            let names = ["a", "a*", "*a", "*"];
            let (mut tables, mut last) = (Tables::default(), BTreeMap::new());
            for (id, name, is_put) in steps {
                let (id, name) = (format!("m-{id}"), names[usize::from(name)]);
                if is_put {
                    apply(&mut tables, vec![put(model(&id, name))]);
                    last.insert(id, name);
                } else {
                    apply(&mut tables, vec![Change::Delete(Kind::Model, id.clone())]);
                    last.remove(&id);
                }
            }
            let mut direct = Tables::default();
            apply(&mut direct, last.iter().map(|(id, name)| put(model(id, name))).collect());
            for name in ["a", "ab", "ba", "b", "aa"] {
                prop_assert_eq!(found(&tables, name), found(&direct, name));
            }
        }
    }
}
