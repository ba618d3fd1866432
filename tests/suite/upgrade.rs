//! Another build takes over in the same process: no request fails, no stream is cut, nothing is forgotten.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use harness::release::{self, OTHER};
use harness::{Answer, Gateway, World, load, wait};
use nix::sys::signal::Signal;
use serde_json::json;

/// Callers that ask at the same time.
const CALLERS: usize = 4;
/// Streams that are held open, and with `SUITE_FULL` in the environment.
const STREAMS: (usize, usize) = (6, 50);
/// Upgrades in a row, and with `SUITE_FULL` in the environment.
const UPGRADES: (usize, usize) = (6, 40);

/// A world whose gateway runs copies of the programs, which can be replaced.
async fn world(programs: &Path) -> World {
    release::install(programs, release::built());
    // Without a line for each request.
    let quiet = "info,worker::request=warn";
    let settings = |builder: harness::Builder| {
        builder.programs(programs).set("/observability/log_level", quiet.into())
    };
    World::start_with(settings).await
}

/// Asks for an upgrade and waits until every worker is new; returns how often that has happened.
async fn upgraded(gateway: &mut Gateway, times: usize) {
    gateway.signal(Signal::SIGUSR2);
    until_upgraded(gateway, times).await;
}

async fn until_upgraded(gateway: &Gateway, times: usize) {
    wait::until("every worker is new", async || {
        let log = gateway.log();
        let done = log.matches("upgraded: every worker is new").count();
        if done == times { Ok(()) } else { Err(format!("{done} upgrades of {times}")) }
    })
    .await;
}

async fn streams(world: &World) -> Vec<Answer> {
    let mut streams = Vec::new();
    let count = if std::env::var_os("SUITE_FULL").is_some() { STREAMS.1 } else { STREAMS.0 };
    for _ in 0..count {
        let mut stream = world.caller().ask_stream("hold", "one two three").await;
        stream.next_event().await.unwrap();
        streams.push(stream);
    }
    streams
}

/// Every stream ends with its last word.
async fn finished(world: &World, streams: Vec<Answer>) {
    world.upstream.release();
    for stream in streams {
        let events = wait::within("a stream ends", stream.events()).await.unwrap();
        assert_eq!(events.last().unwrap().data, "[DONE]");
    }
}

#[tokio::test]
async fn an_upgrade_in_place_fails_no_request_and_cuts_no_stream() {
    let programs = tempfile::tempdir().unwrap();
    let mut world = world(programs.path()).await;
    let held = streams(&world).await;
    let streams = held.len();
    let (pid, before) = (world.gateway.pid(), world.gateway.workers());
    let beat = world.cloud.heartbeat("who it is", |beat| beat["instance_id"].is_string()).await;
    let asked = world.gateway.metrics().await.sum("aisix_requests_total", &[("model", "small-1")]);
    release::install(programs.path(), OTHER);

    let (caller, start) = (world.caller(), Instant::now());
    let gateway = &mut world.gateway;
    let (seen, ()) = load::during(caller, CALLERS, async |seen| {
        upgraded(gateway, 1).await;
        println!("every worker is new after {:?}", start.elapsed());
        seen.more().await;
    })
    .await;
    seen.nothing_failed();

    assert_eq!(world.gateway.pid(), pid);
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "aisix");
    let answer = world.caller().ask("small-1", "hello").await;
    assert_eq!(answer.header("server"), format!("AISIX/{OTHER}"), "every worker is of that build");
    let next = world.cloud.heartbeat("its new version", |beat| beat["version"] == OTHER).await;
    assert_eq!(next["instance_id"], beat["instance_id"], "it is the same instance");
    assert!(next["uptime_seconds"].as_i64() >= beat["uptime_seconds"].as_i64());
    finished(&world, held).await;
    wait::until("the workers before have left", async || {
        let left = before.iter().filter(|worker| worker.runs()).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} of them run")) }
    })
    .await;
    assert_eq!(world.gateway.workers().len(), before.len());
    let answered = seen.answered.borrow().len();
    let metrics = world.gateway.metrics().await;
    let requests = metrics.sum("aisix_requests_total", &[("model", "small-1")]);
    assert_eq!(requests, asked + answered as f64 + 1.0, "counters go on");
    assert_eq!(world.gateway.finding("upgrade").await, "");

    // Whatever was answered is told, whichever program has read it, and whatever was told is told once.
    let told = world.cloud.usage_of(answered + streams + 1).await;
    let told: Vec<_> = told.iter().filter_map(|event| event["request_id"].as_str()).collect();
    let missing = seen.answered.borrow().iter().filter(|id| !told.contains(&id.as_str())).count();
    assert_eq!(missing, 0);
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
}

