//! Fills a spool and drains it into a local `aisix-cloud`: prints events per second and the memory it took.
//!
//! `cargo build --release --bin aisix-cloud && cargo run --release --example drain -- target/release/aisix-cloud 1000000`
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs::{self, File};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::id::WorkerId;
use shared::ring::{RING_BYTES, Record, Writer};
use shared::secret::Secret;
use shared::usage::UsageEvent;
use supervisor::cloud::manager::{Manager, Session};
use supervisor::cloud::telemetry;
use supervisor::cloud::tls::{Credentials, Identity, InForce};
use supervisor::dial::DirectDial;
use supervisor::findings::Findings;
use supervisor::spool::ring_file::RingFolders;
use supervisor::spool::{Home, Report, Spool};
use supervisor::state::seal::DataKey;
use tokio::sync::watch;
use tokio::task::LocalSet;

const WORKER: WorkerId = WorkerId(1);
const MANAGER: &str = "127.0.0.1:17944";

fn event(n: usize) -> UsageEvent {
    let id = format!("{n:08}-6a51-4b4b-9b7e-2b9f2f0f7c11");
    UsageEvent {
        event_id: id.clone(),
        request_id: id,
        api_key_id: format!("key-{}", n % 1000),
        model_id: "m-1".to_owned(),
        occurred_at: "2026-09-01T10:15:30Z".to_owned(),
        requested_model: "chat-large".to_owned(),
        prompt_tokens: 412,
        completion_tokens: 87,
        status_code: 200,
        provider_request_id: "chatcmpl-example-0123456789".to_owned(),
        provider_model_version: "chat-large-2026-01-01".to_owned(),
        finish_reason: "stop".to_owned(),
        inbound_protocol: "openai".to_owned(),
        attempt_kind: "initial".to_owned(),
        client_source_ip: "203.0.113.9".to_owned(),
        client_user_agent: "example-client/1.0 (linux; x86_64)".to_owned(),
        ..UsageEvent::default()
    }
}

/// Memory of this process, in kilobytes: now, and at most so far.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let lines =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().expect("the path of aisix-cloud");
    let count: usize = arguments.next().map_or(1_000_000, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("cloud"), folder.path().join("bundle"));
    let resources = folder.path().join("resources.yaml");
    fs::write(&resources, "{}").unwrap();
    let issued = Command::new(&program)
        .args(["issue", "--env", "11111111-2222-3333-4444-555555555555", "--data"])
        .arg(&data)
        .arg("--out")
        .arg(&out)
        .status();
    assert!(issued.unwrap().success());
    let mut cloud = Command::new(&program)
        .args(["serve", "--listen", MANAGER, "--view", "127.0.0.1:17945", "--data"])
        .arg(&data)
        .arg("--resources")
        .arg(&resources)
        .env("RUST_LOG", "warn")
        .stdout(File::create(folder.path().join("cloud.log")).unwrap())
        .stderr(File::create(folder.path().join("cloud.err")).unwrap())
        .spawn()
        .unwrap();
    while !data.join("addresses.json").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let credentials = Credentials::new(&Identity {
        chain_pem: read("client.crt"),
        key_pem: Secret::new(read("client.key")),
        roots_pem: read("ca.crt"),
        extra_roots_pem: None,
    });
    let in_force = InForce::without_bundle(credentials.unwrap());
    let credentials = watch::channel(Arc::new(in_force)).1;
    let session = || {
        Some(Session::new(Manager {
            url: MANAGER.parse().unwrap(),
            dial: Arc::new(DirectDial::new(Duration::from_secs(5))),
            credentials: credentials.clone(),
        }))
    };
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let rings = RingFolders::of(&state, "e");
        let key = DataKey::generate().unwrap();
        let home = Home { state: state.clone(), key, env_id: "e".to_owned(), bytes_max: 1 << 40 };
        let (spool, mut reports) =
            Spool::start(Some(home), Vec::new(), Vec::new(), Findings::default()).unwrap();
        let (ring, writer, _) = rings.make(WORKER).unwrap();
        spool.open(WORKER, ring);
        let mut writer = Writer::new(File::from(writer), RING_BYTES);
        let start = Instant::now();
        for n in 0..count {
            writer.push(&Record::Event(Box::new(event(n)))).unwrap();
            if n % 5000 == 4999 || n + 1 == count {
                spool.told(WORKER, writer.last());
                let Some(Report::Taken(_, last)) = reports.recv().await else {
                    panic!("not taken")
                };
                assert!(writer.release(last));
            }
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        let bytes = fs::metadata(state.join("spool.redb")).unwrap().len();
        println!("kept {count} events at {rate:.0}/s in {} MiB; {}", bytes >> 20, memory());
        let (mut telemetry, upload) = telemetry::new(spool, session, None, Findings::default());
        let task = tokio::task::spawn_local(upload.run());
        let start = Instant::now();
        let mut facts = telemetry.spool().facts();
        facts.wait_for(|facts| facts.waiting == 0).await.unwrap();
        let rate = count as f64 / start.elapsed().as_secs_f64();
        println!("drained at {rate:.0} events/s; {}; {:?}", memory(), telemetry.report().error);
        task.abort();
        telemetry.spool().gone(WORKER);
        let _ = telemetry.flush(tokio::time::Instant::now() + Duration::from_secs(5)).await;
    });
    cloud.kill().unwrap();
    cloud.wait().unwrap();
}
