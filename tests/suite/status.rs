//! `aisix status`: the five checks of the managed guide in their order, and everything that is behind them.

use std::process::Stdio;

use harness::cloud::ENVIRONMENT;
use harness::command::{command, text};

use harness::{Builder, Cloud, Gateway, Projection, World, upstream, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

/// The states of the five checks, in order.
fn states(status: &Value) -> Vec<&str> {
    let checks = status["checks"].as_array().expect("checks");
    checks.iter().map(|check| check["state"].as_str().expect("a state")).collect()
}

async fn until_states(gateway: &Gateway, expected: [&str; 5]) -> Value {
    wait::until(&format!("the checks are {expected:?}"), async || {
        let status = gateway.told_status().await;
        if states(&status) == expected { Ok(status) } else { Err(status["checks"].to_string()) }
    })
    .await
}

#[tokio::test]
async fn the_five_checks_come_true_one_after_the_other() {
    let world = World::start().await;
    let gateway = &world.gateway;
    let status = until_states(gateway, ["ok", "ok", "ok", "waiting", "waiting"]).await;
    let names: Vec<_> = status["checks"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["started", "heartbeat", "resources", "request", "usage"]);
    assert!(status["checks"][1]["evidence"].as_str().unwrap().contains(ENVIRONMENT), "{status}");

    for _ in 0..3 {
        assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    }
    let status = until_states(gateway, ["ok"; 5]).await;
    assert_eq!(status["traffic"]["succeeded"], 3, "{}", status["traffic"]);
    let requests = status["workers"].as_array().unwrap().iter();
    let requests: u64 = requests.filter_map(|worker| worker["requests"].as_u64()).sum();
    assert_eq!(requests, 3, "{}", status["workers"]);
    let channels = status["cloud"]["channels"].as_array().unwrap();
    for name in ["heartbeat", "configuration", "usage", "budgets"] {
        let channel = channels.iter().find(|it| it["name"] == name).expect(name);
        assert!(channel["last_contact_at"].is_string() && channel["error"].is_null(), "{channel}");
    }
    let identity = &status["identity"];
    assert_eq!(identity["env_id"], ENVIRONMENT);
    assert!(identity["dp_id"].is_string() && identity["instance_id"].is_string(), "{identity}");
    assert!(status["certificate"]["expires_in_secs"].as_i64() > Some(0));
    assert_eq!(status["budgets"]["unknown_keys"], "deny");
}

#[tokio::test]
async fn a_check_that_does_not_hold_says_why() {
    let upstream = upstream().await;
    let mut cloud = Cloud::start(&Projection::of(&upstream)).await;
    let gateway = Builder::managed(&cloud).start().await;
    until_states(&gateway, ["ok", "ok", "ok", "waiting", "waiting"]).await;
    cloud.stop();
    let status = until_states(&gateway, ["ok", "failed", "failed", "waiting", "waiting"]).await;
    let evidence = |check: usize| status["checks"][check]["evidence"].as_str().unwrap();
    assert!(evidence(1).contains("refused"), "{}", evidence(1));
    assert!(evidence(2).contains("the source is away"), "{}", evidence(2));
    cloud.resume().await;
    until_states(&gateway, ["ok", "ok", "ok", "waiting", "waiting"]).await;
    drop(upstream);
}

#[tokio::test]
async fn a_rejected_resource_is_named_with_its_reason_and_the_age_of_what_is_served() {
    let world = World::start().await;
    let broken = Projection::of(&world.upstream).with("models", "broken", json!({"x": 1}));
    world.cloud.project(&broken);
    let status = until_states(&world.gateway, ["ok", "ok", "warning", "waiting", "waiting"]).await;
    let rejected = &status["configuration"]["rejected"][0];
    assert_eq!(rejected["resource"], "models/broken", "{rejected}");
    assert!(!rejected["reason"].as_str().unwrap().is_empty());
    let told = text(&world.gateway.aisix(&["status"]).await);
    assert!(told.contains("models/broken"), "{told}");
}

#[tokio::test]
async fn people_read_it_within_80_columns() {
    let world = World::start().await;
    world.caller().ask("small-1", "hello").await;
    until_states(&world.gateway, ["ok"; 5]).await;
    let told = text(&world.gateway.aisix(&["status"]).await);
    println!("{told}");
    for line in told.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
    for head in ["CHECKS", "IDENTITY", "CONFIGURATION", "PROCESSES", "USAGE", "BUDGETS", "CLOUD"] {
        assert!(told.contains(head), "{head} in {told}");
    }
}

#[tokio::test]
async fn a_watch_tells_it_again_and_again() {
    let world = World::start().await;
    let config = world.gateway.folder().join("config.managed.yaml");
    let config = config.to_str().unwrap();
    let mut watch = command(&["status", "--json", "--watch=1", "--config", config]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut uptimes = Vec::new();
    while uptimes.len() < 3 {
        let line = wait::within("the watch tells", lines.next_line()).await.unwrap().unwrap();
        let status: Value = serde_json::from_str(&line).expect("a line is a document");
        uptimes.push(status["uptime_secs"].as_u64().unwrap());
    }
    assert!(uptimes.is_sorted(), "{uptimes:?}");
    watch.kill().await.unwrap();
}

#[tokio::test]
async fn without_a_cloud_its_checks_are_off() {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    std::fs::write(&resources, "_format_version: \"1\"\n").unwrap();
    let socket = json!(folder.path().join("aisix.sock"));
    let gateway = Builder::from_file(&resources).set("/supervisor/control_socket", socket);
    let gateway = gateway.start_alive().await;
    let status = until_states(&gateway, ["ok", "off", "warning", "waiting", "off"]).await;
    assert_eq!(status["cloud"], Value::Null);
}
