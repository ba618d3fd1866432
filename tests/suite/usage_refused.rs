//! What the Cloud refuses: one event delays no other, and nothing is thrown away that could still be accepted.

use std::collections::BTreeSet;

use harness::{World, wait};
use serde_json::Value;

/// Sends requests for a model and returns their ids.
async fn ask(world: &World, model: &str, count: usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        let answer = world.caller().ask(model, "hello").await;
        ids.insert(answer.header("x-aisix-request-id").to_owned());
        answer.bytes().await.expect("the answer is complete");
    }
    ids
}

fn request_ids(events: &[Value]) -> BTreeSet<String> {
    let id = |event: &Value| event["request_id"].as_str().expect("an id").to_owned();
    events.iter().map(id).collect()
}

#[tokio::test]
async fn a_poisoned_event_delays_no_other_and_becomes_a_dead_letter() {
    let world = World::start().await;
    world.cloud.refuse_event("requested_model", "poison").await;
    let mut good = ask(&world, "small-1", 15).await;
    let bad = ask(&world, "poison", 1).await;
    good.extend(ask(&world, "small-1", 15).await);
    assert_eq!(request_ids(&world.cloud.usage_of(30).await), good);
    let letters = wait::until("the dead letter is written", async || {
        let text = std::fs::read_to_string(world.gateway.state().join("dead_letters.jsonl"));
        text.map_err(|error| error.to_string())
    })
    .await;
    let letters: Vec<Value> =
        letters.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let events: Vec<_> = letters.iter().map(|letter| letter["event"].clone()).collect();
    assert_eq!(request_ids(&events), bad);
    wait::until("it is told", async || {
        let usage = world.gateway.status_managed().await["usage"].clone();
        let is_told = usage["dead_letters"] == 1 && usage["waiting"] == 0;
        if is_told { Ok(()) } else { Err(usage) }
    })
    .await;
    let finding = world.gateway.finding("usage").await;
    assert!(finding.contains("dead_letters.jsonl"), "{finding}");
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.sum("aisix_usage_dead_letters_total", &[]), 1.0);
}

#[tokio::test]
async fn a_cloud_that_takes_only_small_batches_gets_everything() {
    let world = World::start().await;
    world.cloud.fail("/dp/telemetry", 503, Some(1)).await;
    world.cloud.events_max(7).await;
    let ids = ask(&world, "small-1", 60).await;
    assert_eq!(request_ids(&world.cloud.usage_of(60).await), ids);
}

#[tokio::test]
async fn a_cloud_that_refuses_everything_loses_nothing() {
    let world = World::start().await;
    world.cloud.fail("/dp/telemetry", 400, None).await;
    let ids = ask(&world, "small-1", 40).await;
    wait::until("it is told", async || {
        let finding = world.gateway.finding("usage").await;
        if finding.contains("refuses whatever") { Ok(()) } else { Err(finding) }
    })
    .await;
    world.cloud.heal().await;
    assert_eq!(request_ids(&world.cloud.usage_of(40).await), ids);
    assert!(!world.gateway.state().join("dead_letters.jsonl").exists());
}
