//! TLS on the proxy listener: its key is in the signer and nowhere else, and neither a change of it nor the signer's death
//! costs a caller anything.

mod confinement;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use harness::authority::Authority;
use harness::tls::{ListenerFiles, TlsCaller};
use harness::worker::Worker;
use harness::{Builder, Cloud, Gateway, Projection, Upstream, caller, projection, upstream, wait};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::geteuid;
use rustls::ProtocolVersion;
use rustls::version::TLS13;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Callers that ask at the same time.
const CALLERS: usize = 4;

struct World {
    upstream: Upstream,
    _cloud: Cloud,
    authority: Authority,
    files: ListenerFiles,
    gateway: Gateway,
    caller: TlsCaller,
    _folder: TempDir,
}

impl World {
    async fn start(min_version: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::default();
        let files = ListenerFiles::new(folder.path(), &authority);
        let upstream = upstream().await;
        let cloud = Cloud::start(&Projection::of(&upstream)).await;
        let tls = files.settings(min_version);
        let mut gateway = Builder::managed(&cloud).set("/proxy/tls", tls).spawn();
        let caller = TlsCaller::new(&gateway, &authority).stranger();
        caller.wait_until_ready(&mut gateway).await;
        Self { upstream, _cloud: cloud, authority, files, gateway, caller, _folder: folder }
    }

    fn signer(&self) -> Option<Worker> {
        self.gateway.workers().into_iter().find(|worker| worker.role == "signer")
    }

    async fn shown(&self) -> Vec<u8> {
        wait::until("a handshake succeeds", async || match self.caller.connect().await {
            Ok(connection) => Ok(connection.certificate()),
            Err(error) => Err(error),
        })
        .await
    }

    /// Waits until every new caller is shown another certificate than this.
    async fn until_other_than(&self, before: &[u8]) -> Vec<u8> {
        wait::until("another certificate is shown", async || {
            let mut shown = Vec::new();
            // Each worker is told for itself.
            for _ in 0..20 {
                shown = self.shown().await;
                if shown == before {
                    return Err("the same");
                }
            }
            Ok(shown)
        })
        .await
    }

    async fn chat(&self) -> std::io::Result<(u16, String)> {
        let mut connection = self.caller.connect().await?;
        connection.chat(projection::CALLER_KEY, &caller::chat("small-1", "hello")).await
    }
}

/// What the callers of a load have seen.
#[derive(Default)]
struct Seen {
    answered: Cell<usize>,
    failed: Cell<usize>,
    enough: Cell<bool>,
}

/// Asks over one fresh connection after another, each with a whole handshake.
async fn load(caller: TlsCaller, seen: Rc<Seen>) {
    while !seen.enough.get() {
        match caller.get("/livez").await {
            Ok((200, _)) => seen.answered.set(seen.answered.get() + 1),
            other => {
                println!("a request under load: {other:?}");
                seen.failed.set(seen.failed.get() + 1);
            }
        }
    }
}

