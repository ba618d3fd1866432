//! Traces: what a collector is told of requests, by whom, and what becomes of it when the collector is away.

use std::fs;

use harness::authority::Authority;
use harness::caller::{chat, chat_stream};
use harness::collector::{Collector, SpanSeen};
use harness::worker::Worker;
use harness::{
    Answer, Builder, Cloud, Gateway, Projection, World, client, load, projection, upstream, wait,
};
use serde_json::{Value, json};

/// Stands in no log, metric, page or report.
const SECRET: &str = "s3cret-of-the-collector";

fn exporter(name: &str, collector: &Collector, more: Value) -> Value {
    let mut exporter = json!({
        "name": name,
        "kind": "otlp_http",
        "endpoint": format!("http://{}/v1/traces", collector.address()),
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        exporter[field] = value.clone();
    }
    exporter
}

/// A group that leaves its first target for its second, a cache policy, a guardrail, and what else is said.
async fn world(more: impl FnOnce(Projection) -> Projection) -> World {
    let upstream = upstream().await;
    let mut good = projection::model("good", "pk-1");
    good["model_name"] = json!("small-1");
    good["cost"] = json!({"input_per_1k": 1.0, "output_per_1k": 2.0});
    let targets = json!([{"model": "status-500"}, {"model": "good"}]);
    let group = json!({"display_name": "g", "routing": {"targets": targets}});
    let policy = json!({"name": "faq", "applies_to": "model:good"});
    let patterns = json!([{"kind": "literal", "value": "forbidden"}]);
    let guardrail =
        json!({"name": "words", "kind": "keyword", "hook_point": "input", "patterns": patterns});
    let attachment = json!({"guardrail_id": "g-1", "priority": 1, "scope_type": "env"});
    let resources = Projection::of(&upstream)
        .with("models", "m-good", good)
        .with("models", "m-g", group)
        .with("guardrails", "g-1", guardrail)
        .with("guardrail_attachments", "a-1", attachment)
        .with("cache_policies", "c-1", policy);
    let cloud = Cloud::start(&more(resources)).await;
    let gateway = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0").start().await;
    World { upstream, cloud, gateway }
}

fn export_worker(gateway: &Gateway) -> Option<Worker> {
    gateway.workers().into_iter().find(|worker| worker.role == "export")
}

/// The export role serves, so that every proxy worker has been told of it.
async fn exports(gateway: &Gateway) {
    wait::until("the export role serves", async || {
        let up = gateway.metrics().await.sum("aisix_workers_up", &[("role", "export")]);
        if up == 1.0 { Ok(()) } else { Err(up) }
    })
    .await;
}

/// The trace of that number.
fn trace(number: u32) -> String {
    format!("{:032x}", 0x4bf9_2f35_0000_0000_u64 + u64::from(number))
}

const PARENT: &str = "00f067aa0ba902b7";

/// Asks within the trace of that number, and reads the whole answer. Returns its status.
async fn ask(gateway: &Gateway, key: &str, number: u32, flags: &str, body: &Value) -> u16 {
    let caller = gateway.caller_with(key);
    let mut request = caller.request("/v1/chat/completions", body);
    let parent = format!("00-{}-{PARENT}-{flags}", trace(number));
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    let answer: Answer = client::send(gateway.proxy(), request).await.unwrap();
    let status = answer.status.as_u16();
    answer.bytes().await.unwrap();
    status
}

fn named<'a>(spans: &'a [SpanSeen], kind: &str) -> Vec<&'a SpanSeen> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

