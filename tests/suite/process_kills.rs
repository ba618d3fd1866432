//! Whoever dies or stops among the processes of a gateway: the listeners stay, and only what ran in it is lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use harness::caller::chat;
use harness::worker::Worker;
use harness::{
    Builder, Caller, ClientError, Cloud, Projection, World, client, projection, upstream, wait,
};
use nix::sys::signal::{Signal, kill};
use tokio::task::LocalSet;

/// Callers that ask at the same time.
const CALLERS: usize = 6;
/// Kills, and kills with `SUITE_FULL` in the environment.
const KILLS: (usize, usize) = (20, 1_000);
/// How long a replacement may take before it counts as one that never serves.
const SERVES_LIMIT: Duration = Duration::from_secs(20);
/// Connections in the backlog.
const WAITING: usize = 50;

#[derive(Default)]
struct Load {
    /// Ids of requests with a complete answer.
    answered: RefCell<Vec<String>>,
    /// From when to when a request ran that failed.
    failed: RefCell<Vec<(Instant, Instant)>>,
    /// Connections that nobody accepted.
    refused: Cell<usize>,
    enough: Cell<bool>,
}

async fn load(caller: Caller, load: Rc<Load>) {
    while !load.enough.get() {
        let start = Instant::now();
        match answer(&caller).await {
            Ok(id) => load.answered.borrow_mut().push(id),
            Err(ClientError::Connect { .. }) => load.refused.set(load.refused.get() + 1),
            Err(ClientError::Exchange(_)) => {
                load.failed.borrow_mut().push((start, Instant::now()));
            }
        }
    }
}

async fn answer(caller: &Caller) -> Result<String, ClientError> {
    let answer = caller.try_chat(&chat("small-1", "hello")).await?;
    assert_eq!(answer.status, 200);
    let id = answer.header("x-aisix-request-id").to_owned();
    answer.bytes().await?;
    Ok(id)
}

async fn more_answers(load: &Load) {
    let before = load.answered.borrow().len();
    wait::until("the load runs", async || {
        let more = load.answered.borrow().len() - before;
        if more >= 10 { Ok(()) } else { Err(format!("{more} answers")) }
    })
    .await;
}

#[tokio::test]
async fn killing_workers_of_every_role_at_random_refuses_nobody_and_loses_no_event() {
    let world = World::start().await;
    let kills = if std::env::var_os("SUITE_FULL").is_some() { KILLS.1 } else { KILLS.0 };
    let shared = Rc::new(Load::default());
    let callers = LocalSet::new();
    for _ in 0..CALLERS {
        callers.spawn_local(load(world.caller(), Rc::clone(&shared)));
    }
    let moments = RefCell::new(Vec::new());
    let counted = Cell::new(0.0);
    let killing = async {
        let mut random = 7_usize;
        for _ in 0..kills {
            more_answers(&shared).await;
            let workers = world.gateway.workers();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if let Some(worker) = workers.get((random >> 33) % workers.len().max(1)) {
                worker.kill();
                // No other role has requests to lose: what needs a connection waits for the next egress worker.
                if worker.role == "proxy" {
                    moments.borrow_mut().push(Instant::now());
                }
            }
            let Ok(page) = client::fetch(world.gateway.status(), "/metrics").await else {
                continue;
            };
            let Ok(text) = page.text().await else { continue };
            let metrics = harness::exposition::Exposition::parse(&text);
            let total = metrics.sum("aisix_requests_total", &[]);
            assert!(total >= counted.get(), "{total} after {}", counted.get());
            counted.set(total);
        }
        more_answers(&shared).await;
        shared.enough.set(true);
    };
    callers.run_until(killing).await;
    callers.await;

    assert_eq!(shared.refused.get(), 0, "the port never refuses");
    let moments = moments.into_inner();
    for (start, end) in shared.failed.borrow().iter() {
        let of_a_kill = moments.iter().any(|kill| start <= kill && kill <= end);
        assert!(of_a_kill, "a request failed that no kill of a proxy worker can have hit");
    }
    let answered: BTreeSet<String> = shared.answered.take().into_iter().collect();
    println!("{kills} kills: {} answered, {} failed", answered.len(), shared.failed.borrow().len());
    wait::until("every answered request is told", async || {
        let usage = world.cloud.usage().await;
        let told: BTreeSet<_> = usage.iter().filter_map(|it| it["request_id"].as_str()).collect();
        let missing = answered.iter().filter(|id| !told.contains(id.as_str())).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
}

#[tokio::test]
async fn connections_that_wait_while_all_workers_are_dead_are_served_by_the_next_ones() {
    let world = World::start().await;
    let proxies = world.gateway.proxies();
    for worker in &proxies {
        kill(worker.pid, Signal::SIGSTOP).unwrap();
    }
    let caller = world.caller();
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { answer(&caller).await })
        })
        .collect();
    // The handshake is the kernel's: whoever could send has been taken into the backlog.
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxies.iter().for_each(Worker::kill);
    let mut answered = 0;
    for request in waiting {
        let result = wait::within("a waiting request is answered", request).await.unwrap();
        answered += usize::from(result.is_ok());
    }
    assert_eq!(answered, WAITING);
}

