//! What the manager gets, over real mutual TLS, and what is said when it is not the manager.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use supervisor::cloud::heartbeat::{self, Author, Facts, OutcomeCell, Sender};
use supervisor::cloud::manager::{Manager, Session};
use supervisor::cloud::renewal::Hints;
use supervisor::cloud::tls::InForce;
use supervisor::dial::DirectDial;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::pki::Authority;

/// Far beyond what any step takes.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) type Answer = Box<dyn Fn(&str, &Value) -> Response<Full<Bytes>> + Send + Sync>;

/// A manager that wants client certificates, answers as told, and counts connections.
pub(crate) struct FakeManager {
    port: u16,
    connections: Arc<Mutex<usize>>,
    closed: watch::Receiver<usize>,
}

impl FakeManager {
    pub(crate) async fn start(authority: &Authority, keep: bool, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(authority);
        let (answer, connections) = (Arc::new(answer), Arc::new(Mutex::new(0)));
        let counted = Arc::clone(&connections);
        let (close, closed) = watch::channel(0);
        let close = Arc::new(close);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
                let (counted, close) = (Arc::clone(&counted), Arc::clone(&close));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    *counted.lock().unwrap() += 1;
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = Arc::clone(&answer);
                        async move {
                            let path = request.uri().path().to_owned();
                            let agent =
                                request.headers()["user-agent"].to_str().unwrap().to_owned();
                            assert!(agent.starts_with("aisix-dp/"), "{agent}");
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                            Ok::<_, Infallible>(answer(&path, &body))
                        }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    // With `keep` false the server promises to keep the connection and then closes it anyway.
                    let served = server.serve_connection(TokioIo::new(stream), service);
                    if keep {
                        let _ = served.await;
                    } else {
                        let _ = timeout(Duration::from_millis(100), served).await;
                    }
                    close.send_modify(|closed| *closed += 1);
                });
            }
        });
        Self { port, connections, closed }
    }

    fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    pub(crate) fn session(&self, authority: &Authority, trusted: &Authority) -> Session {
        session(&format!("https://127.0.0.1:{}", self.port), authority, trusted)
    }
}

pub(crate) fn session(url: &str, authority: &Authority, trusted: &Authority) -> Session {
    replaceable(url, authority.in_force_trusting(trusted)).1
}

/// A session, and where its identity is replaced.
fn replaceable(url: &str, in_force: InForce) -> (watch::Sender<Arc<InForce>>, Session) {
    let (replace, credentials) = watch::channel(Arc::new(in_force));
    let dial = Arc::new(DirectDial::new(Duration::from_secs(5)));
    (replace, Session::new(Manager { url: url.parse().unwrap(), dial, credentials }))
}

