//! `oidc_providers` and `claim_mappings`: callers with tokens of an identity provider.

use serde_json::Value;
use shared::resource::{ClaimCondition, ClaimMapping, KeySource, OidcProvider, Resource};

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
    if !is_enabled(value) {
        return None;
    }
    let issuer = text(value, "issuer")?;
    let bound = value.get("bound_claims").and_then(Value::as_object);
    Some(Resource::OidcProvider(OidcProvider {
        id: id.to_owned(),
        name: text(value, "name")?.to_owned(),
        issuer: issuer.to_owned(),
        audiences: texts(value.get("audiences")),
        keys: KeySource::of(issuer, text(value, "jwks_uri")),
        identity_claim: text(value, "identity_claim").unwrap_or("sub").to_owned(),
        leeway_secs: number(value, "leeway_secs"),
        required_scopes: texts(value.get("required_scopes")),
        bound_claims: bound
            .into_iter()
            .flatten()
            .map(|(claim, values)| (claim.clone(), texts(Some(values))))
            .collect(),
    }))
}

/// The mapping, if it is switched on.
pub fn claim_mapping(id: &str, value: &Value) -> Option<Resource> {
    if !is_enabled(value) {
        return None;
    }
    let conditions = value.get("match")?.as_array()?.iter().map(|condition| {
        Some(ClaimCondition {
            claim: text(condition, "claim")?.to_owned(),
            contains: text(condition, "op")? == "contains",
            values: texts(condition.get("values")),
        })
    });
    Some(Resource::ClaimMapping(ClaimMapping {
        id: id.to_owned(),
        name: text(value, "name")?.to_owned(),
        jwt_provider: text(value, "jwt_provider")?.to_owned(),
        // With one condition less it would match others.
        conditions: conditions.collect::<Option<_>>()?,
        priority: number(value, "priority"),
        api_key_id: text(value.get("resolve")?, "api_key_id")?.to_owned(),
    }))
}

/// A text, or each of a list.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_provider_has_the_published_defaults() {
        let document =
            json!({"name": "corp", "issuer": "https://id.example.com", "audiences": ["a"]});
        let Some(Resource::OidcProvider(provider)) = provider("o", &document) else { panic!() };
        assert_eq!((provider.identity_claim.as_str(), provider.leeway_secs), ("sub", 0));
        let place = "https://id.example.com/.well-known/openid-configuration";
        assert_eq!(provider.keys.to_string(), place);
    }

    #[test]
    fn a_provider_is_read_in_full() {
        let document = json!({
            "name": "corp", "issuer": "https://id.example.com", "audiences": ["a", "b"],
            "jwks_uri": "https://keys.example.com/k?p=1", "identity_claim": "act.sub",
            "leeway_secs": 30, "required_scopes": ["llm"],
            "bound_claims": {"realm_access.roles": ["dev", "ops"], "tid": "t"},
        });
        let Some(Resource::OidcProvider(provider)) = provider("o", &document) else { panic!() };
        assert_eq!(provider.audiences, ["a", "b"]);
        assert_eq!(provider.keys.to_string(), "https://keys.example.com/k?p=1");
        assert_eq!((provider.identity_claim.as_str(), provider.leeway_secs), ("act.sub", 30));
        assert_eq!(provider.required_scopes, ["llm"]);
        let values = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let roles = ("realm_access.roles".to_owned(), values(&["dev", "ops"]));
        assert_eq!(provider.bound_claims, [roles, ("tid".to_owned(), values(&["t"]))]);
    }

    #[test]
    fn a_mapping_is_read_in_full_and_one_that_is_switched_off_is_none() {
        let mut document = json!({
            "name": "devs", "jwt_provider": "corp", "priority": 7,
            "match": [{"claim": "groups", "op": "contains", "values": ["dev"]},
                      {"claim": "tid", "op": "exact", "values": ["t"]}],
            "resolve": {"api_key_id": "k-1"},
        });
        let Some(Resource::ClaimMapping(mapping)) = claim_mapping("c", &document) else { panic!() };
        assert_eq!((mapping.priority, mapping.api_key_id.as_str()), (7, "k-1"));
        let contains: Vec<_> = mapping.conditions.iter().map(|it| it.contains).collect();
        assert_eq!(contains, [true, false]);
        document["enabled"] = json!(false);
        assert_eq!(claim_mapping("c", &document), None);
    }
}
