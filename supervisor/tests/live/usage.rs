//! Usage events from a worker's ring to the manager, over a real disk and real mutual TLS.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use shared::id::WorkerId;
use shared::ring::{RING_BYTES, Record, Writer};
use shared::usage::UsageEvent;
use supervisor::cloud::manager::Session;
use supervisor::cloud::spend::SpendSink;
use supervisor::cloud::telemetry::{self, Telemetry};
use supervisor::findings::{Findings, Topic};
use supervisor::spool::ring_file::{RingFile, RingFolders};
use supervisor::spool::store::End;
use supervisor::spool::{Home, Report, Spool};
use supervisor::state::seal::DataKey;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, timeout};

use crate::cloud::{FakeManager, HANG, session, status};
use crate::pki::Authority;

const WORKER: WorkerId = WorkerId(1);

/// A state directory with its key.
struct Site {
    folder: TempDir,
    key: DataKey,
}

/// A run of the spool, with one worker that writes.
struct Run {
    telemetry: Telemetry,
    task: JoinHandle<()>,
    reports: UnboundedReceiver<Report>,
    writer: Option<Writer>,
    findings: Findings,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), key: DataKey::generate().unwrap() }
    }

    fn state(&self) -> &Path {
        self.folder.path()
    }

    fn start(&self, bytes_max: u64, session: impl Fn() -> Option<Session>) -> Run {
        self.start_as("e", bytes_max, session)
    }

    fn start_as(&self, env: &str, bytes_max: u64, session: impl Fn() -> Option<Session>) -> Run {
        self.start_for(env, bytes_max, session, None)
    }

    fn start_for(
        &self,
        env: &str,
        bytes_max: u64,
        session: impl Fn() -> Option<Session>,
        spend: Option<Arc<dyn SpendSink>>,
    ) -> Run {
        let state = self.state().to_owned();
        let rings = RingFolders::of(&state, env);
        let home = Home { state, key: self.key.clone(), env_id: env.to_owned(), bytes_max };
        let findings = Findings::default();
        let left = rings.left_over();
        let (spool, reports) =
            Spool::start(Some(home), left, Vec::new(), findings.clone()).unwrap();
        let (ring, writer, reason) = rings.make(WORKER).unwrap();
        assert_eq!(reason, None);
        spool.open(WORKER, ring);
        let (telemetry, upload) = telemetry::new(spool, session, spend, findings.clone());
        let task = tokio::task::spawn_local(upload.run());
        let writer = Some(Writer::new(File::from(writer), RING_BYTES));
        Run { telemetry, task, reports, writer, findings }
    }
}

impl Run {
    /// Writes events into the ring and waits until they are taken.
    async fn write(&mut self, events: impl IntoIterator<Item = UsageEvent>) {
        let writer = self.writer.as_mut().unwrap();
        for event in events {
            writer.push(&Record::Event(Box::new(event))).unwrap();
        }
        let last = writer.last();
        self.telemetry.spool().told(WORKER, last);
        let report = timeout(HANG, self.reports.recv()).await.unwrap().unwrap();
        assert_eq!(report, Report::Taken(WORKER, last));
        assert!(writer.release(last));
    }

    /// The worker leaves, and then the supervisor in order. How many events are left.
    async fn end(mut self, limit: Duration) -> u64 {
        self.writer = None;
        self.telemetry.spool().gone(WORKER);
        let left = timeout(HANG, self.telemetry.flush(Instant::now() + limit)).await.unwrap();
        self.task.abort();
        left
    }
}

fn event(n: usize) -> UsageEvent {
    UsageEvent {
        event_id: n.to_string(),
        api_key_id: "k".to_owned(),
        model_id: "m".to_owned(),
        occurred_at: "2026-09-01T10:15:30Z".to_owned(),
        prompt_tokens: 3,
        ..UsageEvent::default()
    }
}

