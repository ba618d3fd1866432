//! A change that workers die of is set aside, and everything else goes on.
//!
//! The gateway's workers are `aisix-fragile-worker`: they die or hang of models whose names say so.

use std::time::Instant;

use harness::cloud::ENVIRONMENT;
use harness::{
    Builder, Caller, Cloud, Etcd, Gateway, Projection, Upstream, binaries, projection, upstream,
    wait,
};
use serde_json::{Value, json};

struct Managed {
    upstream: Upstream,
    etcd: Etcd,
    cloud: Cloud,
    gateway: Gateway,
}

impl Managed {
    async fn start(workers: usize) -> Self {
        let upstream = upstream().await;
        let etcd = Etcd::start().await;
        etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &Projection::of(&upstream)).await;
        let cloud = Cloud::over(&etcd).await;
        let gateway = fragile(Builder::managed(&cloud), workers).start().await;
        Self { upstream, etcd, cloud, gateway }
    }

    async fn put_model(&self, id: &str, name: &str) {
        self.etcd.put(&key("models", id), &projection::model(name, "pk-1")).await;
    }

    /// Waits until the key is named as set aside.
    async fn set_aside(&self, key: &str) {
        wait::until(&format!("{key} is set aside"), async || {
            let text = self.gateway.finding("quarantine").await;
            if text.contains(key) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    async fn settled(&self) {
        wait::until("nothing is set aside any more", async || {
            let text = self.gateway.finding("quarantine").await;
            if text.is_empty() { Ok(()) } else { Err(text) }
        })
        .await;
    }
}

fn fragile(builder: Builder, workers: usize) -> Builder {
    let program = binaries::find("aisix-fragile-worker").unwrap_or_else(|error| panic!("{error}"));
    builder.set("/supervisor/worker_path", json!(program)).set("/proxy/workers", workers.into())
}

fn key(kind: &str, id: &str) -> String {
    format!("/aisix/{ENVIRONMENT}/{kind}/{id}")
}

async fn served(caller: &Caller, model: &str) {
    wait::until(&format!("{model} is served"), async || {
        match caller.try_chat(&harness::caller::chat(model, "hello")).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{:?}", other.map(|answer| answer.status))),
        }
    })
    .await;
}

/// Sets the change aside, and later takes another one of the same resource.
async fn is_set_aside_and_comes_back(world: &Managed, poison: &str) {
    let caller = world.gateway.caller();
    let bad = key("models", "m-poison");
    world.put_model("m-poison", "healthy").await;
    served(&caller, "healthy").await;
    let start = Instant::now();
    world.put_model("m-poison", poison).await;
    world.set_aside(&bad).await;
    let noticed = start.elapsed();
    served(&caller, "small-1").await;
    served(&caller, "healthy").await;
    println!("{poison}: set aside after {noticed:?}, served again after {:?}", start.elapsed());

    let log = world.gateway.log();
    assert!(log.contains("two workers died of a change") && log.contains(&bad), "{log}");
    let managed = world.gateway.status_managed().await;
    assert_eq!(managed["quarantine"][0]["key"], bad, "{managed}");
    assert_eq!(managed["quarantine"][0]["former_value_is_served"], true, "{managed}");
    let of = |beat: &Value| {
        let rejected = beat["rejected_resources"].as_array().cloned().unwrap_or_default();
        rejected.into_iter().find(|entry| entry["key"] == bad)
    };
    let beat = world.cloud.heartbeat("the key is reported", |beat| of(beat).is_some()).await;
    let entry = of(&beat).unwrap();
    assert!(entry["error"].as_str().unwrap().starts_with("quarantined"), "{beat}");
    assert_eq!(world.gateway.status_config().await["state"], "degraded");

    // Others go on, and a later change of the same resource is taken.
    world.etcd.put(&key("api_keys", "k-new"), &projection::api_key("sk-new", &["*"])).await;
    served(&world.gateway.caller_with("sk-new"), "small-1").await;
    served(&caller, "healthy").await;
    world.put_model("m-poison", "cured").await;
    served(&caller, "cured").await;
    world.settled().await;
    let _ = &world.upstream;
}

#[tokio::test]
async fn a_change_that_kills_whoever_applies_it_is_set_aside() {
    let world = Managed::start(2).await;
    is_set_aside_and_comes_back(&world, "kills-applying").await;
}

#[tokio::test]
async fn a_change_that_wedges_whoever_applies_it_is_set_aside() {
    let world = Managed::start(2).await;
    is_set_aside_and_comes_back(&world, "hangs-applying").await;
}

#[tokio::test]
async fn with_a_single_worker_the_former_configuration_is_at_hand() {
    let world = Managed::start(1).await;
    is_set_aside_and_comes_back(&world, "kills-applying").await;
}

#[tokio::test]
async fn a_change_that_kills_whoever_serves_it_is_set_aside() {
    let world = Managed::start(2).await;
    let caller = world.gateway.caller();
    world.put_model("m-other", "other").await;
    served(&caller, "other").await;
    world.put_model("m-poison", "kills-serving").await;
    let bad = key("models", "m-poison");
    let mut failed = 0;
    let start = wait::until("the model is not served any more", async || {
        let last = Instant::now();
        match caller.try_chat(&harness::caller::chat("kills-serving", "hello")).await {
            Err(_) => failed += 1,
            Ok(answer) if answer.status == 404 && failed > 1 => return Ok(last),
            Ok(_) => {}
        }
        Err(failed)
    })
    .await;
    world.set_aside(&bad).await;
    assert!(!world.gateway.finding("quarantine").await.contains("m-other"), "it is innocent");
    served(&caller, "small-1").await;
    served(&caller, "other").await;
    println!("{failed} requests died of it; served again after {:?}", start.elapsed());
    world.put_model("m-poison", "cured").await;
    served(&caller, "cured").await;
    world.settled().await;
}

#[tokio::test]
async fn a_burst_of_changes_with_a_deadly_one_among_them_ends_with_all_others_in_force() {
    let world = Managed::start(2).await;
    let caller = world.gateway.caller();
    for number in 0..50 {
        world.put_model(&format!("m-b{number}"), &format!("burst-{number}")).await;
    }
    served(&caller, "burst-49").await;
    world.put_model("m-poison", "kills-applying").await;
    world.set_aside(&key("models", "m-poison")).await;
    for number in 50..100 {
        world.put_model(&format!("m-b{number}"), &format!("burst-{number}")).await;
    }
    served(&caller, "burst-99").await;
    let list: Value = caller.models().await.unwrap().json().await.unwrap();
    for number in 0..100 {
        assert!(list.to_string().contains(&format!("\"burst-{number}\"")), "{number}: {list}");
    }
}

#[tokio::test]
async fn a_first_configuration_that_kills_says_so_and_recovers_when_it_is_changed() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    let bad = projection::model("kills-applying", "pk-1");
    let resources = Projection::of(&upstream).with("models", "m-poison", bad);
    etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &resources).await;
    let cloud = Cloud::over(&etcd).await;
    let gateway = fragile(Builder::managed(&cloud), 2).spawn();
    wait::until("the finding tells", async || {
        if !gateway.log().contains("no earlier one to go back to") {
            return Err("it does not");
        }
        Ok(())
    })
    .await;
    let ready = harness::client::fetch(gateway.status(), "/status/ready").await;
    assert_eq!(ready.unwrap().status, 503);
    etcd.delete(&key("models", "m-poison")).await;
    served(&gateway.caller(), "small-1").await;
}
