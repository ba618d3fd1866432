//! `cache_policies`: when an answer may be given again. Only identical requests are recognised: what a policy says about
//! similar ones (`semantic`) is reported as not honoured, and so is a subject that nobody knows.

use serde_json::Value;
use shared::resource::{CachePolicy, CacheSubject, Resource};

use super::shape::Rule::{Bool, Choice, Count32, Integer, Number, Object, Text};
use super::shape::{COUNT, Field, Rule, TEXT, check, field, is_enabled, needed, text};
use super::{Document, Refusal};

/// For how long an answer is good where the policy does not say.
const TTL_SECONDS: u32 = 3600;

static CACHE_POLICY: Rule = Object(&[
    needed("name", Text(1, 120)),
    field("applies_to", Text(1, 255)),
    field("backend", Choice(&["memory", "redis"])),
    field("enabled", Bool),
    field("purge_generation", Count32),
    field("scope", Choice(&["api_key", "env"])),
    field("semantic", Object(SEMANTIC)),
    field("ttl_seconds", Integer(1, 604_800)),
]);
static SEMANTIC: &[Field] = &[
    needed("embedding_model", TEXT),
    needed("threshold", Number(0.0, 1.0)),
    field("embedding_timeout_ms", COUNT),
    field("max_entries", Integer(1, 10_000)),
];

/// The policy `id`. One that is switched off asks for nothing.
pub fn read(id: &str, value: &Value) -> Result<Document, Refusal> {
    let mut fields = check(value, &CACHE_POLICY)?;
    let name = text(value, "name").unwrap_or_default().to_owned();
    if !is_enabled(value) {
        return Ok(Document { resource: None, name: Some(name), fields });
    }
    let applies_to = subject(text(value, "applies_to").unwrap_or("all"));
    if applies_to == CacheSubject::Nothing {
        fields.push("applies_to".to_owned());
    }
    if value.get("semantic").is_some() {
        fields.push("semantic".to_owned());
    }
    let number = |field: &str| value.get(field)?.as_u64().and_then(|it| u32::try_from(it).ok());
    let policy = CachePolicy {
        id: id.to_owned(),
        name: name.clone(),
        applies_to,
        in_redis: text(value, "backend") == Some("redis"),
        generation: number("purge_generation").unwrap_or_default(),
        is_shared: text(value, "scope") == Some("env"),
        ttl_seconds: number("ttl_seconds").unwrap_or(TTL_SECONDS),
    };
    Ok(Document { resource: Some(Resource::CachePolicy(policy)), name: Some(name), fields })
}

fn subject(text: &str) -> CacheSubject {
    match text.split_once(':') {
        None if text == "all" => CacheSubject::Everything,
        Some(("model", name)) if !name.is_empty() => CacheSubject::Model(name.to_owned()),
        Some(("api_key", id)) if !id.is_empty() => CacheSubject::ApiKey(id.to_owned()),
        _ => CacheSubject::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(value: Value) -> (CachePolicy, Vec<String>) {
        let document = read("c-1", &value).unwrap();
        let Some(Resource::CachePolicy(policy)) = document.resource else { panic!() };
        (policy, document.fields)
    }

    #[test]
    fn what_a_policy_does_not_say_is_the_published_default() {
        let (policy, fields) = policy(json!({"name": "p"}));
        let expected = CachePolicy {
            id: "c-1".to_owned(),
            name: "p".to_owned(),
            applies_to: CacheSubject::Everything,
            in_redis: false,
            generation: 0,
            is_shared: false,
            ttl_seconds: 3600,
        };
        assert_eq!((policy, fields), (expected, Vec::new()));
    }

    #[test]
    fn what_it_says_counts_and_what_is_not_honoured_is_reported() {
        let semantic = json!({"embedding_model": "e", "threshold": 0.9});
        let (policy, fields) = policy(json!({"name": "p", "applies_to": "model:a:b",
            "backend": "redis", "purge_generation": 4, "scope": "env", "ttl_seconds": 5,
            "semantic": semantic, "new": 1}));
        assert_eq!(policy.applies_to, CacheSubject::Model("a:b".to_owned()));
        assert!(policy.in_redis && policy.is_shared);
        assert_eq!((policy.generation, policy.ttl_seconds), (4, 5));
        assert_eq!(fields, ["new", "semantic"]);
    }

    #[test]
    fn a_subject_that_nobody_knows_is_nothing_and_reported() {
        for text in ["team:t-1", "model:", "api_key:", "ALL", "*", ":"] {
            let (policy, fields) = policy(json!({"name": "p", "applies_to": text}));
            assert_eq!(policy.applies_to, CacheSubject::Nothing, "{text}");
            assert_eq!(fields, ["applies_to"], "{text}");
        }
        let (policy, _) = policy(json!({"name": "p", "applies_to": "api_key:k-1"}));
        assert_eq!(policy.applies_to, CacheSubject::ApiKey("k-1".to_owned()));
    }

    #[test]
    fn a_policy_that_is_switched_off_asks_for_nothing() {
        let semantic = json!({"embedding_model": "e", "threshold": 0.9});
        let value = json!({"name": "p", "enabled": false, "semantic": semantic});
        let document = read("c-1", &value).unwrap();
        assert!(document.resource.is_none() && document.fields.is_empty());
        assert_eq!(document.name.as_deref(), Some("p"));
    }
}
