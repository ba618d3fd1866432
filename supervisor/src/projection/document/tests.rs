//! What documents are read as, and what is said about those that are not.

use proptest::prelude::*;
use serde_json::json;
use shared::resource::{
    self, Adapter, Cooldown, Days, HashOn, ModelKind, RateLimitPolicy, Routing, RoutingTarget,
};

use super::*;
use crate::projection::key;

fn read_kind(kind: &str, value: Value) -> Result<Document, Refusal> {
    let key = format!("/{kind}/id-1");
    let (kind, id) = key::parse(b"/", key.as_bytes()).unwrap();
    read(kind, id, value)
}

fn refusal(kind: &str, value: Value) -> String {
    read_kind(kind, value).unwrap_err().error
}

fn provider_key(more: Value) -> Value {
    merged(json!({"display_name": "main", "provider": "openai", "api_key": "sk-secret"}), more)
}

fn model(more: Value) -> Value {
    let direct = json!({"display_name": "chat", "provider": "openai", "model_name": "gpt-4o",
        "provider_key_id": "pk-1"});
    merged(direct, more)
}

fn api_key(more: Value) -> Value {
    merged(json!({"key_hash": "ab".repeat(32), "allowed_models": ["*"]}), more)
}

fn merged(mut base: Value, more: Value) -> Value {
    let members = more.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(members);
    base
}

#[test]
fn a_provider_key_is_read_with_either_name_of_its_secret() {
    for name in ["api_key", "secret"] {
        let value = json!({"display_name": "main", "provider": "groq", name: "sk-secret",
            "adapter": "azure-openai", "tls": {"verify": false}});
        let document = read_kind("provider_keys", value).unwrap();
        let Some(Resource::ProviderKey(key)) = document.resource else { panic!() };
        assert_eq!((key.id.as_str(), key.secret.expose().as_str()), ("id-1", "sk-secret"));
        assert_eq!(key.adapter, Some(Adapter::AzureOpenAi));
        assert!(!key.tls.verify);
        assert_eq!(key.endpoint.unwrap().to_string(), "https://api.groq.com/openai/v1");
        assert!(document.fields.is_empty());
    }
}

#[test]
fn an_endpoint_that_cannot_be_used_is_reported_and_left_out() {
    let document =
        read_kind("provider_keys", provider_key(json!({"api_base": "ftp://x"}))).unwrap();
    let Some(Resource::ProviderKey(key)) = document.resource else { panic!() };
    assert_eq!(key.endpoint, None);
    assert_eq!(document.fields, ["api_base"]);
    let unknown_vendor = provider_key(json!({"provider": "homegrown"}));
    let document = read_kind("provider_keys", unknown_vendor).unwrap();
    let Some(Resource::ProviderKey(key)) = document.resource else { panic!() };
    assert_eq!(key.endpoint, None);
}

#[test]
fn a_model_has_exactly_one_of_four_shapes() {
    let document = read_kind("models", model(json!({"timeout": 5000}))).unwrap();
    let Some(Resource::Model(direct)) = document.resource else { panic!() };
    assert!(matches!(direct.kind, ModelKind::Direct(_)));
    assert_eq!(direct.timeout_ms, Some(5000));

    let routing = json!({"display_name": "g", "routing": {"targets": [{"model": "chat"}]}});
    let document = read_kind("models", routing.clone()).unwrap();
    let Some(Resource::Model(group)) = document.resource else { panic!() };
    assert!(matches!(group.kind, ModelKind::Routing(_)));
    assert!(document.fields.is_empty());

    for bad in [
        json!({"display_name": "x"}),
        json!({"display_name": "x", "provider": "openai", "model_name": "m"}),
        merged(routing.clone(), json!({"provider": "openai"})),
        merged(routing, json!({"cooldown": {}})),
        model(json!({"ensemble": {"judge": {"model": "a"}, "panel": [{"model": "b"}]}})),
    ] {
        let text = refusal("models", bad);
        assert!(text.contains("expected either"), "{text}");
    }
}

#[test]
fn knobs_that_say_nothing_about_a_group_are_stripped_and_reported() {
    let ensemble = json!({"display_name": "e", "timeout": 5, "cost": "not even a cost", "retries": 1,
        "ensemble": {"judge": {"model": "a"}, "panel": [{"model": "b"}]}});
    let document = read_kind("models", ensemble).unwrap();
    assert_eq!(
        document.fields,
        ["inapplicable:cost", "inapplicable:retries", "inapplicable:timeout", "ensemble"]
    );
}