fn ids(body: &Value) -> Vec<String> {
    let events = body["events"].as_array().unwrap();
    assert!(events.len() <= 100);
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

fn nobody() -> Option<Session> {
    None
}

#[tokio::test]
async fn every_event_but_the_bad_one_is_delivered_and_that_one_is_a_dead_letter() {
    let authority = Authority::new();
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&accepted);
    let refused_once = Mutex::new(false);
    let answer = move |path: &str, body: &Value| {
        assert_eq!(path, "/dp/telemetry");
        if !std::mem::replace(&mut *refused_once.lock().unwrap(), true) {
            return status(503, "not now");
        }
        let ids = ids(body);
        if ids.iter().any(|id| id == "130") {
            return status(400, "event: bad");
        }
        heard.lock().unwrap().extend(ids);
        status(200, "{}")
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, || Some(manager.session(&authority, &authority)));
            run.write((0..250).map(event)).await;
            let (telemetry, findings) = (run.telemetry.clone(), run.findings.clone());
            assert_eq!(run.end(HANG).await, 0);
            let report = telemetry.report();
            assert_eq!((report.rejected, report.spool.dead_letters), (1, 1));
            assert!(findings.list().iter().any(|(topic, _)| *topic == Topic::Usage));
        })
        .await;
    let mut accepted = accepted.lock().unwrap().clone();
    assert_eq!(accepted.len(), 249);
    accepted.sort_unstable_by_key(|id| id.parse::<usize>().unwrap());
    let expected: Vec<_> = (0..250).filter(|n| *n != 130).map(|n| n.to_string()).collect();
    assert_eq!(accepted, expected);
    let letters = fs::read_to_string(site.state().join("dead_letters.jsonl")).unwrap();
    let letter: Value = serde_json::from_str(&letters).unwrap();
    assert_eq!(letter["event"]["event_id"], "130");
    assert!(letter["reason"].as_str().unwrap().contains("event: bad"), "{letter}");
}

#[tokio::test]
async fn what_a_dead_cloud_did_not_get_the_next_process_delivers() {
    let authority = Authority::new();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("https://{closed}");
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&accepted);
    let answer = move |_: &str, body: &Value| {
        heard.lock().unwrap().extend(ids(body));
        status(200, "{}")
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, || Some(session(&url, &authority, &authority)));
            run.write((0..150).map(event)).await;
            let telemetry = run.telemetry.clone();
            assert_eq!(run.end(Duration::from_millis(700)).await, 150);
            assert!(telemetry.report().error.unwrap().contains("Connection refused"));

            let run = site.start(u64::MAX, || Some(manager.session(&authority, &authority)));
            assert_eq!(run.end(HANG).await, 0);
        })
        .await;
    let accepted = accepted.lock().unwrap();
    let distinct: BTreeSet<_> = accepted.iter().collect();
    assert_eq!((accepted.len(), distinct.len()), (150, 150));
    let rings = fs::read_dir(site.state().join("run"));
    assert_eq!(rings.map_or(0, Iterator::count), 0, "no ring is left behind");
}

#[tokio::test]
async fn what_is_written_while_a_ring_is_handed_on_is_read_by_one_of_the_two() {
    let site = Site::new();
    let home = || Home {
        state: site.state().to_owned(),
        key: site.key.clone(),
        env_id: "e".to_owned(),
        bytes_max: u64::MAX,
    };
    let (ring, writer, _) = RingFolders::of(site.state(), "e").make(WORKER).unwrap();
    let mut writer = Writer::new(File::from(writer), RING_BYTES);
    let mut write = |n| writer.push(&Record::Event(Box::new(event(n)))).unwrap();
    let (before, _reports) =
        Spool::start(Some(home()), Vec::new(), Vec::new(), Findings::default()).unwrap();
    before.open(WORKER, ring);
    write(1);
    before.told(WORKER, 1);
    // It waits for the answer, and that for the commit: both come too late.
    write(2);
    let live = before.live().await.pop().unwrap();
    before.close().await;

    let names = vec![live.name.clone()];
    let (after, mut reports) =
        Spool::start(Some(home()), Vec::new(), names, Findings::default()).unwrap();
    let ring = RingFile { name: live.name, path: live.path, file: live.file };
    after.adopt(WORKER, ring, live.place, true);
    let report = timeout(HANG, reports.recv()).await.unwrap().unwrap();
    assert_eq!(report, Report::Taken(WORKER, 2));
    let mut ids = Vec::new();
    loop {
        let leased = after.lease(End::Oldest, 100).await;
        if leased.is_empty() {
            break;
        }
        ids.extend(leased.into_events().into_iter().map(|event| event.event_id));
    }
    assert_eq!(ids, ["1", "2"]);
    // So that no ring is left behind.
    drop(writer);
    after.gone(WORKER);
    after.close().await;
}