fn acceptor(authority: &Authority) -> TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let server = authority.issue();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(server.pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn status(status: u16, body: &str) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap()
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_is_replaced_when_it_dies() {
    let authority = Authority::new();
    let manager = FakeManager::start(&authority, true, Box::new(|_, _| status(200, "{}"))).await;
    let mut session = manager.session(&authority, &authority);
    for _ in 0..5 {
        session.post("/dp/heartbeat", Bytes::from_static(b"{}")).await.unwrap();
    }
    assert_eq!(manager.connections(), 1);

    let mut forgetful =
        FakeManager::start(&authority, false, Box::new(|_, _| status(200, "{}"))).await;
    let mut session = forgetful.session(&authority, &authority);
    for expected in 1..4 {
        session.post("/dp/heartbeat", Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!(forgetful.connections(), expected);
        timeout(HANG, forgetful.closed.wait_for(|closed| *closed == expected))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_another_identity_comes_into_force() {
    let authority = Authority::new();
    let mut manager =
        FakeManager::start(&authority, true, Box::new(|_, _| status(200, "{}"))).await;
    let url = format!("https://127.0.0.1:{}", manager.port);
    let (replace, mut session) = replaceable(&url, authority.in_force_trusting(&authority));
    session.get("/").await.unwrap();
    replace.send_replace(Arc::new(authority.in_force_trusting(&authority)));
    timeout(HANG, manager.closed.wait_for(|closed| *closed == 1)).await.unwrap().unwrap();
    session.get("/").await.unwrap();
    assert_eq!(manager.connections(), 2);
}

#[tokio::test]
async fn a_request_on_its_way_finishes_on_the_connection_of_the_identity_before() {
    let authority = Arc::new(Authority::new());
    let (arrived, mut arrivals) = watch::channel(0);
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    // Runs on a thread of its own: it holds up its manager.
    let serving = Arc::clone(&authority);
    let (started, manager) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = move |path: &str, _: &Value| {
                arrived.send_modify(|count| *count += 1);
                if path == "/slow" {
                    let _ = gone.lock().unwrap().recv_timeout(HANG);
                }
                status(200, "{}")
            };
            let manager = FakeManager::start(&serving, true, Box::new(answer)).await;
            started.send(manager).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let manager = manager.recv().unwrap();
    let url = format!("https://127.0.0.1:{}", manager.port);
    let (replace, mut session) = replaceable(&url, authority.in_force_trusting(&authority));
    let slow = tokio::spawn(async move {
        let answer = session.get("/slow").await;
        (session, answer)
    });
    timeout(HANG, arrivals.wait_for(|count| *count == 1)).await.unwrap().unwrap();
    replace.send_replace(Arc::new(authority.in_force_trusting(&authority)));
    go.send(()).unwrap();
    let (mut session, answer) = timeout(HANG, slow).await.unwrap().unwrap();
    answer.unwrap();
    assert_eq!(manager.connections(), 1);
    session.get("/").await.unwrap();
    assert_eq!(manager.connections(), 2);
}

#[tokio::test]
async fn a_redirect_is_followed_nowhere() {
    let authority = Authority::new();
    let elsewhere = FakeManager::start(&authority, true, Box::new(|_, _| status(200, "{}"))).await;
    let location = format!("https://127.0.0.1:{}/dp/heartbeat", elsewhere.port);
    let answer = move |_: &str, _: &Value| {
        let mut answer = status(307, "");
        answer.headers_mut().insert("location", location.parse().unwrap());
        answer
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let error = manager.session(&authority, &authority).get("/").await.unwrap_err().to_string();
    assert!(error.contains("307") && error.contains("redirects are not followed"), "{error}");
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn an_error_says_what_was_attempted_and_why_it_failed() {
    let (ours, strange) = (Authority::new(), Authority::new());
    let answer = |path: &str, _: &Value| match path {
        "/page" => status(200, "<!doctype html><title>Console</title>"),
        "/moved" => status(302, ""),
        _ => status(404, r#"{"error":{"code":"DP_NOT_FOUND"}}"#),
    };
    let manager = FakeManager::start(&ours, true, Box::new(answer)).await;
    let url = format!("https://127.0.0.1:{}", manager.port);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = format!("https://{closed}");
    let cases = [
        (
            session(&url, &ours, &ours),
            "/dp/x",
            "status 404: {\"error\":{\"code\":\"DP_NOT_FOUND\"}}",
        ),
        (session(&url, &ours, &ours), "/page", "web console"),
        (session(&url, &ours, &ours), "/moved", "redirects are not followed"),
        (session(&url, &ours, &strange), "/dp/x", "not issued by the bundle's CA"),
        (session(&url, &strange, &ours), "/dp/x", "refused the gateway's certificate"),
        (session(&nobody, &ours, &ours), "/dp/x", "Connection refused"),
        (
            session("https://no-such-name.invalid", &ours, &ours),
            "/dp/x",
            "cannot resolve no-such-name.invalid",
        ),
    ];
    for (mut session, path, words) in cases {
        let error = session.get(path).await.unwrap_err().to_string();
        assert!(error.starts_with("GET https://") && error.contains(path), "{error}");
        assert!(error.contains(words), "{error}\n  lacks {words}");
    }
}

#[tokio::test]
async fn the_first_beat_comes_at_once_and_a_nudge_brings_the_next() {
    let authority = Authority::new();
    let (beats, mut beaten) = watch::channel(Vec::new());
    let answer = move |path: &str, body: &Value| {
        assert_eq!(path, "/dp/heartbeat");
        beats.send_modify(|beats: &mut Vec<Value>| beats.push(body.clone()));
        status(200, r#"{"ok":true,"rotate_cert":true}"#)
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let sender = Sender {
        instance_id: uuid::Uuid::new_v4(),
        hostname: "here".to_owned(),
        started: Instant::now(),
    };
    let (nudge, outcome) = (Arc::new(Notify::new()), OutcomeCell::default());
    let author = Author::new(sender, || {
        Box::pin(async { Facts { applied_revision: 7, ..Facts::default() } })
    });
    let session = manager.session(&authority, &authority);
    let hour = Duration::from_secs(3600);
    let (hints_in, hints) = watch::channel(Hints::default());
    let (again, told) = (Arc::clone(&nudge), outcome.clone());
    let beats = heartbeat::run(Rc::new(author), session, hour, again, told, hints_in);
    let checks = async move {
        let first =
            timeout(HANG, beaten.wait_for(|beats| beats.len() == 1)).await.unwrap().unwrap()[0]
                .clone();
        assert_eq!(first["applied_revision"], 7);
        nudge.notify_one();
        timeout(HANG, beaten.wait_for(|beats| beats.len() == 2)).await.unwrap().unwrap();
        assert!(outcome.get().last_success.is_some());
        assert!(hints.borrow().rotate_now, "what the Cloud wishes is passed on");
    };
    tokio::select! {
        () = beats => panic!("the heartbeat never ends"),
        () = checks => {}
    }
}
