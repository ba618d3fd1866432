//! What the gateway takes in memory, with few resources and with many: figures for people.
//!
//! ```console
//! $ cargo build --release && cargo run --release -p tests --example memory [RESOURCES…]
//! ```
//! Of 100 resources 94 are caller keys, 5 models and 1 is a provider key. Real processes: the supervisor, two proxy workers and
//! the helpers. A page that several processes share counts in parts (PSS), as `/proc/PID/smaps_rollup` tells; needs root.
//! Measured three times: when everything is served (`loaded`), when every resource has changed once, a hundred in a transaction
//! (`changed`), and after a start with what was kept (`restarted`).

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use etcd_client::{PutOptions, Txn, TxnOp};
use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Etcd, Gateway, Projection, projection, upstream};
use serde_json::{Value, json};

fn key(kind: &str, id: &str) -> String {
    format!("/aisix/{ENVIRONMENT}/{kind}/{id}")
}

/// Resource number `n`; what a round adds is another name.
fn document(n: usize, round: usize) -> (String, Value) {
    let id = format!("00000000-0000-4000-8000-{n:012}");
    match n % 100 {
        0 => {
            let secret = format!("sk-provider-{n}-{round}");
            (key("provider_keys", &id), projection::provider_key("http://127.0.0.1:9", &secret))
        }
        1..6 => {
            let provider = format!("00000000-0000-4000-8000-{:012}", n - n % 100);
            (key("models", &id), projection::model(&format!("model-{n}-{round}"), &provider))
        }
        _ => {
            let mut document = projection::api_key(&format!("sk-{n}"), &["model-1-0", "model-2-0"]);
            document["display_name"] = json!(format!("key {n} {round}"));
            (key("api_keys", &id), document)
        }
    }
}

async fn put(etcd: &Etcd, resources: usize, round: usize) {
    let mut client = etcd.client().await;
    for chunk in (0..resources).collect::<Vec<_>>().chunks(100) {
        let puts: Vec<_> = chunk
            .iter()
            .map(|n| {
                let (key, document) = document(*n, round);
                TxnOp::put(key, document.to_string(), None::<PutOptions>)
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await.expect("etcd takes it");
    }
}

/// A marker after everything else: who knows it knows all.
async fn mark(etcd: &Etcd, gateway: &Gateway, name: &str) {
    let document = projection::api_key(&format!("sk-{name}"), &["*"]);
    etcd.put(&key("api_keys", &format!("marker-{name}")), &document).await;
    usable(gateway, &format!("sk-{name}")).await;
}

async fn usable(gateway: &Gateway, caller_key: &str) {
    let caller = gateway.caller_with(caller_key);
    let mut good = 0;
    while good < 8 {
        let status = caller.models().await.expect("the gateway answers").status;
        good = if status == 200 { good + 1 } else { 0 };
        if status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `Pss`, of it anonymous and shared memory, in KiB.
fn pss(pid: nix::unistd::Pid) -> [u64; 3] {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("only for root");
    ["Pss:", "Pss_Anon:", "Pss_Shmem:"].map(|name| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0 kB");
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
    })
}

fn tell(gateway: &Gateway, what: &str) {
    let mut processes = vec![("supervisor".to_owned(), gateway.pid())];
    processes.extend(gateway.workers().into_iter().map(|it| (it.role, it.pid)));
    let mib = |kib: u64| kib as f64 / 1024.0;
    let figures: Vec<_> = processes.iter().map(|(name, pid)| (name, pss(*pid))).collect();
    let total: u64 = figures.iter().map(|(_, [pss, ..])| pss).sum();
    let each: Vec<_> = figures
        .iter()
        .map(|(name, [pss, anon, shmem])| {
            format!("{name} {:.1} ({:.1} own, {:.1} shared)", mib(*pss), mib(*anon), mib(*shmem))
        })
        .collect();
    println!("  {what:<10} {:6.1} MiB = {}", mib(total), each.join(" + "));
}

async fn measure(resources: usize) {
    let etcd = Etcd::start().await;
    let upstream = upstream().await;
    etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &Projection::of(&upstream)).await;
    put(&etcd, resources, 0).await;
    let cloud = Cloud::over(&etcd).await;
    println!("{resources} resources");
    let mut gateway = Builder::managed(&cloud).start().await;
    mark(&etcd, &gateway, "loaded").await;
    // The supervisor gives back what the load has taken, writes the snapshot, hashes: all of it within seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    tell(&gateway, "loaded");
    put(&etcd, resources, 1).await;
    mark(&etcd, &gateway, "changed").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    tell(&gateway, "changed");
    gateway.terminate();
    gateway.end().await;
    let gateway = Builder::after(&gateway, &cloud).start().await;
    usable(&gateway, "sk-changed").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    tell(&gateway, "restarted");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|n| n.parse().ok()).collect();
    for resources in if given.is_empty() { vec![10_000, 100_000] } else { given } {
        measure(resources).await;
    }
}