#[test]
fn a_group_is_told_to_workers_with_what_it_leaves_out() {
    let routing = json!({
        "targets": [{"model": "a", "weight": 0, "priority": -1, "tags": ["eu"]}, {"model": "b"}],
        "strategy": "consistent_hash",
        "hash_on": [{"type": "header", "name": "x-user"}, {"type": "cookie", "name": "sid"},
            {"type": "api_key"}, {"type": "client_ip"}],
        "fallback_on_statuses": [408], "max_fallbacks": 1, "retries": 0, "retry_on_429": true,
        "when_all_unavailable": "try_anyway"});
    let read = |routing| {
        let document = read_kind("models", json!({"display_name": "g", "routing": routing}));
        let Some(Resource::Model(model)) = document.unwrap().resource else { panic!() };
        let ModelKind::Routing(routing) = model.kind else { panic!() };
        *routing
    };
    let target = |model: &str| RoutingTarget {
        model: model.to_owned(),
        weight: 1,
        ..RoutingTarget::default()
    };
    assert_eq!(
        read(routing),
        Routing {
            targets: vec![
                RoutingTarget {
                    weight: 0,
                    priority: -1,
                    tags: vec!["eu".to_owned()],
                    ..target("a")
                },
                target("b"),
            ],
            strategy: resource::Strategy::ConsistentHash,
            hash_on: vec![
                HashOn::Header("x-user".to_owned()),
                HashOn::Cookie("sid".to_owned()),
                HashOn::ApiKey,
                HashOn::ClientIp,
            ],
            fallback_on_statuses: vec![408],
            max_fallbacks: Some(1),
            retries: Some(0),
            retry_on_429: true,
            try_anyway: true,
        }
    );
    let least = read(json!({"targets": [{"model": "a"}]}));
    assert_eq!(least, Routing { targets: vec![target("a")], ..Routing::default() });
    for (routing, place) in [
        (json!({"strategy": "failover", "hash_on": [{"type": "api_key"}]}), "/routing/hash_on`"),
        (json!({"strategy": "consistent_hash", "hash_on": [{"type": "header"}]}), "/hash_on/0`"),
        (
            json!({"strategy": "consistent_hash", "hash_on": [{"type": "api_key", "name": "x"}]}),
            "/hash_on/0`",
        ),
    ] {
        let routing = merged(json!({"targets": [{"model": "a"}]}), routing);
        let text = refusal("models", json!({"display_name": "g", "routing": routing}));
        assert!(text.contains(place), "{text}");
    }
}

#[test]
fn what_a_direct_model_says_of_failures_is_told_to_workers() {
    let read = |knobs| {
        let document = read_kind("models", model(knobs)).unwrap();
        let Some(Resource::Model(model)) = document.resource else { panic!() };
        let ModelKind::Direct(direct) = model.kind else { panic!() };
        (model.retries, direct.cooldown, direct.background_check)
    };
    assert_eq!(read(json!({})), (None, Cooldown::default(), None));
    let (retries, cooldown, _) =
        read(json!({"retries": 3, "cooldown": {"default_seconds": 5, "trigger_statuses": [418]}}));
    let expected = Cooldown { default_seconds: 5, statuses: vec![418], ..Cooldown::default() };
    assert_eq!((retries, cooldown), (Some(3), expected));
    let mut check = json!({"enabled": true, "interval_seconds": 5, "max_tokens": 1, "prompt": "hi",
        "stale_after_seconds": 60, "timeout_seconds": 2, "ignore_statuses": [429]});
    let (_, _, told) = read(json!({"background_model_check": check}));
    assert_eq!(told.unwrap().ignore_statuses, [429]);
    check["enabled"] = json!(false);
    assert_eq!(read(json!({"background_model_check": check})).2, None);
}

#[test]
fn unknown_fields_are_reported_by_their_path_and_change_nothing() {
    let value = json!({"display_name": "g", "new": 1,
        "routing": {"targets": [{"model": "a", "burst": 1}, {"model": "b", "burst": 2}]}});
    let document = read_kind("models", value).unwrap();
    assert_eq!(document.fields, ["new", "routing.targets.[].burst"]);
    let many: serde_json::Map<_, _> = (0..80).map(|n| (format!("x{n:02}"), json!(n))).collect();
    let document = read_kind("models", model(Value::Object(many))).unwrap();
    assert_eq!(document.fields.len(), FIELDS_MAX + 1);
    assert_eq!(document.fields.last().unwrap(), "...truncated");
}

