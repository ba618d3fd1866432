//! SIGHUP: the configuration is read again and every worker is replaced, while nobody who asks notices.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use harness::caller::{chat, chat_stream};
use harness::worker::Worker;
use harness::{Caller, Connection, Gateway, World, client, wait};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::LocalSet;

/// Callers that ask at the same time.
const CALLERS: usize = 8;
/// Requests during the replacements, and with `SUITE_FULL` in the environment.
const REQUESTS: (usize, usize) = (2_000, 100_000);

/// Changes the configuration file.
fn rewrite(gateway: &Gateway, change: impl FnOnce(&mut Value)) {
    let path = gateway.folder().join("config.managed.yaml");
    let mut configuration: Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut configuration);
    fs::write(&path, configuration.to_string()).unwrap();
}

/// Waits until all of those have been replaced, and as many as there should be serve.
async fn replaced(gateway: &Gateway, before: &[Worker], count: usize) -> Vec<Worker> {
    wait::until("every worker is a new one", async || {
        let workers = gateway.workers();
        let up = gateway.metrics().await.sum("aisix_workers_up", &[]);
        let all_new = workers.len() == count && !workers.iter().any(|it| before.contains(it));
        if all_new && up >= count as f64 {
            Ok(workers)
        } else {
            Err(format!("{up} of {workers:?}"))
        }
    })
    .await
}

/// Asks one request after another, each over a connection of its own; every one must be answered.
async fn load(caller: Caller, answered: Rc<Cell<usize>>, enough: Rc<Cell<bool>>) {
    while !enough.get() {
        let answer = caller.try_chat(&chat("small-1", "hello")).await;
        let answer = answer.unwrap_or_else(|error| panic!("a request failed: {error}"));
        assert_eq!(answer.status, 200);
        answer.bytes().await.unwrap_or_else(|error| panic!("an answer was cut: {error}"));
        answered.set(answered.get() + 1);
    }
}

#[tokio::test]
async fn no_request_fails_while_workers_are_replaced_under_load() {
    let mut world = World::start().await;
    let requests = match std::env::var_os("SUITE_FULL") {
        Some(_) => REQUESTS.1,
        None => REQUESTS.0,
    };
    let (answered, enough) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let callers = LocalSet::new();
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| callers.spawn_local(load(world.caller(), answered.clone(), enough.clone())))
        .collect();
    let mut rolls = 0;
    let mut fewest_up = f64::INFINITY;
    let rolling = async {
        while answered.get() < requests || rolls < 2 {
            let before = world.gateway.workers();
            world.gateway.signal(Signal::SIGHUP);
            let mut left = before.clone();
            while !left.is_empty() {
                let up =
                    world.gateway.metrics().await.sum("aisix_workers_up", &[("role", "proxy")]);
                fewest_up = fewest_up.min(up);
                left.retain(Worker::runs);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            replaced(&world.gateway, &before, before.len()).await;
            rolls += 1;
        }
        enough.set(true);
    };
    callers.run_until(rolling).await;
    callers.await;
    for task in tasks {
        task.await.expect("no request fails");
    }
    assert!(fewest_up >= 2.0, "only {fewest_up} workers served at some time");
    println!(
        "{} requests answered, 0 failed, over {rolls} replacements of all workers",
        answered.get()
    );
    world.cloud.usage_of(answered.get().min(5_000)).await;
}