#[tokio::test]
async fn a_manager_that_refuses_everything_makes_no_dead_letters() {
    let authority = Authority::new();
    let code = Arc::new(AtomicU16::new(400));
    let answered = Arc::clone(&code);
    let answer = move |_: &str, _: &Value| status(answered.load(Ordering::Relaxed), "{}");
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, || Some(manager.session(&authority, &authority)));
            run.write((0..300).map(event)).await;
            timeout(HANG, async {
                while !run.findings.list().iter().any(|(_, it)| it.text.contains("whatever")) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .unwrap();
            code.store(200, Ordering::Relaxed);
            let (telemetry, findings) = (run.telemetry.clone(), run.findings.clone());
            assert_eq!(run.end(HANG).await, 0);
            assert_eq!((telemetry.report().accepted, telemetry.report().rejected), (300, 0));
            assert_eq!(findings.list(), []);
        })
        .await;
    assert!(!site.state().join("dead_letters.jsonl").exists());
}

#[tokio::test]
async fn at_the_cap_details_go_and_every_token_arrives() {
    let authority = Authority::new();
    let (tokens, events) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (heard_tokens, heard_events) = (Arc::clone(&tokens), Arc::clone(&events));
    let answer = move |_: &str, body: &Value| {
        for event in body["events"].as_array().unwrap() {
            assert!(!event["request_id"].as_str().unwrap().contains(' '));
            *heard_tokens.lock().unwrap() += event["prompt_tokens"].as_u64().unwrap();
            *heard_events.lock().unwrap() += event["aggregated_events"].as_u64().unwrap_or(1);
        }
        status(200, "{}")
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(64 * 1024, nobody);
            for start in 0..20 {
                run.write((0..100).map(|n| event(start * 100 + n))).await;
            }
            let telemetry = run.telemetry.clone();
            let left = run.end(Duration::from_millis(1)).await;
            let facts = telemetry.report().spool;
            assert!(facts.shed > 0 && facts.folded == facts.shed, "{facts:?}");
            assert_eq!(left, 2000);

            let run = site.start(64 * 1024, || Some(manager.session(&authority, &authority)));
            assert_eq!(run.end(HANG).await, 0);
        })
        .await;
    assert_eq!((*tokens.lock().unwrap(), *events.lock().unwrap()), (6000, 2000));
}

#[tokio::test]
async fn a_spool_of_another_environment_is_set_aside_and_comes_back_with_it() {
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start_as("first", u64::MAX, nobody);
            run.write((0..5).map(event)).await;
            assert_eq!(run.end(Duration::from_millis(1)).await, 5);

            let mut run = site.start_as("second", u64::MAX, nobody);
            run.write((0..3).map(event)).await;
            assert_eq!(run.end(Duration::from_millis(1)).await, 3);
            assert!(site.state().join("spool.first.redb").exists());

            let run = site.start_as("first", u64::MAX, nobody);
            assert_eq!(run.end(Duration::from_millis(1)).await, 5);
            assert!(site.state().join("spool.second.redb").exists());
        })
        .await;
}

