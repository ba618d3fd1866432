//! What systemd is told, and what it keeps: with a stand-in that hears and stores as it does.

use std::time::Duration;

use harness::service_manager::ServiceManager;
use harness::{Builder, Cloud, Projection, World, client, upstream, wait};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn ready_means_that_connections_are_accepted_with_or_without_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let upstream = upstream().await;
    let mut cloud = Cloud::stopped(&Projection::of(&upstream));
    let mut gateway = manager.start(Builder::managed(&cloud), None).spawn();
    manager.is_told("READY=1").await;
    manager.is_told("STATUS=waiting for the first configuration").await;
    gateway.wait_until_alive().await;
    assert_eq!(client::fetch(gateway.proxy(), "/readyz").await.unwrap().status, 503);
    cloud.resume().await;
    manager.is_told("STATUS=serving revision").await;
    gateway.wait_until_ready().await;
    gateway.terminate();
    manager.is_told("STOPPING=1").await;
    assert_eq!(gateway.end().await.code(), Some(0));
    assert_eq!(manager.times("READY=1"), 1);
}

#[tokio::test]
async fn the_watchdog_is_fed_until_the_supervisor_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let mut gateway = manager.start(Builder::managed(&cloud), Some(300_000)).start().await;
    let fed = manager.times("WATCHDOG=1");
    wait::until("the watchdog is fed again and again", async || {
        let more = manager.times("WATCHDOG=1") - fed;
        if more >= 5 { Ok(()) } else { Err(format!("{more} times")) }
    })
    .await;
    gateway.signal(Signal::SIGSTOP);
    wait::until("the supervisor is stopped", async || {
        let path = format!("/proc/{}/stat", gateway.pid());
        let stat = std::fs::read_to_string(path).unwrap();
        if stat.contains(") T ") { Ok(()) } else { Err(stat) }
    })
    .await;
    manager.hear();
    let fed = manager.times("WATCHDOG=1");
    // Traffic goes on meanwhile, which takes longer than three feedings.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    }
    assert_eq!(manager.times("WATCHDOG=1"), fed, "nobody else feeds it");
    gateway.signal(Signal::SIGCONT);
    wait::until("it is fed again", async || {
        if manager.times("WATCHDOG=1") > fed { Ok(()) } else { Err("not yet") }
    })
    .await;
}

#[tokio::test]
async fn after_a_kill_workers_leave_and_what_the_kernel_accepted_is_served_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let started = &manager;
    let mut world = World::start_with(|builder| started.start(builder, None)).await;
    manager.is_told("FDNAME=status").await;
    let mut names: Vec<_> = manager.stored.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(names, ["proxy", "status"]);
    for _ in 0..10 {
        world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    }
    let workers = world.gateway.workers();
    world.gateway.signal(Signal::SIGKILL);
    world.gateway.end().await;
    wait::until("every worker has left", async || {
        let left = workers.iter().filter(|worker| worker.runs()).count();
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    // Nobody is there: the kernel takes connections all the same.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(world.gateway.proxy()).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        waiting.push(stream);
    }
    let builder = Builder::after(&world.gateway, &world.cloud).in_place_of(&world.gateway);
    let start = std::time::Instant::now();
    let next = manager.start(builder, None).spawn();
    for mut stream in waiting {
        let mut answer = Vec::new();
        wait::within("it is answered", stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    println!("the backlog was served after {:?}", start.elapsed());
    assert!(next.log().contains("listener taken over from the service manager"));
    assert_eq!(world.cloud.usage_of(10).await.len(), 10, "no event is lost");
}

#[tokio::test]
async fn an_upgrade_is_told_and_keeps_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let started = &manager;
    let mut world = World::start_with(|builder| started.start(builder, Some(2_000_000))).await;
    manager.is_told("READY=1").await;
    let pid = world.gateway.pid();
    world.gateway.signal(Signal::SIGUSR2);
    manager.is_told("RELOADING=1").await;
    wait::until("the other program is ready", async || {
        let ready = manager.times("READY=1");
        if ready == 2 { Ok(()) } else { Err(ready.to_string()) }
    })
    .await;
    let fed = manager.times("WATCHDOG=1");
    wait::until("it feeds the watchdog", async || {
        if manager.times("WATCHDOG=1") > fed { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert_eq!(manager.times("MAINPID="), 0);
    assert_eq!(world.gateway.pid(), pid);
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
}
