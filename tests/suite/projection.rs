//! How resources reach the workers, from a real etcd.

use std::time::{Duration, Instant};

use harness::cloud::ENVIRONMENT;
use harness::{
    Builder, Cloud, Connection, Etcd, Gateway, Projection, Upstream, projection, upstream, wait,
};
use serde_json::{Value, json};

/// A Cloud over a real etcd, and a gateway with two workers that it manages.
struct Managed {
    upstream: Upstream,
    etcd: Etcd,
    cloud: Cloud,
    gateway: Gateway,
}

impl Managed {
    async fn start() -> Self {
        let upstream = upstream().await;
        let etcd = Etcd::start().await;
        etcd.project(&prefix(), &Projection::of(&upstream)).await;
        let cloud = Cloud::over(&etcd).await;
        let gateway = Builder::managed(&cloud).start().await;
        Self { upstream, etcd, cloud, gateway }
    }

    /// Kept connections, so many that every proxy worker holds one. Where we may not look, several.
    async fn connections(&self) -> Vec<Connection> {
        let proxies = self.gateway.proxies();
        let mut connections: Vec<Connection> = Vec::new();
        let caller = self.gateway.caller();
        wait::until("every worker holds a connection", async || {
            let mut connection = Connection::open(caller.address).await.expect("it connects");
            let answer = caller.models_over(&mut connection).await.expect("it answers");
            answer.bytes().await.expect("it answers");
            connections.push(connection);
            let covered = proxies
                .iter()
                .filter(|worker| connections.iter().any(|connection| worker.holds(connection)));
            let covered = covered.count();
            let may_look = nix::unistd::geteuid().is_root();
            if covered == proxies.len() || (!may_look && connections.len() == 16) {
                Ok(())
            } else {
                Err(format!("{covered} of {} do", proxies.len()))
            }
        })
        .await;
        connections
    }
}

fn prefix() -> String {
    format!("/aisix/{ENVIRONMENT}/")
}

fn key(kind: &str, id: &str) -> String {
    format!("{}{kind}/{id}", prefix())
}

/// The status of the list of models over a kept connection.
async fn status_over(
    gateway: &Gateway,
    connection: &mut Connection,
    caller_key: &str,
) -> (u16, Value) {
    let answer = gateway.caller_with(caller_key).models_over(connection).await.expect("it answers");
    let status = answer.status.as_u16();
    (status, answer.json().await.expect("it answers"))
}

#[tokio::test]
async fn a_new_caller_key_is_usable_in_every_worker() {
    const PUTS: usize = 50;
    let world = Managed::start().await;
    let mut connections = world.connections().await;
    let mut client = world.etcd.client().await;
    let mut latencies = Vec::new();
    for number in 0..PUTS {
        let caller_key = format!("sk-new-{number}");
        let document = projection::api_key(&caller_key, &["small-1"]).to_string();
        let start = Instant::now();
        client.put(key("api_keys", &format!("n-{number}")), document, None).await.unwrap();
        for connection in &mut connections {
            // Without a pause between two looks: this is measured.
            let usable = async {
                while status_over(&world.gateway, connection, &caller_key).await.0 != 200 {}
            };
            wait::within("the new key is usable", usable).await;
        }
        latencies.push(start.elapsed());
    }
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(PUTS * percent / 100).min(PUTS - 1)];
    let (p50, p99): (Duration, Duration) = (at(50), at(99));
    println!("a new key in every worker: p50 {p50:?}, p99 {p99:?} over {PUTS} puts");
}

#[tokio::test]
async fn what_one_transaction_changes_becomes_visible_together() {
    let world = Managed::start().await;
    let mut connections = world.connections().await;
    for number in 0..10 {
        let (caller_key, name) = (format!("sk-pair-{number}"), format!("pair-{number}"));
        world
            .etcd
            .put_together(&[
                (key("api_keys", &format!("p-{number}")), projection::api_key(&caller_key, &["*"])),
                (key("models", &format!("z-{number}")), projection::model(&name, "pk-1")),
            ])
            .await;
        for connection in &mut connections {
            let list = wait::until("the new key is usable", async || {
                match status_over(&world.gateway, connection, &caller_key).await {
                    (200, list) => Ok(list),
                    (status, _) => Err(status),
                }
            })
            .await;
            assert!(list.to_string().contains(&name), "the model came with the key: {list}");
        }
    }
}