#[tokio::test]
async fn a_spool_that_cannot_be_opened_is_set_aside_and_a_new_one_begins() {
    let site = Site::new();
    fs::write(site.state().join("spool.redb"), vec![7; 100_000]).unwrap();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, nobody);
            run.write((0..5).map(event)).await;
            let findings = run.findings.list();
            let (topic, finding) = findings.first().unwrap();
            assert_eq!(*topic, Topic::Spool);
            assert!(finding.text.contains("spool.damaged-"), "{}", finding.text);
            assert_eq!(run.end(Duration::from_millis(1)).await, 5);
            let run = site.start(u64::MAX, nobody);
            assert_eq!(run.end(Duration::from_millis(1)).await, 5);
        })
        .await;
}

#[tokio::test]
async fn every_damage_to_a_spool_is_survived() {
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, nobody);
            run.write((0..500).map(event)).await;
            run.end(Duration::from_millis(1)).await;
            let path = site.state().join("spool.redb");
            let whole = fs::read(&path).unwrap();
            for part in 0..12 {
                let mut damaged = whole.clone();
                let start = part * whole.len() / 12;
                let end = (start + 300).min(whole.len());
                damaged[start..end].fill(0xa5);
                fs::write(&path, damaged).unwrap();
                let mut run = site.start(u64::MAX, nobody);
                run.write((0..3).map(event)).await;
                assert!(run.end(Duration::from_millis(1)).await >= 3, "part {part}");
            }
        })
        .await;
}

#[tokio::test]
async fn a_disk_that_refuses_is_a_finding_and_events_go_on_from_memory() {
    let authority = Authority::new();
    let accepted = Arc::new(Mutex::new(0));
    let heard = Arc::clone(&accepted);
    let answer = move |_: &str, body: &Value| {
        *heard.lock().unwrap() += ids(body).len();
        status(200, "{}")
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let site = Site::new();
    // A folder in the place of the database refuses even root.
    fs::create_dir(site.state().join("spool.redb")).unwrap();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, || Some(manager.session(&authority, &authority)));
            run.write((0..250).map(event)).await;
            let findings = run.findings.list();
            assert!(findings[0].1.text.contains("spool.redb"), "{findings:?}");
            assert_eq!(run.end(HANG).await, 0);
        })
        .await;
    assert_eq!(*accepted.lock().unwrap(), 250);
}

#[tokio::test]
async fn a_bad_event_whose_dead_letter_cannot_be_written_stays_and_is_not_sent_again_meanwhile() {
    let authority = Authority::new();
    let asked = Arc::new(Mutex::new(0));
    let heard = Arc::clone(&asked);
    let answer = move |_: &str, body: &Value| {
        let ids = ids(body);
        let is_bad = ids.iter().any(|id| id == "1");
        *heard.lock().unwrap() += usize::from(is_bad);
        if is_bad { status(400, "event: bad") } else { status(200, "{}") }
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let site = Site::new();
    let letters = site.state().join("dead_letters.jsonl");
    // A folder in the place of the file refuses even root.
    fs::create_dir(&letters).unwrap();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, || Some(manager.session(&authority, &authority)));
            run.write((0..2).map(event)).await;
            let (findings, telemetry) = (run.findings.clone(), run.telemetry.clone());
            let refused =
                || findings.list().iter().any(|(_, it)| it.text.contains("dead letters cannot"));
            timeout(HANG, async {
                while !refused() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await
            .unwrap();
            let before = *asked.lock().unwrap();
            assert_eq!(telemetry.report().spool.waiting, 2);
            // As many deliveries as it takes to see that the bad one is not among them.
            for n in 2..5 {
                run.write([event(n)]).await;
                let mut facts = telemetry.spool().facts();
                let sent = facts.wait_for(|facts| facts.waiting == 2);
                timeout(HANG, sent).await.unwrap().unwrap();
            }
            assert_eq!(*asked.lock().unwrap(), before);
            fs::remove_dir(&letters).unwrap();
            assert_eq!(run.end(HANG).await, 0);
            assert_eq!(telemetry.report().spool.dead_letters, 1);
            assert!(!refused());
        })
        .await;
    assert_eq!(fs::read_to_string(&letters).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_backlog_that_is_out_of_reach_at_the_start_is_joined_and_not_replaced() {
    let site = Site::new();
    let (path, away) = (site.state().join("spool.redb"), site.state().join("away"));
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, nobody);
            run.write((0..5).map(event)).await;
            assert_eq!(run.end(Duration::from_millis(1)).await, 5);
            fs::rename(&path, &away).unwrap();
            fs::create_dir(&path).unwrap();
            let mut run = site.start(u64::MAX, nobody);
            run.write((5..8).map(event)).await;
            fs::remove_dir(&path).unwrap();
            fs::rename(&away, &path).unwrap();
            let mut facts = run.telemetry.spool().facts();
            timeout(HANG, facts.wait_for(|facts| facts.waiting == 8)).await.unwrap().unwrap();
            assert_eq!(run.end(Duration::from_millis(1)).await, 8);
            let run = site.start(u64::MAX, nobody);
            assert_eq!(run.end(Duration::from_millis(1)).await, 8);
        })
        .await;
}

