//! What a taken-over worker would find: as the kernel shows it, from outside.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::provider::KEY;
use harness::worker::Worker;
use harness::{Builder, World, memory, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::json;

/// A user who may do nothing.
const NOBODY: u32 = 65_534;

/// A field of `/proc/PID/task/TID/status`.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

#[tokio::test]
async fn every_thread_of_every_worker_is_confined() {
    let world = World::start().await;
    let workers = world.gateway.workers();
    assert!(workers.len() > 2);
    for worker in &workers {
        for thread in fs::read_dir(worker.proc("task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert_eq!(field(&status, "NoNewPrivs"), "1", "{worker:?}");
            assert_eq!(field(&status, "Seccomp"), "2", "{worker:?}");
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                assert_eq!(field(&status, set), "0000000000000000", "{worker:?} {set}");
            }
            if geteuid().is_root() {
                assert_eq!(field(&status, "CapBnd"), "0000000000000000", "{worker:?}");
                for ids in ["Uid", "Gid"] {
                    let ids = field(&status, ids);
                    assert!(ids.split_whitespace().all(|id| id != "0"), "{worker:?} {ids}");
                }
                assert_eq!(field(&status, "Groups"), "", "{worker:?}");
            }
        }
    }
}

#[tokio::test]
async fn workers_of_different_roles_have_different_users() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    let workers = world.gateway.workers();
    let uid_of = |role: &str| {
        let worker = workers.iter().find(|worker| worker.role == role).unwrap();
        let status = fs::read_to_string(worker.proc("status")).unwrap();
        field(&status, "Uid")
    };
    // That of the signer is told apart where there is one.
    let users = BTreeSet::from(["proxy", "status", "egress"].map(uid_of));
    assert_eq!(users.len(), 3, "{users:?}");
}

/// Who the kernel lets look into a process: root alone if it is not dumpable, else its own user too.
fn owner(pid: Pid) -> u32 {
    fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid()
}

#[tokio::test]
async fn no_other_process_of_a_workers_user_may_look_into_it() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    for worker in world.gateway.workers() {
        let status = fs::read_to_string(worker.proc("status")).unwrap();
        assert_ne!(field(&status, "Uid").split_whitespace().next(), Some("0"), "{worker:?}");
        assert_eq!(owner(worker.pid), 0, "{worker:?}");
    }
}

#[tokio::test]
async fn a_worker_holds_exactly_the_descriptors_it_is_born_with() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    for worker in world.gateway.workers() {
        let descriptors = worker.descriptors();
        let kind = |number: i32| descriptors.get(&number).map(|it| it.split(":[").next());
        assert_eq!(kind(0), Some(Some("/dev/null")), "{descriptors:?}");
        assert_eq!((kind(1), kind(2)), (Some(Some("pipe")), Some(Some("pipe"))), "{descriptors:?}");
        assert_eq!(kind(3), Some(Some("socket")), "{descriptors:?}");
        let listens = ["proxy", "status"].contains(&worker.role.as_str());
        assert!(!listens || kind(8) == Some(Some("socket")), "{descriptors:?}");
        // The one file is the usage ring of a proxy worker.
        let is_ring = |target: &String| target.ends_with(".ring");
        assert_eq!(descriptors.get(&5).is_some_and(is_ring), worker.role == "proxy");
        // Kept free for the connection of the next supervisor.
        let is_kept = descriptors.get(&6).is_some_and(|target| target == "/dev/null");
        assert_eq!(is_kept, worker.role == "proxy", "{descriptors:?}");
        // Beyond those only what the runtime made, and connections: no file, no folder, no other process.
        for (_, target) in descriptors
            .range(4..)
            .filter(|(number, _)| **number != 5 && !(is_kept && **number == 6))
        {
            let target = target.as_str();
            let is_runtime = ["anon_inode:[eventpoll]", "anon_inode:[eventfd]"].contains(&target);
            let is_socket = target.starts_with("socket:[");
            let is_memory = target.starts_with("/memfd:");
            assert!(is_runtime || is_socket || is_memory, "{worker:?}: {target}");
        }
    }
}

#[tokio::test]
async fn every_worker_is_limited_and_ended_before_the_supervisor() {
    let world = World::start().await;
    let score = |pid: Pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    for worker in world.gateway.workers() {
        let limits = fs::read_to_string(worker.proc("limits")).unwrap();
        let hard = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        for nothing in ["core file size", "processes", "locked memory", "msgqueue size"] {
            assert_eq!(hard(&format!("Max {nothing}")), "0", "{worker:?} {nothing}");
        }
        for bounded in ["address space", "file size", "open files", "pending signals"] {
            assert_ne!(hard(&format!("Max {bounded}")), "unlimited", "{worker:?} {bounded}");
        }
        assert!(score(worker.pid) > score(world.gateway.pid()), "{worker:?}");
    }
}

