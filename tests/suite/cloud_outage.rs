//! The Cloud is away: at the start, for a moment, or while everything changes.

use harness::cloud::ENVIRONMENT;
use harness::{
    Builder, Cloud, Etcd, Gateway, Projection, World, client, projection, upstream, wait,
};

#[tokio::test]
async fn without_the_cloud_the_gateway_comes_up_and_serves_once_it_is_there() {
    let upstream = upstream().await;
    let mut cloud = Cloud::stopped(&Projection::of(&upstream));
    let mut gateway = Builder::managed(&cloud).start_alive().await;
    let ready = client::fetch(gateway.proxy(), "/readyz").await.unwrap();
    assert_eq!(ready.status, 503);
    let refused = gateway.caller().ask("small-1", "hello").await;
    assert_eq!(refused.status, 401, "no key is known before the first projection");
    assert_eq!(refused.json().await.unwrap()["error"]["type"], "invalid_api_key");

    cloud.resume().await;
    gateway.wait_until_ready().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    cloud.heartbeat("that the gateway is there", |_| true).await;
}

#[tokio::test]
async fn while_the_cloud_is_away_the_gateway_serves_what_it_has() {
    let mut world = World::start().await;
    world.cloud.stop();
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    world.cloud.resume().await;
    assert_eq!(world.cloud.usage_of(1).await.len(), 1);
}

#[tokio::test]
async fn what_changed_while_the_cloud_was_away_is_in_force_once_it_is_back() {
    let mut world = World::start().await;
    world.cloud.stop();
    let projection = Projection::of(&world.upstream).without("api_keys", "k-1").with(
        "api_keys",
        "k-2",
        projection::api_key("sk-two", &["*"]),
    );
    world.cloud.project(&projection);
    world.cloud.resume().await;
    second_key_instead_of_the_first(&world.gateway).await;
}

#[tokio::test]
async fn a_compaction_while_the_cloud_was_away_loses_no_change() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let prefix = format!("/aisix/{ENVIRONMENT}/");
    etcd.project(&prefix, &Projection::of(&upstream)).await;
    let mut cloud = Cloud::over(&etcd).await;
    let gateway = Builder::managed(&cloud).start().await;
    cloud.stop();
    etcd.delete(&format!("{prefix}api_keys/k-1")).await;
    etcd.put(&format!("{prefix}api_keys/k-2"), &projection::api_key("sk-two", &["*"])).await;
    etcd.compact().await;
    cloud.resume().await;
    second_key_instead_of_the_first(&gateway).await;
}

/// In every worker: a revision that is applied in all of them is waited for.
async fn second_key_instead_of_the_first(gateway: &Gateway) {
    wait::until("the second key is usable", async || {
        let status = gateway.caller_with("sk-two").ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    wait::until("the first key is refused", async || {
        let status = gateway.caller().ask("small-1", "hello").await.status;
        if status == 401 { Ok(()) } else { Err(status) }
    })
    .await;
}
