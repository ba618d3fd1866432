//! What is configured and cannot be enforced: it is reported, and what it guards, and only that, is refused.

use harness::cloud::ENVIRONMENT;
use harness::{
    Answer, Builder, Caller, Cloud, Etcd, Gateway, Projection, Upstream, projection, upstream, wait,
};
use serde_json::{Value, json};

/// A gateway that a Cloud over a real etcd manages, with callers of two teams.
struct Guarded {
    _upstream: Upstream,
    etcd: Etcd,
    cloud: Cloud,
    gateway: Gateway,
}

const ONE: &str = "sk-one";
const TWO: &str = "sk-two";

impl Guarded {
    async fn start() -> Self {
        let upstream = upstream().await;
        let etcd = Etcd::start().await;
        let of_team = |key: &str, team: &str| {
            let mut document = projection::api_key(key, &["*"]);
            document["team_id"] = json!(team);
            document
        };
        let projection = Projection::of(&upstream)
            .with("api_keys", "k-one", of_team(ONE, "t-1"))
            .with("api_keys", "k-two", of_team(TWO, "t-2"));
        etcd.project(&key("", ""), &projection).await;
        let cloud = Cloud::over(&etcd).await;
        let gateway = Builder::managed(&cloud).start().await;
        Self { _upstream: upstream, etcd, cloud, gateway }
    }

    fn caller(&self, key: &str) -> Caller {
        self.gateway.caller_with(key)
    }

    /// Waits until everyone of several requests in a row, which any worker may get, is answered with that status.
    async fn answered(&self, caller: &str, model: &str, status: u16) {
        let what = format!("{caller} is answered with {status} for {model}");
        wait::until(&what, async || {
            for _ in 0..6 {
                let answer = self.caller(caller).ask(model, "hello").await;
                if answer.status != status {
                    return Err(answer.status);
                }
            }
            Ok(())
        })
        .await;
    }
}

fn key(kind: &str, id: &str) -> String {
    match kind {
        "" => format!("/aisix/{ENVIRONMENT}/"),
        kind => format!("/aisix/{ENVIRONMENT}/{kind}/{id}"),
    }
}

fn guardrail() -> Value {
    json!({"name": "no-names", "kind": "lakera", "api_key": "k"})
}

fn attachment(scope: &str, id: Option<&str>) -> Value {
    json!({"guardrail_id": "g-1", "priority": 1, "scope_type": scope, "scope_id": id})
}