#[tokio::test]
async fn the_supervisor_keeps_the_capabilities_it_needs_and_no_others() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    let threads = format!("/proc/{}/task", world.gateway.pid());
    let mut count = 0;
    for thread in fs::read_dir(threads).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert_eq!(
            (field(&status, "NoNewPrivs"), field(&status, "Seccomp")),
            ("1".into(), "2".into())
        );
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            // CHOWN, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE.
            assert_eq!(field(&status, set), "00000000000005e1", "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000", "{set}");
        }
        count += 1;
    }
    assert!(count > 1, "the threads were looked at");
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.gateway.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert!(core.split_whitespace().take(2).all(|limit| limit == "0"), "{core}");
}

#[tokio::test]
async fn the_certificates_private_key_is_nowhere_in_a_worker() {
    if !is_root() {
        return;
    }
    let world = World::start_with(|gateway| gateway.set("/proxy/workers", json!(2))).await;
    for number in 0..10 {
        world.caller().ask("small-1", &format!("request {number}")).await.bytes().await.unwrap();
    }
    let secrets = forms_of_key(&world);
    for worker in world.gateway.workers() {
        for (form, secret) in &secrets {
            assert!(!memory::holds(worker.pid, secret), "{worker:?}: {form} in memory");
            assert!(!descriptors_hold(&worker, secret), "{worker:?}: {form} in a descriptor");
            for file in ["environ", "cmdline"] {
                let text = fs::read(worker.proc(file)).unwrap();
                assert!(!holds(&text, secret), "{worker:?}: {form} in {file}");
            }
        }
    }
    // The search finds what is there: a proxy worker needs the upstream's key, and was handed it.
    let proxy = &world.gateway.proxies()[0];
    assert!(memory::holds(proxy.pid, KEY.as_bytes()), "the search is blind");
}

#[tokio::test]
async fn only_proxy_workers_know_the_keys_of_providers_and_callers() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    for worker in world.gateway.workers().iter().filter(|worker| worker.role != "proxy") {
        for secret in [KEY, harness::projection::CALLER_KEY] {
            assert!(!memory::holds(worker.pid, secret.as_bytes()), "{worker:?}");
            assert!(!descriptors_hold(worker, secret.as_bytes()), "{worker:?}");
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_however_much_is_logged() {
    let world =
        World::start_with(|gateway| gateway.set("/observability/log_level", json!("trace"))).await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    // A key that somebody has put where it does not belong.
    const MISPLACED: &str = "sk-planted-in-the-address";
    let path = format!("/v1/models?api_key={MISPLACED}");
    let answer = harness::client::fetch(world.gateway.proxy(), &path).await.unwrap();
    assert_ne!(answer.status, 200);
    wait::until("the log is of some length", async || {
        let lines = world.gateway.log().lines().count();
        if lines > 20 { Ok(()) } else { Err(lines) }
    })
    .await;
    let log = world.gateway.log();
    for (form, secret) in forms_of_key(&world) {
        assert!(!holds(log.as_bytes(), &secret), "{form}");
    }
    for secret in [KEY, harness::projection::CALLER_KEY, MISPLACED] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    println!("{} lines were searched", log.lines().count());
}

#[tokio::test]
async fn a_process_that_aborts_leaves_no_core() {
    let mut world = World::start().await;
    let cores = |folder: &str| {
        let names = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("core")).collect::<Vec<_>>()
    };
    let here = std::env::current_dir().unwrap().display().to_string();
    let before = (cores("/"), cores(&here));
    let worker = world.gateway.proxies()[0].clone();
    kill(worker.pid, Signal::SIGABRT).unwrap();
    wait::until(
        "the worker has ended",
        async || {
            if worker.runs() { Err("it runs") } else { Ok(()) }
        },
    )
    .await;
    world.gateway.signal(Signal::SIGABRT);
    let end = world.gateway.end().await;
    assert!(!end.core_dumped(), "{end}");
    assert_eq!((cores("/"), cores(&here)), before);
}

#[tokio::test]
async fn a_host_that_has_everything_is_enough_where_all_is_required() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    let log = world.gateway.log();
    let version = log.split_whitespace().find_map(|word| word.strip_prefix("landlock="));
    if version.and_then(|version| version.parse::<u16>().ok()).is_none_or(|version| version < 6) {
        println!("skipped: this kernel has too little of Landlock: {version:?}");
        return;
    }
    drop(world);
    let world =
        World::start_with(|gateway| gateway.set("/supervisor/sandbox", json!("required"))).await;
    assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
}

