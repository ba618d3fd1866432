//! What systemd is told, and what it keeps: with a stand-in that hears and stores as it does.

use std::time::Duration;

use harness::cloud::ENVIRONMENT;
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

#[tokio::test]
async fn a_reload_is_told_until_every_worker_is_new_and_one_that_is_refused_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let started = &manager;
    let mut world = World::start_with(|builder| started.start(builder, None)).await;
    manager.is_told("STATUS=serving revision").await;
    let before = world.gateway.workers();
    assert!(world.gateway.aisix(&["reload"]).await.status.success());
    // It was told before the answer.
    assert_eq!(manager.times("RELOADING=1"), 1);
    assert_eq!((manager.times("MONOTONIC_USEC="), manager.times("STATUS=reloading")), (1, 1));
    manager.is_told_times("READY=1", 2).await;
    let new = world.gateway.proxies().into_iter().filter(|worker| !before.contains(worker));
    assert_eq!(new.count(), harness::WORKERS, "READY=1 waits for the last one");
    wait::until("the status is as before", async || {
        let status = manager.last("STATUS=");
        let fits = status.starts_with("STATUS=serving revision") && !status.contains(';');
        if fits { Ok(()) } else { Err(status) }
    })
    .await;

    let path = world.gateway.folder().join("config.managed.yaml");
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, written.replace("\"workers\":2", "\"workers\":\"many\"")).unwrap();
    let output = world.gateway.aisix(&["reload"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", harness::command::text(&output));
    // All of it was told before the answer.
    assert_eq!((manager.times("RELOADING=1"), manager.times("READY=1")), (2, 3));
    let status = manager.last("STATUS=");
    assert!(
        status.starts_with("STATUS=serving revision") && status.contains("not reloaded"),
        "{status}"
    );
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);

    std::fs::write(&path, written).unwrap();
    world.gateway.signal(Signal::SIGHUP);
    manager.is_told_times("READY=1", 4).await;
    wait::until("the refused one is forgotten", async || {
        let status = manager.last("STATUS=");
        if status.contains("not reloaded") { Err(status) } else { Ok(()) }
    })
    .await;
    assert_eq!(manager.times("RELOADING=1"), 3);
}

#[tokio::test]
async fn a_service_manager_that_does_not_read_is_not_waited_for_and_told_when_it_reads_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = ServiceManager::at(folder.path());
    let started = &manager;
    let world = World::start_with(|builder| started.start(builder, Some(300_000))).await;
    manager.is_told("STATUS=serving revision").await;
    let told = manager.times("READY=1");
    manager.fill();
    let before = world.gateway.proxies();
    assert!(world.gateway.aisix(&["reload"]).await.status.success());
    wait::until("every worker is new", async || {
        let left = world.gateway.proxies().into_iter().filter(|it| before.contains(it)).count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
    let fed = manager.times("WATCHDOG=1");
    manager.is_told_times("READY=1", told + 1).await;
    wait::until("the watchdog is fed again", async || {
        if manager.times("WATCHDOG=1") > fed { Ok(()) } else { Err("not yet") }
    })
    .await;
}

#[tokio::test]
async fn a_reload_is_refused_also_where_only_a_variable_says_which_socket_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s.sock").display().to_string();
    let variable = ("AISIX_SUPERVISOR__CONTROL_SOCKET", socket.as_str());
    let world = World::start_with(|builder| builder.env(variable.0, variable.1)).await;
    let path = world.gateway.folder().join("config.managed.yaml");
    let config = path.to_str().unwrap();
    let reload = async |arguments: &[&str], name: &str| {
        let mut command = harness::command::command(arguments);
        command.env(variable.0, variable.1).env(name, config).output().await.unwrap()
    };
    // As the unit's ExecReload has it, and with the configuration named by a variable of the unit.
    for (arguments, name) in
        [(&["reload", "--config", config][..], "UNUSED"), (&["reload"][..], "AISIX_CONFIG")]
    {
        let output = reload(arguments, name).await;
        assert!(output.status.success(), "{}", harness::command::text(&output));
    }
    std::fs::write(&path, "proxy: [").unwrap();
    let output = reload(&["reload", "--config", config], "UNUSED").await;
    let told = harness::command::text(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("not reloaded, and nothing has changed"), "{told}");
}

#[tokio::test]
async fn a_bundle_that_is_a_credential_is_told_with_the_restart_that_a_new_one_needs() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let credentials = bundle.key.parent().unwrap().display().to_string();
    let builder = Builder::managed_with(&cloud, &bundle);
    let gateway = builder.env("CREDENTIALS_DIRECTORY", &credentials).start().await;
    let status = gateway.told_status().await;
    assert_eq!(status["certificate"]["new_bundle_needs_restart"], true, "{status:#}");
    let managed = gateway.status_managed().await;
    assert_eq!(managed["rotation"]["new_bundle_needs_restart"], true, "{managed:#}");
    let told = harness::command::text(&gateway.aisix(&["status"]).await);
    let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = "supplied as a credential of the service manager: a new bundle needs a restart";
    assert!(told.contains(line), "{told}");
    drop(gateway);
    // Files that are no credentials are followed.
    let gateway = Builder::managed(&cloud)
        .env("CREDENTIALS_DIRECTORY", "/run/credentials/aisix.service")
        .start()
        .await;
    let status = gateway.told_status().await;
    assert_eq!(status["certificate"]["new_bundle_needs_restart"], false, "{status:#}");
}