async fn not_implemented(answer: Answer) -> String {
    assert_eq!(answer.status, 501);
    let body = answer.json().await.unwrap();
    assert_eq!(body["error"]["type"], "not_implemented", "{body}");
    body["error"]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_guarded_model_refuses_and_others_serve_until_the_attachment_is_gone() {
    let world = Guarded::start().await;
    world
        .etcd
        .put_together(&[
            (key("guardrails", "g-1"), guardrail()),
            (key("guardrail_attachments", "a-1"), attachment("model", Some("m-split"))),
        ])
        .await;
    world.answered(ONE, "split", 501).await;
    let answer = world.caller(ONE).ask("split", "hello").await;
    let request_id = answer.header("x-aisix-request-id").to_owned();
    let message = not_implemented(answer).await;
    assert!(message.contains("guardrail 'no-names' (lakera)"), "{message}");
    world.answered(ONE, "small-1", 200).await;

    // An operator sees it: on the status page, in the heartbeat, in the log, in usage.
    let row = json!({"resource_kind": "guardrails", "field": "(not enforced)", "count": 1});
    let status = world.gateway.status_config().await;
    assert_eq!(status["state"], "synced", "{status}");
    assert!(status["partially_compatible"].as_array().unwrap().contains(&row), "{status}");
    world
        .cloud
        .heartbeat("that guardrails are not enforced", |beat| {
            let row = json!({"kind": "guardrails", "field": "(not enforced)", "count": 1});
            beat["partially_compatible_resources"]
                .as_array()
                .is_some_and(|rows| rows.contains(&row))
        })
        .await;
    assert!(world.gateway.log().contains("1 guardrails"), "{}", world.gateway.log());
    wait::until("a usage event tells of the refusal", async || {
        let events = world.cloud.usage().await;
        let event = events.iter().find(|event| event["request_id"] == request_id.as_str());
        let event = event.ok_or("none so far")?;
        assert_eq!((&event["status_code"], &event["model_id"]), (&json!(501), &json!("m-split")));
        Ok::<_, &str>(())
    })
    .await;

    world.etcd.delete(&key("guardrail_attachments", "a-1")).await;
    world.answered(ONE, "split", 200).await;
}

#[tokio::test]
async fn a_guardrail_of_a_kind_that_nobody_knows_is_rejected_and_guards_what_it_is_attached_to() {
    let world = Guarded::start().await;
    let newer = json!({"name": "mind", "kind": "telepathy"});
    world
        .etcd
        .put_together(&[
            (key("guardrails", "g-1"), newer),
            (key("guardrail_attachments", "a-1"), attachment("model", Some("m-split"))),
        ])
        .await;
    world.answered(ONE, "split", 501).await;
    let message = not_implemented(world.caller(ONE).ask("split", "hello").await).await;
    assert!(message.contains("guardrail 'mind' (telepathy)"), "{message}");
    world.answered(ONE, "small-1", 200).await;
    let status = world.gateway.status_config().await;
    assert_eq!(status["rejected"].as_array().map(Vec::len), Some(1), "{status}");
    world.etcd.delete(&key("guardrails", "g-1")).await;
    world.answered(ONE, "split", 200).await;
}

#[tokio::test]
async fn a_policy_that_is_not_understood_refuses_the_team_that_it_counts_and_no_other() {
    let world = Guarded::start().await;
    // No build compares teams by size: whether the policy counts a request of the other team can be told, but not this one.
    let conditions = json!([
        {"dimension": "team", "operator": "==", "value": "t-1"},
        {"dimension": "model_name", "operator": ">", "value": "a"},
    ]);
    let policy = json!({"name": "few", "limits": {"rpm": 5}, "conditions": conditions});
    world.etcd.put(&key("rate_limit_policies", "p-1"), &policy).await;
    world.answered(ONE, "small-1", 501).await;
    let message = not_implemented(world.caller(ONE).ask("small-1", "hello").await).await;
    assert!(message.contains("rate limit policy 'few'"), "{message}");
    world.answered(TWO, "small-1", 200).await;
    world.answered(projection::CALLER_KEY, "small-1", 200).await;
    // The list of models is no traffic that a policy counts.
    assert_eq!(world.caller(ONE).models().await.unwrap().status, 200);

    // With conditions instead: one model of the other team.
    let conditions = json!([
        {"dimension": "team", "operator": "in", "value": ["t-2"]},
        {"dimension": "model_name", "operator": "~~", "value": "^spl"},
        {"dimension": "model_name", "operator": ">", "value": "a"},
    ]);
    let policy = json!({"name": "few", "limits": {"rpm": 5}, "conditions": conditions});
    world.etcd.put(&key("rate_limit_policies", "p-1"), &policy).await;
    world.answered(TWO, "split", 501).await;
    world.answered(TWO, "small-1", 200).await;
    world.answered(ONE, "split", 200).await;
}

#[tokio::test]
async fn what_only_watches_or_is_switched_off_refuses_nothing() {
    let world = Guarded::start().await;
    let mut monitor = guardrail();
    monitor["enforcement_mode"] = json!("monitor");
    let mut off = attachment("env", None);
    off["enabled"] = json!(false);
    world
        .etcd
        .put_together(&[
            (key("guardrails", "g-1"), monitor),
            (key("guardrail_attachments", "a-1"), attachment("env", None)),
            (key("guardrail_attachments", "a-2"), attachment("mcp_server", Some("m-small-1"))),
            (key("api_keys", "k-later"), projection::api_key("sk-later", &["*"])),
        ])
        .await;
    // Who can call has the whole of it.
    world.answered("sk-later", "small-1", 200).await;
    world
        .etcd
        .put_together(&[
            (key("guardrails", "g-1"), guardrail()),
            (key("guardrail_attachments", "a-1"), off),
            (key("api_keys", "k-last"), projection::api_key("sk-last", &["*"])),
        ])
        .await;
    world.answered("sk-last", "small-1", 200).await;
    world.etcd.put(&key("guardrail_attachments", "a-1"), &attachment("env", None)).await;
    world.answered("sk-last", "small-1", 501).await;
}

#[tokio::test]
async fn a_bad_document_of_every_kind_is_rejected_and_affects_no_other() {
    const KINDS: [&str; 15] = [
        "a2a_agents",
        "api_keys",
        "cache_policies",
        "claim_mappings",
        "guardrail_attachments",
        "guardrails",
        "mcp_auth_settings",
        "mcp_policies",
        "mcp_servers",
        "models",
        "observability_exporters",
        "oidc_providers",
        "passthrough_routes",
        "provider_keys",
        "rate_limit_policies",
    ];
    let world = Guarded::start().await;
    let bad = json!({"name": 7, "display_name": 7, "resource_url": 7});
    let documents: Vec<_> = KINDS.iter().map(|kind| (key(kind, "bad"), bad.clone())).collect();
    world.etcd.put_together(&documents).await;
    let status = wait::until("all are rejected", async || {
        let status = world.gateway.status_config().await;
        let count = status["rejected"].as_array().map(Vec::len);
        if count == Some(KINDS.len()) { Ok(status) } else { Err(status) }
    })
    .await;
    for (row, kind) in status["rejected"].as_array().unwrap().iter().zip(KINDS) {
        let told = (&row["resource_kind"], &row["resource_id"], &row["last_error_kind"]);
        assert_eq!(told, (&json!(kind), &json!("bad"), &json!("schema_failed")), "{row}");
    }
    assert_eq!(status["state"], "degraded");
    world.answered(ONE, "small-1", 200).await;
}
