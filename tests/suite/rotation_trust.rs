//! Whom the gateway takes for the Cloud: the bundle's authority, a new one when the files say so, and nobody else.

use std::fs;

use harness::authority::Authority;
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::manager::Manager;
use harness::mounted::{Mounted, Style};
use harness::{Builder, Gateway, World, wait};
use serde_json::json;

const DATA_PLANE: &str = "0b8e7c52-6f0d-4b7e-9a55-6d2f3f1f7a10";
const BEATS: &str = "POST /dp/heartbeat";

async fn in_force(gateway: &Gateway, bundle: &Bundle) {
    wait::until("the bundle of the files is in force", async || {
        let status = gateway.status_managed().await;
        let is_in_force =
            status["certificate"]["fingerprint_sha256"] == bundle.fingerprint().as_str();
        if is_in_force && status["rotation"]["candidate_waiting"] == false {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
}

#[tokio::test]
async fn the_cloud_moves_to_a_new_authority_by_files_alone() {
    let [old, new] = [Authority::default(), Authority::default()];
    let issue = |by: &Authority| by.bundle_with(ENVIRONMENT, DATA_PLANE, -60..3600, |_| {});
    let first = issue(&old);
    let mut files = Mounted::new(Style::Swap, &first);
    let manager = Manager::start_at("127.0.0.1:0".parse().unwrap(), &old, &[&old, &new]).await;
    let address = manager.address();
    let gateway = Builder::managed_at(&manager.url(), &files.bundle()).start_alive().await;
    in_force(&gateway, &first).await;

    // A leaf of the new authority, and both to be trusted.
    let leaf = issue(&new);
    let text = |path: &std::path::Path| fs::read(path).unwrap();
    let both = [text(old.certificate()), text(new.certificate())].concat();
    files.put_texts(&[&text(&leaf.certificate), &text(&leaf.key), &both]);
    in_force(&gateway, &leaf).await;

    // The manager follows, and the old authority is trusted no longer.
    manager.stop().await;
    let manager = Manager::start_at(address, &new, &[&new]).await;
    let last = issue(&new);
    files.put(&last);
    in_force(&gateway, &last).await;
    wait::until("heartbeats go to the manager of the new authority", async || {
        let beats = manager.reports(BEATS).len();
        if beats >= 2 { Ok(()) } else { Err(beats) }
    })
    .await;
    let status = gateway.status_managed().await;
    assert_eq!(status["rotation"]["rejected"], 0, "{status}");
}

#[tokio::test]
async fn no_proxy_variable_and_no_setting_of_upstreams_reaches_the_connection_to_the_manager() {
    let dead = "http://127.0.0.1:9";
    let world = World::start_with(|builder| {
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"]
            .iter()
            .fold(builder, |builder, name| builder.env(name, dead))
            .env("NO_PROXY", "")
    })
    .await;
    world.cloud.heartbeat("that the gateway is there", |_| true).await;

    let manager = Manager::start(&Authority::default()).await;
    let stranger = Authority::default();
    let bundle = stranger.bundle(ENVIRONMENT, DATA_PLANE);
    let gateway = Builder::managed_at(&manager.url(), &bundle)
        .set("/upstream", json!({"tls": {"verify": false}}))
        .start_alive()
        .await;
    wait::until("the manager is not trusted", async || {
        let log = gateway.log();
        if log.contains("not issued by the bundle's CA") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(manager.reports(BEATS).is_empty());
}
