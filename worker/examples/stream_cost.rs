//! What a relayed event of a stream costs: a gateway alone in a process, to be looked at by whatever counts, and a load that
//! drives many streams in lock-step through it or through any other relay.
//!
//! ```console
//! $ cargo build --release -p worker --example stream_cost
//! $ valgrind --tool=callgrind target/release/examples/stream_cost gateway 7001 7002 openai 500 &
//! $ target/release/examples/stream_cost load 7001 7002 openai 500 100    # ports of upstream and relay, streams, events
//! ```
//! The gateway ends when the load has. What an event costs is the difference of two runs with different numbers of events.
//! With `anthropic` the provider speaks its dialect and the caller OpenAI's, with `messages` both speak Anthropic's.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;

use aws_lc_rs::digest;
use shared::counters::Counters;
use shared::dial::{Destination, Dial, DialError, Dialling};
use shared::resource::{
    Adapter, ApiKey, DirectModel, Model, ModelKind, ProviderKey, RateLimits, Resource,
};
use shared::update::Change;
use shared::usage::UsageEvent;
use shared::worker_settings::{ProxySettings, UpstreamSettings};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use worker::metrics::Metrics;
use worker::server::{Proxy, UsageSink, serve};
use worker::upstream::TrustRoots;

/// Ends the gateway when as many requests are over as have begun.
struct Last {
    over: Cell<usize>,
    stop: Rc<Notify>,
    streams: usize,
}

impl UsageSink for Last {
    fn record(&self, event: UsageEvent<Cow<'_, str>>) {
        assert_eq!((event.status_code, event.completion_tokens), (200, 7), "{event:?}");
        self.over.set(self.over.get() + 1);
        if self.over.get() == self.streams {
            self.stop.notify_one();
        }
    }
}

struct Direct;

impl Dial for Direct {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async move {
            let address = (destination.host.as_str(), destination.port);
            let stream = tokio::net::TcpStream::connect(address).await;
            let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            let destination = destination.clone();
            stream.map_err(|source| DialError::Connect { destination, source })
        })
    }
}

fn settings() -> ProxySettings {
    ProxySettings {
        request_body_bytes_max: 10 * 1024 * 1024,
        trusted_proxies: Vec::new(),
        real_ip_recursive: false,
        real_ip_header: "x-forwarded-for".to_owned(),
        request_id_headers: vec!["x-aisix-request-id".to_owned()],
        upstream: UpstreamSettings {
            timeout_ms: 600_000,
            stream_timeout_ms: 600_000,
            connect_timeout_ms: 60_000,
            keepalive_ms: 60_000,
            keepalive_interval_ms: 30_000,
            keepalive_retries: 5,
            pool_idle_ms: 30_000,
            pool_idle_max: None,
            ca_pem: None,
            client_identity_pem: None,
            verify: true,
            platform_roots: Vec::new(),
        },
        downstream_idle_ms: 0,
        sse_keepalive_ms: 60_000,
        env_id: "env-1".to_owned(),
        access_log: true,
        url_rewrites: Vec::new(),
        client_rules: Vec::new(),
        retries: 0,
        budget_unknown: None,
        tls: false,
        limits_redis: None,
        concurrency_ttl_ms: 300_000,
        cache_redis: None,
        trace_ratio: None,
    }
}

/// A caller key with limits, a provider key, a model.
fn resources(upstream: u16, dialect: &str) -> [Resource; 3] {
    let mut key_hash = [0; 32];
    key_hash.copy_from_slice(digest::digest(&digest::SHA256, b"sk-demo").as_ref());
    let limits = RateLimits {
        rpm: Some(1_000_000),
        tpm: Some(u64::from(u32::MAX)),
        ..RateLimits::default()
    };
    let adapter = if dialect == "openai" { Adapter::OpenAi } else { Adapter::Anthropic };
    let path = if dialect == "openai" { "/v1" } else { "" };
    let direct = DirectModel {
        provider: "any".to_owned(),
        model_name: "gpt-up".to_owned(),
        provider_key_id: "pk-1".to_owned(),
        ..DirectModel::default()
    };
    [
        Resource::ApiKey(ApiKey {
            id: "k-1".to_owned(),
            key_hash: Some(key_hash),
            allowed_models: vec!["*".to_owned()],
            rate_limits: limits,
            ..ApiKey::default()
        }),
        Resource::ProviderKey(ProviderKey {
            id: "pk-1".to_owned(),
            display_name: "main".to_owned(),
            provider: "any".to_owned(),
            adapter: Some(adapter),
            secret: "sk-upstream".to_owned().into(),
            endpoint: Some(format!("http://127.0.0.1:{upstream}{path}").parse().unwrap()),
            ..ProviderKey::default()
        }),
        Resource::Model(Model {
            id: "m-1".to_owned(),
            display_name: "chat".to_owned(),
            kind: ModelKind::Direct(Box::new(direct)),
            ..Model::default()
        }),
    ]
}

