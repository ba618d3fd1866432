//! The identity providers in force, and whose key an identity stands for.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde_json::Value;
use shared::resource::{ApiKey, ClaimMapping, JwtBinding, OidcProvider};

use super::{Identity, Rejection, claims};

/// Who vouches for callers, and for whom. A change costs the same however many there are.
#[derive(Debug, Default)]
pub struct Directory {
    providers: BTreeMap<String, Rc<OidcProvider>>,
    /// By provider, priority, name and id: in the order in which they are tried.
    mappings: BTreeMap<(String, u64, String, String), Rc<ClaimMapping>>,
    mapping_places: HashMap<String, (String, u64, String, String)>,
    /// Caller keys by whom they are bound to, then by id.
    bindings: HashMap<JwtBinding, BTreeMap<String, Rc<ApiKey>>>,
}

/// Where an identity leads to.
#[derive(Debug)]
pub enum Found {
    /// To a caller key that is bound to it.
    Bound(Rc<ApiKey>),
    /// By a mapping, which names a caller key.
    Mapped(Rc<ClaimMapping>),
}

impl Directory {
    /// Whether bearers in the shape of a token are tokens.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Every provider.
    pub fn providers(&self) -> impl Iterator<Item = &Rc<OidcProvider>> {
        self.providers.values()
    }

    /// The provider of that id.
    pub fn provider(&self, id: &str) -> Option<&Rc<OidcProvider>> {
        self.providers.get(id)
    }

    /// The one provider with this issuer, byte for byte. Where two claim it nobody can tell whose rules hold.
    pub fn of_issuer(&self, issuer: &str) -> Result<Rc<OidcProvider>, Rejection> {
        let mut found = self.providers.values().filter(|provider| provider.issuer == issuer);
        match (found.next(), found.next()) {
            (Some(provider), None) => Ok(provider.clone()),
            _ => Err(Rejection::UntrustedIssuer),
        }
    }

    /// Where claims that the provider has vouched for lead to: to the key that is bound to the identity, else by the first
    /// mapping that fits. A binding that cannot be told for sure is never passed over in favour of a mapping.
    pub fn find(
        &self,
        provider: &OidcProvider,
        claims: &Value,
    ) -> Result<(Found, Identity), Rejection> {
        let subject = claims::subject(provider, claims)?.to_owned();
        let identity =
            Identity { subject: subject.clone(), provider: provider.name.clone(), mapping: None };
        let binding = JwtBinding { provider: provider.name.clone(), subject };
        if let Some(keys) = self.bindings.get(&binding) {
            let mut keys = keys.values();
            return match (keys.next(), keys.next()) {
                (Some(key), None) => Ok((Found::Bound(key.clone()), identity)),
                _ => Err(Rejection::BindingAmbiguous),
            };
        }
        let fits = |mapping: &&Rc<ClaimMapping>| {
            mapping.conditions.iter().all(|condition| claims::holds(condition, claims))
        };
        let first = (provider.name.clone(), 0, String::new(), String::new());
        let mut mappings = self.mappings.range(first..).map(|(_, mapping)| mapping);
        let found = mappings.by_ref().take_while(|it| it.jwt_provider == provider.name).find(fits);
        let mapping = found.ok_or(Rejection::IdentityUnmapped)?;
        let identity = Identity { mapping: Some(mapping.name.clone()), ..identity };
        Ok((Found::Mapped(mapping.clone()), identity))
    }

    /// A provider is there from now on.
    pub fn put_provider(&mut self, provider: OidcProvider) {
        self.providers.insert(provider.id.clone(), Rc::new(provider));
    }

    /// It is not there any more.
    pub fn delete_provider(&mut self, id: &str) {
        self.providers.remove(id);
    }

    /// A mapping is there from now on.
    pub fn put_mapping(&mut self, mapping: ClaimMapping) {
        self.delete_mapping(&mapping.id);
        let ClaimMapping { jwt_provider, priority, name, id, .. } = &mapping;
        let place = (jwt_provider.clone(), *priority, name.clone(), id.clone());
        self.mapping_places.insert(id.clone(), place.clone());
        self.mappings.insert(place, Rc::new(mapping));
    }

    /// It is not there any more.
    pub fn delete_mapping(&mut self, id: &str) {
        if let Some(place) = self.mapping_places.remove(id) {
            self.mappings.remove(&place);
        }
    }

    /// A caller key is there from now on.
    pub fn put_key(&mut self, key: &Rc<ApiKey>) {
        if let Some(binding) = &key.jwt {
            self.bindings.entry(binding.clone()).or_default().insert(key.id.clone(), key.clone());
        }
    }