/// Adds up what it is told, in cents.
#[derive(Default)]
struct Cents {
    delivered: AtomicU16,
}

impl SpendSink for Cents {
    fn spent(&self, _: &str, _: f64) {}

    fn delivered(&self, api_key_id: &str, cost_usd: f64, _: std::time::Instant) {
        assert_eq!(api_key_id, "k");
        self.delivered.fetch_add((cost_usd * 100.0).round() as u16, Ordering::Relaxed);
    }
}

/// What was told to have been spent until everything so far was taken, in dollars.
async fn spent(reports: &mut UnboundedReceiver<Report>) -> f64 {
    let mut sum = 0.0;
    loop {
        match timeout(HANG, reports.recv()).await.unwrap().unwrap() {
            Report::Spent(sums) => sum += sums.iter().map(|(_, cost_usd)| cost_usd).sum::<f64>(),
            Report::Taken(..) => return sum,
            Report::Misbehaved(_, reason) => panic!("{reason}"),
        }
    }
}

#[tokio::test]
async fn what_requests_cost_waits_with_them_and_is_told_when_it_is_delivered() {
    let authority = Authority::new();
    let manager = FakeManager::start(&authority, true, Box::new(|_, _| status(200, "{}"))).await;
    let site = Site::new();
    let costly = |n| UsageEvent { cost_usd: 0.1, ..event(n) };
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, nobody);
            let writer = run.writer.as_mut().unwrap();
            for n in 0..30 {
                writer.push(&Record::Event(Box::new(costly(n)))).unwrap();
            }
            run.telemetry.spool().told(WORKER, 30);
            assert!((spent(&mut run.reports).await - 3.0).abs() < 1e-9);
            assert_eq!(run.end(Duration::from_millis(1)).await, 30);

            let cents = Arc::new(Cents::default());
            let sink = Some(Arc::clone(&cents) as Arc<dyn SpendSink>);
            let session = || Some(manager.session(&authority, &authority));
            let mut run = site.start_for("e", u64::MAX, session, sink);
            let writer = run.writer.as_mut().unwrap();
            writer.push(&Record::Event(Box::new(costly(30)))).unwrap();
            run.telemetry.spool().told(WORKER, 1);
            assert!((spent(&mut run.reports).await - 3.1).abs() < 1e-9, "what waits, and the new");
            assert_eq!(run.end(HANG).await, 0);
            assert_eq!(cents.delivered.load(Ordering::Relaxed), 310);

            let mut run = site.start(u64::MAX, nobody);
            run.write((0..1).map(event)).await;
        })
        .await;
}

#[tokio::test]
async fn a_worker_that_lies_about_its_ring_is_told_on() {
    let site = Site::new();
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut run = site.start(u64::MAX, nobody);
            run.writer.as_mut().unwrap().push(&Record::Event(Box::new(event(1)))).unwrap();
            run.telemetry.spool().told(WORKER, u64::MAX);
            let report = timeout(HANG, run.reports.recv()).await.unwrap().unwrap();
            assert!(matches!(report, Report::Misbehaved(WORKER, _)), "{report:?}");
            assert_eq!(run.end(Duration::from_millis(1)).await, 1, "what was valid counts");
        })
        .await;
}
