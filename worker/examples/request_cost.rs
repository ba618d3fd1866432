//! A proxy worker's request path without its process: for instruction counts and for training the optimiser.
//!
//! `request_cost governed|off REQUESTS`: a caller and an upstream, each on a thread of its own, speak in turn over loopback
//! with the server of the proxy role, which has the first thread. What a request costs is the difference between two runs.
//! Governed is: a caller key with a list of models and every limit, a budget, usage events, metrics, the access log.

use std::borrow::Cow;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::thread;

use aws_lc_rs::digest;
use shared::budget::Verdict;
use shared::counters::Counters;
use shared::dial::{Destination, Dial, DialError, Dialling};
use shared::metric::{EdgeSets, MEMORY_BYTES};
use shared::resource::{
    Adapter, ApiKey, Cost, DirectModel, Model, ModelKind, ProviderKey, RateLimits, Resource,
};
use shared::ring::{RING_BYTES, Writer};
use shared::update::Change;
use shared::usage::UsageEvent;
use shared::worker_settings::{ProxySettings, UpstreamSettings};
use tokio::sync::Notify;
use worker::metrics::Metrics;
use worker::server::{Proxy, UsageSink, serve};
use worker::upstream::TrustRoots;

const CALLER_KEY: &str = "sk-0123456789abcdef0123456789abcdef";
const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion","created":1741570283,"#,
    r#""model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"The capital of "#,
    r#"France is Paris. It lies on the Seine and has about two million inhabitants.","refusal":null,"#,
    r#""annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"#,
    r#""completion_tokens":18,"total_tokens":37,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"#,
    r#""completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"#,
    r#""rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_fc9f1d7035"}"#
);
const PROMPT: &str = concat!(
    r#"{"model":"chat","messages":[{"role":"system","content":"You are a helpful assistant."},"#,
    r#"{"role":"user","content":"What is the capital of France, and what should one know of it?"}],"#,
    r#""temperature":0.7,"max_tokens":256}"#
);

type Failure = Box<dyn Error>;

/// Where usage events go: into a ring whose reader is always done.
struct Ring(std::cell::RefCell<Writer>);

impl UsageSink for Ring {
    fn record(&self, event: UsageEvent<Cow<'_, str>>) {
        let mut ring = self.0.borrow_mut();
        if let Ok(sequence) = ring.push_event(&event) {
            ring.release(sequence);
        }
    }
}

struct Nowhere;

impl UsageSink for Nowhere {
    fn record(&self, _: UsageEvent<Cow<'_, str>>) {}
}

struct Direct;

impl Dial for Direct {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async move {
            let address = (destination.host.as_str(), destination.port);
            let stream = tokio::net::TcpStream::connect(address).await;
            let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            stream.map_err(|source| DialError::Connect { destination: destination.clone(), source })
        })
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let is_governed = match arguments.next().as_deref() {
        Some("governed") => true,
        Some("off") => false,
        _ => return Err("usage: request_cost governed|off REQUESTS".into()),
    };
    let requests: usize = arguments.next().ok_or("how many requests?")?.parse()?;
    let upstream = upstream()?;
    if is_governed {
        log()?;
    }
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_park(worker::run::pauses).build()?;
    let stop = std::sync::Arc::new(Notify::new());
    let caller = {
        let stop = std::sync::Arc::clone(&stop);
        thread::spawn(move || {
            let told = call(address, requests).map_err(|error| error.to_string());
            stop.notify_one();
            told
        })
    };
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let proxy = proxy(is_governed, upstream)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        serve(listener, proxy, None, stop.notified()).await;
        Ok::<_, Failure>(())
    })?;
    caller.join().map_err(|_| "the caller failed")??;
    Ok(())
}

/// Sends the requests one after the other over one connection.
fn call(gateway: SocketAddr, requests: usize) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_nodelay(true)?;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:3000\r\nuser-agent: OpenAI/Python 1.99.1\r\n\
         accept: application/json\r\naccept-encoding: gzip, deflate\r\nx-stainless-lang: python\r\n\
         authorization: Bearer {CALLER_KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{PROMPT}",
        PROMPT.len()
    );
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..requests {
        stream.write_all(request.as_bytes())?;
        let length = message(&mut stream, &mut buffer)?.ok_or("the gateway closed")?;
        let answer = buffer.get(..length).unwrap_or_default();
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(answer).into());
        }
    }
    Ok(())
}

/// Answers whatever is asked.
fn upstream() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ndate: Mon, 02 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\n\
         openai-processing-ms: 412\r\nx-request-id: req_123\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(Some(_)) = message(&mut stream, &mut buffer) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