#[tokio::test]
async fn streams_finish_in_the_old_workers_and_kept_connections_are_told_to_close() {
    let mut world = World::start().await;
    let caller = world.caller();
    let mut streams = Vec::new();
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = caller.ask_stream("hold", "one two three").await;
        stream.next_event().await.unwrap();
        streams.push(stream);
        let mut connection = Connection::open(caller.address).await.unwrap();
        caller.models_over(&mut connection).await.unwrap().bytes().await.unwrap();
        idle.push(connection);
    }
    // Mid-request: its answer is to come after its worker was told to leave.
    let slow = tokio::spawn({
        let caller = caller.clone();
        async move {
            let mut connection = Connection::open(caller.address).await.unwrap();
            let answer = caller.chat_over(&mut connection, &chat("hold", "hello")).await.unwrap();
            (answer.header("connection").to_owned(), answer.status, answer.bytes().await.is_ok())
        }
    });
    wait::until("the slow request is at the upstream", async || {
        let there = world.upstream.ledger().len();
        if there > 8 { Ok(()) } else { Err(there) }
    })
    .await;
    let before = world.gateway.proxies();
    world.gateway.signal(Signal::SIGHUP);
    wait::until("new workers serve beside the old ones", async || {
        let log = world.gateway.log();
        if log.contains("every worker is replaced") { Ok(()) } else { Err("they do not") }
    })
    .await;
    assert!(before.iter().any(Worker::runs), "who has a stream stays");
    for connection in &mut idle {
        wait::until("an idle connection is closed", async || {
            match caller.models_over(connection).await {
                Err(_) => Ok(()),
                Ok(answer) => Err(answer.status),
            }
        })
        .await;
    }
    assert_eq!(caller.ask("small-1", "hello").await.status, 200);
    let up = world.gateway.metrics().await.sum("aisix_workers_up", &[("role", "proxy")]);
    assert_eq!(up, 2.0, "those that finish are not counted");
    world.upstream.release();
    let (connection, status, is_complete) = slow.await.unwrap();
    assert_eq!((connection.as_str(), status.as_u16(), is_complete), ("close", 200, true));
    for stream in streams {
        assert_eq!(stream.events().await.unwrap().last().unwrap().data, "[DONE]");
    }
    wait::until("the old workers have left", async || {
        let left: Vec<_> = before.iter().filter(|worker| worker.runs()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    world.cloud.usage_of(10).await;
}

#[tokio::test]
async fn a_worker_that_does_not_finish_in_time_is_ended() {
    let mut world =
        World::start_with(|builder| builder.set("/supervisor/replace_drain_secs", 1.into())).await;
    let mut stream = world.caller().ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    let before = world.gateway.workers();
    world.gateway.signal(Signal::SIGHUP);
    replaced(&world.gateway, &before, before.len()).await;
    assert!(wait::within("the stream ends", stream.events()).await.is_err(), "it was cut");
    let log = world.gateway.log();
    assert!(log.contains("did not finish in time"), "{log}");
}

#[tokio::test]
async fn changed_settings_come_into_force_and_bad_ones_change_nothing() {
    let mut world = World::start().await;
    let caller = world.caller();
    let large = "x".repeat(4096);
    assert_eq!(caller.ask("small-1", &large).await.status, 200);

    let before = world.gateway.workers();
    rewrite(&world.gateway, |file| file["proxy"]["workers"] = "many".into());
    world.gateway.signal(Signal::SIGHUP);
    wait::until("the finding names the key", async || {
        let text = world.gateway.finding("replacement").await;
        if text.contains("proxy.workers") { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(world.gateway.workers(), before, "nobody was replaced");

    rewrite(&world.gateway, |file| {
        file["proxy"]["workers"] = 3.into();
        file["proxy"]["request_body_limit_bytes"] = 2048.into();
        file["observability"]["log_level"] = "debug".into();
        file["managed"]["heartbeat_interval_secs"] = 7.into();
    });
    world.gateway.signal(Signal::SIGHUP);
    replaced(&world.gateway, &before, before.len() + 1).await;
    assert_eq!(world.gateway.proxies().len(), 3);
    assert_eq!(caller.ask("small-1", &large).await.status, 413);
    let log = world.gateway.log();
    let line = log.lines().find(|line| line.contains("only after a restart")).expect("a line");
    for name in
        ["proxy.workers", "proxy.request_body_limit_bytes", "managed.heartbeat_interval_secs"]
    {
        assert!(line.contains(name), "{name}: {line}");
    }
    assert!(log.contains("DEBUG"), "the log level is in force");
    assert_eq!(world.gateway.finding("replacement").await, "");

    let before = world.gateway.workers();
    rewrite(&world.gateway, |file| file["proxy"]["workers"] = 1.into());
    world.gateway.signal(Signal::SIGHUP);
    replaced(&world.gateway, &before, before.len() - 2).await;
    assert_eq!(caller.ask("small-1", "hello").await.status, 200);
    let started_at_once = world.gateway.metrics().await.sum("aisix_worker_restarts_total", &[]);
    assert_eq!(started_at_once, 0.0, "nobody has died");
}

#[tokio::test]
async fn new_workers_that_do_not_become_ready_end_the_replacement_and_the_old_ones_go_on() {
    let mut world = World::start().await;
    let mut old: BTreeSet<String> = BTreeSet::new();
    // Now and then one is too fast for us, and serves before it is killed.
    wait::until("the replacement is given up", async || {
        let before = world.gateway.workers();
        world.gateway.signal(Signal::SIGHUP);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            let newcomer = world.gateway.workers().into_iter().find(|it| !before.contains(it));
            if let Some(newcomer) = newcomer {
                newcomer.kill();
                break;
            }
            tokio::task::yield_now().await;
        }
        old = before.iter().map(|worker| worker.id.clone()).collect();
        wait::up_to(Duration::from_secs(2), async || {
            let text = world.gateway.finding("replacement").await;
            if text.contains("given up") { Ok(()) } else { Err(text) }
        })
        .await
    })
    .await;
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    let proxies = world.gateway.proxies();
    assert_eq!(proxies.len(), 2, "{proxies:?}");
    let before = world.gateway.workers();
    world.gateway.signal(Signal::SIGHUP);
    replaced(&world.gateway, &before, before.len()).await;
    assert_eq!(world.gateway.finding("replacement").await, "");
}

#[tokio::test]
async fn a_signal_during_a_replacement_replaces_nobody_twice_for_nothing() {
    let mut world = World::start().await;
    let before = world.gateway.workers();
    let seen = RefCell::new(BTreeSet::new());
    for _ in 0..5 {
        world.gateway.signal(Signal::SIGHUP);
    }
    wait::until("the replacement is done", async || {
        seen.borrow_mut().extend(world.gateway.workers().into_iter().map(|worker| worker.id));
        let log = world.gateway.log();
        if log.contains("every worker is replaced") { Ok(()) } else { Err("it is not") }
    })
    .await;
    replaced(&world.gateway, &before, before.len()).await;
    let seen = seen.into_inner().len();
    assert!(seen <= before.len() * 3 + 1, "{seen} workers for {}", before.len());
}

#[tokio::test]
async fn the_end_comes_in_order_during_a_replacement() {
    let mut world = World::start().await;
    let caller = world.caller();
    let mut stream = caller.ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    world.gateway.signal(Signal::SIGHUP);
    world.gateway.terminate();
    wait::until("the end has begun", async || {
        let answer = client::fetch(world.gateway.proxy(), "/livez").await;
        match answer {
            Ok(answer) if answer.status == 503 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let body = chat_stream("small-1", "hello");
    assert_eq!(caller.try_chat(&body).await.unwrap().status, 200);
    world.upstream.release();
    assert_eq!(stream.events().await.unwrap().last().unwrap().data, "[DONE]");
    assert_eq!(world.gateway.end().await.code(), Some(0));
}
