//! Usage that has to wait: for a Cloud that is away, for room on the disk, for a disk that works.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use harness::provider::KEY;
use harness::{Builder, Cloud, Projection, Upstream, World, wait};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

async fn ask(world: &World, count: usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for number in 0..count {
        let text = vec!["word"; 1 + number % 9].join(" ");
        let answer = world.caller().ask("small-1", &text).await;
        assert_eq!(answer.status, 200);
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
async fn what_one_process_could_not_deliver_the_next_one_does() {
    let mut world = World::start().await;
    world.cloud.stop();
    let mut ids = ask(&world, 20).await;
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
    let mut second = Builder::after(&world.gateway, &world.cloud).start_alive().await;
    second.kill_at_once().await;
    world.cloud.resume().await;
    let third = Builder::after(&world.gateway, &world.cloud).start().await;
    let answer = third.caller().ask("small-1", "hello").await;
    ids.insert(answer.header("x-aisix-request-id").to_owned());
    answer.bytes().await.expect("the answer is complete");
    let events = world.cloud.usage_of(21).await;
    assert_eq!((events.len(), request_ids(&events)), (21, ids));
}

/// Prompt and completion tokens and events, as the Cloud was told.
fn told(events: &[Value]) -> (u64, u64, u64) {
    let sum = |name: &str| events.iter().map(|event| event[name].as_u64().unwrap_or(0)).sum();
    let stood_for = events.iter().map(|event| event["aggregated_events"].as_u64().unwrap_or(1));
    (sum("prompt_tokens"), sum("completion_tokens"), stood_for.sum())
}

#[tokio::test]
async fn at_the_cap_details_are_shed_and_the_sums_are_the_upstreams() {
    let mut world =
        World::start_with(|builder| builder.set("/managed/spool_max_bytes", json!(16_384))).await;
    world.cloud.stop();
    ask(&world, 150).await;
    let usage = wait::until("details are shed", async || {
        let usage = world.gateway.status_managed().await["usage"].clone();
        let all = usage["waiting"].as_u64().zip(usage["waiting_as_totals"].as_u64());
        let all = all.is_some_and(|(events, folded)| folded > 0 && events + folded == 150);
        if all { Ok(usage) } else { Err(usage) }
    })
    .await;
    println!("at the cap: {usage}");
    assert!(world.gateway.finding("usage").await.contains("spool_max_bytes"));
    world.cloud.resume().await;
    let ledger = world.upstream.ledger();
    let prompt: u64 = ledger.iter().map(|served| u64::from(served.prompt_tokens)).sum();
    let completion: u64 = ledger.iter().map(|served| u64::from(served.completion_tokens)).sum();
    let events = wait::until("every token is told", async || {
        let events = world.cloud.usage().await;
        let sums = told(&events);
        if sums == (prompt, completion, 150) { Ok(events) } else { Err(format!("{sums:?}")) }
    })
    .await;
    let mut by_key = BTreeMap::<_, u64>::new();
    for event in events.iter().filter(|event| event["aggregated_events"].is_u64()) {
        assert!(event["request_id"].as_str().is_some_and(|id| id.starts_with("totals-")));
        let key = ["api_key_id", "model_id", "occurred_at"].map(|name| event[name].to_string());
        *by_key.entry(key).or_default() += 1;
    }
    assert!(!by_key.is_empty() && by_key.keys().all(|key| key[0] == "\"k-1\""), "{by_key:?}");
    assert!(events.len() < 150);
}

#[tokio::test]
async fn a_spool_that_cannot_be_read_is_set_aside_and_usage_goes_on() {
    let world = World::start_with(|builder| {
        let garbage = vec![0x5a; 50_000];
        std::fs::write(builder.state().join("spool.redb"), garbage).expect("a damaged spool");
        builder
    })
    .await;
    let ids = ask(&world, 5).await;
    assert_eq!(request_ids(&world.cloud.usage_of(5).await), ids);
    let finding = world.gateway.finding("spool").await;
    assert!(finding.contains("spool.redb") && finding.contains("set aside"), "{finding}");
}

/// Mounts a small file system of memory, seen by this process and its children only. False if we may not.
fn mount_memory(at: &Path, megabytes: usize) -> bool {
    let run = |arguments: &[&str]| {
        Command::new("mount").args(arguments).status().is_ok_and(|status| status.success())
    };
    let size = format!("size={megabytes}m,mode=0700");
    unshare(CloneFlags::CLONE_NEWNS).is_ok()
        && run(&["--make-rprivate", "/"])
        && run(&["-t", "tmpfs", "-o", &size, "none", &at.to_string_lossy()])
}

#[tokio::test]
async fn on_a_full_disk_traffic_and_usage_go_on_and_it_is_told() {
    let upstream = Upstream::start(([127, 0, 0, 1], 0).into(), KEY).await.expect("a free port");
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let builder = Builder::managed(&cloud);
    let state = builder.state();
    if !mount_memory(&state, 32) {
        println!("skipped: mounting a file system needs root");
        return;
    }
    let gateway = builder.start().await;
    let mut world = World { upstream, cloud, gateway };
    let mut ids = ask(&world, 5).await;
    world.cloud.usage_of(5).await;
    let filler = state.join("filler");
    let _ = std::fs::write(&filler, vec![1; 64 << 20]);
    world.cloud.stop();
    // Room in the database itself has to be used up first.
    let finding = wait::until("the full disk is told", async || {
        ids.extend(ask(&world, 20).await);
        let finding = world.gateway.finding("spool").await;
        if finding.contains("spool.redb") { Ok(finding) } else { Err(finding) }
    })
    .await;
    assert!(finding.contains("make room"), "{finding}");
    ids.extend(ask(&world, 5).await);
    std::fs::remove_file(&filler).expect("the filler goes");
    world.cloud.resume().await;
    assert_eq!(request_ids(&world.cloud.usage_of(ids.len()).await), ids);
    wait::until("the finding is settled", async || {
        let finding = world.gateway.finding("spool").await;
        if finding.is_empty() { Ok(()) } else { Err(finding) }
    })
    .await;
}
