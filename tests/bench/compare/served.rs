//! From a put into etcd to the first request that is served by it, with few resources and with many.
//!
//! A caller key is put; from before the put until a request with that key is answered with 200. Puts come one after the other,
//! so each is alone on its way. The caller asks every [`INTERVAL`] over a kept connection.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use etcd_client::{PutOptions, Txn, TxnOp};
use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Etcd, Gateway, Projection, projection, upstream};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figure::Figure;

/// How many resources there are.
const RESOURCES: [usize; 3] = [1_000, 10_000, 100_000];
/// Puts of one round.
const PUTS: usize = 200;
/// Of a transaction while the store is filled: etcd takes 128.
const TOGETHER: usize = 100;
/// Between two questions of the caller.
const INTERVAL: Duration = Duration::from_micros(500);
/// After a load the supervisor writes its snapshot and gives back memory.
const SETTLED: Duration = Duration::from_secs(5);
/// What takes longer is never.
const HANG: Duration = Duration::from_secs(60);

/// Measures in so many rounds of [`PUTS`], with the programs in that folder or those beside this one.
pub async fn figures(
    programs: Option<&Path>,
    rounds: usize,
) -> Result<Vec<Figure>, Box<dyn Error>> {
    let mut figures = Vec::new();
    for resources in RESOURCES {
        let upstream = upstream().await;
        let etcd = Etcd::start().await;
        etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &Projection::of(&upstream)).await;
        fill(&etcd, resources).await?;
        let cloud = Cloud::over(&etcd).await;
        let builder = Builder::managed(&cloud).set("/proxy/workers", json!(1));
        let builder = match programs {
            Some(programs) => builder.programs(programs),
            None => builder,
        };
        let gateway = builder.start().await;
        served(&gateway, &format!("sk-{}", resources - 1)).await?;
        tokio::time::sleep(SETTLED).await;

        let named = |which: &str| Figure {
            name: format!("put_to_served_{which}_{resources}"),
            subject: "aisix".to_owned(),
            unit: "ms",
            rounds: Vec::new(),
        };
        let (mut p50, mut p99) = (named("p50"), named("p99"));
        for round in 0..rounds {
            let mut took = Vec::new();
            let mut client = etcd.client().await;
            for n in 0..PUTS {
                let caller_key = format!("sk-new-{round}-{n}");
                let document = projection::api_key(&caller_key, &["*"]).to_string();
                let begin = Instant::now();
                client.put(key(&format!("new-{n}")), document, None).await?;
                served(&gateway, &caller_key).await?;
                took.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            took.sort_by(f64::total_cmp);
            p50.rounds.extend(took.get(PUTS / 2));
            p99.rounds.extend(took.get(PUTS * 99 / 100));
        }
        figures.extend([p50, p99]);
    }
    Ok(figures)
}

fn key(id: &str) -> String {
    format!("/aisix/{ENVIRONMENT}/api_keys/{id}")
}

async fn fill(etcd: &Etcd, resources: usize) -> Result<(), Box<dyn Error>> {
    let mut client = etcd.client().await;
    let all: Vec<_> = (0..resources).collect();
    for some in all.chunks(TOGETHER) {
        let puts: Vec<_> = some
            .iter()
            .map(|n| {
                let document = projection::api_key(&format!("sk-{n}"), &["*"]).to_string();
                TxnOp::put(key(&format!("k-{n:06}")), document, None::<PutOptions>)
            })
            .collect();
        client.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// Asks until the gateway knows the caller key.
async fn served(gateway: &Gateway, caller_key: &str) -> Result<(), Box<dyn Error>> {
    let mut stream = TcpStream::connect(gateway.proxy()).await?;
    stream.set_nodelay(true)?;
    let question = format!(
        "GET /v1/models HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {caller_key}\r\n\r\n"
    );
    let mut bytes = [0; 64 * 1024];
    let begin = Instant::now();
    while begin.elapsed() < HANG {
        stream.write_all(question.as_bytes()).await?;
        let read = stream.read(&mut bytes).await?;
        let answer = bytes.get(..read).unwrap_or_default();
        if answer.starts_with(b"HTTP/1.1 200 ") {
            return Ok(());
        }
        if !answer.starts_with(b"HTTP/1.1 401 ") {
            let answer = String::from_utf8_lossy(answer);
            return Err(format!("an answer other than 200 and 401: {answer}").into());
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Err(format!("a caller key is not known after {HANG:?}").into())
}
