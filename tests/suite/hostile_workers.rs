//! Workers that have been taken over and speak to the supervisor as they like: each costs its own life, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::{Builder, Cloud, Projection, World, binaries, wait};
use serde_json::json;

/// What the log says of a worker of each kind: those of `hostile.rs` of the probe, by the same numbers.
const REASONS: [&str; 17] = [
    "cannot use the channel",
    "shorter than a header",
    "header promises",
    "magic bytes",
    "what it may not say now",
    "what it may not say now",
    "frame of protocol version 9",
    "what it may not say now",
    "unknown message kind 999",
    "malformed message",
    "worker is killed",
    "metric series refused",
    "usage",
    "messages without end",
    "does not answer",
    "what it may not say now",
    "after a forbidden system call",
];
/// Workers up to this number are honest.
const HONEST: usize = 4;
/// Proxy workers of the gateway: every kind of hostile one, and the honest ones.
const PROXIES: usize = HONEST + REASONS.len();
/// Started over and over without a pause there would be thousands.
const STARTED_MAX: usize = 600;
/// Lines of the log about one worker: what was wrong, that it is killed, that it has ended, and its own last words.
const LINES_MAX: usize = 6;
/// Memory that a flood may cost the supervisor, in KiB.
const GROWTH_KIB_MAX: u64 = 256 * 1024;

#[tokio::test]
async fn a_hostile_worker_costs_its_own_life_and_nothing_else() {
    // What it is called decides what the probe does.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hostile-worker");
    fs::copy(binaries::find("aisix-probe").unwrap(), &program).unwrap();
    let upstream = harness::upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let gateway = Builder::managed(&cloud)
        .set("/supervisor/worker_path", json!(program))
        .set("/proxy/workers", json!(PROXIES));
    // Not until all are ready: with these workers that is no lasting state.
    let world = World { upstream, cloud, gateway: gateway.start_alive().await };
    wait::until("callers are served", async || {
        let status = world.caller().ask("small-1", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    let memory_before = resident_kib(&world);

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers = {
        let (caller, stop, served) = (world.caller(), Arc::clone(&stop), Arc::clone(&served));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = caller.ask("small-1", "hello").await;
                assert_eq!(answer.status, 200);
                answer.bytes().await.unwrap();
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    wait::until("the supervisor has met every kind of hostile worker", async || {
        let seen = ended(&world.gateway.log());
        let missing: Vec<_> = (0..REASONS.len()).filter(|way| !seen.contains(way)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("not seen: {missing:?}")) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    callers.await.unwrap();

    let log = world.gateway.log();
    // The worker's own last words have its role in front, and the number of the call.
    let last_words = log.lines().find(|line| line.contains("forbidden system call 0"));
    assert!(last_words.is_some_and(|line| line.starts_with("proxy[")), "{last_words:?}");
    let about = lines_by_worker(&log);
    for (id, lines) in about.iter().filter(|(id, _)| is_hostile(**id)) {
        assert!(lines.len() <= LINES_MAX, "worker {id}: {lines:#?}");
    }
    let started = about.keys().max().copied().unwrap_or_default();
    assert!(started < STARTED_MAX, "{started} workers were started");
    let growth = resident_kib(&world).saturating_sub(memory_before);
    assert!(growth < GROWTH_KIB_MAX, "the supervisor grew by {growth} KiB");
    // The honest ones are those of the start.
    for id in 1..=HONEST {
        let id = id.to_string();
        assert!(world.gateway.workers().iter().any(|worker| worker.id == id), "{id} is gone");
    }
    println!(
        "{} requests were served meanwhile, {started} workers started, the supervisor grew by {growth} KiB",
        served.load(Ordering::Relaxed)
    );
}

fn is_hostile(id: usize) -> bool {
    id > HONEST
}

/// Kinds of hostile workers of which the log says what was wrong with them, and that they have ended.
fn ended(log: &str) -> BTreeSet<usize> {
    lines_by_worker(log)
        .into_iter()
        .filter(|(id, _)| is_hostile(*id))
        .filter(|(id, lines)| {
            let reason = REASONS[id % REASONS.len()];
            let has = |words: &str| lines.iter().any(|line| line.contains(words));
            has(reason) && has("worker ended")
        })
        .map(|(id, _)| id % REASONS.len())
        .collect()
}

fn lines_by_worker(log: &str) -> BTreeMap<usize, Vec<&str>> {
    let mut lines: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for line in log.lines() {
        let id = line.split_whitespace().find_map(|word| word.strip_prefix("worker="));
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            lines.entry(id).or_default().push(line);
        }
    }
    lines
}

fn resident_kib(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