#[tokio::test]
async fn every_way_in_which_a_request_ends_is_told_in_the_trace_of_its_caller() {
    let collector = Collector::start().await;
    let more = json!({"headers": {"x-collector-key": SECRET}});
    let with = |it: Projection| {
        it.with("observability_exporters", "o-1", exporter("otel", &collector, more))
    };
    let world = world(with).await;
    let gateway = &world.gateway;
    exports(gateway).await;
    let key = projection::CALLER_KEY;
    let asked = [
        (ask(gateway, key, 1, "01", &chat_stream("small-1", "one two three")).await, 200),
        (ask(gateway, key, 2, "01", &chat("g", "one two three")).await, 200),
        (ask(gateway, "sk-nobody", 3, "01", &chat("small-1", "hello")).await, 401),
        (ask(gateway, key, 4, "01", &chat("good", "kept")).await, 200),
        (ask(gateway, key, 5, "00", &chat("small-1", "not sampled")).await, 200),
    ];
    assert!(asked.iter().all(|(seen, expected)| seen == expected), "{asked:?}");
    let blocked = ask(gateway, key, 6, "01", &chat("small-1", "forbidden")).await;
    assert!((400..500).contains(&blocked), "{blocked}");
    // Whichever worker: what one has kept the other has as well, some time later.
    let mut number = 100;
    wait::until("a repeat is a hit", async || {
        number += 1;
        ask(gateway, key, number, "01", &chat("good", "kept")).await;
        let spans = collector.spans();
        let hit = spans.iter().find(|span| span.attribute("aisix.cache_status") == "hit");
        hit.map(|hit| assert!(named(&spans, "Client").iter().all(|it| it.parent != hit.id)))
            .ok_or("none so far")
    })
    .await;

    let streamed = collector.trace(&trace(1), 2).await;
    assert_eq!(streamed.len(), 2, "{streamed:?}");
    let (server, attempt) = (named(&streamed, "Server")[0], named(&streamed, "Client")[0]);
    assert_eq!(
        (server.name.as_str(), server.parent.as_str()),
        ("POST /v1/chat/completions", PARENT)
    );
    assert_eq!((attempt.name.as_str(), &attempt.parent), ("chat small-1", &server.id));
    assert_eq!(attempt.events, ["first_token"]);
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "small-1"),
        ("gen_ai.usage.input_tokens", "3"),
        ("gen_ai.usage.output_tokens", "5"),
        ("http.response.status_code", "200"),
        ("server.address", "127.0.0.1"),
        ("aisix.provider_key_id", "pk-1"),
    ] {
        assert_eq!(attempt.attribute(name), value, "{name}: {attempt:?}");
    }
    assert_eq!(server.attribute("aisix.api_key_id"), "k-1");
    assert_eq!(server.attribute("aisix.stream"), "true");
    assert_eq!(server.resource["service.name"], "aisix");
    let beat = world.cloud.heartbeat("any", |_| true).await;
    assert_eq!(json!(server.resource["service.instance.id"]), beat["instance_id"]);

    let failed_over = collector.trace(&trace(2), 3).await;
    let server = named(&failed_over, "Server")[0];
    let attempts = named(&failed_over, "Client");
    assert!(attempts.iter().all(|attempt| attempt.parent == server.id), "{failed_over:?}");
    let told: Vec<_> = attempts
        .iter()
        .map(|it| {
            (
                it.name.as_str(),
                it.attribute("aisix.attempt"),
                it.attribute("http.response.status_code"),
                it.is_error,
            )
        })
        .collect();
    assert_eq!(
        told,
        [("chat status-500", "initial", "500", true), ("chat small-1", "fallback", "200", false)]
    );
    assert_eq!((server.attribute("gen_ai.request.model"), server.is_error), ("g", false));
    assert_eq!(server.attribute("aisix.served_model"), "good");
    assert_eq!(server.attribute("aisix.cost_usd"), "0.013");

    let refused = collector.trace(&trace(3), 1).await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].attribute("http.response.status_code"), "401");
    assert!(!refused[0].attribute("error.type").is_empty() && !refused[0].is_error);
    let blocked = collector.trace(&trace(6), 1).await;
    assert_eq!(blocked.len(), 1, "no provider is asked: {blocked:?}");
    assert_eq!(blocked[0].attribute("aisix.guardrail"), "blocked");
    let missed = collector.trace(&trace(4), 2).await;
    assert_eq!(named(&missed, "Server")[0].attribute("aisix.cache_status"), "miss");

    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace != trace(5)), "the caller does not record it");
    for batch in collector.batches() {
        assert_eq!(batch.target, "/v1/traces");
        assert_eq!(batch.headers["x-collector-key"], SECRET);
        assert_eq!(batch.headers["content-type"], "application/x-protobuf");
    }
    let sent = world.upstream.ledger().into_iter().flat_map(|served| served.headers);
    assert!(!sent.into_iter().any(|name| name == "traceparent"), "it is never forwarded");
    let usage = world.cloud.usage_of(5).await;
    assert!(usage.iter().any(|event| event["trace_id"] == trace(1).as_str()));
    let text = format!("{spans:?}");
    for content in ["one two three", "You said", "kept", "forbidden"] {
        assert!(!text.contains(content), "{content}: no text of a prompt or an answer");
    }
    told_nowhere(&world).await;
}

