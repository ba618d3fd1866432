//! Listeners that a socket unit of the service manager has opened (`aisix.socket`), with the stand-in for systemd.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use harness::service_manager::ServiceManager;
use harness::{Builder, Cloud, Gateway, Projection, World, client, port, upstream, wait};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What systemd calls the sockets of a unit that does not say it.
const NAME: &str = "aisix.socket";
const TAKEN: &str = "listener taken over from a socket unit of the service manager";

/// A service manager with a socket unit that has both listeners.
fn with_unit(folder: &tempfile::TempDir, builder: &Builder) -> ServiceManager {
    let mut manager = ServiceManager::at(folder.path());
    manager.listen(NAME, builder.proxy());
    manager.listen(NAME, builder.status());
    manager
}

fn times(gateway: &Gateway, line: &str) -> usize {
    gateway.log().matches(line).count()
}

#[tokio::test]
async fn sockets_of_a_unit_serve_through_upgrade_and_kill_and_never_enter_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let builder = Builder::managed(&cloud);
    let mut manager = with_unit(&folder, &builder);
    let mut gateway = manager.start(builder, None).start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    assert_eq!(times(&gateway, TAKEN), 2, "{}", gateway.log());

    gateway.signal(Signal::SIGUSR2);
    wait::until("the other program has taken over", async || {
        if gateway.log().contains("upgraded: every worker is new") { Ok(()) } else { Err("no") }
    })
    .await;
    assert_eq!(times(&gateway, "which had it from a socket unit"), 2, "{}", gateway.log());
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    // Once more: the program that comes has to know it as well.
    gateway.signal(Signal::SIGUSR2);
    wait::until("another one has taken over", async || {
        let upgraded = times(&gateway, "upgraded: every worker is new");
        if upgraded == 2 { Ok(()) } else { Err(upgraded) }
    })
    .await;
    assert_eq!(times(&gateway, "which had it from a socket unit"), 4);
    assert_eq!(manager.times("FDSTORE=1"), 0, "the socket unit keeps them");

    let workers = gateway.workers();
    gateway.signal(Signal::SIGKILL);
    gateway.end().await;
    wait::until("every worker has left", async || {
        let left = workers.iter().filter(|worker| worker.runs()).count();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    let mut waiting = TcpStream::connect(gateway.proxy()).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
    waiting.write_all(request).await.unwrap();
    let builder = Builder::after(&gateway, &cloud).in_place_of(&gateway);
    let next = manager.start(builder, None).spawn();
    let mut answer = Vec::new();
    wait::within("it is answered", waiting.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(times(&next, TAKEN), 2);
    assert_eq!(manager.times("FDSTORE=1"), 0);
}

#[tokio::test]
async fn a_copy_in_the_store_is_given_up_for_the_socket_of_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let builder = Builder::managed(&cloud);
    let mut manager = with_unit(&folder, &builder);
    manager.store_first_of_unit("proxy");
    let gateway = manager.start(builder, None).start().await;
    manager.is_told("FDNAME=proxy").await;
    assert_eq!((manager.times("FDSTOREREMOVE=1"), manager.times("FDSTORE=1")), (1, 0));
    assert!(manager.stored.is_empty());
    assert_eq!(times(&gateway, TAKEN), 2);
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
}

#[tokio::test]
async fn a_socket_of_a_unit_that_nobody_needs_is_told_with_what_to_compare() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let elsewhere = port::reserve();
    manager.listen(NAME, elsewhere);
    let started = &manager;
    let mut world = World::start_with(|builder| started.start(builder, None)).await;
    let log = world.gateway.log();
    let line = log.lines().find(|line| line.contains("nobody serves it")).expect(&log);
    for part in [&elsewhere.to_string(), NAME, "ListenStream=", "proxy.addr"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Listeners of its own go into the store as ever.
    manager.is_told("FDNAME=status").await;
    let mut names: Vec<_> = manager.stored.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(names, ["proxy", "status"]);
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_port_that_the_unit_has_at_another_address_ends_the_start_at_once_with_both() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let builder = Builder::managed(&cloud);
    let manager = with_unit(&folder, &builder);
    let (port, listens) = (builder.proxy().port(), builder.proxy().to_string());
    let configured = format!("0.0.0.0:{port}");
    let builder = builder.set("/proxy/addr", json!(configured));
    let mut gateway = manager.start(builder, None).spawn();
    assert_eq!(gateway.end().await.code(), Some(1));
    let log = gateway.log();
    let line = log.lines().find(|line| line.starts_with("Error:")).expect(&log);
    for part in [&configured, &listens, "ListenStream=", "proxy.addr"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn a_changed_address_is_answered_with_what_the_socket_unit_needs() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let builder = Builder::managed(&cloud);
    let manager = with_unit(&folder, &builder);
    let gateway = manager.start(builder, None).start().await;
    let path = gateway.folder().join("config.managed.yaml");
    let written = std::fs::read_to_string(&path).unwrap();
    let (before, after) = (gateway.proxy().to_string(), port::reserve().to_string());
    std::fs::write(&path, written.replace(&before, &after)).unwrap();
    let answer = harness::command::text(&gateway.aisix(&["reload"]).await);
    assert!(answer.contains("only after a restart: proxy.addr"), "{answer}");
    assert!(answer.contains("ListenStream="), "{answer}");
}

#[tokio::test]
async fn a_privileged_port_of_a_unit_needs_no_capability() {
    if !geteuid().is_root() {
        println!("skipped: only root can listen on such a port");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let free = (600..1024).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut free = free.filter(|address| TcpListener::bind(address).is_ok());
    let low = free.next().expect("a free port below 1024");
    let builder = Builder::managed(&cloud).at(low);
    let manager = with_unit(&folder, &builder);
    let without = ["setpriv", "--bounding-set=-net_bind_service"];
    let gateway = manager.start(builder, None).then_by(&without).start().await;
    assert_eq!(client::fetch(low, "/livez").await.unwrap().status, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
    assert_eq!(mask & (1 << 10), 0, "it has no CAP_NET_BIND_SERVICE");
    assert_eq!(times(&gateway, TAKEN), 2);
}