#[test]
fn known_fields_that_are_not_enforced_are_reported() {
    let fields = |kind, value| read_kind(kind, value).unwrap().fields;
    assert!(fields("api_keys", api_key(json!({"rate_limit": {"rpm": 5}}))).is_empty());
    assert!(fields("api_keys", api_key(json!({"rate_limit": null}))).is_empty());
    let overrides = json!({"request": {"param_renames": {"a": "b"}}, "response": {}});
    assert!(fields("provider_keys", provider_key(overrides)).is_empty());
    assert_eq!(
        fields("a2a_agents", json!({"name": "g", "url": "https://a.example"})),
        [NOT_ENFORCED]
    );
}

#[test]
fn an_error_names_the_place_and_what_was_expected_there() {
    let cases = [
        (
            "models",
            model(json!({"timeout": "5s"})),
            "schema validation failed at `/timeout`: expected u64",
        ),
        ("models", model(json!({"timeout": null})), "at `/timeout`: expected u64"),
        (
            "models",
            model(json!({"display_name": ""})),
            "at `/display_name`: expected a string of at",
        ),
        ("models", model(json!({"provider": "Open AI"})), "at `/provider`: expected 1 to 64 of"),
        (
            "models",
            model(json!({"cooldown": {"trigger_statuses": [429, 99]}})),
            "at `/cooldown/trigger_statuses/1`: expected an integer between 100 and 599",
        ),
        ("models", json!({"provider": "openai"}), "at ``: missing field `display_name`"),
        (
            "models",
            model(json!({"allowed_cidrs": ["10.0.0.0/8", "x"]})),
            "cannot be read at `/allowed_cidrs/1`",
        ),
        (
            "models",
            json!({"display_name": "s", "semantic": {"default": "d", "embedding_model": "e",
            "match": {"threshold": 1.5}, "routes": [{"name": "n", "target": "t", "examples": ["x"]}]}}),
            "at `/semantic/match/threshold`: expected a number between 0 and 1",
        ),
        (
            "provider_keys",
            provider_key(json!({"adapter": "telnet"})),
            "at `/adapter`: expected one of",
        ),
        ("provider_keys", json!({"display_name": "x"}), "expected a field `api_key`"),
        (
            "api_keys",
            api_key(json!({"allowed_models": "*"})),
            "at `/allowed_models`: expected a sequence",
        ),
        (
            "api_keys",
            api_key(json!({"expires_at": "tomorrow"})),
            "at `/expires_at`: expected an RFC 3339",
        ),
        ("provider_keys", provider_key(json!({"tls": ["x"]})), "at `/tls`: expected an object"),
        ("guardrails", json!([1]), "at ``: expected an object"),
    ];
    for (kind, value, expected) in cases {
        let text = refusal(kind, value);
        assert!(text.contains(expected), "{text}\n  lacks {expected}");
    }
}

#[test]
fn a_caller_key_is_read_with_its_hash_and_its_end() {
    let value =
        api_key(json!({"expires_at": "2030-01-01T00:00:00Z", "disabled": true, "team_id": "t"}));
    let document = read_kind("api_keys", value).unwrap();
    let Some(Resource::ApiKey(key)) = document.resource else { panic!() };
    assert_eq!(key.key_hash, Some([0xab; 32]));
    assert_eq!(key.expires_at_unix_ms, Some(1_893_456_000_000));
    assert!(key.disabled);
    for odd in ["AB".repeat(32), "ab".repeat(31), "xy".repeat(32), "a".repeat(65)] {
        let document = read_kind("api_keys", api_key(json!({"key_hash": odd}))).unwrap();
        let Some(Resource::ApiKey(key)) = document.resource else { panic!() };
        assert_eq!(key.key_hash, None, "{odd}");
    }
}

