//! A worker that dies takes its own requests with it, and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use harness::worker::Worker;
use harness::{Answer, Caller, ClientError, Connection, World, client, wait};
use nix::sys::signal::{Signal, kill};
use tokio::task::LocalSet;

/// Callers that ask at the same time.
const CALLERS: usize = 8;

/// What the callers of a load have seen.
#[derive(Default)]
struct Seen {
    /// Ids of requests with a complete answer.
    answered: RefCell<Vec<String>>,
    /// From when to when a request ran that failed.
    failed: RefCell<Vec<(Instant, Instant)>>,
    /// Connections that nobody accepted.
    refused: Cell<usize>,
    /// Set at the end.
    enough: Cell<bool>,
}

/// Asks one request after another, each over a connection of its own.
async fn load(caller: Caller, seen: Rc<Seen>) {
    while !seen.enough.get() {
        let start = Instant::now();
        match whole_answer(&caller).await {
            Ok(id) => seen.answered.borrow_mut().push(id),
            Err(ClientError::Connect { .. }) => seen.refused.set(seen.refused.get() + 1),
            Err(ClientError::Exchange(_)) => {
                seen.failed.borrow_mut().push((start, Instant::now()));
            }
        }
    }
}

async fn whole_answer(caller: &Caller) -> Result<String, ClientError> {
    let answer = caller.try_chat(&harness::caller::chat("small-1", "hello")).await?;
    assert_eq!(answer.status, 200);
    let id = answer.header("x-aisix-request-id").to_owned();
    answer.bytes().await?;
    Ok(id)
}

