//! Groups of models: what a caller, an operator and the Cloud see of targets that fail, with two workers.

use harness::caller::chat;
use harness::{Builder, Cloud, Projection, World, client, projection, upstream, wait};
use serde_json::{Value, json};

/// A world in which `more` is configured from the beginning, so that all workers know it. Nothing is repeated unless it is
/// said.
async fn world(more: impl FnOnce(Projection) -> Projection) -> World {
    let upstream = upstream().await;
    let cloud = Cloud::start(&more(Projection::of(&upstream))).await;
    let gateway = Builder::managed(&cloud).env("AISIX_UPSTREAM__RETRIES", "0").start().await;
    World { upstream, cloud, gateway }
}

/// A group of these direct models; `more` is what else its `routing` says.
fn group(name: &str, targets: &[&str], more: Value) -> Value {
    let targets: Vec<_> = targets.iter().map(|model| json!({"model": model})).collect();
    let mut routing = json!({"targets": targets});
    for (field, value) in more.as_object().into_iter().flatten() {
        routing[field] = value.clone();
    }
    json!({"display_name": name, "routing": routing})
}

/// A direct model with another name than its script has.
fn direct(name: &str, script: &str, more: Value) -> Value {
    let mut model = projection::model(name, "pk-1");
    model["model_name"] = json!(script);
    for (field, value) in more.as_object().into_iter().flatten() {
        model[field] = value.clone();
    }
    model
}

/// How often the upstream was asked for that script.
fn asked(world: &World, script: &str) -> usize {
    world.upstream.ledger().iter().filter(|served| served.model == script).count()
}

async fn status(world: &World, model: &str) -> Value {
    let answer = client::fetch(world.gateway.status(), "/status/models").await.unwrap();
    assert_eq!(answer.status, 200);
    let list = answer.json().await.unwrap();
    let found = list.as_array().unwrap().iter().find(|row| row["display_name"] == model).cloned();
    found.unwrap_or_else(|| panic!("{model} is not in {list}"))
}

/// Asks with a header.
async fn ask_with(world: &World, model: &str, header: &'static str, value: &str) -> client::Answer {
    let mut request = world.caller().request("/v1/chat/completions", &chat(model, "hello"));
    request.headers_mut().insert(header, value.parse().unwrap());
    client::send(world.gateway.proxy(), request).await.unwrap()
}

