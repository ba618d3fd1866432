//! A start while the Cloud and its store are not to be reached: packets to them vanish.

use std::time::{Duration, Instant};

use harness::caller::chat;
use harness::cloud::ENVIRONMENT;
use harness::{BlackHole, Builder, Cloud, Etcd, Gateway, Projection, projection, upstream, wait};
use serde_json::json;

fn key(kind: &str, id: &str) -> String {
    format!("/aisix/{ENVIRONMENT}/{kind}/{id}")
}

/// Revision of the store after a put.
async fn put(etcd: &Etcd, kind: &str, id: &str, document: &str) -> i64 {
    let put = etcd.client().await.put(key(kind, id), document, None).await;
    put.expect("etcd takes a put").header().map_or(0, |header| header.revision())
}

async fn usable(gateway: &Gateway, caller_key: &str) {
    wait::until(&format!("{caller_key} is usable"), async || {
        let status = gateway.caller_with(caller_key).ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn with_the_cloud_swallowing_packets_a_start_serves_and_goes_on_until_it_is_back() {
    const KEYS: usize = 10_000;
    let upstream = upstream().await;
    let mut resources = Projection::of(&upstream);
    for number in 0..KEYS {
        let document = projection::api_key(&format!("sk-{number}"), &["*"]);
        resources = resources.with("api_keys", &format!("n-{number}"), document);
    }
    let mut cloud = Cloud::start(&resources).await;
    let mut first = Builder::managed(&cloud).start().await;
    let before = first.status_config().await;
    first.wait_until_kept(before["applied"]["applied_revision"].as_i64().unwrap()).await;
    usable(&first, &format!("sk-{}", KEYS - 1)).await;
    // In order, so that the decision on the key is on disk.
    first.terminate();
    first.end().await;
    cloud.stop();
    let hole = BlackHole::at(cloud.address());

    let builder = Builder::after(&first, &cloud);
    let start = Instant::now();
    let mut second = builder.spawn();
    let caller = second.caller_with(&format!("sk-{}", KEYS - 1));
    let served = async {
        loop {
            match caller.try_chat(&chat("small-1", "hello")).await {
                Ok(answer) if answer.status == 200 => return,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    wait::within("the first request is served", served).await;
    println!("first request served {:?} after the start, {KEYS} resources", start.elapsed());
    second.wait_until_ready().await;
    let status = second.status_config().await;
    assert_eq!(status["state"], "synced", "{status}");
    assert_eq!(status["source"]["connected"], false);
    assert_eq!(status["source"]["source_hash"], before["source"]["source_hash"]);
    for field in ["applied_revision", "config_hash", "resource_counts"] {
        assert_eq!(status["applied"][field], before["applied"][field], "{field}");
    }
    assert_eq!(second.status_managed().await["snapshot"]["restored_from"], "current");

    drop(hole);
    cloud.project(&Projection::of(&upstream).with(
        "api_keys",
        "new",
        projection::api_key("sk-new", &["*"]),
    ));
    cloud.resume().await;
    usable(&second, "sk-new").await;
}

#[tokio::test]
async fn a_restart_goes_on_from_the_revision_it_has_and_loads_nothing_again() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let prefix = format!("/aisix/{ENVIRONMENT}/");
    let revision = etcd.project(&prefix, &Projection::of(&upstream)).await;
    let cloud = Cloud::over(&etcd).await;
    let mut first = Builder::managed(&cloud).start().await;
    first.wait_until_kept(revision).await;
    first.kill_at_once().await;
    let document = projection::api_key("sk-two", &["*"]).to_string();
    put(&etcd, "api_keys", "k-2", &document).await;
    etcd.delete(&key("api_keys", "k-1")).await;

    let second = Builder::after(&first, &cloud).start().await;
    usable(&second, "sk-two").await;
    wait::until("the deleted key is refused", async || {
        let status = second.caller().ask("small-1", "hello").await.status;
        if status == 401 { Ok(()) } else { Err(status) }
    })
    .await;
    let log = second.log();
    assert!(!log.contains("projection loaded"), "{log}");
    assert!(log.contains(&format!("from revision {revision}")), "{log}");
    assert_eq!(second.metrics().await.sum("aisix_config_reloads_total", &[]), 0.0);
}

#[tokio::test]
async fn a_compaction_while_it_was_off_loads_everything_and_loses_no_change() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let prefix = format!("/aisix/{ENVIRONMENT}/");
    let revision = etcd.project(&prefix, &Projection::of(&upstream)).await;
    let cloud = Cloud::over(&etcd).await;
    let mut first = Builder::managed(&cloud).start().await;
    first.wait_until_kept(revision).await;
    first.kill_at_once().await;
    etcd.delete(&key("api_keys", "k-1")).await;
    put(&etcd, "api_keys", "k-2", &projection::api_key("sk-two", &["*"]).to_string()).await;
    etcd.compact().await;
    let second = Builder::after(&first, &cloud).start().await;
    usable(&second, "sk-two").await;
    assert_eq!(second.caller().ask("small-1", "hello").await.status, 401);
}

#[tokio::test]
async fn what_is_stale_stays_stale_across_a_restart_without_the_cloud() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let prefix = format!("/aisix/{ENVIRONMENT}/");
    etcd.project(&prefix, &Projection::of(&upstream)).await;
    let mut cloud = Cloud::over(&etcd).await;
    let mut first = Builder::managed(&cloud).start().await;
    let revision = put(&etcd, "models", "m-small-1", &json!({"display_name": 7}).to_string()).await;
    first.wait_until_kept(revision).await;
    // Hashes are told at most once a second, of the revision beside them.
    let before = wait::until("the status tells the revision", async || {
        let status = first.status_config().await;
        let observed = status["source"]["observed_revision"].as_i64();
        if observed == Some(revision) { Ok(status) } else { Err(status) }
    })
    .await;
    assert_eq!(before["state"], "degraded", "{before}");
    first.kill_at_once().await;
    cloud.stop();
    let _hole = BlackHole::at(cloud.address());

    let second = Builder::after(&first, &cloud).start().await;
    assert_eq!(second.caller().ask("small-1", "hello").await.status, 200);
    let status = second.status_config().await;
    assert_eq!(status["state"], "degraded", "{status}");
    for field in ["resource_id", "last_error", "first_seen_at", "serving_stale_since"] {
        assert_eq!(status["rejected"][0][field], before["rejected"][0][field], "{field}");
    }
    assert_eq!(status["source"]["source_hash"], before["source"]["source_hash"]);
}

#[tokio::test]
async fn kills_in_the_middle_of_writes_leave_a_snapshot_that_serves() {
    const KILLS: usize = 8;
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let prefix = format!("/aisix/{ENVIRONMENT}/");
    let revision = etcd.project(&prefix, &Projection::of(&upstream)).await;
    let mut cloud = Cloud::over(&etcd).await;
    let mut gateway = Builder::managed(&cloud).start().await;
    gateway.wait_until_kept(revision).await;
    let mut generations = Vec::new();
    let mut earlier = Vec::new();
    for kill in 0..KILLS {
        let mut client = etcd.client().await;
        let writes = tokio::spawn(async move {
            for number in 0..100_000 {
                let document = projection::api_key(&format!("sk-{kill}-{number}"), &["*"]);
                let put = client.put(key("api_keys", "busy"), document.to_string(), None).await;
                put.expect("etcd takes a put");
            }
        });
        let generation = async || gateway.status_managed().await["snapshot"]["generation"].as_u64();
        let begin = generation().await;
        wait::until("writes are going on", async || {
            let now = generation().await;
            if now > begin.map(|begin| begin + 3) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        generations.push(begin);
        gateway.kill_at_once().await;
        writes.abort();
        let next = Builder::after(earlier.first().unwrap_or(&gateway), &cloud).start().await;
        let finding = next.finding("snapshot").await;
        assert_eq!(finding, "", "after kill {kill}");
        assert_eq!(next.status_managed().await["snapshot"]["restored_from"], "current");
        earlier.push(std::mem::replace(&mut gateway, next));
    }
    assert!(generations.windows(2).all(|pair| pair[0] < pair[1]), "{generations:?}");
    gateway.kill_at_once().await;
    cloud.stop();
    let _hole = BlackHole::at(cloud.address());
    let last = Builder::after(&earlier[0], &cloud).start().await;
    assert_eq!(last.caller().ask("small-1", "hello").await.status, 200);
}