/// The secret of an exporter is told nobody but the collector.
async fn told_nowhere(world: &World) {
    let mut texts = vec![world.gateway.log()];
    for path in ["/metrics", "/status/config", "/status/managed"] {
        let answer = client::fetch(world.gateway.status(), path).await.unwrap();
        texts.push(answer.text().await.unwrap());
    }
    texts.push(json!(world.cloud.heartbeats().await).to_string());
    assert!(texts.iter().all(|text| !text.is_empty() && !text.contains(SECRET)));
}

#[tokio::test]
async fn each_exporter_is_told_of_its_part_and_what_is_not_served_is_reported() {
    let (all, none) = (Collector::start().await, Collector::start().await);
    let datadog = json!({"name": "dd", "kind": "datadog", "credential_ref": "C", "service": "s", "site": "datadoghq.com"});
    let with = |it: Projection| {
        it.with(
            "observability_exporters",
            "o-1",
            exporter("all", &all, json!({"content_mode": "full"})),
        )
        .with(
            "observability_exporters",
            "o-2",
            exporter("none", &none, json!({"sample_rate": 0.0})),
        )
        .with("observability_exporters", "o-3", datadog)
    };
    let world = world(with).await;
    exports(&world.gateway).await;
    let caller = world.caller();
    for _ in 0..5 {
        assert_eq!(caller.ask("small-1", "hello").await.status, 200);
    }
    let spans = wait::until("five requests are told", async || {
        let spans = all.spans();
        if named(&spans, "Server").len() >= 5 { Ok(spans) } else { Err(spans.len()) }
    })
    .await;
    let mut traces: Vec<_> = spans.iter().map(|span| span.trace.clone()).collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 5, "each request without a trace begins one");
    assert!(named(&spans, "Server").iter().all(|span| span.parent.is_empty()));
    assert!(none.batches().is_empty());
    let beat = world
        .cloud
        .heartbeat("all exporters are told", |beat| {
            beat["exporter_health"][0]["delivered_batches"].as_u64() > Some(0)
        })
        .await;
    let health = beat["exporter_health"].as_array().unwrap();
    assert!(health.iter().map(|it| &it["name"]).eq(["all", "none"]), "{beat}");
    let rows = beat["partially_compatible_resources"].as_array().unwrap();
    let of_exporters = rows.iter().filter(|row| row["kind"] == "observability_exporters");
    let fields: Vec<_> = of_exporters.map(|row| &row["field"]).collect();
    assert_eq!(fields, ["(not enforced)", "content_mode"]);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_request_is_told_of_and_gets_what_waits_for_it() {
    let mut collector = Collector::stopped();
    let with = |it: Projection| {
        it.with("observability_exporters", "o-1", exporter("otel", &collector, json!({})))
    };
    let world = world(with).await;
    let gateway = &world.gateway;
    exports(gateway).await;
    assert_eq!(ask(gateway, projection::CALLER_KEY, 1, "01", &chat("small-1", "hello")).await, 200);
    wait::until("it is a finding", async || {
        let finding = gateway.finding("export").await;
        if finding.contains("otel") { Ok(()) } else { Err(finding) }
    })
    .await;
    let beat = world
        .cloud
        .heartbeat("it is told", |beat| {
            beat["exporter_health"][0]["failed_batches"].as_u64() > Some(2)
        })
        .await;
    let health = &beat["exporter_health"][0];
    assert_eq!(
        (&health["delivered_batches"], &health["last_success_unix"]),
        (&json!(0), &Value::Null)
    );
    assert!(health["last_error"].as_str().unwrap().contains("cannot connect"), "{health}");
    assert!(health["last_failure_unix"].as_i64() > Some(0));
    let failed =
        gateway.metrics().await.sum("aisix_otlp_fanout_failures_total", &[("exporter", "otel")]);
    assert!(failed >= 3.0, "{failed}");
    let (seen, ()) = load::during(world.caller(), 3, async |seen| seen.more().await).await;
    seen.nothing_failed();

    collector.refuse(503, Some(1));
    collector.refuse(429, None);
    collector.reject(1);
    collector.resume().await;
    assert_eq!(collector.trace(&trace(1), 2).await.len(), 2, "nothing is lost or told twice");
    assert_eq!(collector.refused(), 2);
    wait::until("the finding is settled and what was not taken is counted", async || {
        let finding = gateway.finding("export").await;
        let labels = [("exporter", "otel"), ("reason", "rejected")];
        let rejected = gateway.metrics().await.sum("aisix_otlp_fanout_drops_total", &labels);
        if finding.is_empty() && rejected >= 1.0 {
            Ok(())
        } else {
            Err(format!("{finding} {rejected}"))
        }
    })
    .await;
    world
        .cloud
        .heartbeat("it is delivered", |beat| {
            beat["exporter_health"][0]["delivered_batches"].as_u64() > Some(0)
        })
        .await;
}