fn gateway(upstream: u16, port: u16, dialect: &str, streams: usize) {
    let mut runtime = Builder::new_current_thread();
    let runtime =
        runtime.enable_all().on_thread_park(worker::run::pauses).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let stop = Rc::new(Notify::new());
        let usage = Rc::new(Last { over: Cell::new(0), stop: Rc::clone(&stop), streams });
        let (metrics, counters) = (Rc::new(Metrics::disconnected()), Counters::private());
        let trust = TrustRoots::new(Vec::new());
        let proxy = Proxy::new(settings(), Rc::new(Direct), trust, usage, metrics, counters);
        proxy.health.configured();
        let changes = resources(upstream, dialect).map(|it| Ok(Change::Put(Box::new(it))));
        proxy.tables.borrow_mut().apply(false, changes.into_iter()).expect("resources");
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
        serve(listener, proxy, None, stop.notified()).await;
    });
}

/// What the provider says of an event with that text, and around all of them.
struct Script {
    first: &'static str,
    event: fn(&str) -> String,
    last: &'static str,
}

const OPENAI: Script = Script {
    first: "data: {\"id\":\"chatcmpl-CSrOpnVEJQnTjsuDVmO57IUUzoP0M\",\"object\":\"chat.completion.chunk\",\"created\":1760980731,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_560af6e559\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n",
    event: |text| {
        format!(
            "data: {{\"id\":\"chatcmpl-CSrOpnVEJQnTjsuDVmO57IUUzoP0M\",\"object\":\"chat.completion.chunk\",\"created\":1760980731,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_560af6e559\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n"
        )
    },
    last: "data: {\"id\":\"chatcmpl-CSrOpnVEJQnTjsuDVmO57IUUzoP0M\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n",
};

const ANTHROPIC: Script = Script {
    first: "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"claude\",\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    event: |text| {
        format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
        )
    },
    last: "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":7}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
};

/// Words of an answer.
const WORDS: [&str; 8] = [" the", " answer", ",", " is", "\\n\\n", " forty", "-two", " caf\u{e9}"];

fn send_chunk(stream: &mut TcpStream, bytes: &str) {
    let chunk = format!("{:x}\r\n{bytes}\r\n", bytes.len());
    stream.write_all(chunk.as_bytes()).expect("the relay takes a chunk");
}

/// Reads until the bytes end so.
fn read_until(stream: &mut TcpStream, end: &[u8], seen: &mut Vec<u8>) {
    seen.clear();
    let mut buffer = [0; 16 * 1024];
    while !seen.ends_with(end) {
        let count = stream.read(&mut buffer).expect("the relay sends");
        assert!(count > 0, "the relay ended with {:?}", String::from_utf8_lossy(seen));
        seen.extend_from_slice(&buffer[..count]);
    }
}

/// Reads the head of a request, and its body.
fn read_request(stream: &mut TcpStream) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let count = stream.read(&mut buffer).expect("the relay asks");
        assert!(count > 0, "the relay asks nothing");
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
            return;
        }
    }
}

fn load(upstream: u16, relay: u16, dialect: &str, streams: usize, events: usize) {
    let script = if dialect == "openai" { OPENAI } else { ANTHROPIC };
    let path = if dialect == "messages" { "/v1/messages" } else { "/v1/chat/completions" };
    let body = r#"{"model":"chat","max_tokens":99,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"What is the answer?"}]}"#;
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer sk-demo\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let provider = TcpListener::bind(("127.0.0.1", upstream)).expect("the port");
    let address = SocketAddr::from(([127, 0, 0, 1], relay));
    let (mut pairs, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..streams {
        let mut caller = TcpStream::connect(address).expect("the relay listens");
        caller.write_all(request.as_bytes()).expect("the relay reads");
        let mut told = provider.accept().expect("the relay connects").0;
        for stream in [&caller, &told] {
            stream.set_nodelay(true).unwrap();
        }
        read_request(&mut told);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        told.write_all(head.as_bytes()).unwrap();
        send_chunk(&mut told, script.first);
        read_until(&mut caller, b"\n\n\r\n", &mut seen);
        pairs.push((told, caller));
    }
    for event in 0..events {
        let bytes = (script.event)(WORDS[event % WORDS.len()]);
        for (told, _) in &mut pairs {
            send_chunk(told, &bytes);
        }
        for (_, caller) in &mut pairs {
            read_until(caller, b"\n\n\r\n", &mut seen);
        }
    }
    for (told, caller) in &mut pairs {
        send_chunk(told, script.last);
        told.write_all(b"0\r\n\r\n").unwrap();
        read_until(caller, b"\r\n0\r\n\r\n", &mut seen);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("gateway or load, and numbers");
    let (role, upstream, relay) = (next(), next().parse().unwrap(), next().parse().unwrap());
    let (dialect, streams) = (next(), next().parse().unwrap());
    match role.as_str() {
        "gateway" => gateway(upstream, relay, &dialect, streams),
        "load" => load(upstream, relay, &dialect, streams, next().parse().unwrap()),
        _ => eprintln!("usage: stream_cost gateway|load …, as told at the head of its source"),
    }
}
