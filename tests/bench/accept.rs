//! How connections spread over the workers, and what callers notice of it: figures for people.
//!
//! ```console
//! $ cargo build --release && cargo run --release -p tests --example accept [SECONDS]
//! ```
//! Four proxy workers, and callers that ask one request after the other: over a fresh connection each, or over one that is kept.
//! For each: requests per worker (from the access log), latencies, and failures; once more while a worker is killed every second.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use harness::{Builder, Caller, Cloud, Connection, Gateway, Projection, upstream};
use serde_json::json;
use tokio::task::LocalSet;

const WORKERS: usize = 4;

/// How callers use connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Fresh,
    Kept,
}

#[derive(Default)]
struct Seen {
    latencies: RefCell<Vec<Duration>>,
    failures: Cell<usize>,
    enough: Cell<bool>,
}

async fn one(caller: &Caller, kept: &mut Option<Connection>, style: Style) -> Option<()> {
    let answer = match style {
        Style::Fresh => caller.models().await.ok()?,
        Style::Kept => {
            if kept.is_none() {
                *kept = Connection::open(caller.address).await.ok();
            }
            caller.models_over(kept.as_mut()?).await.ok()?
        }
    };
    let good = answer.status == 200;
    answer.bytes().await.ok()?;
    good.then_some(())
}

async fn ask(caller: Caller, style: Style, seen: Rc<Seen>) {
    let mut kept = None;
    while !seen.enough.get() {
        let begin = Instant::now();
        match one(&caller, &mut kept, style).await {
            Some(()) => seen.latencies.borrow_mut().push(begin.elapsed()),
            None => {
                kept = None;
                seen.failures.set(seen.failures.get() + 1);
            }
        }
    }
}

/// Lines of the access log so far, by worker.
fn per_worker(gateway: &Gateway) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in gateway.log().lines().filter(|line| line.contains("proxy request completed")) {
        let name = line.split(' ').next().unwrap_or_default();
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

async fn measure(gateway: &Gateway, style: Style, callers: usize, time: Duration, kills: bool) {
    let before = per_worker(gateway);
    let seen = Rc::new(Seen::default());
    let tasks: Vec<_> = (0..callers)
        .map(|_| tokio::task::spawn_local(ask(gateway.caller(), style, Rc::clone(&seen))))
        .collect();
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if kills && let Some(worker) = gateway.proxies().first() {
            worker.kill();
        }
    }
    seen.enough.set(true);
    for task in tasks {
        task.await.expect("a caller ends");
    }
    // The log is a little behind.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let served: Vec<_> = per_worker(gateway)
        .into_iter()
        .map(|(name, count)| count - before.get(&name).copied().unwrap_or(0))
        .filter(|count| *count > 0)
        .collect();
    let mut latencies = seen.latencies.take();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!(
        "{style:?} {callers:>3} callers{}: {:>6} answered, {} failed; p50 {:?}, p99 {:?}, p99.9 {:?}; per worker {served:?}",
        if kills { ", a kill each second" } else { "" },
        latencies.len(),
        seen.failures.get(),
        at(0.5),
        at(0.99),
        at(0.999),
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    let time = Duration::from_secs(seconds);
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let gateway = Builder::managed(&cloud).set("/proxy/workers", json!(WORKERS)).start().await;
    LocalSet::new()
        .run_until(async {
            for style in [Style::Fresh, Style::Kept] {
                for callers in [8, 64] {
                    measure(&gateway, style, callers, time, false).await;
                }
                measure(&gateway, style, 64, time, true).await;
            }
        })
        .await;
}