/// Any JSON with field names that the documents have, and values that no message may show.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!("s3cr3t, expected s3cr3t")),
        Just(json!("")),
        Just(json!("openai")),
    ];
    let names = prop_oneof![
        "(display_name|provider|model_name|provider_key_id|api_key|secret|api_base|adapter|tls|verify)",
        "(routing|targets|model|semantic|routes|match|threshold|on_embedding_failure|target|request)",
        "(key_hash|allowed_models|expires_at|rate_limit|rpm|mcp_rate_limits|cooldown|telemetry_tags|kind)",
    ];
    leaf.prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((names.clone(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What the published schemas, read leniently, say about documents: kind, document, whether it is good. Made by changing
/// good documents at every place and asking another implementation of JSON Schema.
const SAMPLES: &str = include_str!("samples.jsonl");

#[test]
fn documents_are_good_or_bad_as_the_published_schemas_say() {
    let more = std::env::var("SAMPLES").ok().map(|path| std::fs::read_to_string(path).unwrap());
    let (mut wrong, mut read) = (Vec::new(), 0);
    for line in SAMPLES.lines().chain(more.iter().flat_map(|more| more.lines())) {
        let (kind, document, good): (String, Value, bool) = serde_json::from_str(line).unwrap();
        read += 1;
        match read_kind(&kind, document) {
            Ok(_) if good => {}
            // Beyond the schemas, numbers have to fit their types.
            Err(refusal) if good && refusal.kind == RefusalKind::ParseFailed => {}
            Err(refusal) if !good => assert_eq!(refusal.kind, RefusalKind::SchemaFailed, "{line}"),
            other => wrong.push(format!("{line}: {:?}", other.err())),
        }
    }
    assert!(read > 300, "{read}");
    assert!(
        wrong.is_empty(),
        "{} of {read}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(25)].join("\n")
    );
}

proptest! {
    #[test]
    fn no_document_can_panic_the_reader_or_show_its_values(value in any_value()) {
        for kind in ["provider_keys", "models", "api_keys"] {
            let complete = match kind {
                "provider_keys" => provider_key(json!({})),
                "models" => model(json!({})),
                _ => api_key(json!({})),
            };
            for value in [value.clone(), merged(complete, json!({"tls": value, "routing": value}))] {
                if let Err(refusal) = read_kind(kind, value) {
                    prop_assert!(!refusal.error.contains("s3cr3t"), "{}", refusal.error);
                }
            }
        }
    }
}

fn limits_of(policy: Value) -> Option<RateLimitPolicy> {
    match read_kind("rate_limit_policies", policy).unwrap().resource {
        Some(Resource::RateLimitPolicy(policy)) => Some(policy),
        _ => None,
    }
}

#[test]
fn a_policy_of_a_subject_limits_its_window_and_tokens_only_by_minute_and_day() {
    let policy = |window: &str, more: Value| {
        let base = json!({"name": "p", "scope": "team", "scope_ref": "t", "window": window});
        limits_of(merged(base, more)).map(|policy| policy.limits.unwrap())
    };
    let both = json!({"max_requests": 2, "max_tokens": 3});
    let limits = |window| policy(window, both.clone()).unwrap();
    assert_eq!((limits("second").rps, limits("second").tpm), (Some(2), None));
    assert_eq!((limits("minute").rpm, limits("minute").tpm), (Some(2), Some(3)));
    assert_eq!((limits("hour").rph, limits("hour").tpd), (Some(2), None));
    assert_eq!((limits("day").rpd, limits("day").tpd), (Some(2), Some(3)));
    assert_eq!(policy("hour", json!({"max_tokens": 3})), None);
}

#[test]
fn a_policy_with_a_comparison_that_this_build_does_not_make_comes_without_limits() {
    let policy = |operator: &str| {
        let condition = json!({"dimension": "team", "operator": operator, "value": "t"});
        let all =
            json!({"rps": 1, "rpm": 2, "rph": 3, "rpd": 4, "tpm": 5, "tpd": 6, "concurrency": 7});
        limits_of(json!({"name": "p", "limits": all, "conditions": [condition]})).unwrap().limits
    };
    let limits = policy("==").unwrap();
    assert_eq!([limits.rps, limits.rpm, limits.rph, limits.rpd], [1, 2, 3, 4].map(Some));
    assert_eq!((limits.tpm, limits.tpd, limits.concurrency), (Some(5), Some(6), Some(7)));
    assert_eq!(policy(">"), None);
}

#[test]
fn schedules_come_with_their_days_and_minutes() {
    let schedules = json!([
        {"days_of_week": ["fri", "sun"], "start_time": "22:00", "end_time": "09:30", "timezone": "UTC"},
        {"dates": ["2026-12-24"], "start_time": "00:00", "end_time": "24:00", "timezone": "Asia/Tokyo"},
    ]);
    let policy = json!({"name": "p", "limits": {"rpm": 1}, "schedules": schedules});
    let schedules = limits_of(policy).unwrap().schedules;
    let week = [false, false, false, false, true, false, true];
    assert_eq!(schedules[0].days, Days::Week(week));
    assert_eq!((schedules[0].start_minute, schedules[0].end_minute), (1320, 570));
    assert_eq!((schedules[1].start_minute, schedules[1].end_minute), (0, 1440));
    assert_eq!(schedules[1].timezone, "Asia/Tokyo");
}