#[tokio::test]
async fn the_role_is_there_while_there_is_an_exporter_and_its_death_fails_no_request() {
    let collector = Collector::start().await;
    let world = world(|it| it).await;
    let gateway = &world.gateway;
    assert_eq!(export_worker(gateway), None);
    let with = Projection::of(&world.upstream).with(
        "observability_exporters",
        "o-1",
        exporter("otel", &collector, json!({})),
    );
    world.cloud.project(&with);
    exports(gateway).await;
    let (seen, ()) = load::during(world.caller(), 4, async |seen| {
        for _ in 0..3 {
            let worker = export_worker(gateway).expect("an export worker");
            worker.kill();
            wait::until("another is there", async || match export_worker(gateway) {
                Some(other) if other != worker => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
            seen.more().await;
        }
    })
    .await;
    seen.nothing_failed();
    exports(gateway).await;
    assert_eq!(ask(gateway, projection::CALLER_KEY, 1, "01", &chat("small-1", "hello")).await, 200);
    assert_eq!(collector.trace(&trace(1), 2).await.len(), 2);
    world.cloud.project(&Projection::of(&world.upstream));
    wait::until("the role has left", async || match export_worker(gateway) {
        None => Ok(()),
        Some(worker) => Err(format!("{worker:?}")),
    })
    .await;
}

#[tokio::test]
async fn the_exporter_of_the_file_is_told_as_well_and_one_over_tls_from_within_the_confinement() {
    let authority = Authority::default();
    let plain = Collector::start().await;
    let tls = Collector::start_tls(&authority).await;
    let upstream = upstream().await;
    let over_tls = json!({"endpoint": format!("https://{}/own/path?k=v", tls.address())});
    let resources = Projection::of(&upstream).with(
        "observability_exporters",
        "o-1",
        exporter("tls", &tls, over_tls),
    );
    let cloud = Cloud::start(&resources).await;
    let otlp = json!({"enabled": true, "endpoint": format!("http://{}", plain.address()),
        "headers": format!("x-collector-key={SECRET}")});
    let mut gateway = Builder::managed(&cloud)
        .set("/observability/tracing/otlp", otlp)
        .set("/observability/service_name", json!("edge"))
        .set("/upstream/tls/ca_file", json!(authority.certificate()))
        .start()
        .await;
    exports(&gateway).await;
    let worker = export_worker(&gateway).unwrap();
    let status = fs::read_to_string(worker.proc("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"));
    assert_eq!(
        ask(&gateway, projection::CALLER_KEY, 1, "01", &chat("small-1", "hello")).await,
        200
    );
    // What waits is sent before the end.
    gateway.terminate();
    for collector in [&plain, &tls] {
        let spans = collector.trace(&trace(1), 2).await;
        assert_eq!(spans[0].resource["service.name"], "edge");
    }
    assert!(gateway.end().await.success());
    assert_eq!(plain.batches()[0].target, "/v1/traces");
    assert_eq!(plain.batches()[0].headers["x-collector-key"], SECRET);
    assert_eq!(tls.batches()[0].target, "/own/path?k=v");
    assert!(!gateway.log().contains(SECRET));
}
