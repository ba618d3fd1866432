//! A supervisor that is not root and has the few capabilities that a user for each role needs, as ambient ones: what a unit
//! with `User=` and `AmbientCapabilities=` starts.

use std::collections::BTreeSet;
use std::fs;

use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Gateway, Projection, upstream, wait};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};

/// A user that nobody has.
const USER: u32 = 54_321;
/// CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP.
const KEPT: &str = "00000000000001e0";

fn field(pid: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn uid(pid: Pid) -> u32 {
    field(pid, "Uid").split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a number")
}

/// Every role has a user of its own, and no worker has a capability in any set.
fn is_separated(gateway: &Gateway) {
    assert_eq!(uid(gateway.pid()), USER);
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        assert_eq!(field(gateway.pid(), set), KEPT, "{set}");
    }
    let workers = gateway.workers();
    let roles: BTreeSet<_> = workers.iter().map(|worker| worker.role.clone()).collect();
    assert!(roles.len() >= 3, "{roles:?}");
    let users: BTreeSet<_> =
        workers.iter().map(|worker| (worker.role.clone(), uid(worker.pid))).collect();
    let numbers: BTreeSet<_> = users.iter().map(|(_, uid)| *uid).collect();
    assert_eq!((users.len(), numbers.len()), (roles.len(), roles.len()), "{users:?}");
    assert!(!numbers.contains(&USER) && !numbers.contains(&0), "{users:?}");
    for worker in &workers {
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
            assert_eq!(field(worker.pid, set), "0000000000000000", "{worker:?} {set}");
        }
        assert_eq!(field(worker.pid, "NoNewPrivs"), "1", "{worker:?}");
        assert_eq!(field(worker.pid, "Groups"), "", "{worker:?}");
    }
}

#[tokio::test]
async fn a_supervisor_without_root_gives_each_role_a_user_also_after_upgrade_and_crash() {
    if !geteuid().is_root() {
        println!("skipped: only root can give capabilities away");
        return;
    }
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let user = [format!("--reuid={USER}"), format!("--regid={USER}")];
    let starter = [
        "setpriv",
        &user[0],
        &user[1],
        "--clear-groups",
        "--inh-caps=-all,+setuid,+setgid,+setpcap,+kill",
        "--ambient-caps=-all,+setuid,+setgid,+setpcap,+kill",
        "--bounding-set=-all,+setuid,+setgid,+setpcap,+kill",
    ];
    let text = |path| fs::read_to_string(path).expect("a part of the bundle");
    let mut gateway = Builder::unprovisioned(&cloud)
        .env("AISIX_MANAGED__CP_CERT_PEM", &text(&bundle.certificate))
        .env("AISIX_MANAGED__CP_KEY_PEM", &text(&bundle.key))
        .env("AISIX_MANAGED__CP_CA_PEM", &text(&bundle.issuers))
        .owned_by(USER)
        .started_by(&starter)
        .start()
        .await;
    is_separated(&gateway);
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);

    let status = gateway.told_status().await;
    assert_eq!(status["supervisor"]["uid"], USER, "{status:#}");
    let own = gateway.workers();
    for worker in status["workers"].as_array().expect("workers") {
        let pid = worker["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = Pid::from_raw(pid.expect("a process"));
        assert!(own.iter().any(|known| known.pid == pid), "{worker}");
        assert_eq!(worker["uid"], uid(pid));
        let missing = worker["missing"].to_string();
        assert!(!missing.contains("user") && !missing.contains("capabilities"), "{worker}");
    }
    // Nothing of the kind is wrong to the doctor either.
    let report = gateway.aisix(&["doctor", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("a report");
    let codes: Vec<_> = report["findings"].as_array().expect("findings").iter().collect();
    for code in ["host-not-root", "host-workers-share-user", "state-other-owner", "state-wrong-owner"] {
        assert!(codes.iter().all(|it| it["code"] != code), "{report:#}");
    }

    gateway.signal(Signal::SIGUSR2);
    wait::until("the other program has taken over", async || {
        if gateway.log().contains("upgraded: every worker is new") { Ok(()) } else { Err("no") }
    })
    .await;
    wait::until("those of before have left", async || {
        let left = own.iter().filter(|worker| worker.runs()).count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    is_separated(&gateway);
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);

    // It may end a worker that has another user: one that does not answer is killed and replaced.
    let stuck = gateway.proxies().into_iter().next().expect("a proxy worker");
    nix::sys::signal::kill(stuck.pid, Signal::SIGSTOP).expect("it is stopped");
    wait::until("it is replaced", async || {
        if stuck.runs() { Err("it still runs") } else { Ok(()) }
    })
    .await;
    gateway.wait_until_ready().await;
    is_separated(&gateway);
    gateway.terminate();
    assert_eq!(gateway.end().await.code(), Some(0));
}
