//! Many changes at once, and many resources.

use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use harness::cloud::ENVIRONMENT;
use harness::{
    Builder, Cloud, Connection, Etcd, Gateway, Projection, Upstream, projection, upstream, wait,
};
use serde_json::{Value, json};

fn key(kind: &str, id: &str) -> String {
    format!("/aisix/{ENVIRONMENT}/{kind}/{id}")
}

async fn managed(etcd: &Etcd) -> (Upstream, Cloud, Gateway) {
    let upstream = upstream().await;
    etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &Projection::of(&upstream)).await;
    let cloud = Cloud::over(etcd).await;
    let gateway = Builder::managed(&cloud).start().await;
    (upstream, cloud, gateway)
}

/// The names of the models that a connection's worker has now.
async fn names(gateway: &Gateway, connection: &mut Connection) -> Vec<String> {
    let answer = gateway.caller().models_over(connection).await.expect("it answers");
    let list: Value = answer.json().await.expect("it answers");
    let rows = list["data"].as_array().cloned().unwrap_or_default();
    rows.iter().filter_map(|row| Some(row["id"].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn transactions_are_seen_whole_while_they_come_fast() {
    const TRANSACTIONS: usize = 200;
    let etcd = Etcd::start().await;
    let (_upstream, _cloud, gateway) = managed(&etcd).await;
    let writing = async {
        for number in 0..TRANSACTIONS {
            let side = |side: &str| {
                let document = projection::model(&format!("{side}-{number}"), "pk-1");
                (key("models", &format!("pair-{side}")), document)
            };
            etcd.put_together(&[side("a"), side("b")]).await;
        }
    };
    let reading = async {
        let mut connections = Vec::new();
        for _ in 0..8 {
            connections.push(Connection::open(gateway.proxy()).await.expect("it connects"));
        }
        let (last, mut states) = (format!("a-{}", TRANSACTIONS - 1), 0);
        let mut before = String::new();
        let start = Instant::now();
        loop {
            let mut all_last = true;
            for connection in &mut connections {
                let names = names(&gateway, connection).await;
                let of = |side: &str| names.iter().find(|name| name.starts_with(side)).cloned();
                let (a, b) = (of("a-").unwrap_or_default(), of("b-").unwrap_or_default());
                assert_eq!(a.replace("a-", ""), b.replace("b-", ""), "half a transaction");
                all_last &= a == last;
                states += usize::from(before != a);
                before = a;
            }
            if all_last {
                return states;
            }
            assert!(start.elapsed() < wait::HANG, "the last transaction does not arrive");
        }
    };
    let ((), states) = futures_util::join!(writing, reading);
    println!("{states} states of {TRANSACTIONS} were seen, every one whole");
}

#[tokio::test]
async fn a_burst_of_puts_is_served() {
    const PUTS: usize = 3_000;
    let etcd = Etcd::start().await;
    let (_upstream, _cloud, gateway) = managed(&etcd).await;
    let client = etcd.client().await;
    let start = Instant::now();
    stream::iter(0..PUTS)
        .for_each_concurrent(64, |number| {
            let mut client = client.clone();
            async move {
                let document = projection::api_key(&format!("sk-burst-{number}"), &["*"]);
                let key = key("api_keys", &format!("burst-{number}"));
                client.put(key, document.to_string(), None).await.expect("etcd takes a put");
            }
        })
        .await;
    let acknowledged = Instant::now();
    wait::until("every key is served by every worker", async || {
        let status = gateway.status_config().await;
        let count = &status["applied"]["resource_counts"]["api_keys"];
        if *count == json!(PUTS + 1) { Ok(()) } else { Err(status) }
    })
    .await;
    println!(
        "{PUTS} puts in {:?}, told as served {:?} after the last",
        acknowledged - start,
        acknowledged.elapsed()
    );
    for number in [0, PUTS / 2, PUTS - 1] {
        let caller = gateway.caller_with(&format!("sk-burst-{number}"));
        assert_eq!(caller.models().await.unwrap().status, 200, "{number}");
    }
    assert!(!gateway.log().contains("worker ended"), "no worker was overrun");
}

#[tokio::test]
async fn of_two_resources_with_one_name_the_highest_id_serves_and_the_clash_is_reported() {
    let etcd = Etcd::start().await;
    let (_upstream, cloud, gateway) = managed(&etcd).await;
    // The same name and the same key as what is there already, at higher ids.
    let mut disabled = projection::api_key(projection::CALLER_KEY, &["*"]);
    disabled["disabled"] = json!(true);
    etcd.put_together(&[
        (key("models", "m-z"), projection::model("small-1", "pk-none")),
        (key("api_keys", "k-2"), projection::api_key(projection::CALLER_KEY, &["*"])),
        (key("api_keys", "k-0"), disabled),
        (key("mcp_auth_settings", "one"), json!({})),
        (key("mcp_auth_settings", "two"), json!({})),
    ])
    .await;
    let row =
        |kind: &str, field: &str, count: u64| json!({"kind": kind, "field": field, "count": count});
    let rows = [
        row("api_keys", "duplicate:key_hash", 3),
        row("mcp_auth_settings", "duplicate:mcp_auth_settings", 2),
        row("models", "duplicate:display_name", 2),
    ];
    cloud
        .heartbeat("that names are shared", |beat| {
            let told = beat["partially_compatible_resources"].as_array();
            told.is_some_and(|told| rows.iter().all(|row| told.contains(row)))
        })
        .await;
    for _ in 0..6 {
        // Its provider key does not exist.
        assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 400);
        assert_eq!(gateway.caller().ask("split", "hello").await.status, 200);
    }
    for id in ["models/m-z", "api_keys/k-2", "api_keys/k-0", "mcp_auth_settings/two"] {
        etcd.delete(&format!("/aisix/{ENVIRONMENT}/{id}")).await;
    }
    wait::until("the clash is over", async || {
        let status = gateway.status_config().await;
        if status["partially_compatible"].to_string().contains("duplicate") {
            return Err(status.to_string());
        }
        let answer = gateway.caller().ask("small-1", "hello").await.status;
        if answer == 200 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}
