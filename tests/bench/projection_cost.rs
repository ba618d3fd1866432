//! What a change costs, and how long a burst takes, with few resources and with many: figures for people.
//!
//! ```console
//! $ cargo build --release && cargo run --release -p tests --example projection_cost [SMALL LARGE]
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use etcd_client::{PutOptions, Txn, TxnOp};
use futures_util::stream::{self, StreamExt};
use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Etcd, Gateway, Projection, projection, upstream};

const PUTS: usize = 400;
const PAUSE: Duration = Duration::from_millis(20);
const BURST: usize = 10_000;

fn key(id: &str) -> String {
    format!("/aisix/{ENVIRONMENT}/api_keys/{id}")
}

/// Processor time of the supervisor and its workers so far, in ticks of 10 ms.
fn ticks(gateway: &Gateway) -> u64 {
    let mut pids: Vec<_> = gateway.workers().iter().map(|worker| worker.pid).collect();
    pids.push(gateway.pid());
    let of = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
        let fields: Vec<u64> = after.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        fields.get(11).zip(fields.get(12)).map_or(0, |(user, system)| user + system)
    };
    pids.into_iter().map(of).sum()
}

async fn load(etcd: &Etcd, keys: usize) {
    let mut client = etcd.client().await;
    for chunk in (0..keys).collect::<Vec<_>>().chunks(100) {
        let puts: Vec<_> = chunk
            .iter()
            .map(|n| {
                let document = projection::api_key(&format!("sk-{n}"), &["*"]).to_string();
                TxnOp::put(key(&format!("k-{n:06}")), document, None::<PutOptions>)
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await.expect("etcd takes it");
    }
}

async fn usable(gateway: &Gateway, caller_key: &str) {
    let caller = gateway.caller_with(caller_key);
    // Any worker may answer: several in a row.
    let mut good = 0;
    while good < 8 {
        let status = caller.models().await.expect("the gateway answers").status;
        good = if status == 200 { good + 1 } else { 0 };
    }
}

/// Milliseconds of processor time per put.
async fn measure(keys: usize) -> f64 {
    let upstream = upstream().await;
    let etcd = Etcd::start().await;
    etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &Projection::of(&upstream)).await;
    load(&etcd, keys).await;
    let cloud = Cloud::over(&etcd).await;
    let start = Instant::now();
    let gateway = Builder::managed(&cloud).start().await;
    println!("{keys} keys: served {:?} after the start", start.elapsed());
    tokio::time::sleep(Duration::from_secs(3)).await;

    let (idle, start) = (ticks(&gateway), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle_per_second = (ticks(&gateway) - idle) as f64 / start.elapsed().as_secs_f64();

    let mut client = etcd.client().await;
    let (before, start) = (ticks(&gateway), Instant::now());
    for n in 0..PUTS {
        // All over the set.
        let id = format!("k-{:06}", (n * 7919) % keys);
        let document = projection::api_key(&format!("sk-other-{n}"), &["*"]).to_string();
        client.put(key(&id), document, None).await.expect("etcd takes a put");
        tokio::time::sleep(PAUSE).await;
    }
    usable(&gateway, &format!("sk-other-{}", PUTS - 1)).await;
    let spent = (ticks(&gateway) - before) as f64 - idle_per_second * start.elapsed().as_secs_f64();
    let per_put = spent * 10.0 / PUTS as f64;
    println!(
        "{keys} keys: {per_put:.2} ms of processor time per put, {idle_per_second:.2} ticks/s idle"
    );

    let start = Instant::now();
    stream::iter(0..BURST)
        .for_each_concurrent(64, |n| {
            let mut client = client.clone();
            async move {
                let document = projection::api_key(&format!("sk-burst-{n}"), &["*"]).to_string();
                client.put(key(&format!("burst-{n}")), document, None).await.expect("a put");
            }
        })
        .await;
    let acknowledged = Instant::now();
    for n in [BURST - 64, BURST - 2, BURST - 1, BURST / 2, 0] {
        usable(&gateway, &format!("sk-burst-{n}")).await;
    }
    println!(
        "{keys} keys: a burst of {BURST} puts acknowledged in {:?}, all usable {:?} later",
        acknowledged - start,
        acknowledged.elapsed()
    );
    per_put
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let counts: Vec<usize> = std::env::args().skip(1).filter_map(|n| n.parse().ok()).collect();
    let (small, large) = (counts.first().unwrap_or(&1_000), counts.get(1).unwrap_or(&100_000));
    let (few, many) = (measure(*small).await, measure(*large).await);
    println!("a put among {large} keys costs {:.2} times one among {small}", many / few);
}