#[tokio::test]
async fn a_target_that_fails_is_left_for_the_next_and_every_attempt_is_told() {
    let cost = json!({"cost": {"input_per_1k": 1.0, "output_per_1k": 2.0}});
    let world = world(|it| {
        it.with("models", "m-good", direct("good", "small-1", cost)).with(
            "models",
            "m-g",
            group("g", &["status-500", "good"], json!({"retries": 1})),
        )
    })
    .await;
    let answer = world.caller().ask("g", "one two three").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-aisix-served-by")), (200, "good"));
    answer.bytes().await.unwrap();
    let events = world.cloud.usage_of(3).await;
    let told = |event: &Value| {
        ["attempt_index", "attempt_kind", "attempt_model", "model_id", "status_code", "error_class"]
            .map(|field| event[field].clone())
    };
    let mut told: Vec<_> = events.iter().map(told).collect();
    told.sort_by_key(|event| event[0].as_u64());
    assert_eq!(
        json!(told),
        json!([
            [0, "initial", "status-500", "m-status-500", 502, "upstream_status"],
            [1, "retry", "status-500", "m-status-500", 502, "upstream_status"],
            [2, "fallback", "good", "m-good", 200, null],
        ])
    );
    assert!(events.iter().all(|event| event["requested_model"] == "g"), "{events:?}");
    let paid = events.iter().find(|event| event["attempt_index"] == 2).unwrap();
    let tokens = |field: &str| paid[field].as_f64().unwrap();
    let cost = (tokens("prompt_tokens") + 2.0 * tokens("completion_tokens")) / 1000.0;
    assert!((paid["cost_usd"].as_f64().unwrap() - cost).abs() < 1e-9, "{paid}");

    let metrics = world.gateway.metrics().await;
    let fallback = [("model", "g"), ("fallback_model", "good")];
    assert_eq!(metrics.sum("aisix_routing_successful_fallbacks_total", &fallback), 1.0);
    let is_fallback = [("model", "g"), ("is_fallback", "true")];
    assert_eq!(metrics.sum("aisix_proxy_requests_total", &is_fallback), 1.0);
    let failing = [("model", "status-500"), ("upstream_model", "status-500")];
    assert_eq!(metrics.sum("aisix_deployment_failure_responses_total", &failing), 2.0);
    assert_eq!(metrics.sum("aisix_deployment_cooled_down_total", &failing), 1.0);
    assert_eq!(metrics.sum("aisix_deployment_state", &failing), 2.0);
    let spend = metrics.sum("aisix_llm_spend_micro_usd_total", &[("model", "g")]);
    assert!((spend - cost * 1e6).abs() < 1.0, "{spend}");
    wait::until("the request is in the log", async || {
        let log = world.gateway.log();
        let line = log.lines().find(|line| line.contains("proxy request completed"));
        let line = line.unwrap_or_default();
        let is_told =
            ["routing_attempt_count=3", "routing_fallback_count=1", "served_by_model=\"good\""]
                .iter()
                .all(|field| line.contains(field));
        if is_told { Ok(()) } else { Err(line.to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn a_model_that_has_failed_is_left_alone_by_every_worker_and_by_those_that_come_after_a_kill()
{
    let world =
        world(|it| it.with("models", "m-g", group("g", &["status-503", "small-1"], json!({}))))
            .await;
    // Asked for by its own name it is asked, and marked.
    assert_eq!(world.caller().ask("status-503", "hello").await.status, 502);
    assert_eq!(asked(&world, "status-503"), 1);
    let row = status(&world, "status-503").await;
    assert_eq!((&row["status"], &row["kind"]), (&json!("cooldown"), &json!("direct")));
    assert!(row["cooldown_until"]["secs_since_epoch"].is_u64(), "{row}");
    assert_eq!(status(&world, "g").await["status"], "not_applicable");

    let many = async || {
        for _ in 0..20 {
            let answer = world.caller().ask("g", "hello").await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("x-aisix-served-by")),
                (200, "small-1")
            );
        }
    };
    many().await;
    let killed = world.gateway.proxies();
    killed.iter().for_each(harness::worker::Worker::kill);
    wait::until("other workers serve", async || {
        let new = world.gateway.proxies().iter().filter(|worker| !killed.contains(worker)).count();
        let up = world.gateway.metrics().await.sum("aisix_workers_up", &[("role", "proxy")]);
        if new == 2 && up >= 2.0 { Ok(()) } else { Err(format!("{new} new, {up} up")) }
    })
    .await;
    many().await;
    assert_eq!(asked(&world, "status-503"), 1);
    assert_eq!(status(&world, "status-503").await["status"], "cooldown");
}

#[tokio::test]
async fn a_rotation_goes_on_from_one_worker_to_the_other() {
    let world = world(|it| {
        it.with("models", "m-a", direct("a", "small-a", json!({})))
            .with("models", "m-b", direct("b", "small-b", json!({})))
            .with("models", "m-g", group("g", &["a", "b"], json!({"strategy": "round_robin"})))
    })
    .await;
    for _ in 0..20 {
        assert_eq!(world.caller().ask("g", "hello").await.status, 200);
    }
    let ledger = world.upstream.ledger();
    let models: Vec<_> = ledger.iter().map(|served| served.model.as_str()).collect();
    assert_eq!(models, ["small-a", "small-b"].repeat(10));
}

#[tokio::test]
async fn tags_and_keys_of_a_request_decide_where_it_goes() {
    let tagged = json!({"targets": [{"model": "small-1", "tags": ["eu"]},
        {"model": "big", "tags": ["default"]}]});
    let hashed = json!({"strategy": "consistent_hash"});
    let world = world(|it| {
        it.with("models", "m-t", group("tagged", &[], tagged)).with(
            "models",
            "m-h",
            group("hashed", &["small-1", "split"], hashed),
        )
    })
    .await;
    let tags = "x-aisix-routing-tags";
    assert_eq!(
        ask_with(&world, "tagged", tags, "us, eu").await.header("x-aisix-served-by"),
        "small-1"
    );
    assert_eq!(ask_with(&world, "tagged", tags, "us").await.header("x-aisix-served-by"), "big");
    assert_eq!(world.caller().ask("tagged", "hello").await.header("x-aisix-served-by"), "big");
    let mut owners = Vec::new();
    for key in 0..12 {
        let key = key.to_string();
        let first = ask_with(&world, "hashed", "x-aisix-routing-key", &key).await;
        let again = ask_with(&world, "hashed", "x-aisix-routing-key", &key).await;
        let owner = first.header("x-aisix-served-by").to_owned();
        assert_eq!(again.header("x-aisix-served-by"), owner);
        owners.push(owner);
    }
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners, ["small-1", "split"]);
}

#[tokio::test]
async fn when_no_target_is_left_it_is_503_with_a_time_or_they_are_tried_anyway() {
    let world = world(|it| {
        it.with("models", "m-g", group("g", &["status-503"], json!({}))).with(
            "models",
            "m-a",
            group("anyway", &["status-503"], json!({"when_all_unavailable": "try_anyway"})),
        )
    })
    .await;
    assert_eq!(world.caller().ask("g", "hello").await.status, 502);
    let answer = world.caller().ask("g", "hello").await;
    assert_eq!(answer.status, 503);
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert_eq!(answer.json().await.unwrap()["error"]["type"], "all_candidates_unavailable");
    assert_eq!(asked(&world, "status-503"), 1);
    assert_eq!(world.caller().ask("anyway", "hello").await.status, 502);
    assert_eq!(asked(&world, "status-503"), 2);
}

#[tokio::test]
async fn an_upstream_that_takes_too_long_is_left_for_the_next_and_one_that_refuses_the_caller_is_not()
 {
    let world = world(|it| {
        let group_of = |name: &str, first: &str, more| group(name, &[first, "small-1"], more);
        it.with("models", "m-1", direct("slow", "stall", json!({"timeout": 200})))
            .with("models", "m-2", group_of("late", "slow", json!({})))
            .with("models", "m-3", group_of("refused", "status-400", json!({})))
            .with("models", "m-4", group_of("limited", "status-429", json!({})))
            .with("models", "m-5", direct("hot", "status-429", json!({})))
            .with("models", "m-6", group_of("limited-too", "hot", json!({"retry_on_429": true})))
            .with("models", "m-7", direct("odd", "status-404", json!({})))
            .with(
                "models",
                "m-8",
                group_of("listed", "odd", json!({"fallback_on_statuses": [404]})),
            )
    })
    .await;
    for (model, status, served_by) in [
        ("late", 200, "small-1"),
        ("refused", 400, ""),
        ("limited", 429, ""),
        ("limited-too", 200, "small-1"),
        ("listed", 200, "small-1"),
    ] {
        let answer = world.caller().ask(model, "hello").await;
        let seen = (answer.status.as_u16(), answer.headers.get("x-aisix-served-by"));
        let seen = (seen.0, seen.1.map_or("", |value| value.to_str().unwrap()));
        assert_eq!(seen, (status, served_by), "{model}");
    }
}

#[tokio::test]
async fn the_health_of_a_model_is_looked_at_once_for_all_workers_and_its_groups_heed_it() {
    let check = json!({"background_model_check": {"enabled": true, "interval_seconds": 3600, "max_tokens": 1,
        "prompt": "are you there", "stale_after_seconds": 3600, "timeout_seconds": 10}});
    let world = world(|it| {
        it.with("models", "m-sick", direct("sick", "status-500", check.clone()))
            .with("models", "m-well", direct("well", "small-well", check))
            .with("models", "m-g", group("g", &["sick", "small-1"], json!({})))
    })
    .await;
    let row = wait::until("the sick model is found", async || {
        let row = status(&world, "sick").await;
        if row["status"] == "unhealthy" { Ok(row) } else { Err(row) }
    })
    .await;
    assert_eq!(row["last_check_status"], 500);
    assert!(row["last_checked_at"]["secs_since_epoch"].is_u64(), "{row}");
    let row = wait::until("the other one is looked at", async || {
        let row = status(&world, "well").await;
        if row["last_check_status"] == 200 { Ok(row) } else { Err(row) }
    })
    .await;
    assert_eq!(row["status"], "healthy");
    for _ in 0..5 {
        assert_eq!(world.caller().ask("g", "hello").await.header("x-aisix-served-by"), "small-1");
    }
    assert_eq!((asked(&world, "status-500"), asked(&world, "small-well")), (1, 1));
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.sum("aisix_deployment_state", &[("model", "sick")]), 2.0);
    assert_eq!(metrics.sum("aisix_deployment_state", &[("model", "well")]), 0.0);
}

#[tokio::test]
async fn the_page_of_models_names_every_kind() {
    let world = world(|it| it.with("models", "m-g", group("g", &["small-1"], json!({})))).await;
    assert_eq!(
        status(&world, "small-1").await,
        json!({"id": "m-small-1", "display_name": "small-1", "kind": "direct", "status": "healthy"})
    );
    assert_eq!(
        status(&world, "g").await,
        json!({"id": "m-g", "display_name": "g", "kind": "routing", "status": "not_applicable"})
    );
}
