//! Budgets while the Cloud hangs, fails or is away, over restarts too.

use std::path::Path;
use std::time::{Duration, Instant};

use harness::projection::api_key;
use harness::worker::Worker;
use harness::{Builder, Caller, Cloud, Connection, Gateway, Projection, Upstream, upstream, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CHECK: &str = "/dp/budget_check";
const NO_DECISION: &str = "cp-api unreachable and no cached decision";
const FAIL_CLOSED: &str = "cp-api unreachable; fail_mode=closed";
const STALE: &str = "cp-api unreachable; cached decision stale";

/// Keys by what their last decision says of an outage, and one that is denied.
fn keys(upstream: &Upstream) -> Projection {
    let mut projection = Projection::of(upstream);
    for mode in ["sticky", "open", "closed"] {
        projection = projection
            .with("api_keys", &format!("k-{mode}"), api_key(&format!("sk-{mode}"), &["*"]))
            .with("budgets", &format!("k-{mode}"), json!({"allow": true, "fail_mode": mode}));
    }
    projection.with("api_keys", "k-denied", api_key("sk-denied", &["*"])).with(
        "budgets",
        "k-denied",
        json!({"allow": false, "fail_mode": "open", "reason": {"message": "enough"}}),
    )
}

fn stale_after(seconds: u64) -> impl FnOnce(Builder) -> Builder {
    move |builder| builder.env("AISIX_DP_BUDGET_STALE_MAX_SECONDS", &seconds.to_string())
}

/// Status and, if it is an error, its message.
async fn told(caller: &Caller) -> (u16, String) {
    let answer = caller.ask("small-1", "hello").await;
    let status = answer.status.as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
}

async fn becomes(caller: &Caller, status: u16, message: &str) {
    wait::until(&format!("{} is told {status} {message:?}", caller.key), async || {
        let seen = told(caller).await;
        if (seen.0, seen.1.as_str()) == (status, message) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

/// Waits until every key is decided and handed to the store.
async fn decided(gateway: &Gateway, count: u64) {
    wait::until("every key is decided and kept", async || {
        let budgets = gateway.status_managed().await["budgets"].clone();
        let number = |name: &str| budgets[name].as_u64().unwrap_or_default();
        if number("decided") >= count && number("unkept") == 0 {
            Ok(())
        } else {
            Err(budgets.clone())
        }
    })
    .await;
}

/// Latencies of so many requests, one after the other: half of them are faster, all but one in a hundred are.
async fn latencies(caller: &Caller, count: usize) -> (Duration, Duration) {
    let mut connection = Connection::open(caller.address).await.unwrap();
    let body = harness::caller::chat("small-1", "hello");
    let mut taken = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        let answer = caller.chat_over(&mut connection, &body).await.unwrap();
        assert_eq!(answer.status, 200);
        answer.bytes().await.unwrap();
        taken.push(started.elapsed());
    }
    taken.sort_unstable();
    (taken[count / 2], taken[count * 99 / 100])
}

#[tokio::test]
async fn while_every_call_hangs_known_keys_are_served_and_refused_as_before() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&keys(&upstream)).await;
    let gateway = Builder::managed(&cloud).start().await;
    becomes(&gateway.caller(), 200, "").await;
    becomes(&gateway.caller_with("sk-denied"), 429, "enough").await;
    let before = latencies(&gateway.caller(), 500).await;
    cloud.delay(CHECK, Duration::from_secs(10)).await;
    let (asked, _) = cloud.budget_checks("k-1").await;
    wait::until("a call hangs", async || {
        assert_eq!(told(&gateway.caller()).await.0, 200);
        let (calls, _) = cloud.budget_checks("k-1").await;
        if calls > asked { Ok(()) } else { Err(calls) }
    })
    .await;
    let after = latencies(&gateway.caller(), 500).await;
    println!("p50 and p99: {before:?} while the Cloud answers, {after:?} while it hangs");
    // A worker that starts now is told what the others know.
    let old = gateway.proxies();
    old.iter().for_each(Worker::kill);
    wait::until("other workers serve", async || {
        let metrics = gateway.metrics().await;
        let restarts = metrics.sum("aisix_worker_restarts_total", &[("role", "proxy")]);
        let up = metrics.sum("aisix_workers_up", &[("role", "proxy")]);
        if (restarts, up) == (2.0, 2.0) { Ok(()) } else { Err(format!("{restarts} {up}")) }
    })
    .await;
    for _ in 0..8 {
        assert_eq!(told(&gateway.caller()).await, (200, String::new()));
        assert_eq!(told(&gateway.caller_with("sk-denied")).await, (429, "enough".to_owned()));
    }
}

#[tokio::test]
async fn when_calls_fail_the_last_decision_counts_until_the_stale_limit_and_then_its_fail_mode() {
    for status in [500, 403, 200] {
        let upstream = upstream().await;
        let cloud = Cloud::start(&keys(&upstream)).await;
        let gateway = stale_after(2)(Builder::managed(&cloud)).start().await;
        let caller = |mode: &str| gateway.caller_with(&format!("sk-{mode}"));
        for mode in ["sticky", "open", "closed"] {
            becomes(&caller(mode), 200, "").await;
        }
        becomes(&caller("denied"), 429, "enough").await;
        // An answer with status 200 that decides nothing is a failure too.
        cloud.fail(CHECK, status, None).await;
        becomes(&caller("sticky"), 429, STALE).await;
        becomes(&caller("closed"), 429, FAIL_CLOSED).await;
        becomes(&caller("denied"), 200, "").await;
        assert_eq!(told(&caller("open")).await, (200, String::new()));
        let findings = gateway.status_managed().await["findings"].to_string();
        assert!(findings.contains("budgets"), "{findings}");
        cloud.heal().await;
        becomes(&caller("sticky"), 200, "").await;
        becomes(&caller("denied"), 429, "enough").await;
        wait::until("nothing is reported any more", async || {
            let findings = gateway.status_managed().await["findings"].to_string();
            if findings.contains("\"budgets\"") { Err(findings) } else { Ok(()) }
        })
        .await;
    }
}

/// A gateway over a state directory that outlives it.
fn over(cloud: &Cloud, state: &Path) -> Builder {
    Builder::managed(cloud)
        .set("/managed/mtls_dir", json!(state.join("mtls")))
        .set("/managed/dp_id_file", json!(state.join("dp_id")))
        .set("/managed/snapshot_cache_path", json!(state.join("config_cache.json")))
}

#[tokio::test]
async fn decisions_outlive_a_kill_and_their_age_goes_on() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&keys(&upstream)).await;
    let state = tempfile::tempdir().unwrap();
    let mut first = over(&cloud, state.path()).start().await;
    decided(&first, 5).await;
    cloud.fail(CHECK, 503, None).await;
    first.signal(Signal::SIGKILL);
    first.end().await;
    drop(first);

    let with_new_key = keys(&upstream).with("api_keys", "k-new", api_key("sk-new", &["*"]));
    cloud.project(&with_new_key);
    let mut second = over(&cloud, state.path()).start().await;
    let (status, message) = told(&second.caller_with("sk-sticky")).await;
    assert_eq!((status, message.as_str()), (200, ""), "the first request, although nobody answers");
    becomes(&second.caller_with("sk-denied"), 429, "enough").await;
    becomes(&second.caller_with("sk-new"), 429, NO_DECISION).await;
    second.signal(Signal::SIGKILL);
    second.end().await;
    drop(second);

    let third = stale_after(1)(over(&cloud, state.path())).start().await;
    becomes(&third.caller_with("sk-sticky"), 429, STALE).await;
    becomes(&third.caller_with("sk-closed"), 429, FAIL_CLOSED).await;
    becomes(&third.caller_with("sk-open"), 200, "").await;
}

