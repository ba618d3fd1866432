//! `aisix doctor` names the fault that was injected, first and alone: on the way to the Cloud and to the store.
//!
//! Each row makes one thing wrong, for real. What must come first is its code, and beside it only what is always so on this
//! machine and that no gateway runs.

mod rows;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use harness::command::aisix;
use harness::own_network::{self, OUTSIDE};
use harness::{Builder, Cloud, OwnNetwork, Projection, binaries, upstream};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use self::rows::{Case, ROWS};

/// Faults that are tried side by side.
const SIDE_BY_SIDE: usize = 3;

/// The report, and the exit status.
async fn report(config: &Path, socket: Option<&Path>) -> (Value, Option<i32>) {
    let config = config.to_str().unwrap();
    let mut arguments = vec!["--json", "--config", config];
    if let Some(socket) = socket {
        arguments.extend(["--socket", socket.to_str().unwrap()]);
    }
    let output = aisix(&[&["doctor"][..], &arguments].concat()).await;
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        panic!("{error}: {said}")
    });
    (report, output.status.code())
}

fn codes(report: &Value, list: &str) -> Vec<String> {
    let list = report[list].as_array().cloned().unwrap_or_default();
    list.iter().map(|found| found["code"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Whether a finding says something about this machine rather than about what was injected.
fn is_standing(code: &str) -> bool {
    // Other tests have gateways on this machine, one of them with the usual socket.
    let always = ["daemon-down", "gateway-other-state", "bundle-renewal-manual"];
    code.starts_with("host-") || always.contains(&code)
}

/// What is wrong with a diagnosis, if anything is.
fn judged(expected: &str, report: &Value) -> Result<(), String> {
    let found = codes(report, "findings");
    let others: Vec<_> = found.iter().filter(|code| !is_standing(code)).collect();
    match (&others[..], expected) {
        ([], "") => Ok(()),
        ([first], expected) if *first == expected => {
            let first = &report["findings"][0];
            let is_first =
                first["code"] == expected || is_standing(first["code"].as_str().unwrap());
            let told = ["evidence", "remedy", "title"]
                .iter()
                .all(|it| first[it].as_str().is_some_and(|it| !it.is_empty()));
            if is_first && told { Ok(()) } else { Err(format!("{report:#}")) }
        }
        _ => Err(format!("expected {expected:?}, found {found:?}: {report:#}")),
    }
}

async fn down(case: Case) -> (Value, Option<i32>, Duration) {
    let begun = Instant::now();
    let (report, status) = report(&case.config, Some(&case.socket)).await;
    (report, status, begun.elapsed())
}

#[tokio::test]
async fn every_fault_of_the_network_is_named_first_while_the_gateway_is_down() {
    let tried = stream::iter(ROWS).map(|(name, expected)| async move {
        let (report, _, took) = down(rows::inject(name).await).await;
        (*name, *expected, judged(expected, &report), took)
    });
    let tried: Vec<_> = tried.buffer_unordered(SIDE_BY_SIDE).collect().await;
    let right = tried.iter().filter(|(_, _, judged, _)| judged.is_ok()).count();
    for (name, expected, judged, took) in &tried {
        let word = if judged.is_ok() { "right" } else { "WRONG" };
        println!("{word} {:>5} ms  {name}: {expected}", took.as_millis());
    }
    println!("{right} of {} right", tried.len());
    let wrong: Vec<_> = tried
        .iter()
        .filter_map(|(name, _, judged, _)| Some((name, judged.as_ref().err()?)))
        .collect();
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.iter().map(|(name, why)| format!("{name}: {why}\n")).collect::<String>()
    );
}

#[tokio::test]
async fn every_fault_of_names_and_routes_is_named_first() {
    let Some(network) = OwnNetwork::enter() else { return };
    let outside = OUTSIDE.to_string();
    network
        .serve_names(&[
            ("empty.test", &[]),
            ("v6.test", &["2001:db8::7"]),
            ("far.test", &["203.0.113.9"]),
            ("here.test", &[&outside]),
        ])
        .await;
    own_network::serve_code([127, 0, 0, 2].into(), Some(2)).await;
    own_network::serve_code([127, 0, 0, 3].into(), None).await;
    let cloud = Cloud::stopped(&Projection::of(&upstream().await));
    let mut right = 0;
    let rows = [
        ("unknown.test", "127.0.0.1", "dns-name-unknown"),
        ("empty.test", "127.0.0.1", "dns-no-address"),
        ("v6.test", "127.0.0.1", "dns-only-ipv6"),
        ("far.test", "127.0.0.1", "cloud-no-route"),
        ("here.test", "127.0.0.1", "cloud-connection-refused"),
        ("here.test", "127.0.0.2", "dns-failing"),
        ("here.test", "127.0.0.3", "dns-no-answer"),
    ];
    for (host, resolver, expected) in rows {
        network.resolv_conf(&format!("nameserver {resolver}\n"));
        let case = rows::managed(&cloud, &format!("https://{host}:7944"));
        let (report, _, took) = down(case).await;
        let judged = judged(expected, &report);
        println!("{:>5} ms  {host} by {resolver}: {expected}: {judged:?}", took.as_millis());
        right += usize::from(judged.is_ok());
    }
    println!("{right} of {} right", rows.len());
    assert_eq!(right, rows.len());
}

#[tokio::test]
async fn large_packets_that_are_lost_on_the_way_are_told_apart_from_silence() {
    let Some(network) = OwnNetwork::enter() else { return };
    let (here, there) = (Ipv4Addr::new(10, 9, 1, 1), Ipv4Addr::new(10, 9, 1, 2));
    network.lossy_link("beyond", here, there);
    let case = rows::manager_at(here).await;
    let aisix = binaries::find("aisix").unwrap();
    let mut command = tokio::process::Command::new("ip");
    command.args(["netns", "exec", "beyond"]).arg(aisix).args(["doctor", "--json", "--config"]);
    let output =
        command.arg(&case.config).arg("--socket").arg(&case.socket).output().await.unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    judged("tls-stalls", &report).unwrap();
    println!("{report:#}");
}

#[tokio::test]
async fn nothing_is_wrong_with_a_gateway_that_is_well_and_the_exit_status_says_so() {
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let gateway = Builder::managed(&cloud).start().await;
    let config = gateway.folder().join("config.managed.yaml");
    let (well, status) = report(&config, None).await;
    judged("", &well).unwrap();
    let worst = |report: &Value| {
        let found = report["findings"].as_array().unwrap().clone();
        let is_any = |word: &str| found.iter().any(|found| found["severity"] == word);
        match (is_any("error"), is_any("warning")) {
            (true, _) => 4,
            (_, true) => 3,
            _ => 0,
        }
    };
    assert_eq!(status, Some(worst(&well)), "{well:#}");

    // A warning, then an error.
    cloud.fail("/dp/telemetry", 429, None).await;
    let (report_of, status) = report(&config, None).await;
    judged("cloud-usage-throttled", &report_of).unwrap();
    assert_eq!(status, Some(3), "{report_of:#}");
    cloud.heal().await;
    cloud.fail("/dp/budget_check", 503, None).await;
    let (report_of, status) = report(&config, None).await;
    judged("cloud-budget-failing", &report_of).unwrap();
    assert_eq!(status, Some(4), "{report_of:#}");

    // For people: each finding with its evidence and remedy, within 80 columns.
    let output = aisix(&["doctor", "--config", config.to_str().unwrap()]).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("cloud-budget-failing") && told.contains("503") && told.contains("  do "),
        "{told}"
    );
    assert!(
        told.lines().all(|line| line.chars().count() <= 80 || !line.trim().contains(' ')),
        "{told}"
    );
    println!("{told}");
}

#[tokio::test]
async fn a_running_gateway_examines_itself_and_names_the_same_faults() {
    let upstream = upstream().await;
    let mut cloud = Cloud::start(&Projection::of(&upstream)).await;
    let gateway = Builder::managed(&cloud).start().await;
    let config = gateway.folder().join("config.managed.yaml");
    for (path, status, expected) in [
        ("/dp/heartbeat", 503, "cloud-heartbeat-failing"),
        ("/dp/rotate-cert", 401, "cloud-renewal-unauthorized"),
        ("/dp/budget_check", 403, "cloud-budget-forbidden"),
        ("/dp/telemetry", 404, "cloud-usage-not-found"),
    ] {
        cloud.fail(path, status, None).await;
        let (found, _) = report(&config, None).await;
        judged(expected, &found).unwrap();
        cloud.heal().await;
        // The next heartbeat is in order again.
        harness::wait::until("the heartbeat is accepted", async || {
            let managed = gateway.status_managed().await;
            let error = managed["heartbeat"]["error"].clone();
            if error.is_null() { Ok(()) } else { Err(error) }
        })
        .await;
    }
    cloud.stop();
    let (found, status) = report(&config, None).await;
    judged("cloud-connection-refused", &found).unwrap();
    assert_eq!(status, Some(4));
    // Asked by its socket alone, without any file that could be read.
    let socket = gateway.folder().join("state/run/aisix.sock");
    if socket.exists() {
        let output = aisix(&["doctor", "--json", "--socket", socket.to_str().unwrap()]).await;
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            codes(&found, "findings").iter().any(|it| it == "cloud-connection-refused"),
            "{found:#}"
        );
    }
    // Nothing was sent that leaves a trace.
    cloud.resume().await;
    let beats = cloud.heartbeats().await;
    assert!(beats.iter().all(|beat| beat["dp_id"] != json!("")), "{beats:?}");
}