#[tokio::test]
async fn a_deleted_caller_key_is_refused_in_every_worker() {
    let world = Managed::start().await;
    let mut connections = world.connections().await;
    world.etcd.delete(&key("api_keys", "k-1")).await;
    for connection in &mut connections {
        wait::until("the deleted key is refused", async || {
            match status_over(&world.gateway, connection, projection::CALLER_KEY).await {
                (401, _) => Ok(()),
                (status, _) => Err(status),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_bad_document_leaves_the_old_value_in_force_and_is_reported() {
    let world = Managed::start().await;
    let bad_key = key("models", "m-small-1");
    world.etcd.put_raw(&bad_key, r#"{"display_name": 7}"#).await;
    world.etcd.put_raw(&key("models", "m-none"), "not JSON").await;
    let beat = world
        .cloud
        .heartbeat("that two documents are rejected", |beat| {
            beat["rejected_resources"].as_array().is_some_and(|rejected| rejected.len() == 2)
        })
        .await;
    let of = |wanted: &str| {
        let rejected = beat["rejected_resources"].as_array().unwrap();
        rejected.iter().find(|entry| entry["key"] == wanted).cloned().unwrap_or_default()
    };
    let stale = of(&bad_key);
    assert_eq!(stale["kind"], "schema_failed", "{stale}");
    assert!(stale["stale_serving_since_unix_secs"].is_u64(), "{stale}");
    let fresh = of(&key("models", "m-none"));
    assert_eq!(fresh["kind"], "non_json", "{fresh}");
    assert!(fresh.get("stale_serving_since_unix_secs").is_none(), "{fresh}");

    let status = world.gateway.status_config().await;
    assert_eq!(status["state"], "degraded", "{status}");
    assert_eq!(status["rejected"].as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(world.gateway.caller().ask("small-1", "hello").await.status, 200);
    assert_eq!(world.upstream.ledger().len(), 1);

    world.etcd.put(&bad_key, &projection::model("small-1", "pk-1")).await;
    world.etcd.delete(&key("models", "m-none")).await;
    wait::until("all is well again", async || {
        let status = world.gateway.status_config().await;
        if status["state"] == "synced" { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn resources_of_another_environment_do_not_arrive() {
    let world = Managed::start().await;
    let other = "/aisix/99999999-2222-3333-4444-555555555555/api_keys/k-other";
    world.etcd.put(other, &projection::api_key("sk-other", &["*"])).await;
    // What was put later is there; so what was put before would be there, too.
    world.etcd.put(&key("api_keys", "k-later"), &projection::api_key("sk-later", &["*"])).await;
    wait::until("the later key is usable", async || {
        let status = world.gateway.caller_with("sk-later").ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(world.gateway.caller_with("sk-other").ask("small-1", "hello").await.status, 401);
}

#[tokio::test]
async fn a_gateway_without_a_cloud_serves_what_a_plain_etcd_holds() {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    etcd.project("/aisix/", &Projection::of(&upstream)).await;
    let gateway = Builder::standalone(&etcd, "/aisix").start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    etcd.put("/aisix/api_keys/k-2", &projection::api_key("sk-two", &["*"])).await;
    wait::until("the new key is usable", async || {
        let status = gateway.caller_with("sk-two").ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_projection_of_64_mib_loads() {
    const DOCUMENTS: usize = 64 * 1024;
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    etcd.project(&prefix(), &Projection::of(&upstream)).await;
    let filler = "x".repeat(1000);
    let mut bytes = 0;
    for chunk in (0..DOCUMENTS).collect::<Vec<_>>().chunks(128) {
        let documents: Vec<_> = chunk
            .iter()
            .map(|number| {
                let mut document = projection::api_key(&format!("sk-{number}"), &["*"]);
                document["display_name"] = json!(filler);
                (key("api_keys", &format!("bulk-{number}")), document)
            })
            .collect();
        bytes += documents.iter().map(|(_, document)| document.to_string().len()).sum::<usize>();
        etcd.put_together(&documents).await;
    }
    assert!(bytes >= 64 * 1024 * 1024, "{bytes}");
    let cloud = Cloud::over(&etcd).await;
    let start = Instant::now();
    let gateway = Builder::managed(&cloud).start().await;
    println!("{} MiB in {DOCUMENTS} documents loaded within {:?}", bytes >> 20, start.elapsed());
    for number in [0, DOCUMENTS / 2, DOCUMENTS - 1] {
        let caller = gateway.caller_with(&format!("sk-{number}"));
        assert_eq!(caller.ask("small-1", "hello").await.status, 200, "{number}");
    }
    let status = gateway.status_config().await;
    assert_eq!(status["applied"]["resource_counts"]["api_keys"], DOCUMENTS + 1);
}
