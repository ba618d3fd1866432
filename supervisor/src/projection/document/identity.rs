//! `oidc_providers` and `claim_mappings`: callers with tokens of an identity provider. None can be validated yet: bearers
//! in the shape of such a token are refused while a provider is switched on.

use serde_json::Value;
use shared::resource::{OidcProvider, Resource};

use super::shape::Rule::{Bool, Choice, Either, Integer, List, Map, Object};
use super::shape::{
    ANY_TEXT, COUNT, Field, Rule, SOME_TEXTS, TEXT, TEXTS, field, is_enabled, needed, text,
};

/// An identity provider.
pub static PROVIDER: Rule = Object(&[
    needed("audiences", SOME_TEXTS),
    needed("issuer", TEXT),
    needed("name", TEXT),
    field("bound_claims", Map(&CLAIM)),
    field("enabled", Bool),
    field("identity_claim", TEXT),
    field("jwks_uri", TEXT),
    field("leeway_secs", Integer(0, 300)),
    field("required_scopes", TEXTS),
]);
static CLAIM: Rule = Either(&[ANY_TEXT, SOME_TEXTS], "a string or a list of at least one string");

/// Whose key a token stands for.
pub static CLAIM_MAPPING: Rule = Object(&[
    needed("jwt_provider", TEXT),
    needed("match", List(1, usize::MAX, &Object(MATCH))),
    needed("name", TEXT),
    needed("resolve", Object(RESOLVE)),
    field("enabled", Bool),
    field("priority", COUNT),
]);
static MATCH: &[Field] = &[
    needed("claim", TEXT),
    needed("op", Choice(&["exact", "contains"])),
    needed("values", SOME_TEXTS),
];
static RESOLVE: &[Field] = &[needed("api_key_id", TEXT)];

/// The provider, if it is switched on.
pub fn provider(id: &str, value: &Value) -> Option<Resource> {
    let name = text(value, "name")?.to_owned();
    is_enabled(value).then(|| {
        Resource::OidcProvider(OidcProvider { id: id.to_owned(), name, ..OidcProvider::default() })
    })
}