#[tokio::test]
async fn a_gateway_that_hangs_is_named_and_the_cloud_is_looked_at_without_it() {
    let cloud = Cloud::start(&Projection::of(&upstream().await)).await;
    let mut gateway = Builder::managed(&cloud).start().await;
    let config = gateway.folder().join("config.managed.yaml");
    let output = aisix(&["doctor", "--json", "--config", config.to_str().unwrap()]).await;
    assert!(output.status.code().is_some_and(|code| code != 1), "{output:?}");
    gateway.signal(Signal::SIGSTOP);
    let (report, status) = report(&config, None).await;
    gateway.signal(Signal::SIGCONT);
    let found = codes(&report, "findings");
    assert!(found.iter().any(|code| code == "daemon-silent"), "{report:#}");
    assert!(!found.iter().any(|code| code.starts_with("cloud-")), "the Cloud is well: {report:#}");
    assert_eq!(status, Some(4));
}

#[tokio::test]
async fn an_egress_worker_that_hangs_is_not_taken_for_a_name_server_that_does() {
    let cloud = Cloud::start(&Projection::of(&upstream().await)).await;
    let gateway = Builder::managed(&cloud).start().await;
    let config = gateway.folder().join("config.managed.yaml");
    let egress = gateway.workers().into_iter().find(|worker| worker.role == "egress").unwrap();
    kill(egress.pid, Signal::SIGSTOP).unwrap();
    let (report, status) = report(&config, None).await;
    let found = codes(&report, "findings");
    assert_eq!(found.first().map(String::as_str), Some("egress-missing"), "{report:#}");
    assert_eq!(status, Some(4));
}

#[tokio::test]
async fn neither_a_report_nor_what_is_sent_holds_a_secret() {
    let case = rows::inject("the proxy asks who we are").await;
    let output = aisix(&["doctor", "--config", case.config.to_str().unwrap()]).await;
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(said.contains("proxy-authentication"), "{said}");
    assert!(!said.contains("swordfish") && !said.contains("PRIVATE KEY"), "{said}");
}
