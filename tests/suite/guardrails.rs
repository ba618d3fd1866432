//! Guardrails `keyword` and `pii` through the programs: what callers get, what upstreams get, and what is told of it.
//!
//! The upstream says again what it was told, a word in a chunk.

use harness::caller::{chat, chat_stream};
use harness::{Builder, Cloud, Gateway, Projection, Upstream, projection, upstream, wait};
use serde_json::{Value, json};

struct World {
    _upstream: Upstream,
    cloud: Cloud,
    gateway: Gateway,
}

impl World {
    /// With these guardrails in front of everything.
    async fn guarded_by(guardrails: &[Value]) -> Self {
        let upstream = upstream().await;
        let mut projection = Projection::of(&upstream);
        for (index, guardrail) in guardrails.iter().enumerate() {
            let id = format!("g-{index}");
            let attachment = json!({"guardrail_id": id, "priority": 1, "scope_type": "env"});
            projection = projection.with("guardrails", &id, guardrail.clone()).with(
                "guardrail_attachments",
                &format!("a-{index}"),
                attachment,
            );
        }
        let cloud = Cloud::start(&projection).await;
        let gateway = Builder::managed(&cloud).start().await;
        Self { _upstream: upstream, cloud, gateway }
    }

    /// Status, and the text or error of an answer that is no stream.
    async fn whole(&self, text: &str) -> (u16, Value) {
        let answer = self.gateway.caller().try_chat(&chat("small-1", text)).await.unwrap();
        let status = answer.status.as_u16();
        let body = answer.json().await.unwrap();
        let told = if status == 200 { "/choices/0/message/content" } else { "/error" };
        (status, body.pointer(told).cloned().unwrap_or(body))
    }

    /// Status, the text that has come of a stream, and the data of its last event.
    async fn stream(&self, text: &str) -> (u16, String, String) {
        let answer = self.gateway.caller().try_chat(&chat_stream("split", text)).await.unwrap();
        let status = answer.status.as_u16();
        if status != 200 {
            return (status, String::new(), answer.text().await.unwrap());
        }
        let events = answer.events().await.unwrap();
        let told = events.iter().filter_map(|event| {
            let data: Value = serde_json::from_str(&event.data).ok()?;
            data.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)
        });
        (status, told.collect(), events.last().map(|event| event.data.clone()).unwrap_or_default())
    }

    async fn usage(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, async || {
            let events = self.cloud.usage().await;
            events.iter().find(|event| is_it(event)).cloned().ok_or_else(|| format!("{events:?}"))
        })
        .await
    }
}

fn keyword(hook: &str, patterns: Value) -> Value {
    json!({"name": "words", "kind": "keyword", "hook_point": hook, "patterns": patterns})
}

fn literal(text: &str) -> Value {
    json!([{"kind": "literal", "value": text}])
}

fn pii(hook: &str) -> Value {
    json!({"name": "data", "kind": "pii", "hook_point": hook, "detectors": [{"type": "email"}, {"type": "us_ssn", "action": "block"}]})
}

#[tokio::test]
async fn a_keyword_in_a_request_refuses_it_without_telling_what_was_found() {
    let world = World::guarded_by(&[keyword("input", literal("Blue Moon"))]).await;
    let (status, error) = world.whole("see the bLUE mOON rise").await;
    assert_eq!(status, 422);
    let message = "request blocked by content policy (guardrail 'words')";
    assert_eq!(error, json!({"message": message, "type": "content_filter"}));
    let (status, text) = world.whole("see the blue sky").await;
    assert_eq!((status, text), (200, json!("You said: see the blue sky")));
    let event = world.usage("of the refusal", |event| event["status_code"] == 422).await;
    assert_eq!(event["guardrail_blocked"], true);
    assert_eq!(event["applied_guardrails"], json!([{"kind": "keyword", "hook": "input"}]));
    assert_eq!(event["guardrail_enforced_hits"][0]["action"], "blocked");
    assert_eq!(event["prompt_tokens"], 0);
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.sum("aisix_guardrail_blocks_total", &[]), 1.0);
    let blocked = [("guardrail", "words"), ("phase", "input"), ("result", "blocked")];
    assert_eq!(metrics.sum("aisix_guardrail_latency_seconds_count", &blocked), 1.0);
    let beat = world.cloud.heartbeat("kinds of guardrails", |_| true).await;
    assert_eq!(beat["supported_guardrail_kinds"], json!(["keyword", "pii"]));
}

