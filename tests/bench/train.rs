//! Traffic for programs that count what they run, so that the compiler knows it: `make profile` calls this.
//!
//! `train FOLDER`: a governed gateway and one with everything off, each with one proxy worker, from the programs in that
//! folder. Much of what most requests are, little of everything else that callers do. Workers are not confined: their last
//! act is to write what they have counted, which no worker may. Prints nothing but what is wrong.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use harness::caller::{chat, chat_stream};
use harness::provider::KEY;
use harness::{Builder, Caller, Cloud, Connection, Gateway, Projection, Upstream, projection};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Callers at the same time, each over a connection of its own.
const CALLERS: usize = 8;
/// Far above anything that is asked here.
const PLENTY: u64 = 1_000_000_000;
/// Of a caller that has asked once today, which is all it may; of one without a budget; of nobody.
const SPENT: &str = "sk-spent";
const DENIED: &str = "sk-denied";
const UNKNOWN: &str = "sk-unknown";

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

/// What a caller asks, how often, and with which status it is answered.
struct Ask {
    times: usize,
    key: &'static str,
    path: &'static str,
    body: Value,
    status: u16,
}

fn ask(times: usize, path: &'static str, body: Value) -> Ask {
    Ask { times, key: projection::CALLER_KEY, path, body, status: 200 }
}

fn refused(times: usize, key: &'static str, model: &str, status: u16) -> Ask {
    Ask { times, key, path: CHAT, body: chat(model, "hello"), status }
}

/// As clients write it, with more than the least.
fn usual(model: &str) -> Value {
    json!({"model": model, "temperature": 0.7, "max_tokens": 256, "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France, and what should one \"know\" of it?\nBe brief."}]})
}

fn message(model: &str, is_stream: bool) -> Value {
    json!({"model": model, "max_tokens": 256, "stream": is_stream, "system": "You are a helpful assistant.",
        "messages": [{"role": "user", "content": sentence(40)}]})
}

/// The upstream says it again, a word in an event.
fn sentence(words: usize) -> String {
    ["several"].repeat(words).join(" ")
}