async fn more_answers(seen: &Seen, more: usize) {
    let before = seen.answered.get();
    wait::until("the load runs", async || {
        let now = seen.answered.get() - before;
        if now >= more { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Runs `test` while callers ask; what they have seen.
async fn under_load(world: &World, test: impl AsyncFnOnce(&Seen)) -> Rc<Seen> {
    let seen = Rc::new(Seen::default());
    let callers = LocalSet::new();
    for _ in 0..CALLERS {
        callers.spawn_local(load(world.caller.clone(), Rc::clone(&seen)));
    }
    let running = async {
        more_answers(&seen, 20).await;
        test(&seen).await;
        more_answers(&seen, 20).await;
        seen.enough.set(true);
    };
    callers.run_until(running).await;
    callers.await;
    seen
}

#[tokio::test]
async fn callers_speak_tls_1_3_and_the_version_before_only_where_it_is_set() {
    for (min_version, older_speaks) in [("1.3", false), ("1.2", true)] {
        let world = World::start(min_version).await;
        let connection = world.caller.connect().await.unwrap();
        assert_eq!(connection.version(), Some(ProtocolVersion::TLSv1_3));
        let (status, body) = world.chat().await.unwrap();
        assert_eq!(status, 200, "{body}");
        let older = TlsCaller::older(&world.gateway, &world.authority).get("/livez").await;
        assert_eq!(older.is_ok(), older_speaks, "{older:?}");
        assert_eq!(world.upstream.ledger().len(), 1);
    }
}

#[tokio::test]
async fn callers_choose_http_2_and_health_routes_answer_over_both() {
    let world = World::start("1.3").await;
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let caller =
            TlsCaller::with(&world.gateway, &world.authority, &[&TLS13], &[protocol, b"http/1.1"]);
        let mut connection = caller.connect().await.unwrap();
        assert_eq!(connection.protocol().as_deref(), Some(protocol));
        if protocol == b"http/1.1" {
            assert_eq!(connection.get("/readyz").await.unwrap().0, 200);
            continue;
        }
        let io = TokioIo::new(connection.into_stream());
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        for path in ["/livez", "/readyz"] {
            let uri = format!("https://{}{path}", world.gateway.proxy());
            let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
            answer.into_body().collect().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_caller_in_clear_and_one_that_drips_get_nothing_and_hold_up_nobody() {
    let world = World::start("1.3").await;
    let mut dripping = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(world.gateway.proxy()).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        dripping.push(stream);
    }
    let mut clear = TcpStream::connect(world.gateway.proxy()).await.unwrap();
    clear.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = wait::within("the connection is closed", clear.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    let (status, _) = world.chat().await.unwrap();
    assert_eq!(status, 200);
    // Those that drip are closed in the end.
    for mut stream in dripping {
        let mut answer = Vec::new();
        let _ = wait::within("a slow handshake ends", stream.read_to_end(&mut answer)).await;
    }
    let metrics = world.gateway.metrics().await;
    let handshakes = |result| metrics.sum("aisix_tls_handshakes_total", &[("result", result)]);
    assert!(handshakes("ok") >= 1.0 && handshakes("failed") >= 1.0);
    assert!(handshakes("timeout") >= 50.0);
}

#[tokio::test]
async fn a_session_resumes_on_any_worker() {
    if !is_root() {
        return;
    }
    let world = World::start("1.3").await;
    let caller = TlsCaller::new(&world.gateway, &world.authority);
    let holder = |addresses: (_, _)| {
        let proxies = world.gateway.proxies();
        proxies.into_iter().find(|worker| worker.holds_between(addresses.0, addresses.1))
    };
    let mut first = caller.connect().await.unwrap();
    assert!(!first.is_resumed());
    first.get("/livez").await.unwrap();
    let issuer = holder(first.addresses().unwrap()).expect("a worker holds the connection");
    wait::until("another worker has resumed it", async || {
        let mut next = caller.connect().await.unwrap();
        assert!(next.is_resumed(), "a ticket opens everywhere");
        next.get("/livez").await.unwrap();
        let resumer = holder(next.addresses().unwrap());
        if resumer.is_some_and(|resumer| resumer.pid != issuer.pid) {
            Ok(())
        } else {
            Err("not yet")
        }
    })
    .await;
    // The worker that began it is gone for good; whoever replaces it has the same keys.
    issuer.kill();
    wait::until("sessions resume without it", async || {
        let mut next = caller.connect().await.map_err(|error| error.to_string())?;
        next.get("/livez").await.map_err(|error| error.to_string())?;
        if next.is_resumed() { Ok(()) } else { Err("a whole handshake".to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn the_certificate_is_replaced_under_load_without_a_failed_handshake() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start("1.3").await;
    let seen = under_load(&world, async |seen| {
        let mut shown = world.shown().await;
        for round in 0..4 {
            if round == 2 {
                // From here on as Kubernetes mounts it: both are links through one to a folder, which is swapped.
                for name in ["tls.crt", "tls.key"] {
                    let file = world.files.certificate().with_file_name(name);
                    let link = file.with_extension("link");
                    symlink(folder.path().join("now").join(name), &link).unwrap();
                    place(folder.path(), round, &world.authority);
                    fs::rename(link, file).unwrap();
                }
            } else if round > 2 {
                place(folder.path(), round, &world.authority);
            } else {
                world.files.replace(&world.authority);
            }
            let start = Instant::now();
            shown = world.until_other_than(&shown).await;
            println!("another certificate is shown by every worker after {:?}", start.elapsed());
            more_answers(seen, 20).await;
        }
    })
    .await;
    println!("{} handshakes, {} failed", seen.answered.get(), seen.failed.get());
    assert_eq!(seen.failed.get(), 0);
    let metrics = world.gateway.metrics().await;
    let taken = [("result", "taken")];
    assert!(metrics.sum("aisix_listener_certificate_reloads_total", &taken) >= 4.0);
    assert!(metrics.sum("aisix_listener_certificate_expiry_timestamp_seconds", &[]) > 0.0);
}

/// A new pair in a folder of its own, which `now` leads to from then on.
fn place(folder: &std::path::Path, round: usize, authority: &Authority) {
    let version = folder.join(format!("version-{round}"));
    if !version.exists() {
        fs::create_dir(&version).unwrap();
        ListenerFiles::new(&version, authority);
    }
    let link = folder.join("next");
    let _ = fs::remove_file(&link);
    symlink(version, &link).unwrap();
    fs::rename(link, folder.join("now")).unwrap();
}

#[tokio::test]
async fn a_bad_pair_changes_nothing_and_is_a_finding_until_it_is_good() {
    let world = World::start("1.3").await;
    let before = world.shown().await;
    let good = fs::read(world.files.key()).unwrap();
    fs::write(world.files.key(), rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    wait::until("it is told", async || {
        let text = world.gateway.finding("listener_certificate").await;
        let told = text.contains("proxy.tls.key_file") && text.contains("does not belong");
        if told { Ok(()) } else { Err(text) }
    })
    .await;
    let metrics = world.gateway.metrics().await;
    let refused = [("result", "key_mismatch")];
    assert_eq!(metrics.sum("aisix_listener_certificate_reloads_total", &refused), 1.0);
    let status = world.gateway.status_managed().await["listener_tls"].clone();
    assert!(status["refused"].as_str().unwrap().contains("does not belong"), "{status}");
    assert_eq!(world.shown().await, before);
    // A signer that starts now has the key that fits what is shown, whatever the file holds.
    if let Some(signer) = world.signer() {
        signer.kill();
    }
    assert_eq!(world.shown().await, before);
    fs::write(world.files.key(), good).unwrap();
    wait::until("it is settled", async || {
        let text = world.gateway.finding("listener_certificate").await;
        if text.is_empty() { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(world.shown().await, before);
}

#[tokio::test]
async fn a_signer_that_dies_costs_no_connection_and_is_replaced() {
    let world = World::start("1.3").await;
    let mut kept = world.caller.connect().await.unwrap();
    let seen = under_load(&world, async |seen| {
        for _ in 0..3 {
            let signer = world.signer().expect("a signer");
            signer.kill();
            let start = Instant::now();
            assert_eq!(kept.get("/livez").await.unwrap().0, 200);
            wait::until("another signer serves", async || match world.signer() {
                Some(other) if other.pid != signer.pid => Ok(()),
                _ => Err("none"),
            })
            .await;
            let started = start.elapsed();
            world.shown().await;
            println!("another signer after {started:?}, a handshake after {:?}", start.elapsed());
            more_answers(seen, 20).await;
        }
    })
    .await;
    println!("{} handshakes, {} failed", seen.answered.get(), seen.failed.get());
    assert_eq!(seen.failed.get(), 0, "a handshake waits for the next signer");
    assert_eq!(kept.get("/livez").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_signer_that_hangs_fails_handshakes_and_not_the_worker() {
    let world = World::start("1.3").await;
    let mut kept = world.caller.connect().await.unwrap();
    let signer = world.signer().expect("a signer");
    kill(signer.pid, Signal::SIGSTOP).unwrap();
    let mut failed = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        let fresh = wait::within("a handshake ends", world.caller.connect()).await;
        assert!(fresh.is_err(), "nobody has signed");
        failed.push(start.elapsed());
    }
    println!("handshakes failed after {failed:?}");
    let body = caller::chat("small-1", "hello");
    let answer = kept.chat(projection::CALLER_KEY, &body).await.unwrap();
    assert_eq!(answer.0, 200);
    kill(signer.pid, Signal::SIGCONT).unwrap();
    world.shown().await;
    // One that never answers is replaced.
    kill(signer.pid, Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    wait::until("another signer has come", async || match world.signer() {
        Some(other) if other.pid != signer.pid => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    world.shown().await;
    println!("a stopped signer was replaced after {:?}", start.elapsed());
    assert_eq!(kept.get("/livez").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_gateway_with_tls_ends_in_order_while_a_caller_waits() {
    let mut world = World::start("1.3").await;
    let mut kept = world.caller.connect().await.unwrap();
    assert_eq!(kept.get("/livez").await.unwrap().0, 200);
    // Half a handshake holds up nothing.
    let mut half = TcpStream::connect(world.gateway.proxy()).await.unwrap();
    half.write_all(&[0x16, 3]).await.unwrap();
    let slow = caller::chat("slow-250", "hello");
    let World { gateway, upstream, .. } = &mut world;
    let (answer, status) = tokio::join!(kept.chat(projection::CALLER_KEY, &slow), async {
        wait::until("the request is under way", async || {
            if upstream.ledger().is_empty() { Err("not yet") } else { Ok(()) }
        })
        .await;
        gateway.terminate();
        gateway.end().await
    });
    assert_eq!(answer.unwrap().0, 200);
    assert_eq!(status.code(), Some(0));
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        println!("skipped: only root may look into a worker");
    }
    is_root
}