#[tokio::test]
async fn a_keyword_that_a_stream_brings_in_pieces_never_comes() {
    let world = World::guarded_by(&[keyword("output", literal("moon rises late"))]).await;
    let (status, error) = world.whole("the moon rises late").await;
    let message = "response blocked by content policy (guardrail 'words')";
    assert_eq!((status, &error["message"]), (422, &json!(message)));
    let (status, text, last) = world.stream("the moon rises late today").await;
    if status == 200 {
        assert!(!text.contains("moon"), "{text}");
        assert!(!last.contains("[DONE]"));
    }
    assert!(last.contains(message) && last.contains("content_filter"), "{last}");
    let (status, text, last) = world.stream("the moon rises early").await;
    assert_eq!(
        (status, text.as_str(), last.as_str()),
        (200, "You said: the moon rises early", "[DONE]")
    );
}

#[tokio::test]
async fn personal_data_is_masked_on_its_way_to_the_upstream_and_back() {
    let world = World::guarded_by(&[pii("input")]).await;
    let (status, text) = world.whole("write to joe@example.com now").await;
    assert_eq!((status, text), (200, json!("You said: write to [EMAIL_REDACTED] now")));
    assert_eq!(world.whole("ssn 123-45-6789").await.0, 422);
    let event =
        world.usage("of the mask", |event| event["redacted_entity_counts"] != Value::Null).await;
    assert_eq!(event["redacted_entity_counts"], json!({"email": 1}));
    assert_eq!(event["guardrail_blocked"], false);

    let world = World::guarded_by(&[pii("output")]).await;
    let (status, text, last) = world.stream("write to joe@example.com").await;
    assert_eq!(
        (status, text.as_str(), last.as_str()),
        (200, "You said: write to [EMAIL_REDACTED]", "[DONE]")
    );
    let (_, text) = world.whole("write to joe@example.com").await;
    assert_eq!(text, "You said: write to [EMAIL_REDACTED]");
}

#[tokio::test]
async fn what_only_watches_tells_and_changes_nothing() {
    let mut words = keyword("both", literal("moon"));
    words["enforcement_mode"] = json!("monitor");
    let mut data = pii("both");
    data["enforcement_mode"] = json!("monitor");
    data["kind"] = json!("pii");
    let foreign =
        json!({"name": "far", "kind": "lakera", "api_key": "k", "enforcement_mode": "monitor"});
    let world = World::guarded_by(&[words, data, foreign]).await;
    let (status, text, last) = world.stream("moon joe@example.com").await;
    assert_eq!(
        (status, text.as_str(), last.as_str()),
        (200, "You said: moon joe@example.com", "[DONE]")
    );
    let event =
        world.usage("of the hits", |event| event["guardrail_monitor_hits"] != Value::Null).await;
    let hits: Vec<_> = event["guardrail_monitor_hits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| (&hit["guardrail_name"], &hit["hook"], &hit["action"]))
        .map(|(name, hook, action)| format!("{name} {hook} {action}").replace('"', ""))
        .collect();
    assert_eq!(
        hits,
        [
            "words input would_block",
            "data input would_mask",
            "words output would_block",
            "data output would_mask"
        ]
    );
    assert_eq!(event["guardrail_blocked"], false);
    assert_eq!(event["guardrail_enforced_hits"], Value::Null);
}

#[tokio::test]
async fn an_attachment_guards_its_key_and_an_expression_that_is_none_refuses_it() {
    let upstream = upstream().await;
    let attach = |guardrail: &str, key: &str| json!({"guardrail_id": guardrail, "priority": 1, "scope_type": "api_key", "scope_id": key});
    let projection = Projection::of(&upstream)
        .with("guardrails", "g-words", keyword("both", literal("moon")))
        .with("guardrails", "g-broken", keyword("both", json!([{"kind": "regex", "value": "("}])))
        .with("api_keys", "k-one", projection::api_key("sk-one", &["*"]))
        .with("api_keys", "k-two", projection::api_key("sk-two", &["*"]))
        .with("guardrail_attachments", "a-1", attach("g-words", "k-one"))
        .with("guardrail_attachments", "a-2", attach("g-words", "k-one"))
        .with("guardrail_attachments", "a-3", attach("g-broken", "k-two"));
    let cloud = Cloud::start(&projection).await;
    let gateway = Builder::managed(&cloud).start().await;
    for (key, status) in [("sk-one", 422), ("sk-two", 501), (projection::CALLER_KEY, 200)] {
        assert_eq!(gateway.caller_with(key).ask("small-1", "moon").await.status, status, "{key}");
    }
    assert_eq!(gateway.caller_with("sk-one").ask("small-1", "sun").await.status, 200);
    cloud
        .heartbeat("the broken expression", |beat| {
            beat["rejected_resources"][0]["error"]
                .as_str()
                .is_some_and(|error| error.contains("/patterns/0/value"))
        })
        .await;
}
