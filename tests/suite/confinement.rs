//! What a taken-over worker would find: as the kernel shows it, from outside.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use harness::World;
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::provider::KEY;
use nix::unistd::{Pid, geteuid};

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
async fn proxy_and_status_workers_have_different_users() {
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
    assert_ne!(uid_of("proxy"), uid_of("status"));
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
        // Beyond those only what the runtime made, and connections: no file, no folder, no other process.
        for (_, target) in descriptors.range(4..).filter(|(number, _)| **number != 5) {
            let target = target.as_str();
            let is_runtime = ["anon_inode:[eventpoll]", "anon_inode:[eventfd]"].contains(&target);
            let is_socket = target.starts_with("socket:[");
            let is_memory = target.starts_with("/memfd:");
            assert!(is_runtime || is_socket || is_memory, "{worker:?}: {target}");
        }
    }
}

#[tokio::test]
async fn the_certificates_private_key_is_nowhere_in_the_memory_of_a_worker() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    for number in 0..10 {
        world.caller().ask("small-1", &format!("request {number}")).await.bytes().await.unwrap();
    }
    let pem = Bundle::text(&world.cloud.bundle(ENVIRONMENT).key);
    let scalar = scalar(pem.as_bytes());
    let mut reversed = scalar.clone();
    reversed.reverse();
    // A line in the middle of the text: the first and the last are the same in every key.
    let line = pem.lines().nth(2).expect("a key has several lines").as_bytes().to_vec();
    let secrets = [scalar, reversed, line];
    for worker in world.gateway.workers() {
        for secret in &secrets {
            assert!(!memory_holds(worker.pid, secret), "{worker:?}");
        }
    }
    // The search finds what is there: a proxy worker needs the upstream's key.
    let proxy = &world.gateway.proxies()[0];
    assert!(memory_holds(proxy.pid, KEY.as_bytes()), "the search is blind");
}

#[tokio::test]
async fn a_status_worker_knows_no_key_of_a_provider() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    let workers = world.gateway.workers();
    let status = workers.iter().find(|worker| worker.role == "status").unwrap();
    assert!(!memory_holds(status.pid, KEY.as_bytes()));
}

#[tokio::test]
async fn the_supervisor_never_sees_the_key_of_a_caller() {
    if !is_root() {
        return;
    }
    let world = World::start().await;
    world.caller().ask("small-1", "hello").await.bytes().await.unwrap();
    assert!(!memory_holds(world.gateway.pid(), harness::projection::CALLER_KEY.as_bytes()));
}

#[tokio::test]
async fn a_worker_has_nothing_of_the_gateways_environment() {
    let world = World::start().await;
    for worker in world.gateway.workers() {
        let Ok(environment) = fs::read(worker.proc("environ")) else { continue };
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("AISIX_"), "{worker:?}: {environment}");
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

/// The secret number of an EC private key: 32 bytes behind `version 1, OCTET STRING of 32`.
fn scalar(pem: &[u8]) -> Vec<u8> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).expect("the key is PEM");
    let before = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = pem.contents.windows(before.len()).position(|window| window == before);
    let start = at.expect("the key is an EC key") + before.len();
    pem.contents[start..start + 32].to_vec()
}

/// Whether these bytes stand anywhere in the readable memory of a process.
fn memory_holds(pid: Pid, needle: &[u8]) -> bool {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may read memory");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may read the maps");
    let mut regions = 0;
    let found = maps.lines().any(|line| {
        let mut columns = line.split_whitespace();
        let (range, rights) = (columns.next().unwrap(), columns.next().unwrap());
        // The kernel's own pages cannot be read like this.
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            return false;
        }
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            return false;
        }
        regions += 1;
        bytes.windows(needle.len()).any(|window| window == needle)
    });
    assert!(found || regions > 5, "the memory was readable");
    found
}
