//! What the manager gets, over real mutual TLS, and what is said when it is not the manager.

use std::convert::Infallible;
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
use supervisor::cloud::heartbeat::{self, Facts, OutcomeCell, Sender};
use supervisor::cloud::manager::{Manager, Session};
use supervisor::cloud::tls::Credentials;
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
    let credentials = Credentials::new(&authority.identity_trusting(trusted)).unwrap();
    Session::new(Manager {
        url: url.parse().unwrap(),
        dial: Arc::new(DirectDial::new(Duration::from_secs(5))),
        credentials: watch::channel(Arc::new(credentials)).1,
    })
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
        status(200, r#"{"ok":true}"#)
    };
    let manager = FakeManager::start(&authority, true, Box::new(answer)).await;
    let sender = Sender {
        dp_id: "dp-1".to_owned(),
        instance_id: uuid::Uuid::new_v4(),
        hostname: "here".to_owned(),
        started: Instant::now(),
    };
    let (nudge, outcome) = (Arc::new(Notify::new()), OutcomeCell::default());
    let facts = || async { Facts { applied_revision: 7, ..Facts::default() } };
    let session = manager.session(&authority, &authority);
    let hour = Duration::from_secs(3600);
    let task = tokio::spawn(heartbeat::run(
        sender,
        session,
        hour,
        Arc::clone(&nudge),
        outcome.clone(),
        facts,
    ));
    let first =
        timeout(HANG, beaten.wait_for(|beats| beats.len() == 1)).await.unwrap().unwrap()[0].clone();
    assert_eq!(first["applied_revision"], 7);
    nudge.notify_one();
    timeout(HANG, beaten.wait_for(|beats| beats.len() == 2)).await.unwrap().unwrap();
    assert!(outcome.get().last_success.is_some());
    task.abort();
}
