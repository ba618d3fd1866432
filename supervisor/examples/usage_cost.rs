//! What a request leaves behind, on its way through the supervisor without its process: for instruction counts.
//!
//! `usage_cost usage GROUPS`: a worker's ring takes groups of a thousand events, each of which is kept, leased and made into bodies for the
//! Cloud. `usage_cost text|json GROUPS`: a worker's pipe takes the lines of a thousand requests at a time, which are written to standard
//! error. What an event or a line costs is the difference between two runs.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Pid;
use shared::id::{Role, WorkerId};
use shared::log_line::{self, Level, Line, Value};
use shared::ring::{RING_BYTES, Writer};
use shared::usage::UsageEvent;
use supervisor::findings::Findings;
use supervisor::log::{self, Form};
use supervisor::spool::ring_file::RingFolders;
use supervisor::spool::store::End;
use supervisor::spool::{Home, Report, Spool};
use supervisor::state::seal::DataKey;
use supervisor::worker_log;

const WORKER: WorkerId = WorkerId(1);
/// Events, or requests, of a group: some 30 ms of a busy worker.
const GROUP: usize = 1000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().expect("usage, text or json");
    let groups: usize = arguments.next().expect("how many groups").parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match what.as_str() {
        "usage" => runtime.block_on(usage(groups)),
        "text" => runtime.block_on(lines(groups, Form::Text)),
        "json" => runtime.block_on(lines(groups, Form::Json)),
        other => panic!("{other} is none of usage, text and json"),
    }
}

fn id(number: usize) -> String {
    format!("{number:08x}-6a51-4b4b-9b7e-2b9f2f0f7c11")
}

async fn usage(groups: usize) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_owned();
    let rings = RingFolders::of(&state, "e");
    let key = DataKey::generate().unwrap();
    let home = Home { state, key, env_id: "e".to_owned(), bytes_max: 1 << 40 };
    let (spool, mut reports) =
        Spool::start(Some(home), Vec::new(), Vec::new(), Findings::default()).unwrap();
    let (ring, writer, _) = rings.make(WORKER).unwrap();
    spool.open(WORKER, ring);
    let mut writer = Writer::new(File::from(writer), RING_BYTES);
    let mut bytes = 0;
    for group in 0..groups {
        for number in 0..GROUP {
            writer.push_event(&event(group * GROUP + number)).unwrap();
        }
        spool.told(WORKER, writer.last());
        loop {
            match reports.recv().await.expect("a report") {
                Report::Taken(_, last) => break assert!(writer.release(last)),
                Report::Spent(_) => {}
                Report::Misbehaved(_, reason) => panic!("{reason}"),
            }
        }
        for _ in 0..GROUP / 100 {
            bytes += deliver(&spool).await;
        }
    }
    spool.gone(WORKER);
    spool.close().await;
    println!("{} bytes an event", bytes / groups / GROUP);
}

/// What a lane does with a batch that the Cloud accepts.
async fn deliver(spool: &Spool) -> usize {
    let leased = spool.lease(End::Oldest, 100).await;
    assert_eq!(leased.len(), 100);
    let body = leased.body(0..100);
    spool.settle(leased.blocks, body.spent.into_iter().collect(), Vec::new());
    black_box(body.json).len()
}

/// As most are.
fn event(number: usize) -> UsageEvent {
    UsageEvent {
        event_id: id(number),
        request_id: id(number),
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        occurred_at: "2026-09-01T10:15:30Z".to_owned(),
        api_key_id: "0d1e7f4e-6a51-4b4b-9b7e-2b9f2f0f7c11".to_owned(),
        model_id: "1d1e7f4e-6a51-4b4b-9b7e-2b9f2f0f7c11".to_owned(),
        requested_model: "chat".to_owned(),
        prompt_tokens: 24,
        completion_tokens: 20,
        upstream_latency_ms: 1,
        upstream_ttft_ms: 1,
        downstream_latency_ms: 2,
        status_code: 200,
        cost_usd: 0.000_011_5,
        provider_request_id: "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG".to_owned(),
        provider_model_version: "gpt-4o-2024-08-06".to_owned(),
        finish_reason: "stop".to_owned(),
        inbound_protocol: "openai".to_owned(),
        attempt_kind: "initial".to_owned(),
        client_source_ip: "203.0.113.9".to_owned(),
        client_user_agent: "OpenAI/Python 1.99.1".to_owned(),
        auth_type: "api_key".to_owned(),
        ..UsageEvent::default()
    }
}

async fn lines(groups: usize, form: Form) {
    log::start("info", Some(form)).unwrap();
    let group: Vec<u8> = (0..GROUP).flat_map(of_request).collect();
    let (read, write) = std::io::pipe().unwrap();
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut write = write;
    thread::spawn(move || (0..groups).for_each(|_| write.write_all(&group).unwrap()));
    worker_log::forward(WORKER, Role::Proxy, Pid::from_raw(77), read.into()).await;
}

/// The two lines of a request.
fn of_request(number: usize) -> Vec<u8> {
    let line = |target: &str, message: &str, fields: &[(&str, Value<&str>)]| {
        let mut line = Line::new(Level::Info, target, message);
        line.fields = fields.iter().map(|(name, value)| (name.to_string(), owned(value))).collect();
        log_line::encode(&line)
    };
    let target = "worker::request::account::log";
    let (id, call) = (id(number), "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG");
    let model = "1d1e7f4e-6a51-4b4b-9b7e-2b9f2f0f7c11";
    let latency = (number % 20).to_string();
    use Value::{Plain, Shown, Text};
    let called = [
        ("provider", Text("openai")),
        ("model", Text("chat")),
        ("upstream_model", Text("gpt-4o-2024-08-06")),
        ("provider_request_id", Text(call)),
        ("request_id", Text(&id)),
        ("latency_ms", Plain(&latency)),
    ];
    let completed = [
        ("method", Text("POST")),
        ("path", Text("/v1/chat/completions")),
        ("status", Plain("200")),
        ("latency_ms", Plain(&latency)),
        ("provider", Text("openai")),
        ("model", Text("chat")),
        ("api_key_id", Text(model)),
        ("prompt_tokens", Plain("24")),
        ("completion_tokens", Plain("20")),
        ("total_tokens", Plain("44")),
        ("request_id", Text(&id)),
        ("provider_request_id", Text(call)),
        ("served_by_model", Text("chat")),
        ("routing_attempt_count", Plain("1")),
        ("routing_fallback_count", Plain("0")),
        ("attempts", Text("")),
        ("trace_id", Text("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("client_ip", Shown("203.0.113.9")),
        ("cache", Text("disabled")),
        ("error_kind", Text("")),
        ("error", Text("")),
    ];
    let mut both = line(target, "provider call completed", &called);
    both.extend(line(target, "proxy request completed", &completed));
    both
}

fn owned(value: &Value<&str>) -> Value {
    match value {
        Value::Text(text) => Value::Text(text.to_string()),
        Value::Shown(text) => Value::Shown(text.to_string()),
        Value::Plain(text) => Value::Plain(text.to_string()),
    }
}