/// Reads one message with a `content-length` into `buffer`: its length, `None` at the end.
fn message(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<Option<usize>, Failure> {
    let mut filled = 0;
    loop {
        let read = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
        if read == 0 {
            return Ok(None);
        }
        filled += read;
        let bytes = buffer.get(..filled).unwrap_or_default();
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(Ok(0), str::parse)?;
        if filled >= end + 4 + length {
            return Ok(Some(end + 4 + length));
        }
    }
}

/// Logs into a pipe that is read on.
fn log() -> Result<(), Failure> {
    let (mut reading, writing) = std::io::pipe()?;
    thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
    worker::log::start(writing.into(), "info");
    Ok(())
}

fn proxy(is_governed: bool, upstream: SocketAddr) -> Result<Rc<Proxy>, Failure> {
    let memory = |name, bytes| shared::memory::fixed_size(name, bytes).map(File::from);
    let metrics = Rc::new(Metrics::open(memory("metrics", MEMORY_BYTES)?.into(), |_| {})?);
    metrics.configure("env-1", EdgeSets::default());
    let usage: Rc<dyn UsageSink> = if is_governed {
        let ring = memory("ring", RING_BYTES)?;
        // Mapped, as the supervisor's files are.
        ring.write_all_at(&vec![0; usize::try_from(RING_BYTES)?], 0)?;
        Rc::new(Ring(Writer::mapped(ring, RING_BYTES).into()))
    } else {
        Rc::new(Nowhere)
    };
    let trust = TrustRoots::new(Vec::new());
    let proxy = Proxy::new(
        settings(is_governed),
        Rc::new(Direct),
        trust,
        usage,
        metrics,
        Counters::private(),
    );
    let changes = resources(is_governed, upstream)?.into_iter();
    let changes = changes.map(|resource| Ok(Change::Put(Box::new(resource))));
    proxy.tables.borrow_mut().apply(true, changes)?;
    if is_governed {
        proxy.budgets.take_in(true, vec![("k-1".to_owned(), Verdict::Allow)]);
    }
    proxy.health.configured();
    Ok(proxy)
}

fn resources(is_governed: bool, upstream: SocketAddr) -> Result<Vec<Resource>, Failure> {
    const PLENTY: Option<u64> = Some(1_000_000_000);
    let mut key_hash = [0; 32];
    key_hash.copy_from_slice(digest::digest(&digest::SHA256, CALLER_KEY.as_bytes()).as_ref());
    let limits =
        RateLimits { rpm: PLENTY, rpd: PLENTY, tpm: PLENTY, tpd: PLENTY, ..RateLimits::default() };
    let caller = ApiKey {
        id: "k-1".to_owned(),
        key_hash: Some(key_hash),
        allowed_models: if is_governed {
            vec!["other".to_owned(), "chat".to_owned()]
        } else {
            vec!["*".to_owned()]
        },
        team_id: is_governed.then(|| "t-1".to_owned()),
        rate_limits: if is_governed { limits } else { RateLimits::default() },
        ..ApiKey::default()
    };
    let provider_key = ProviderKey {
        id: "pk-1".to_owned(),
        display_name: "main".to_owned(),
        provider: "openai".to_owned(),
        adapter: Some(Adapter::OpenAi),
        secret: "sk-upstream".to_owned().into(),
        endpoint: Some(format!("http://{upstream}/v1").parse()?),
        ..ProviderKey::default()
    };
    let model = Model {
        id: "m-1".to_owned(),
        display_name: "chat".to_owned(),
        kind: ModelKind::Direct(Box::new(DirectModel {
            provider: "openai".to_owned(),
            model_name: "gpt-4o".to_owned(),
            provider_key_id: "pk-1".to_owned(),
            cost: is_governed.then_some(Cost { input_per_1k: 0.0025, output_per_1k: 0.01 }),
            ..DirectModel::default()
        })),
        ..Model::default()
    };
    Ok(vec![Resource::ApiKey(caller), Resource::ProviderKey(provider_key), Resource::Model(model)])
}

/// The settings that a gateway has which was told none.
fn settings(is_governed: bool) -> ProxySettings {
    ProxySettings {
        request_body_bytes_max: 10 * 1024 * 1024,
        trusted_proxies: Vec::new(),
        real_ip_recursive: false,
        real_ip_header: "x-forwarded-for".to_owned(),
        request_id_headers: vec!["x-aisix-request-id".to_owned(), "x-request-id".to_owned()],
        upstream: UpstreamSettings {
            timeout_ms: 300_000,
            stream_timeout_ms: 0,
            connect_timeout_ms: 5_000,
            keepalive_ms: 60_000,
            keepalive_interval_ms: 30_000,
            keepalive_retries: 5,
            pool_idle_ms: 90_000,
            pool_idle_max: None,
            ca_pem: None,
            client_identity_pem: None,
            verify: true,
            platform_roots: Vec::new(),
        },
        downstream_idle_ms: 0,
        sse_keepalive_ms: 15_000,
        env_id: "env-1".to_owned(),
        access_log: is_governed,
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
