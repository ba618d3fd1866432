//! The metrics and status listener.

mod exact;
mod published;
mod varied;

use std::collections::BTreeSet;

use harness::{Builder, Cloud, Projection, World, client, upstream};

#[tokio::test]
async fn metrics_are_merged_over_the_workers_and_explained() {
    let world = World::start().await;
    for number in 0..10 {
        let text = format!("request {number}");
        world.caller().ask("small-1", &text).await.bytes().await.unwrap();
        world.caller().ask_stream("small-1", &text).await.bytes().await.unwrap();
    }
    let _ = world.caller().ask("status-503", "hello").await.bytes().await;
    let metrics = world.gateway.metrics().await;
    assert_eq!(
        metrics.sum("aisix_requests_total", &[("model", "small-1"), ("status", "200")]),
        20.0
    );
    assert_eq!(metrics.sum("aisix_requests_total", &[("outcome", "upstream_error")]), 1.0);
    assert_eq!(metrics.sum("aisix_llm_input_tokens_total", &[("model", "small-1")]), 40.0);
    assert_eq!(metrics.sum("aisix_llm_output_tokens_total", &[("model", "small-1")]), 80.0);
    assert_eq!(
        metrics.sum("aisix_request_e2e_latency_seconds_count", &[("model", "small-1")]),
        20.0
    );
    for sample in &metrics.samples {
        let family = metrics.family(sample);
        assert!(metrics.types.contains_key(family), "# TYPE {family}");
        assert!(metrics.help.get(family).is_some_and(|help| !help.is_empty()), "# HELP {family}");
    }
    let mut series = BTreeSet::new();
    for sample in &metrics.samples {
        assert!(series.insert((&sample.name, &sample.labels)), "twice: {sample:?}");
    }
}

#[tokio::test]
async fn buckets_are_cumulative_and_end_with_everything() {
    let world = World::start().await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    let metrics = world.gateway.metrics().await;
    let buckets: Vec<_> = metrics
        .samples
        .iter()
        .filter(|sample| sample.name == "aisix_request_e2e_latency_seconds_bucket")
        .collect();
    assert!(buckets.is_sorted_by(|a, b| a.value <= b.value), "{buckets:?}");
    assert_eq!(buckets.last().map(|last| last.labels["le"].as_str()), Some("+Inf"));
    assert_eq!(buckets.last().map(|last| last.value), Some(1.0));
}

#[tokio::test]
async fn the_status_says_what_is_in_force() {
    let world = World::start().await;
    let status = world.gateway.status_config().await;
    assert_eq!(status["state"], "synced", "{status}");
    assert_eq!(status["source"]["type"], "etcd");
    assert_eq!(status["source"]["connected"], true);
    let applied = &status["applied"];
    assert_eq!(applied["applied_revision"], status["source"]["observed_revision"], "{status}");
    assert_eq!(applied["config_hash"].as_str().map(str::len), Some(64));
    assert_eq!(applied["apply_seq"], 1);
    assert_eq!(applied["resource_counts"]["api_keys"], 1);
    assert_eq!(applied["resource_counts"]["provider_keys"], 1);
    assert_eq!(status["last_reload"]["successful"], true);
    assert_eq!(status["rejected"], serde_json::json!([]));
    let beat = world
        .cloud
        .heartbeat("that the revision is applied", |beat| {
            beat["applied_revision"] == applied["applied_revision"]
        })
        .await;
    assert_eq!(beat["config_hash"], applied["config_hash"]);
}

#[tokio::test]
async fn before_the_first_projection_nothing_is_ready_and_the_status_says_so() {
    let upstream = upstream().await;
    let mut cloud = Cloud::stopped(&Projection::of(&upstream));
    let mut gateway = Builder::managed(&cloud).start_alive().await;
    let ready = client::fetch(gateway.status(), "/status/ready").await.unwrap();
    assert_eq!(ready.status, 503);
    assert_eq!(ready.text().await.unwrap(), "no configuration available");
    let status = gateway.status_config().await;
    assert_eq!(status["state"], "never_loaded");
    assert_eq!(status["source"]["connected"], false);
    assert!(status.get("applied").is_none(), "{status}");
    cloud.resume().await;
    gateway.wait_until_ready().await;
    let ready = client::fetch(gateway.status(), "/status/ready").await.unwrap();
    assert_eq!((ready.status.as_u16(), ready.text().await.unwrap().as_str()), (200, "ok"));
}

#[tokio::test]
async fn other_paths_of_the_status_listener_are_404() {
    let world = World::start().await;
    for path in ["/v1/models", "/metrics/more", "/status"] {
        let answer = client::fetch(world.gateway.status(), path).await.unwrap();
        assert_eq!(answer.status, 404, "{path}");
    }
}
