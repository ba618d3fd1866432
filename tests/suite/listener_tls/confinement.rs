//! Where the listener's key is, and what confines those that have to do with it.

use std::collections::BTreeSet;
use std::fs;

use harness::memory;
use nix::unistd::geteuid;

use super::{World, is_root};

#[tokio::test]
async fn the_listeners_key_is_in_the_signer_and_in_no_other_process() {
    if !is_root() {
        return;
    }
    let world = World::start("1.2").await;
    let mut secrets = secrets(&fs::read(world.files.key()).unwrap());
    let before = world.shown().await;
    world.files.replace(&world.authority);
    secrets.extend(self::secrets(&fs::read(world.files.key()).unwrap()));
    world.until_other_than(&before).await;
    for _ in 0..10 {
        assert_eq!(world.chat().await.unwrap().0, 200);
    }
    let supervisor = world.gateway.pid();
    let others = world.gateway.workers();
    let others = others.iter().filter(|worker| worker.role != "signer").map(|worker| worker.pid);
    for pid in others.chain([supervisor]) {
        for (name, secret) in &secrets {
            assert!(!memory::holds(pid, secret), "{name} is in process {pid}");
        }
    }
    // The search finds what is there, in a form that the signer's library keeps.
    let signer = world.signer().expect("a signer").pid;
    let found = secrets.iter().filter(|(_, secret)| memory::holds(signer, secret)).count();
    assert!(found > 0, "the search is blind");
    let log = world.gateway.log();
    for (name, secret) in &secrets {
        let in_log = log.as_bytes().windows(secret.len()).any(|window| window == secret);
        assert!(!in_log, "{name} is in the log");
    }
}

#[tokio::test]
async fn every_thread_of_a_worker_with_tls_and_of_the_signer_is_confined() {
    let world = World::start("1.3").await;
    let workers = world.gateway.workers();
    let of_role = |role: &str| workers.iter().filter(|worker| worker.role == role).count();
    assert_eq!((of_role("proxy"), of_role("signer")), (harness::WORKERS, 1));
    let is_root = geteuid().is_root();
    // Each role with its user.
    let mut users = BTreeSet::new();
    for worker in workers {
        let threads = fs::read_dir(worker.proc("task")).unwrap();
        let mut count = 0;
        for thread in threads {
            count += 1;
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line =
                    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.unwrap_or_default().trim().to_owned()
            };
            assert_eq!(field("NoNewPrivs"), "1", "{worker:?}");
            assert_eq!(field("Seccomp"), "2", "{worker:?}");
            for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                assert_eq!(field(set), "0000000000000000", "{worker:?} {set}");
            }
            if is_root {
                assert_eq!(field("CapBnd"), "0000000000000000", "{worker:?}");
                for ids in ["Uid", "Gid"] {
                    let ids = field(ids);
                    assert!(!ids.is_empty(), "{worker:?}");
                    assert!(ids.split_whitespace().all(|id| id != "0"), "{worker:?} {ids}");
                }
                assert_eq!(field("Groups"), "", "{worker:?}");
                users.insert((worker.role.clone(), field("Uid")));
            }
        }
        // The thread of handshakes, and no other, nowhere else.
        let expected = if worker.role == "proxy" { 2 } else { 1 };
        assert_eq!(count, expected, "{worker:?}");
    }
    let different: BTreeSet<_> = users.iter().map(|(_, user)| user).collect();
    assert_eq!(different.len(), if is_root { 4 } else { 0 }, "{users:?}");
    assert_eq!(users.len(), different.len(), "{users:?}");
}

/// What a key can be recognised by: its number in both byte orders, its DER, and a line of its text.
fn secrets(pem: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (_, parsed) = x509_parser::pem::parse_x509_pem(pem).expect("the key is PEM");
    let before = [0x02, 0x01, 0x01, 0x04, 0x20];
    let at = parsed.contents.windows(before.len()).position(|window| window == before);
    let start = at.expect("the key is an EC key") + before.len();
    let scalar = parsed.contents[start..start + 32].to_vec();
    let mut reversed = scalar.clone();
    reversed.reverse();
    let text = String::from_utf8_lossy(pem).into_owned();
    let line = text.lines().nth(2).expect("a key has several lines").as_bytes().to_vec();
    let der = parsed.contents[start - 8..start + 32].to_vec();
    vec![("the number", scalar), ("the number", reversed), ("the DER", der), ("the text", line)]
}