#[tokio::test]
async fn an_upgrade_that_is_ordered_over_the_control_socket_is_carried_out() {
    let programs = tempfile::tempdir().unwrap();
    release::install(programs.path(), release::built());
    let world = World::start_with(|builder| {
        let socket = builder.configuration_path().with_file_name("aisix.sock");
        builder.programs(programs.path()).set("/supervisor/control_socket", json!(socket))
    })
    .await;
    let (gateway, pid) = (&world.gateway, world.gateway.pid());
    release::install(programs.path(), OTHER);
    let output = tokio::process::Command::new(programs.path().join("aisix"))
        .args(["upgrade", "--socket"])
        .arg(gateway.folder().join("aisix.sock"))
        .output()
        .await
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, format!("upgrading to version {OTHER}\n"));
    // Whoever asks just then waits for the program that takes over.
    let status = gateway.aisix(&["status", "--json"]).await;
    assert_ne!(status.status.code(), Some(1), "{}", harness::command::text(&status));
    until_upgraded(gateway, 1).await;
    let running = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(running, programs.path().join("aisix"), "it is the same process");
    let answer = world.caller().ask("small-1", "hello").await;
    assert_eq!(answer.header("server"), format!("AISIX/{OTHER}"));
}

#[tokio::test]
async fn a_signal_that_comes_between_two_programs_is_heard_by_the_next() {
    let programs = tempfile::tempdir().unwrap();
    let mut world = world(programs.path()).await;
    world.gateway.signal(Signal::SIGUSR2);
    wait::until("the other program is executed", async || {
        let log = world.gateway.log();
        if log.matches(" starting version").count() == 2 { Ok(()) } else { Err("not yet") }
    })
    .await;
    // It has no handler yet.
    world.gateway.signal(Signal::SIGUSR2);
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
    assert!(world.gateway.log().contains("ended in order"));
}

#[tokio::test]
async fn an_upgrade_while_the_cloud_is_away_goes_on_with_what_there_is() {
    let programs = tempfile::tempdir().unwrap();
    let mut world = world(programs.path()).await;
    let revision = world.gateway.status_config().await["applied"]["applied_revision"].clone();
    world.cloud.stop();
    release::install(programs.path(), OTHER);
    let caller = world.caller();
    let gateway = &mut world.gateway;
    let (seen, ()) = load::during(caller, CALLERS, async |_| upgraded(gateway, 1).await).await;
    seen.nothing_failed();
    let now = world.gateway.status_config().await["applied"]["applied_revision"].clone();
    assert_eq!(now, revision);
    world.cloud.resume().await;
    let answered = seen.answered.borrow().len();
    world.cloud.usage_of(answered).await;
}

/// What the kernel says of a process that must not change by an upgrade, and how many descriptors it has.
fn standing(gateway: &Gateway) -> (BTreeMap<String, String>, usize) {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let kept = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let lines = lines
        .filter(|(name, _)| kept.iter().any(|kept| name.starts_with(kept)))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let descriptors = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    (lines, descriptors)
}

#[tokio::test]
async fn many_upgrades_in_a_row_leave_nothing_behind() {
    let programs = tempfile::tempdir().unwrap();
    let mut world = world(programs.path()).await;
    let upgrades = if std::env::var_os("SUITE_FULL").is_some() { UPGRADES.1 } else { UPGRADES.0 };
    let mut first = None;
    for times in 1..=upgrades {
        upgraded(&mut world.gateway, times).await;
        assert_eq!(world.caller().ask("small-1", "hello").await.status, 200);
        let gateway = &world.gateway;
        let first: &(BTreeMap<String, String>, usize) =
            first.get_or_insert_with(|| standing(gateway));
        // Workers that drain are there for a moment more, with their descriptors.
        wait::until("nothing is left behind", async || {
            let now = standing(gateway);
            assert_eq!(now.0, first.0);
            // Connections to the Cloud come and go.
            if now.1 <= first.1 + 8 { Ok(()) } else { Err(format!("{} of {}", now.1, first.1)) }
        })
        .await;
    }
    println!("{upgrades} upgrades: {:?}", standing(&world.gateway));
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
}