#[tokio::test]
async fn a_host_that_cannot_give_workers_their_own_user_is_told_of_and_refused_where_all_is_required()
 {
    if !is_root() {
        return;
    }
    let upstream = harness::upstream().await;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let resources = folder.path().join("resources.yaml");
    let model =
        "{display_name: small-1, provider: openai, model_name: small-1, provider_key: main}";
    fs::write(
        &resources,
        format!(
            "_format_version: \"1\"\nprovider_keys:\n  - display_name: main\n    provider: openai\n    api_base: {}\n    api_key: {KEY}\nmodels:\n  - {model}\napi_keys:\n  - {{display_name: demo, key_env: CALLER_KEY, allowed_models: ['*']}}\n",
            upstream.api_base()
        ),
    )
    .unwrap();
    let builder = || {
        Builder::from_file(&resources)
            .env("CALLER_KEY", harness::projection::CALLER_KEY)
            .user(NOBODY)
    };
    let gateway = builder().start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    // That is how it was started, and no fault.
    let log = gateway.log();
    assert!(log.contains("single-user: every process runs as user 65534"), "{log}");
    assert!(!log.contains("topic=\"sandbox\""), "{log}");
    // They share a user: only this keeps one from looking into another, or into the supervisor.
    assert_eq!(owner(gateway.pid()), 0);
    for worker in gateway.workers() {
        assert_eq!(owner(worker.pid), 0, "{worker:?}");
        let status = fs::read_to_string(worker.proc("status")).unwrap();
        assert_eq!(field(&status, "Uid").split_whitespace().next(), Some("65534"));
        assert_eq!(
            (field(&status, "NoNewPrivs"), field(&status, "Seccomp")),
            ("1".into(), "2".into())
        );
    }
    drop(gateway);

    let mut refused = builder().set("/supervisor/sandbox", json!("required")).spawn();
    let end = refused.end().await;
    assert_eq!(end.code(), Some(1));
    let log = refused.log();
    assert!(log.contains("runs as the supervisor's own user 65534"), "{log}");
}

#[tokio::test]
async fn the_supervisor_never_sees_the_key_of_a_caller() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    assert!(!memory::holds(world.gateway.pid(), harness::projection::CALLER_KEY.as_bytes()));
}

#[tokio::test]
async fn a_worker_has_nothing_of_the_gateways_environment() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    for worker in world.gateway.workers() {
        let environment = fs::read(worker.proc("environ")).unwrap();
        assert_eq!(String::from_utf8_lossy(&environment), "", "{worker:?}");
    }
}

#[tokio::test]
async fn the_user_of_a_worker_cannot_read_the_state_directory() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    let state = world.gateway.state();
    // The folders above are the test's own, and closed: opened here, so that the state directory is what refuses.
    let above = world.gateway.folder();
    fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
    for worker in world.gateway.workers() {
        let status = fs::read_to_string(worker.proc("status")).unwrap();
        let id =
            |name: &str| field(&status, name).split_whitespace().next().unwrap().parse().unwrap();
        for name in ["mtls/client.key", "mtls/env_id", "dp_id"] {
            let read = Command::new("cat")
                .arg(state.join(name))
                .uid(id("Uid"))
                .gid(id("Gid"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(!read.success(), "{worker:?} can read {name}");
        }
    }
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        println!("skipped: only root may look into a worker");
    }
    is_root
}

/// The certificate's private key as it might be kept: text, bytes in either order, and what comes of encoding them.
fn forms_of_key(world: &World) -> Vec<(&'static str, Vec<u8>)> {
    let pem = Bundle::text(&world.cloud.bundle(ENVIRONMENT).key);
    let scalar = scalar(pem.as_bytes());
    let reversed: Vec<u8> = scalar.iter().rev().copied().collect();
    // Words of 64 bits, the lowest first, as arithmetic libraries keep numbers: the same as reversed. Of 32, swapped.
    let swapped: Vec<u8> = scalar.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let hex: String = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
    // A line in the middle of the text: the first and the last are the same in every key.
    let line = pem.lines().nth(2).expect("a key has several lines").as_bytes().to_vec();
    vec![
        ("a line of the text", line),
        ("the base64 of the number", STANDARD.encode(&scalar).into_bytes()),
        ("the base64url of the number", URL_SAFE_NO_PAD.encode(&scalar).into_bytes()),
        ("the number in hex", hex.into_bytes()),
        ("the number, words swapped", swapped),
        ("the number, reversed", reversed),
        ("the number", scalar),
    ]
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Whether these bytes stand in a file or memory that a worker has a descriptor of.
fn descriptors_hold(worker: &Worker, needle: &[u8]) -> bool {
    worker.descriptors().into_iter().any(|(number, target)| {
        let is_readable = target.starts_with("/memfd:") || target.ends_with(".ring");
        is_readable
            && fs::read(worker.proc(&format!("fd/{number}")))
                .is_ok_and(|content| holds(&content, needle))
    })
}

/// The secret number of an EC private key: 32 bytes behind `version 1, OCTET STRING of 32`.
fn scalar(pem: &[u8]) -> Vec<u8> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).expect("the key is PEM");
    let before = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = pem.contents.windows(before.len()).position(|window| window == before);
    let start = at.expect("the key is an EC key") + before.len();
    pem.contents[start..start + 32].to_vec()
}
