//! Usage outlives every process: whoever is killed when, what was answered is told to the Cloud, once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use harness::{Builder, Caller, Gateway, World, wait};
use nix::sys::signal::Signal;
use tokio::task::LocalSet;

/// Callers that ask at the same time.
const CALLERS: usize = 6;
/// Kills, and kills with `SUITE_FULL` in the environment.
const KILLS: (usize, usize) = (12, 500);

/// What the callers share.
struct Load {
    /// The gateway that serves at present.
    caller: RefCell<Caller>,
    /// Ids of requests with a complete answer.
    answered: RefCell<Vec<String>>,
    enough: Cell<bool>,
}

/// Asks one request after another; one that fails is no answer.
async fn load(load: Rc<Load>) {
    while !load.enough.get() {
        let caller = load.caller.borrow().clone();
        let Ok(answer) = caller.try_chat(&harness::caller::chat("small-1", "hello")).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (status, id) = (answer.status, answer.header("x-aisix-request-id").to_owned());
        if answer.bytes().await.is_ok() && status == 200 {
            load.answered.borrow_mut().push(id);
        }
    }
}

async fn more_answers(load: &Load) {
    let before = load.answered.borrow().len();
    wait::until("the load runs", async || {
        let more = load.answered.borrow().len() - before;
        if more >= 20 { Ok(()) } else { Err(format!("{more} answers")) }
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_worker_had_written_is_kept_and_sent_once() {
    let mut world = World::start().await;
    let shared = Rc::new(Load {
        caller: RefCell::new(world.caller()),
        answered: RefCell::default(),
        enough: Cell::new(false),
    });
    let callers = LocalSet::new();
    for _ in 0..CALLERS {
        callers.spawn_local(load(Rc::clone(&shared)));
    }
    let killing = async {
        for kill in 0..KILLS.0 {
            more_answers(&shared).await;
            let proxies = world.gateway.proxies();
            proxies[kill % proxies.len()].kill();
        }
        more_answers(&shared).await;
        shared.enough.set(true);
    };
    callers.run_until(killing).await;
    callers.await;
    let answered: BTreeSet<String> = shared.answered.take().into_iter().collect();
    wait::until("every answered request is told", async || {
        let usage = world.cloud.usage().await;
        let told: BTreeSet<_> = usage.iter().filter_map(|it| it["request_id"].as_str()).collect();
        let missing = answered.iter().filter(|id| !told.contains(id.as_str())).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    world.gateway.terminate();
    world.gateway.end().await;
    assert_eq!(world.cloud.usage_repeats().await, 0, "nothing was kept twice");
}

#[tokio::test]
async fn whoever_is_killed_every_answered_request_is_told_once() {
    let mut world = World::start().await;
    let kills = if std::env::var_os("SUITE_FULL").is_some() { KILLS.1 } else { KILLS.0 };
    let shared = Rc::new(Load {
        caller: RefCell::new(world.caller()),
        answered: RefCell::default(),
        enough: Cell::new(false),
    });
    let callers = LocalSet::new();
    for _ in 0..CALLERS {
        callers.spawn_local(load(Rc::clone(&shared)));
    }
    let mut successor: Option<Gateway> = None;
    let killing = async {
        for kill in 0..kills {
            more_answers(&shared).await;
            let gateway = successor.as_mut().unwrap_or(&mut world.gateway);
            match kill % 3 {
                0 => {
                    let proxies = gateway.proxies();
                    proxies[kill % proxies.len()].kill();
                    continue;
                }
                1 => {
                    gateway.signal(Signal::SIGKILL);
                    gateway.end().await;
                }
                _ => gateway.kill_at_once().await,
            }
            let next = Builder::after(&world.gateway, &world.cloud).start().await;
            shared.caller.replace(next.caller());
            successor = Some(next);
        }
        more_answers(&shared).await;
        shared.enough.set(true);
    };
    callers.run_until(killing).await;
    callers.await;

    let answered: BTreeSet<String> = shared.answered.take().into_iter().collect();
    let told = wait::until("every answered request is told", async || {
        let mut told = BTreeMap::<String, usize>::new();
        for event in world.cloud.usage().await {
            let id = event["request_id"].as_str().expect("an id").to_owned();
            *told.entry(id).or_default() += 1;
        }
        let missing = answered.iter().filter(|id| !told.contains_key(*id)).count();
        if missing == 0 { Ok(told) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    println!("{kills} kills: {} requests answered, {} told", answered.len(), told.len());
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "told more than once: {twice:?}");
}