#[tokio::test]
async fn the_first_answer_after_a_restart_is_that_of_the_last_decision_although_every_call_hangs() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&keys(&upstream)).await;
    let state = tempfile::tempdir().unwrap();
    let mut first = over(&cloud, state.path()).start().await;
    decided(&first, 5).await;
    cloud.delay(CHECK, Duration::from_secs(30)).await;
    first.signal(Signal::SIGKILL);
    first.end().await;
    drop(first);

    let allowing = || over(&cloud, state.path()).env("AISIX_MANAGED__BUDGET_UNKNOWN", "allow");
    // Until the "no" is older than one that is asked for again.
    let since = Instant::now();
    wait::until("ten seconds have passed", async || {
        let age = since.elapsed();
        if age > Duration::from_secs(10) { Ok(()) } else { Err(format!("{age:?}")) }
    })
    .await;
    let mut second = allowing().start().await;
    assert_eq!(told(&second.caller_with("sk-denied")).await, (429, "enough".to_owned()));
    second.signal(Signal::SIGKILL);
    second.end().await;
    drop(second);

    let third = stale_after(1)(allowing()).start().await;
    assert_eq!(told(&third.caller_with("sk-open")).await, (200, String::new()));
    assert_eq!(told(&third.caller_with("sk-closed")).await, (429, FAIL_CLOSED.to_owned()));
    assert_eq!(told(&third.caller_with("sk-sticky")).await, (429, STALE.to_owned()));
    cloud.heal().await;
}

#[tokio::test]
async fn a_key_that_nobody_has_decided_about_is_decided_as_configured() {
    for (policy, expected) in [("deny", (429, NO_DECISION)), ("allow", (200, ""))] {
        let upstream = upstream().await;
        let cloud = Cloud::start(&Projection::of(&upstream)).await;
        cloud.delay(CHECK, Duration::from_secs(30)).await;
        let gateway =
            Builder::managed(&cloud).env("AISIX_MANAGED__BUDGET_UNKNOWN", policy).start().await;
        let started = Instant::now();
        let (status, message) = told(&gateway.caller()).await;
        println!("{policy}: decided after {:?}", started.elapsed());
        assert_eq!((status, message.as_str()), expected);
        cloud.heal().await;
    }
}
