//! Only the egress worker makes connections, and it can be killed or hang without harm to those that are there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::rc::Rc;

use harness::caller::chat;
use harness::worker::Worker;
use harness::{
    Builder, Caller, Cloud, Connection, Gateway, Projection, World, projection, upstream, wait,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::geteuid;
use serde_json::json;
use tokio::task::LocalSet;

/// The egress worker.
fn egress(gateway: &Gateway) -> Worker {
    let workers = gateway.workers();
    workers.into_iter().find(|worker| worker.role == "egress").expect("an egress worker")
}

/// A TCP socket, as the kernel shows it.
#[derive(Debug)]
struct Socket {
    remote_port: u16,
    listens: bool,
    /// The user whose process has made it.
    uid: u32,
}

/// IPv4 sockets by inode.
fn sockets() -> BTreeMap<String, Socket> {
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let socket = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (_, port) = columns.get(2)?.rsplit_once(':')?;
        let socket = Socket {
            remote_port: u16::from_str_radix(port, 16).ok()?,
            listens: *columns.get(3)? == "0A",
            uid: columns.get(7)?.parse().ok()?,
        };
        Some((format!("socket:[{}]", columns.get(9)?), socket))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

fn uid(worker: &Worker) -> u32 {
    let status = fs::read_to_string(worker.proc("status")).expect("a running worker");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a user");
    line.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a user")
}

#[tokio::test]
async fn every_connection_of_workers_and_supervisor_was_made_by_egress() {
    if !geteuid().is_root() {
        println!("skipped: only root may see who has made a socket");
        return;
    }
    let world = World::start().await;
    let egress = egress(&world.gateway);
    let maker = uid(&egress);
    let mut stream = world.caller().ask_stream("hold", "one two three").await;
    stream.next_event().await.unwrap();
    let own = |address: SocketAddr| address.port();
    let (to_upstream, to_cloud) = (own(world.upstream.address()), own(world.cloud.address()));
    // The table may lack an entry while others change; the next look has it.
    wait::until("the gateway's connections are seen", async || {
        let sockets = sockets();
        let of = |worker: &Worker| -> Vec<&Socket> {
            let connected = |socket: &&Socket| !socket.listens && socket.remote_port > 0;
            let descriptors = worker.descriptors().into_values();
            descriptors.filter_map(|it| sockets.get(&it)).filter(connected).collect()
        };
        let supervisor =
            Worker { pid: world.gateway.pid(), role: String::new(), id: String::new() };
        let own = of(&supervisor);
        assert!(own.iter().all(|socket| socket.uid == maker), "{own:?}");
        let mut upstreams = 0;
        for proxy in world.gateway.proxies() {
            assert_ne!(uid(&proxy), maker);
            let to_upstream = |socket: &&&Socket| socket.remote_port == to_upstream;
            for socket in of(&proxy).iter().filter(to_upstream) {
                assert_eq!(socket.uid, maker, "{socket:?}");
                upstreams += 1;
            }
        }
        let clouds = own.iter().filter(|socket| socket.remote_port == to_cloud).count();
        let kept = of(&egress);
        // Handed over, not shared.
        let is_done = upstreams > 0 && clouds > 0 && kept.is_empty();
        if is_done { Ok(()) } else { Err(format!("{upstreams} {clouds} {kept:?}")) }
    })
    .await;
    world.upstream.release();
}

/// What a load has seen.
#[derive(Default)]
struct Seen {
    answered: Cell<usize>,
    failed: RefCell<Vec<String>>,
    enough: Cell<bool>,
}

async fn load(caller: Caller, seen: Rc<Seen>) {
    while !seen.enough.get() {
        match caller.try_chat(&chat("small-1", "hello")).await {
            Ok(answer) if answer.status == 200 => seen.answered.set(seen.answered.get() + 1),
            Ok(answer) => seen.failed.borrow_mut().push(answer.status.to_string()),
            Err(error) => seen.failed.borrow_mut().push(error.to_string()),
        }
    }
}

/// Kills egress again and again under load; no request fails.
async fn killed_under_load(world: World) {
    let seen = Rc::new(Seen::default());
    let callers = LocalSet::new();
    for _ in 0..4 {
        callers.spawn_local(load(world.caller(), Rc::clone(&seen)));
    }
    let killing = async {
        for round in 0..4 {
            let before = seen.answered.get();
            wait::until("the load runs", async || {
                let more = seen.answered.get() - before;
                if more > 50 { Ok(()) } else { Err(format!("{more} answers")) }
            })
            .await;
            if round == 3 {
                break;
            }
            let victim = egress(&world.gateway);
            victim.kill();
            wait::until("another egress worker is there", async || {
                let workers = world.gateway.workers();
                let other = |it: &&Worker| it.role == "egress" && **it != victim;
                workers.iter().find(other).map(|_| ()).ok_or("none")
            })
            .await;
        }
        seen.enough.set(true);
    };
    callers.run_until(killing).await;
    callers.await;
    let failed = seen.failed.take();
    println!("{} answered, {} failed over 3 kills", seen.answered.get(), failed.len());
    assert_eq!(failed, Vec::<String>::new());
}

#[tokio::test]
async fn killing_egress_fails_no_request_over_pooled_connections() {
    killed_under_load(World::start().await).await;
}

#[tokio::test]
async fn killing_egress_fails_no_request_that_needs_a_new_connection() {
    let unpooled = |builder: Builder| builder.set("/upstream/pool_max_idle_per_host", json!(0));
    killed_under_load(World::start_with(unpooled).await).await;
}

#[tokio::test]
async fn while_egress_hangs_pooled_connections_go_on_and_new_ones_fail_at_the_limit() {
    let first = upstream().await;
    let second = upstream().await;
    let mut other = projection::model("small-1", "pk-2");
    other["display_name"] = json!("other");
    let projection = Projection::of(&first)
        .with(
            "provider_keys",
            "pk-2",
            projection::provider_key(&second.api_base(), harness::provider::KEY),
        )
        .with("models", "m-other", other);
    let cloud = Cloud::start(&projection).await;
    let gateway = Builder::managed(&cloud)
        .set("/proxy/workers", json!(1))
        .set("/upstream/connect_timeout_ms", json!(300))
        .set("/upstream/retries", json!(0))
        .start()
        .await;
    let caller = gateway.caller();
    assert_eq!(caller.ask("small-1", "hello").await.status, 200);

    let hanging = egress(&gateway);
    kill(hanging.pid, Signal::SIGSTOP).unwrap();
    let refused = caller.ask("other", "hello").await;
    assert_eq!(refused.status, 502);
    assert_eq!(refused.json().await.unwrap()["error"]["type"], "transport_error");
    let mut kept = Connection::open(caller.address).await.unwrap();
    for _ in 0..5 {
        let answer = caller.chat_over(&mut kept, &chat("small-1", "hello")).await.unwrap();
        assert_eq!(answer.status, 200);
        answer.bytes().await.unwrap();
    }
    let connections: Vec<_> = first.ledger().iter().map(|served| served.connection).collect();
    assert_eq!(connections, [1; 6], "all over the pooled connection");
    assert!(second.ledger().is_empty());

    wait::until("the supervisor has replaced it", async || {
        let status = caller.ask("other", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert!(!hanging.runs());
    assert_eq!(gateway.finding("egress").await, "");
}