fn streamed(model: &str) -> Value {
    let mut body = chat_stream(model, &sentence(40));
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// A step of the first of these counts as hot only while few others, such as those that go through a body byte by byte, are run
/// more often: `llvm-profdata show --detailed-summary` tells from which count on it does (99 %).
fn governed() -> Vec<Ask> {
    vec![
        ask(1000, CHAT, usual("small-1")),
        ask(30, CHAT, streamed("small-1")),
        ask(10, CHAT, chat_stream("small-1", &sentence(40))),
        ask(1, CHAT, chat_stream("big", "hello")),
        ask(20, CHAT, usual("claude")),
        ask(10, CHAT, streamed("claude")),
        ask(20, MESSAGES, message("claude", false)),
        ask(10, MESSAGES, message("claude", true)),
        ask(20, MESSAGES, message("small-1", false)),
        ask(10, MESSAGES, message("small-1", true)),
        ask(10, "/v1/embeddings", json!({"model": "small-1", "input": ["one", "two"]})),
        ask(1, CHAT, chat("small-1", &sentence(50_000))),
        refused(10, UNKNOWN, "small-1", 401),
        refused(10, SPENT, "small-1", 429),
        refused(10, DENIED, "small-1", 429),
        refused(5, projection::CALLER_KEY, "nobody-s", 404),
        refused(5, projection::CALLER_KEY, "status-400", 400),
    ]
}

fn off() -> Vec<Ask> {
    vec![
        ask(300, CHAT, usual("small-1")),
        ask(15, CHAT, streamed("small-1")),
        ask(1, CHAT, chat("small-1", &sentence(50_000))),
    ]
}

/// With everything that a request of a managed gateway pays for.
fn resources(upstream: &Upstream) -> Projection {
    let limits = json!({"rpm": PLENTY, "tpm": PLENTY, "rpd": PLENTY, "tpd": PLENTY});
    let mut caller = projection::api_key(projection::CALLER_KEY, &["other", "small-1", "*"]);
    caller["rate_limit"] = limits.clone();
    let mut spent = projection::api_key(SPENT, &["*"]);
    spent["rate_limit"] = json!({"rpd": 1});
    let mut model = projection::model("small-1", "pk-1");
    model["cost"] = json!({"input_per_1k": 0.001, "output_per_1k": 0.002});
    model["rate_limit"] = limits;
    let mut claude = projection::model("claude", "pk-a");
    claude["provider"] = json!("anthropic");
    claude["model_name"] = json!("small-1");
    Projection::of(upstream)
        .with("provider_keys", "pk-a", projection::anthropic_key(&upstream.api_base(), KEY))
        .with("models", "m-small-1", model)
        .with("models", "m-claude", claude)
        .with("api_keys", "k-1", caller)
        .with("api_keys", "k-spent", spent)
        .with("api_keys", "k-denied", projection::api_key(DENIED, &["*"]))
        .with("budgets", "k-1", json!({"allow": true}))
        .with("budgets", "k-denied", json!({"allow": false}))
}

/// The same without a Cloud, limits, budget, usage, metrics and access log.
fn alone(upstream: &Upstream, folder: &Path) -> Builder {
    let key = json!({"display_name": "main", "provider": "openai", "api_base": upstream.api_base(),
        "api_key": KEY});
    let model = json!({"display_name": "small-1", "provider": "openai", "model_name": "small-1",
        "provider_key": "main"});
    let caller =
        json!({"display_name": "caller", "key_env": "CALLER_KEY", "allowed_models": ["small-1"]});
    let resources = json!({"_format_version": "1", "provider_keys": [key], "models": [model],
        "api_keys": [caller]});
    let path = folder.join("resources.yaml");
    fs::write(&path, resources.to_string()).expect("the resources are written");
    Builder::from_file(&path)
        .env("CALLER_KEY", projection::CALLER_KEY)
        .set("/observability/access_log", json!(false))
        .set("/observability/metrics/prometheus/enabled", json!(false))
}

async fn start(builder: Builder, programs: &Path) -> Gateway {
    let gateway = builder
        .programs(programs)
        .set("/supervisor/sandbox", json!("off"))
        .set("/proxy/workers", json!(1))
        .set("/observability/log_format", json!("json"))
        .env("AISIX_UPSTREAM__RETRIES", "0")
        .start_alive()
        .await;
    let caller = gateway.caller();
    harness::wait::until("a request is served", async || match caller.models().await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.status.to_string()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    gateway
}

async fn send(connection: &mut Connection, address: std::net::SocketAddr, ask: &Ask) {
    let caller = Caller { address, key: ask.key.to_owned() };
    let answer = connection.send(caller.request(ask.path, &ask.body)).await;
    let answer = answer.expect("the gateway answers");
    let status = answer.status;
    let body = answer.bytes().await.expect("the answer is whole");
    assert_eq!(status, ask.status, "{} {}: {body:?}", ask.path, ask.body["model"]);
}

/// One round of each, with a connection for all but the first of them.
async fn call(address: std::net::SocketAddr, asks: Vec<Ask>) {
    let mut connection = Connection::open(address).await.expect("the gateway accepts");
    for ask in &asks {
        let mut fresh = Connection::open(address).await.expect("the gateway accepts");
        send(&mut fresh, address, ask).await;
        for _ in 1..ask.times {
            send(&mut connection, address, ask).await;
        }
    }
}

async fn train(gateway: &Gateway, asks: fn() -> Vec<Ask>) {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(call(gateway.proxy(), asks()));
    }
    callers.join_all().await;
}

/// Ends it in order: that is when the programs write what they have counted.
async fn finish(mut gateway: Gateway) {
    gateway.terminate();
    let status = gateway.end().await;
    assert!(status.success(), "aisix ended ({status}):\n{}", gateway.log());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let programs = std::env::args().nth(1).expect("usage: train FOLDER");
    let programs = Path::new(&programs);
    let upstream = harness::upstream().await;

    let cloud = Cloud::start(&resources(&upstream)).await;
    let gateway = start(Builder::managed(&cloud), programs).await;
    assert_eq!(gateway.caller_with(SPENT).ask("small-1", "hello").await.status, 200);
    train(&gateway, governed).await;
    for _ in 0..5 {
        gateway.metrics().await;
    }
    finish(gateway).await;

    let folder = tempfile::tempdir().expect("a folder for the resources");
    let gateway = start(alone(&upstream, folder.path()), programs).await;
    train(&gateway, off).await;
    finish(gateway).await;
}
