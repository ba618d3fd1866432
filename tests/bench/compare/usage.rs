//! The Cloud's manager as the bench needs it: it takes usage over mutual TLS as the Cloud does, and only counts it.
//!
//! Events come at the rate of requests. The local Cloud keeps and checks every one, which costs more than the request; this one
//! looks for ids. A process of its own, of the idle class, on the core of the load: it works when the load has nothing to do.

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::authority::Authority;
use harness::process::Process;
use harness::{Cloud, manager, port};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

/// How long all events may take to come after the last request.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// Longest id that is looked at: 36 digits and signs.
const ID_BYTES: usize = 36;

/// A running counter, as the bench sees it.
#[derive(Debug)]
pub struct Usage {
    address: SocketAddr,
    counts: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

/// What has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events, each once.
    pub events: u64,
    /// Events that came again.
    pub repeats: u64,
}

/// How the process of the counter is told what to do.
#[derive(Clone, Debug, clap::Args)]
pub struct CountArguments {
    /// Where gateways connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where the counts are told.
    #[arg(long)]
    counts: SocketAddr,
    /// Certificate of the Cloud's authority.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
}

impl Usage {
    /// Starts one that has the authority of that Cloud.
    pub fn start(cloud: &Cloud) -> Result<Self, Box<dyn Error>> {
        let (address, counts) = (port::reserve(), port::reserve());
        let [certificate, key] = cloud.authority_files();
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(env::current_exe()?).arg("count-usage");
        command.arg("--listen").arg(address.to_string()).arg("--counts").arg(counts.to_string());
        command.arg("--certificate").arg(certificate).arg("--key").arg(key);
        let process = Process::spawn("count-usage", command, &folder.path().join("log"))?;
        let usage = Self { address, counts, _process: process, _folder: folder };
        let begin = Instant::now();
        while let Err(error) = usage.counts() {
            if begin.elapsed() > DELIVERY_MAX {
                return Err(format!("the counter of usage does not answer: {error}").into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(usage)
    }

    /// What a gateway is told as `AISIX_MANAGED__CP_BASE_URL`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What has come so far.
    pub fn counts(&self) -> std::io::Result<Counts> {
        let mut text = String::new();
        TcpStream::connect(self.counts)?.read_to_string(&mut text)?;
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or_default());
        let mut next = || numbers.next().unwrap_or_default();
        Ok(Counts { events: next(), repeats: next() })
    }

    /// Waits until so many events have come since `before`. More, or one again, is an error like too few.
    pub fn wait_for(&self, before: Counts, requests: u64) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let now = self.counts().map_err(|error| format!("the counter of usage: {error}"))?;
            let (events, repeats) = (now.events - before.events, now.repeats - before.repeats);
            if events == requests && repeats == 0 {
                return Ok(());
            }
            if events > requests || repeats > 0 || begin.elapsed() > DELIVERY_MAX {
                return Err(format!(
                    "{requests} requests made {events} usage events and {repeats} repeated ones"
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<u128>,
    repeats: u64,
}

impl Seen {
    /// Counts the events of a batch. Returns how many.
    fn take(&mut self, batch: &[u8]) -> usize {
        let name = b"\"event_id\":\"";
        let mut count = 0;
        for at in memmem::find_iter(batch, name) {
            let behind = batch.get(at + name.len()..).unwrap_or_default();
            let id = behind.iter().take(ID_BYTES).take_while(|byte| **byte != b'"');
            let id = id.filter_map(|byte| char::from(*byte).to_digit(16));
            let id = id.fold(0, |id: u128, digit| id << 4 | u128::from(digit));
            if !self.ids.insert(id) {
                self.repeats += 1;
            }
            count += 1;
        }
        count
    }
}

/// The process of the counter: serves until it is killed.
#[tokio::main(flavor = "current_thread")]
pub async fn count(arguments: CountArguments) -> Result<(), Box<dyn Error>> {
    let authority = Authority::of(&arguments.certificate, &arguments.key);
    let tls = TlsAcceptor::from(Arc::new(manager::tls(&authority, &[&authority])));
    let gateways = TcpListener::bind(arguments.listen).await?;
    let asking = TcpListener::bind(arguments.counts).await?;
    let seen = Rc::new(RefCell::new(Seen::default()));
    LocalSet::new()
        .run_until(async move {
            loop {
                tokio::select! {
                    Ok((stream, _)) = gateways.accept() => {
                        let (tls, seen) = (tls.clone(), Rc::clone(&seen));
                        tokio::task::spawn_local(async move {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            let service = service_fn(|request| answer(Rc::clone(&seen), request));
                            // Whoever goes away comes again.
                            let _ = http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), service)
                                .await;
                        });
                    }
                    Ok((mut stream, _)) = asking.accept() => {
                        let text = format!("{} {}", seen.borrow().ids.len(), seen.borrow().repeats);
                        let _ = stream.write_all(text.as_bytes()).await;
                    }
                }
            }
        })
        .await
}

async fn answer(
    seen: Rc<RefCell<Seen>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let text = match path.as_str() {
        "/dp/telemetry" => format!(r#"{{"accepted":{}}}"#, seen.borrow_mut().take(&body)),
        "/dp/budget_check" => r#"{"allow":true,"fail_mode":"sticky","budget":{"limit_usd":1000000000.0,"spent_usd":1.0,"remaining_usd":999999999.0}}"#.into(),
        _ => r#"{"ok":true}"#.into(),
    };
    Ok(Response::new(Full::new(Bytes::from(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_counts_once_and_what_comes_again_is_told() {
        let mut seen = Seen::default();
        let one = r#"{"events":[{"event_id":"0f8fad5b-d9cb-469f-a165-70867728950e"},{"x":1,"event_id":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}]}"#;
        assert_eq!(seen.take(one.as_bytes()), 2);
        assert_eq!((seen.ids.len(), seen.repeats), (2, 0));
        let two = r#"{"events":[{"event_id":"7c9e6679-7425-40de-944b-e07fc1f90ae7"},{"event_id":"7c9e6679-7425-40de-944b-e07fc1f90ae8"}]}"#;
        assert_eq!(seen.take(two.as_bytes()), 2);
        assert_eq!((seen.ids.len(), seen.repeats), (3, 1));
        assert_eq!(seen.take(b"{\"events\":[]}"), 0);
    }
}
