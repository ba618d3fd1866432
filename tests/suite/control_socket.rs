//! A running gateway is asked and told over its control socket, by whoever may, and by nobody else.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use harness::cloud::ENVIRONMENT;
use harness::command::{aisix, text};
use harness::{Builder, Cloud, Gateway, Projection, World, upstream, wait};
use serde_json::json;

/// Where a gateway says that its socket is.
fn socket(gateway: &Gateway) -> PathBuf {
    let log = gateway.log();
    let (_, rest) = log.split_once("control socket at ").expect("the log tells");
    rest.split_whitespace().next().unwrap().into()
}

fn raw(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    // A gateway that has heard enough closes.
    let _ = stream.write_all(bytes);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn own_socket(builder: Builder) -> Builder {
    let path = builder.configuration_path().with_file_name("aisix.sock");
    builder.set("/supervisor/control_socket", json!(path))
}

#[tokio::test]
async fn status_tells_people_and_programs_how_the_gateway_is() {
    let world = World::start().await;
    let gateway = &world.gateway;
    let status = gateway.told_status().await;
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["mode"], "managed");
    assert_eq!(status["environment"], ENVIRONMENT);
    assert_eq!(status["pid"], gateway.pid().as_raw());
    assert!(status["configuration"]["applied_revision"].as_i64() > Some(0), "{status}");
    assert!(status["certificate"]["expires_at"].is_string(), "{status}");
    let workers = status["workers"].as_array().unwrap();
    for worker in gateway.workers() {
        let told = workers.iter().find(|it| it["pid"] == worker.pid.as_raw()).unwrap();
        assert_eq!((&told["role"], &told["state"]), (&json!(worker.role), &json!("serving")));
        let level = told["sandbox_level"].as_u64().unwrap();
        assert_eq!(level == 3, told["missing"].as_array().unwrap().is_empty(), "{told}");
    }
    let managed = gateway.status_managed().await;
    assert_eq!(managed["workers"].as_array().map(Vec::len), Some(workers.len()));

    let output = gateway.aisix(&["status"]).await;
    let told = text(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for expected in ["ready", "certificate", "PROCESSES", "SANDBOX", "proxy", "serving"] {
        assert!(told.contains(expected), "{expected} in {told}");
    }
    assert!(!told.contains('\x1b'), "no colour into a pipe");
    println!("{told}");
}

#[tokio::test]
async fn the_exit_status_tells_ready_from_not_ready_from_nobody_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.sock");
    let output = aisix(&["status", "--socket", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("none.sock") && text(&output).contains("start the gateway"));

    let upstream = upstream().await;
    let cloud = Cloud::stopped(&Projection::of(&upstream));
    let mut gateway = own_socket(Builder::managed(&cloud)).start_alive().await;
    let output = gateway.aisix(&["status"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    gateway.terminate();
    gateway.end().await;
    let output = gateway.aisix(&["status"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(!gateway.folder().join("aisix.sock").exists(), "it is removed in the end");
}

#[tokio::test]
async fn an_order_is_carried_out_and_the_log_tells_who_gave_it() {
    let world = World::start_with(own_socket).await;
    let workers = world.gateway.workers();
    let output = world.gateway.aisix(&["reload"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    wait::until("every worker is replaced", async || {
        let left = workers.iter().filter(|worker| worker.runs()).count();
        let now = world.gateway.workers().len();
        if left == 0 && now == workers.len() { Ok(()) } else { Err(format!("{left} of {now}")) }
    })
    .await;
    let before = world.gateway.status_managed().await["certificate"]["fingerprint_sha256"].clone();
    let output = world.gateway.aisix(&["rotate"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("renewed"), "{}", text(&output));
    let after = world.gateway.status_managed().await["certificate"]["fingerprint_sha256"].clone();
    assert_ne!(before, after);
    let log = world.gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("ordered over")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let me = format!("uid={}", nix::unistd::geteuid());
    assert!(lines.iter().all(|line| line.contains(&me)), "{lines:?}");

    world.cloud.fail("/dp/rotate-cert", 404, Some(1)).await;
    let output = world.gateway.aisix(&["rotate"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("as files"), "{}", text(&output));
    world.cloud.fail("/dp/rotate-cert", 500, None).await;
    let output = world.gateway.aisix(&["rotate"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("is not renewed"), "{}", text(&output));
}

#[tokio::test]
async fn a_rotation_that_nobody_may_make_is_refused_with_the_reason() {
    let off = |builder: Builder| own_socket(builder).set("/managed/cert_renewal", json!("off"));
    let world = World::start_with(off).await;
    let output = world.gateway.aisix(&["rotate"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("managed.cert_renewal is off"), "{}", text(&output));

    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    fs::write(&resources, "_format_version: \"1\"\n").unwrap();
    let gateway = own_socket(Builder::from_file(&resources)).start_alive().await;
    let output = gateway.aisix(&["rotate"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("file"), "{}", text(&output));
    assert_eq!(gateway.told_status().await["mode"], "file");
}

#[tokio::test]
async fn two_gateways_of_one_host_keep_a_socket_each() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let [one, other] =
        [Builder::managed(&cloud).start().await, Builder::managed(&cloud).start().await];
    assert_ne!(socket(&one), socket(&other));
    for gateway in [&one, &other] {
        assert_eq!(gateway.told_status().await["pid"], gateway.pid().as_raw());
        let mode = fs::metadata(socket(gateway)).unwrap().permissions().mode() & 0o777;
        assert!(matches!(mode, 0o600 | 0o660), "{mode:o}");
    }
    // Whoever names the socket of one and means the other is told so.
    let request = json!({"command": "reload", "state_dir": other.state()}).to_string() + "\n";
    let answer = raw(&socket(&one), request.as_bytes());
    assert!(answer.contains("state directory"), "{answer}");
}

#[tokio::test]
async fn a_socket_left_by_a_killed_gateway_is_replaced_and_a_strangers_is_not() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("aisix.sock");
    let at = |builder: Builder| builder.set("/supervisor/control_socket", json!(path));
    let mut first = at(Builder::managed(&cloud)).start().await;
    first.kill_at_once().await;
    assert!(path.exists());
    let mut next = at(Builder::after(&first, &cloud)).start().await;
    assert_eq!(next.told_status().await["ready"], true);
    next.terminate();
    next.end().await;

    let stranger = UnixListener::bind(&path).unwrap();
    let last = at(Builder::after(&first, &cloud)).start().await;
    let finding = last.finding("control_socket").await;
    assert!(finding.contains("another gateway listens"), "{finding}");
    drop(stranger);
}

#[tokio::test]
async fn hostile_bytes_and_silent_connections_keep_nobody_from_asking() {
    let world = World::start_with(own_socket).await;
    let path = socket(&world.gateway);
    for bytes in [
        &b"\0\0\0\0"[..],
        b"{\"command\":\"status\"",
        b"[[[[[[[[[[\n",
        b"{\"command\":\"exec\"}\n",
        &[b'['; 200_000],
        &[0xff; 4097],
    ] {
        let answer = raw(&path, &bytes.iter().chain(b"\n").copied().collect::<Vec<_>>());
        assert!(answer.is_empty() || answer.contains("\"ok\":false"), "{answer}");
    }
    // As many as it takes, and one that does not let go of its half.
    let silent: Vec<_> = (0..8).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(world.gateway.told_status().await["ready"], true);
    drop(silent);
    let mut answered = Vec::new();
    for _ in 0..20 {
        answered.push(world.gateway.aisix(&["status", "--json"]));
    }
    for output in futures_util::future::join_all(answered).await {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
}

#[tokio::test]
async fn a_gateway_that_is_stopped_is_told_as_one_that_hangs() {
    let mut world = World::start_with(own_socket).await;
    world.gateway.signal(nix::sys::signal::Signal::SIGSTOP);
    let output = world.gateway.aisix(&["status"]).await;
    world.gateway.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("does not answer"), "{}", text(&output));
}

#[tokio::test]
async fn a_health_check_tells_ready_from_anything_else_in_one_line_and_never_hangs() {
    let upstream = upstream().await;
    let cloud = Cloud::stopped(&Projection::of(&upstream));
    let gateway = own_socket(Builder::managed(&cloud)).start_alive().await;
    let output = gateway.aisix(&["status", "--check"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output), "not ready: waiting: no configuration has come yet\n");
    drop(gateway);

    let mut world = World::start_with(own_socket).await;
    let output = world.gateway.aisix(&["status", "--check"]).await;
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "ready\n"));
    world.gateway.signal(nix::sys::signal::Signal::SIGSTOP);
    let output = world.gateway.aisix(&["status", "--check"]).await;
    world.gateway.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).starts_with("not ready: ") && text(&output).contains("hangs"));
    assert_eq!(text(&output).lines().count(), 1);

    // Not even where the kernel makes whoever connects wait.
    let path = world.gateway.folder().join("full.sock");
    let full = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let output = aisix(&["status", "--check", "--socket", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output), "not ready: no answer within 5 s: the gateway hangs\n");
}

#[tokio::test]
async fn a_sandbox_that_is_off_is_shown_wherever_one_looks() {
    let off = |builder: Builder| own_socket(builder).set("/supervisor/sandbox", json!("off"));
    let world = World::start_with(off).await;
    let gateway = &world.gateway;
    assert!(gateway.finding("sandbox").await.contains("NOT CONFINED"));
    assert!(gateway.log().contains("WORKERS ARE NOT CONFINED"));
    let status = gateway.told_status().await;
    assert_eq!(status["sandbox"], json!({"policy": "off", "level": 0}));
    assert!(status["workers"].as_array().unwrap().iter().all(|it| it["sandbox_level"] == 0));
    assert!(text(&gateway.aisix(&["status"]).await).contains("off: WORKERS ARE NOT CONFINED"));
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("aisix_sandbox_level", &[]), 0.0);

    let world = World::start().await;
    wait::until("every worker's level is in the metrics", async || {
        let metrics = world.gateway.metrics().await;
        let level = metrics.sum("aisix_sandbox_level", &[("role", "proxy")]);
        if level >= 2.0 { Ok(()) } else { Err(level) }
    })
    .await;
}

#[tokio::test]
async fn a_socket_path_that_is_too_long_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x".repeat(120));
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let mut gateway =
        Builder::managed(&cloud).set("/supervisor/control_socket", json!(path)).spawn();
    assert_eq!(gateway.end().await.code(), Some(1));
    let log = gateway.log();
    assert!(log.contains("supervisor.control_socket") && log.contains("107"), "{log}");
}
