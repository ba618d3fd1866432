//! A manager that is not the local Cloud's: it accepts everything and remembers exactly how it came.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;

/// One request to the manager.
#[derive(Clone, Debug)]
pub struct Report {
    /// `METHOD path`.
    pub route: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Value,
}

/// A running manager, for clients with a certificate of one authority, over HTTP/1.1 only.
#[derive(Debug)]
pub struct Manager {
    address: SocketAddr,
    reports: Arc<Mutex<Vec<Report>>>,
    accepting: JoinHandle<()>,
}

impl Manager {
    /// Starts one with a certificate of that authority.
    pub async fn start(authority: &Authority) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), authority, &[authority]).await
    }

    /// Starts one at that address, with a certificate of `server`, for clients with one of `clients`.
    pub async fn start_at(address: SocketAddr, server: &Authority, clients: &[&Authority]) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("a bound port");
        let reports = Arc::default();
        let tls = TlsAcceptor::from(Arc::new(tls(server, clients)));
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&reports)));
        Self { address, reports, accepting }
    }

    /// Stops listening. Connections that are there are served on.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a gateway is told as `AISIX_MANAGED__CP_BASE_URL`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What has come so far to a route, named as `METHOD path`.
    pub fn reports(&self, route: &str) -> Vec<Report> {
        let reports = self.reports.lock().expect("no test panics here");
        reports.iter().filter(|report| report.route == route).cloned().collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// How a server with a certificate of `server` speaks TLS with clients that have one of `trusted`.
pub fn tls(server: &Authority, trusted: &[&Authority]) -> ServerConfig {
    let server = server.server();
    let certificates = |path: &Path| -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(path).expect("a readable certificate");
        found.map(|certificate| certificate.expect("a certificate")).collect()
    };
    let mut roots = RootCertStore::empty();
    for authority in trusted {
        roots.add_parsable_certificates(certificates(authority.certificate()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("an authority for clients");
    let key = PrivateKeyDer::from_pem_file(&server.key).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&server.certificate), key)
        .expect("a certificate with its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, reports: Arc<Mutex<Vec<Report>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, tls.clone(), Arc::clone(&reports)));
    }
}

/// A client that cannot be served is told so by the closed connection, and shows in what does not arrive.
async fn serve(stream: TcpStream, tls: TlsAcceptor, reports: Arc<Mutex<Vec<Report>>>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let reports = Arc::clone(&reports);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            reports.lock().expect("no test panics here").push(Report {
                route: format!("{} {}", head.method, head.uri.path()),
                headers: head.headers,
                body: serde_json::from_slice(&body).unwrap_or_default(),
            });
            // Good for every route: a report is taken, and every key may spend.
            let answer = Bytes::from_static(br#"{"ok":true,"allow":true}"#);
            Ok::<_, Infallible>(Response::new(Full::new(answer)))
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
