//! From the start of `aisix` until `/readyz` answers with 200: every role started and confined, configuration in force.
//!
//! Twice: resources of a file, and a Cloud's with what the run before has kept (its snapshot and its certificate), each started
//! by root and by a plain user. Measured from before the process is made, and looked at every half millisecond.

use std::error::Error;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Gateway, Projection, projection, upstream};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figure::Figure;
use crate::memory;

/// Caller keys in the snapshot.
const KEYS: usize = 1_000;
/// A plain user, whom nothing needs to know.
const USER: u32 = 65_534;
/// Between two looks.
const INTERVAL: Duration = Duration::from_micros(500);
/// A start that takes longer is none.
const HANG: Duration = Duration::from_secs(30);

/// Measures in so many rounds, with the programs in that folder or those beside this one.
pub async fn figures(
    programs: Option<&Path>,
    rounds: usize,
) -> Result<Vec<Figure>, Box<dyn Error>> {
    let upstream = upstream().await;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let resources = folder.path().join("resources.yaml");
    fs::write(&resources, memory::document(&upstream.api_base()))?;
    let mut all = Projection::of(&upstream);
    for n in 0..KEYS {
        let key = projection::api_key(&format!("sk-{n}"), &["small-1"]);
        all = all.with("api_keys", &format!("key-{n}"), key);
    }
    let cloud = Cloud::start(&all).await;

    let mut figures = Vec::new();
    for (user, by) in [(None, "root"), (Some(USER), "a plain user")] {
        let prepared = |builder: Builder| {
            let builder = builder.set("/proxy/workers", json!(1));
            let builder = match programs {
                Some(programs) => builder.programs(programs),
                None => builder,
            };
            match user {
                Some(user) => builder.user(user),
                None => builder,
            }
        };
        let mut of_file = figure(&format!("ready_from_file, {by}"));
        for _ in 0..rounds {
            let (ready, gateway) = start(prepared(Builder::from_file(&resources))).await?;
            of_file.rounds.push(ready);
            end(gateway).await;
        }
        let bundle = cloud.issue(ENVIRONMENT);
        if user.is_some() {
            open_to_all(&bundle.key)?;
        }
        let mut kept = figure(&format!("ready_from_snapshot, {by}"));
        let mut former = start(prepared(Builder::managed_with(&cloud, &bundle))).await?.1;
        former.wait_until_ready().await;
        former.terminate();
        former.end().await;
        for _ in 0..rounds {
            let (ready, gateway) = start(prepared(Builder::after(&former, &cloud))).await?;
            kept.rounds.push(ready);
            end(gateway).await;
        }
        figures.extend([of_file, kept]);
    }
    Ok(figures)
}

fn figure(name: &str) -> Figure {
    Figure { name: name.to_owned(), subject: "aisix".to_owned(), unit: "ms", rounds: Vec::new() }
}

/// The folders above it are temporary and belong to us.
fn open_to_all(key: &Path) -> Result<(), Box<dyn Error>> {
    for path in
        key.ancestors().take_while(|path| path.starts_with("/tmp") && *path != Path::new("/tmp"))
    {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(0o644))?;
            }
        }
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Starts it and returns after how many milliseconds it was ready.
async fn start(builder: Builder) -> Result<(f64, Gateway), Box<dyn Error>> {
    let proxy = builder.proxy();
    let begin = Instant::now();
    let gateway = builder.spawn();
    while !is_ready(proxy).await {
        if begin.elapsed() > HANG {
            return Err(format!("aisix is not ready after {HANG:?}:\n{}", gateway.log()).into());
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok((begin.elapsed().as_secs_f64() * 1000.0, gateway))
}

async fn is_ready(proxy: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(proxy).await else { return false };
    let asked = b"GET /readyz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n";
    let mut begin = [0; 64];
    stream.write_all(asked).await.is_ok()
        && stream.read(&mut begin).await.is_ok_and(|_| begin.starts_with(b"HTTP/1.1 200 "))
}

async fn end(mut gateway: Gateway) {
    gateway.terminate();
    gateway.end().await;
}
