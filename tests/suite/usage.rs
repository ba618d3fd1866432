//! Usage: what the Cloud is told is what the upstream has done, exactly once.

use std::collections::BTreeMap;

use harness::provider::Outcome;
use harness::{World, wait};
use serde_json::Value;

/// Request id → prompt and completion tokens, as the Cloud was told.
fn told(events: &[Value]) -> BTreeMap<String, (u64, u64)> {
    events
        .iter()
        .map(|event| {
            let number = |name: &str| event[name].as_u64().expect("a count");
            let id = event["request_id"].as_str().expect("an id").to_owned();
            (id, (number("prompt_tokens"), number("completion_tokens")))
        })
        .collect()
}

/// The same, as the upstream has counted.
fn counted(world: &World) -> BTreeMap<String, (u64, u64)> {
    let ledger = world.upstream.ledger();
    ledger
        .into_iter()
        .map(|served| {
            let id = served.request_id.expect("the gateway names its requests");
            (id, (served.prompt_tokens.into(), served.completion_tokens.into()))
        })
        .collect()
}

/// Sends 40 requests, half of them streamed, and returns the ids that their answers carried.
async fn forty_requests(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..40_usize {
        let text = vec!["word"; 1 + number].join(" ");
        let answer = match number % 2 {
            0 => world.caller().ask("small-1", &text).await,
            _ => world.caller().ask_stream("small-1", &text).await,
        };
        assert_eq!(answer.status, 200);
        ids.push(answer.header("x-aisix-request-id").to_owned());
        answer.bytes().await.expect("the answer is complete");
    }
    ids.sort_unstable();
    ids
}

/// Exactly the upstream's counts under exactly the callers' ids, each once, and nothing that comes later.
async fn is_exact(world: &mut World, ids: Vec<String>) {
    world.cloud.usage_of(ids.len()).await;
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
    let events = world.cloud.usage().await;
    assert_eq!(events.len(), ids.len());
    assert_eq!(told(&events), counted(world));
    assert_eq!(told(&events).into_keys().collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn forty_requests_are_forty_events_with_the_upstreams_counts() {
    let mut world = World::start().await;
    let ids = forty_requests(&world).await;
    is_exact(&mut world, ids).await;
    for event in world.cloud.usage().await {
        assert_eq!(event["status_code"], 200, "{event}");
        assert_eq!(event["model_id"], "m-small-1", "{event}");
        assert_eq!(event["api_key_id"], "k-1", "{event}");
        assert_eq!(event["requested_model"], "small-1", "{event}");
        assert_eq!(event["attempt_index"], 0, "{event}");
        assert_eq!(event["inbound_protocol"], "openai", "{event}");
        assert_eq!(event["finish_reason"], "stop", "{event}");
        assert!(event["event_id"].is_string(), "{event}");
    }
}

#[tokio::test]
async fn while_the_cloud_refuses_usage_it_is_kept_and_then_arrives_once() {
    let mut world = World::start().await;
    world.cloud.fail("/dp/telemetry", 503, Some(3)).await;
    let ids = forty_requests(&world).await;
    world.cloud.faults_have_happened().await;
    is_exact(&mut world, ids).await;
}

#[tokio::test]
async fn usage_outlives_an_absence_of_the_cloud() {
    let mut world = World::start().await;
    world.cloud.stop();
    let ids = forty_requests(&world).await;
    world.cloud.resume().await;
    is_exact(&mut world, ids).await;
}

#[tokio::test]
async fn a_caller_who_leaves_in_the_middle_of_a_stream_is_an_event_with_499() {
    let world = World::start().await;
    let mut answer = world.caller().ask_stream("stall", "one two three").await;
    let id = answer.header("x-aisix-request-id").to_owned();
    answer.next_event().await.expect("the stream begins");
    drop(answer);
    let events = world.cloud.usage_of(1).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["request_id"], id);
    assert_eq!(events[0]["status_code"], 499);
    wait::until("the upstream is told that nobody listens", async || {
        let outcome = world.upstream.ledger()[0].outcome;
        if outcome == Outcome::CallerLeft { Ok(()) } else { Err(format!("{outcome:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_failed_attempt_is_an_event_with_its_class_and_a_refused_key_is_none() {
    let world = World::start_with(|builder| builder.env("AISIX_UPSTREAM__RETRIES", "0")).await;
    assert_eq!(world.gateway.caller_with("sk-wrong").ask("small-1", "hello").await.status, 401);
    assert_eq!(world.caller().ask("status-503", "hello").await.status, 502);
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    let events = world.cloud.usage_of(2).await;
    let statuses: Vec<_> = events.iter().map(|event| event["status_code"].as_u64()).collect();
    assert_eq!(statuses, [Some(502), Some(200)]);
    assert_eq!(events[0]["error_class"], "upstream_status");
}
