//! What the gateway takes in memory: idle, for each idle connection of a caller, for each open stream.
//!
//! All processes together, one proxy worker. A page that several processes share counts in parts (PSS, as
//! `/proc/PID/smaps_rollup` tells it; needs root). A round starts a gateway of its own. What an idle connection takes is the
//! growth by thousands of them, of which each has served one request, or none; what a stream takes is likewise a growth. Each is
//! looked at after [`SETTLED`], and after so many requests at once as make the worker's allocator take what it takes anyway.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use harness::{Builder, Gateway, projection, upstream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figure::Figure;

/// Idle connections. Of 20,000 descriptors a worker gives less than half to callers.
const CONNECTIONS: usize = 8_000;
/// Open streams.
const STREAMS: usize = 500;
/// Requests at once.
const AT_ONCE: usize = 64;
/// Until what a burst has taken is given back.
const SETTLED: Duration = Duration::from_secs(4);
/// Goal and bound of a hang: a gateway that does not answer within it ends the measurement.
const HANG: Duration = Duration::from_secs(30);

/// Measures in so many rounds, with the programs in that folder or those beside this one.
pub async fn figures(
    programs: Option<&Path>,
    rounds: usize,
) -> Result<Vec<Figure>, Box<dyn Error>> {
    // Each connection is one of our own, too.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let figure = |name: &str, unit| Figure {
        name: name.to_owned(),
        subject: "aisix".to_owned(),
        unit,
        rounds: Vec::new(),
    };
    let mut idle = figure("memory_idle", "MiB");
    let mut new = figure("memory_per_new_connection", "KiB");
    let mut kept = figure("memory_per_kept_connection", "KiB");
    let mut streams = figure("memory_per_stream", "KiB");
    for _ in 0..rounds {
        let upstream = upstream().await;
        let folder = tempfile::tempdir()?;
        let resources = folder.path().join("resources.yaml");
        fs::write(&resources, document(&upstream.api_base()))?;
        let mut gateway = Builder::from_file(&resources).set("/proxy/workers", json!(1));
        if let Some(programs) = programs {
            gateway = gateway.programs(programs);
        }
        let gateway = gateway.start().await;
        tokio::time::sleep(SETTLED).await;
        idle.rounds.push(kib(&gateway)? / 1024.0);

        ask_at_once(gateway.proxy()).await?;
        tokio::time::sleep(SETTLED).await;
        new.rounds.push(growth(&gateway, CONNECTIONS, &Use::None).await?);
        kept.rounds.push(growth(&gateway, CONNECTIONS, &Use::Request("small-1")).await?);
        streams.rounds.push(growth(&gateway, STREAMS, &Use::Stream("stall")).await?);
    }
    Ok(vec![idle, new, kept, streams])
}

/// What each connection is used for before it is looked at.
enum Use {
    None,
    /// One request to that model.
    Request(&'static str),
    /// A stream of that model, which has begun and goes on.
    Stream(&'static str),
}

/// KiB for each of so many connections.
async fn growth(gateway: &Gateway, count: usize, used: &Use) -> Result<f64, Box<dyn Error>> {
    let before = kib(gateway)?;
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let mut some = Vec::new();
        for _ in 0..AT_ONCE.min(count - connections.len()) {
            some.push(TcpStream::connect(gateway.proxy()).await?);
        }
        for stream in &mut some {
            match used {
                Use::None => {}
                Use::Request(model) => stream.write_all(&request(model, false)).await?,
                Use::Stream(model) => stream.write_all(&request(model, true)).await?,
            }
        }
        if !matches!(used, Use::None) {
            for stream in &mut some {
                answered(stream).await?;
            }
        }
        connections.append(&mut some);
    }
    tokio::time::sleep(SETTLED).await;
    let growth = (kib(gateway)? - before) / count as f64;
    drop(connections);
    tokio::time::sleep(SETTLED).await;
    Ok(growth)
}

async fn ask_at_once(proxy: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut connections = Vec::new();
    for _ in 0..AT_ONCE {
        let mut stream = TcpStream::connect(proxy).await?;
        stream.write_all(&request("small-1", false)).await?;
        connections.push(stream);
    }
    for stream in &mut connections {
        answered(stream).await?;
    }
    Ok(())
}

/// Waits for the begin of an answer, which must be a good one. Small answers come in one piece, or at once behind it.
async fn answered(stream: &mut TcpStream) -> Result<(), Box<dyn Error>> {
    let mut bytes = [0; 16 * 1024];
    let read = tokio::time::timeout(HANG, stream.read(&mut bytes)).await??;
    let begin = bytes.get(..read).unwrap_or_default();
    if begin.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(format!("an answer other than 200: {}", String::from_utf8_lossy(begin)).into())
}

fn request(model: &str, stream: bool) -> Vec<u8> {
    let messages = json!([{"role": "user", "content": "How much memory does this take?"}]);
    let body = json!({"model": model, "messages": messages, "stream": stream}).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        projection::CALLER_KEY,
        body.len()
    )
    .into_bytes()
}

/// A resources file of a small installation: JSON, which is YAML.
pub(crate) fn document(api_base: &str) -> String {
    let models = ["small-1", "stall"].map(|name| {
        json!({"display_name": name, "provider": "openai", "model_name": name, "provider_key": "main"})
    });
    let mut keys = vec![json!({
        "display_name": "demo",
        "key_hash": projection::key_hash(projection::CALLER_KEY),
        "allowed_models": ["*"],
    })];
    keys.extend((0..100).map(|n| {
        let key_hash = projection::key_hash(&format!("sk-{n}"));
        json!({"display_name": format!("key {n}"), "key_hash": key_hash, "allowed_models": ["*"]})
    }));
    json!({
        "_format_version": "1",
        "provider_keys": [{
            "display_name": "main",
            "provider": "openai",
            "api_base": api_base,
            "api_key": harness::provider::KEY,
        }],
        "models": models,
        "api_keys": keys,
    })
    .to_string()
}

/// PSS of all processes of the gateway.
fn kib(gateway: &Gateway) -> Result<f64, Box<dyn Error>> {
    let workers = gateway.workers().into_iter().map(|worker| worker.pid);
    let each = std::iter::once(gateway.pid()).chain(workers).map(pss);
    each.sum()
}

fn pss(pid: Pid) -> Result<f64, Box<dyn Error>> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup =
        fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    kib.ok_or_else(|| format!("{path} tells no PSS").into())
}