#[tokio::test]
async fn what_a_stopped_worker_has_not_accepted_is_served_by_the_other() {
    let world = World::start().await;
    let proxies = world.gateway.proxies();
    kill(proxies[0].pid, Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    for _ in 0..WAITING {
        world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    }
    println!("{WAITING} requests beside a stopped worker took {:?}", start.elapsed());
    wait::until("the stopped worker is replaced", async || {
        let there = world.gateway.proxies();
        if there.contains(&proxies[0]) || there.len() < 2 {
            Err(format!("{there:?}"))
        } else {
            Ok(())
        }
    })
    .await;
    println!("replaced after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_supervisor_that_was_stopped_kills_nobody_when_it_goes_on() {
    let mut world = World::start().await;
    let before = world.gateway.workers();
    world.gateway.signal(Signal::SIGSTOP);
    let start = Instant::now();
    // Longer than a worker may be silent.
    let mut answered = 0;
    while start.elapsed() < Duration::from_secs(12) {
        world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
        answered += 1;
    }
    world.gateway.signal(Signal::SIGCONT);
    println!("{answered} requests answered meanwhile");
    world.cloud.usage_of(answered).await;
    assert_eq!(world.gateway.workers(), before);
    let log = world.gateway.log();
    assert!(!log.contains("worker is killed"), "{log}");
}

#[tokio::test]
async fn workers_that_are_starting_while_the_supervisor_is_stopped_are_not_killed_either() {
    let mut world = World::start().await;
    let before = world.gateway.workers();
    before.iter().for_each(Worker::kill);
    wait::until("new ones are being started", async || {
        let there = world.gateway.workers();
        let new = there.iter().filter(|worker| !before.contains(worker)).count();
        if new > 0 { Ok(()) } else { Err(new) }
    })
    .await;
    world.gateway.signal(Signal::SIGSTOP);
    // Longer than a hello may take.
    tokio::time::sleep(Duration::from_secs(21)).await;
    world.gateway.signal(Signal::SIGCONT);
    wait::until("everybody serves", async || {
        let there = world.gateway.workers().len();
        let answer = world.caller().try_chat(&chat("small-1", "hello")).await;
        if there == before.len() && answer.is_ok() { Ok(()) } else { Err(there) }
    })
    .await;
    let log = world.gateway.log();
    assert!(!log.contains("said no hello"), "{log}");
}

#[tokio::test]
async fn a_worker_that_keeps_dying_does_not_keep_the_other_from_serving() {
    let world = World::start().await;
    let keeper = world.gateway.proxies()[0].clone();
    // A worker that was killed is seen until the kernel has taken it apart: each counts once.
    let mut killed = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        for worker in world.gateway.proxies().iter().filter(|worker| **worker != keeper) {
            worker.kill();
            killed.insert(worker.pid);
        }
        // What the dying one had accepted is lost, nothing else.
        let _ = world.caller().try_chat(&chat("small-1", "hello")).await;
        assert!(keeper.runs());
    }
    let deaths = killed.len();
    println!("{deaths} deaths beside a worker that goes on");
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    assert!((2..16).contains(&deaths), "{deaths} deaths: it is started again, and ever later");
}

#[tokio::test]
async fn a_replacement_serves_soon_with_ten_thousand_resources() {
    const KEYS: usize = 10_000;
    let upstream = upstream().await;
    let mut resources = Projection::of(&upstream);
    for number in 0..KEYS {
        let document = projection::api_key(&format!("sk-{number}"), &["*"]);
        resources = resources.with("api_keys", &format!("n-{number}"), document);
    }
    let cloud = Cloud::start(&resources).await;
    let gateway = Builder::managed(&cloud).set("/proxy/workers", 1.into()).start().await;
    let caller = gateway.caller_with(&format!("sk-{}", KEYS - 1));
    caller.ask("small-1", "hello").await.bytes().await.unwrap();
    for _ in 0..5 {
        let worker = gateway.proxies()[0].clone();
        worker.kill();
        let killed = Instant::now();
        // One connection may have been accepted by the one that died.
        let served = wait::up_to(SERVES_LIMIT, async || {
            match wait::within("a request ends", answer(&caller)).await {
                Err(error @ ClientError::Connect { .. }) => panic!("the port is open: {error}"),
                answer => answer,
            }
        });
        served.await.expect("the replacement serves");
        println!("with {KEYS} resources, served again after {:?}", killed.elapsed());
        assert!(!gateway.proxies().contains(&worker), "another worker has served it");
    }
}
