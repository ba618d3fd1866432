//! `kill -9` of the supervisor, where nobody ends its workers with it: callers notice nothing, and the next supervisor takes
//! over.

use std::time::Instant;

use harness::{Answer, Builder, World, client, load, wait};
use nix::sys::signal::{Signal, kill};

/// Callers that ask at the same time.
const CALLERS: usize = 4;

/// Without a line for each request.
fn quiet(builder: Builder) -> Builder {
    builder.set("/observability/log_level", "info,worker::request=warn".into())
}

async fn held(world: &World) -> Answer {
    let mut stream = world.caller().ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    stream
}

#[tokio::test]
async fn callers_are_served_meanwhile_and_the_next_supervisor_takes_the_listener_back() {
    let mut world = World::start_with(quiet).await;
    // The next supervisor knows what this one has kept; what it has been given a moment ago may not be on disk yet.
    let applied = world.gateway.status_config().await["applied"]["applied_revision"].clone();
    world.gateway.wait_until_kept(applied.as_i64().expect("a revision")).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(held(&world).await);
    }
    let (caller, cloud) = (world.caller(), &world.cloud);
    let gateway = &mut world.gateway;
    let (seen, next) = load::during(caller, CALLERS, async |seen| {
        gateway.signal(Signal::SIGKILL);
        gateway.end().await;
        seen.more().await;
        let start = Instant::now();
        let next = Builder::after(gateway, cloud).in_place_of(gateway).start().await;
        println!("the next one is ready after {:?}", start.elapsed());
        seen.more().await;
        next
    })
    .await;
    seen.nothing_failed();
    assert!(next.log().contains("listener taken over from a worker of the supervisor before"));
    let orphans: Vec<_> =
        world.gateway.orphans().iter().filter(|it| it.role == "proxy").cloned().collect();
    assert!(orphans.len() > 1);
    // Streams in the workers before are finished, and then those leave.
    world.upstream.release();
    for stream in streams {
        let events = wait::within("a stream ends", stream.events()).await.unwrap();
        assert_eq!(events.last().unwrap().data, "[DONE]");
    }
    wait::until("the workers before have left", async || {
        let left = orphans.iter().filter(|worker| worker.runs()).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} of them run")) }
    })
    .await;
    let answered = seen.answered.take();
    let told = wait::until("every answered request is told", async || {
        let usage = world.cloud.usage().await;
        let told: Vec<_> =
            usage.iter().filter_map(|it| it["request_id"].as_str()).map(str::to_owned).collect();
        let missing = answered.iter().filter(|id| !told.contains(*id)).count();
        if missing == 0 { Ok(told) } else { Err(format!("{missing} are missing")) }
    })
    .await;
    let mut once = told.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), told.len(), "nothing is told twice");
}

#[tokio::test]
async fn the_status_worker_leaves_at_once_so_that_its_port_is_free() {
    let mut world = World::start().await;
    // Who decides about a key is the Cloud, which only a supervisor asks.
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    world.gateway.signal(Signal::SIGKILL);
    world.gateway.end().await;
    wait::until("the status port is free", async || {
        match client::fetch(world.gateway.status(), "/status/ready").await {
            Err(client::ClientError::Connect { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200, "callers are served");
}

#[tokio::test]
async fn an_orphan_that_hangs_holds_up_no_start_for_long() {
    let mut world = World::start_with(|builder| builder.set("/proxy/workers", 2.into())).await;
    world.gateway.signal(Signal::SIGKILL);
    world.gateway.end().await;
    let proxies: Vec<_> =
        world.gateway.orphans().iter().filter(|it| it.role == "proxy").cloned().collect();
    kill(proxies[0].pid, Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    let next =
        Builder::after(&world.gateway, &world.cloud).in_place_of(&world.gateway).start().await;
    println!("ready after {:?}", start.elapsed());
    assert!(next.log().contains("is not taken over"));
    assert_eq!(next.caller().ask("small-1", "hello").await.status, 200);
    // As soon as it goes on it is told to leave.
    kill(proxies[0].pid, Signal::SIGCONT).unwrap();
    wait::until("it has left", async || if proxies[0].runs() { Err("it runs") } else { Ok(()) })
        .await;
}