    /// It is not there any more.
    pub fn delete_key(&mut self, key: &ApiKey) {
        let Some(binding) = &key.jwt else { return };
        let Some(keys) = self.bindings.get_mut(binding) else { return };
        keys.remove(&key.id);
        if keys.is_empty() {
            self.bindings.remove(binding);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::resource::ClaimCondition;

    use super::*;

    fn provider(id: &str, name: &str, issuer: &str) -> OidcProvider {
        OidcProvider {
            id: id.to_owned(),
            name: name.to_owned(),
            issuer: issuer.to_owned(),
            identity_claim: "sub".to_owned(),
            ..OidcProvider::default()
        }
    }

    fn key(id: &str, provider: &str, subject: &str) -> Rc<ApiKey> {
        let jwt = JwtBinding { provider: provider.to_owned(), subject: subject.to_owned() };
        Rc::new(ApiKey { id: id.to_owned(), jwt: Some(jwt), ..ApiKey::default() })
    }

    fn mapping(id: &str, name: &str, priority: u64, provider: &str, group: &str) -> ClaimMapping {
        ClaimMapping {
            id: id.to_owned(),
            name: name.to_owned(),
            jwt_provider: provider.to_owned(),
            conditions: vec![ClaimCondition {
                claim: "groups".to_owned(),
                contains: true,
                values: vec![group.to_owned()],
            }],
            priority,
            api_key_id: format!("k-{id}"),
        }
    }

    fn found(directory: &Directory, provider: &OidcProvider, claims: &Value) -> String {
        match directory.find(provider, claims) {
            Ok((Found::Bound(key), _)) => key.id.clone(),
            Ok((Found::Mapped(mapping), identity)) => {
                assert_eq!(identity.mapping.as_deref(), Some(mapping.name.as_str()));
                mapping.api_key_id.clone()
            }
            Err(rejection) => rejection.reason().to_owned(),
        }
    }

    #[test]
    fn an_issuer_is_a_providers_byte_for_byte_and_of_one_only() {
        let mut directory = Directory::default();
        directory.put_provider(provider("o-1", "a", "https://id"));
        assert_eq!(directory.of_issuer("https://id").unwrap().id, "o-1");
        for other in ["https://id/", "https://ID", "https://i", ""] {
            assert_eq!(directory.of_issuer(other), Err(Rejection::UntrustedIssuer), "{other}");
        }
        directory.put_provider(provider("o-2", "b", "https://id"));
        assert_eq!(directory.of_issuer("https://id"), Err(Rejection::UntrustedIssuer));
        directory.delete_provider("o-1");
        assert_eq!(directory.of_issuer("https://id").unwrap().id, "o-2");
    }

    #[test]
    fn a_key_is_bound_to_a_subject_of_its_own_provider_and_two_keys_of_one_subject_are_refused() {
        let mut directory = Directory::default();
        let (a, b) = (provider("o-1", "a", "x"), provider("o-2", "b", "y"));
        let claims = json!({"sub": "alice"});
        directory.put_key(&key("k-1", "a", "alice"));
        assert_eq!(found(&directory, &a, &claims), "k-1");
        assert_eq!(found(&directory, &b, &claims), "jwt_identity_unmapped");
        // Not even a mapping that fits helps.
        directory.put_mapping(mapping("1", "m", 0, "a", "dev"));
        directory.put_key(&key("k-2", "a", "alice"));
        let claims = json!({"sub": "alice", "groups": ["dev"]});
        assert_eq!(found(&directory, &a, &claims), "jwt_binding_ambiguous");
        directory.delete_key(&key("k-1", "a", "alice"));
        assert_eq!(found(&directory, &a, &claims), "k-2");
        directory.delete_key(&key("k-2", "a", "alice"));
        assert_eq!(found(&directory, &a, &claims), "k-1");
    }

    #[test]
    fn mappings_of_the_provider_are_tried_by_priority_and_then_by_name() {
        let mut directory = Directory::default();
        let a = provider("o-1", "a", "x");
        let claims = json!({"sub": "s", "groups": ["dev", "ops"]});
        directory.put_mapping(mapping("1", "z", 5, "a", "dev"));
        assert_eq!(found(&directory, &a, &claims), "k-1");
        directory.put_mapping(mapping("2", "y", 5, "a", "ops"));
        assert_eq!(found(&directory, &a, &claims), "k-2");
        directory.put_mapping(mapping("3", "zz", 1, "a", "dev"));
        directory.put_mapping(mapping("4", "b", 0, "a", "none of them"));
        directory.put_mapping(mapping("5", "b", 0, "another", "dev"));
        assert_eq!(found(&directory, &a, &claims), "k-3");
        // Another place of the same one, and its end.
        directory.put_mapping(mapping("3", "zz", 9, "a", "dev"));
        assert_eq!(found(&directory, &a, &claims), "k-2");
        directory.delete_mapping("2");
        assert_eq!(found(&directory, &a, &claims), "k-1");
        assert_eq!(found(&directory, &a, &json!({"sub": "s"})), "jwt_identity_unmapped");
        assert_eq!(
            found(&directory, &a, &json!({"groups": ["dev"]})),
            "jwt_identity_claim_missing"
        );
    }
}