/// Waits until every worker that was there before is replaced where it was killed.
async fn replaced(world: &World, killed: &Worker, before: usize) {
    wait::until("a new worker has come", async || {
        let workers = world.gateway.workers();
        let there = workers.iter().filter(|worker| worker.role == killed.role).count();
        if there == before && !workers.contains(killed) {
            Ok(())
        } else {
            Err(format!("{workers:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn killing_each_worker_in_turn_fails_only_what_ran_in_it() {
    let world = World::start().await;
    let seen = Rc::new(Seen::default());
    let kills = RefCell::new(Vec::new());
    let callers = LocalSet::new();
    for _ in 0..CALLERS {
        callers.spawn_local(load(world.caller(), Rc::clone(&seen)));
    }
    let killing = async {
        let proxies = world.gateway.proxies();
        for worker in &proxies {
            let answered = seen.answered.borrow().len();
            wait::until("the load runs", async || {
                let more = seen.answered.borrow().len() - answered;
                if more > 50 { Ok(()) } else { Err(format!("{more} answers")) }
            })
            .await;
            worker.kill();
            kills.borrow_mut().push(Instant::now());
            replaced(&world, worker, proxies.len()).await;
        }
        let answered = seen.answered.borrow().len();
        wait::until("the load runs on", async || {
            let more = seen.answered.borrow().len() - answered;
            if more > 50 { Ok(()) } else { Err(format!("{more} answers")) }
        })
        .await;
        seen.enough.set(true);
    };
    callers.run_until(killing).await;
    callers.await;

    assert_eq!(seen.refused.get(), 0, "the port never refuses");
    let kills = kills.into_inner();
    let failed = seen.failed.take();
    for (start, end) in &failed {
        let of_a_kill = kills.iter().any(|kill| start <= kill && kill <= end);
        assert!(of_a_kill, "a request failed that no kill can have hit");
    }
    assert!(failed.len() <= kills.len() * CALLERS, "{} failed", failed.len());
    let answered = seen.answered.borrow().len();
    println!("{answered} answered, {} failed over {} kills", failed.len(), kills.len());

    // Whatever was answered is accounted for, whoever has died since.
    let events = world.cloud.usage_of(answered).await;
    let told: Vec<_> = events.iter().filter_map(|event| event["request_id"].as_str()).collect();
    let missing = seen.answered.borrow().iter().filter(|id| !told.contains(&id.as_str())).count();
    assert_eq!(missing, 0);
}

#[tokio::test]
async fn streams_in_other_workers_go_on() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root may see which worker holds a connection");
        return;
    }
    let world = World::start().await;
    let proxies = world.gateway.proxies();
    let mut streams: Vec<(Connection, Answer, usize)> = Vec::new();
    wait::until("every worker has a stream", async || {
        let caller = world.caller();
        let mut connection = Connection::open(caller.address).await.unwrap();
        let body = harness::caller::chat_stream("hold", "one two three");
        let mut answer = caller.chat_over(&mut connection, &body).await.unwrap();
        answer.next_event().await.unwrap();
        // The kernel's table may lack an entry while others change; the next look has it.
        let holder = wait::until("a worker holds the connection", async || {
            proxies.iter().position(|worker| worker.holds(&connection)).ok_or("none does")
        })
        .await;
        streams.push((connection, answer, holder));
        let has = |index| streams.iter().any(|(_, _, holder)| *holder == index);
        if (0..proxies.len()).all(has) { Ok(()) } else { Err(format!("{} streams", streams.len())) }
    })
    .await;
    proxies[0].kill();
    replaced(&world, &proxies[0], proxies.len()).await;
    world.upstream.release();
    for (_connection, answer, holder) in streams {
        let is_complete = wait::within("a stream ends", answer.events())
            .await
            .is_ok_and(|events| events.last().is_some_and(|event| event.data == "[DONE]"));
        assert_eq!(is_complete, holder != 0);
    }
}

#[tokio::test]
async fn counters_do_not_fall_when_a_worker_dies() {
    let world = World::start().await;
    for number in 0..20 {
        let answer = world.caller().ask("small-1", &format!("request {number}")).await;
        answer.bytes().await.unwrap();
    }
    let before = world.gateway.metrics().await;
    let proxies = world.gateway.proxies();
    for worker in &proxies {
        worker.kill();
        replaced(&world, worker, proxies.len()).await;
    }
    let after = world.gateway.metrics().await;
    assert_eq!(before.sum("aisix_requests_total", &[("model", "small-1")]), 20.0);
    let mut counters = BTreeMap::new();
    for sample in &after.samples {
        counters.insert((&sample.name, &sample.labels), sample.value);
    }
    for sample in &before.samples {
        let kind = before.types.get(before.family(sample)).map(String::as_str);
        let is_count = kind == Some("counter") || sample.name.ends_with("_count");
        let now = counters.get(&(&sample.name, &sample.labels));
        // What a process has used is gone with it.
        let is_of_process = sample.labels.contains_key("worker");
        if is_count && !is_of_process {
            assert!(now.is_some_and(|now| *now >= sample.value), "{sample:?} became {now:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_hangs_is_replaced_while_the_others_serve() {
    let world = World::start().await;
    let proxies = world.gateway.proxies();
    kill(proxies[0].pid, Signal::SIGSTOP).unwrap();
    let mut answered = 0;
    wait::until("the hanging worker is replaced", async || {
        world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
        answered += 1;
        if world.gateway.proxies().contains(&proxies[0]) {
            Err(format!("{answered} answered"))
        } else {
            Ok(())
        }
    })
    .await;
    replaced(&world, &proxies[0], proxies.len()).await;
}

#[tokio::test]
async fn the_status_listener_never_refuses_either() {
    let world = World::start().await;
    let workers = world.gateway.workers();
    let status = workers.iter().find(|worker| worker.role == "status").expect("a status worker");
    status.kill();
    let answer = client::fetch(world.gateway.status(), "/status/ready").await;
    assert!(!matches!(answer, Err(ClientError::Connect { .. })), "{answer:?}");
    replaced(&world, status, 1).await;
    assert!(world.gateway.metrics().await.sum("aisix_config_applied_revision", &[]) > 0.0);
}
