//! Others that are not what a gateway looks for: each misbehaves in one way, and in no other.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, ServerFiles};

/// Somebody who listens on loopback until this is dropped.
#[derive(Debug)]
pub struct Trouble {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// How somebody speaks TLS.
#[derive(Debug)]
pub struct Speaks<'a> {
    /// What is shown.
    pub shows: ServerFiles,
    /// Whose clients are accepted; `None` = anybody.
    pub trusts: Option<&'a Authority>,
    /// Protocols inside TLS.
    pub protocols: &'a [&'a str],
    /// Versions.
    pub versions: &'a [&'static SupportedProtocolVersion],
}

/// An HTTP answer: status, content type, further header, body.
pub type Reply = (u16, &'static str, Option<(&'static str, &'static str)>, &'static str);

/// A fatal alert of TLS (RFC 8446, section 6), in clear.
pub fn alert(number: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, number]
}

impl Trouble {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as the URL of a manager.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// One who takes connections and says nothing.
    pub async fn silent() -> Self {
        Self::with(|mut stream| async move {
            let mut heard = [0; 1024];
            while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {}
        })
        .await
    }

    /// One who speaks first, and then no more.
    pub async fn saying(words: &'static [u8]) -> Self {
        Self::with(move |mut stream| async move {
            let _ = stream.write_all(words).await;
            let mut heard = [0; 1024];
            while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {}
        })
        .await
    }

    /// One who answers whatever comes first with these bytes, and closes.
    pub async fn answering(bytes: Vec<u8>) -> Self {
        let bytes: Arc<[u8]> = bytes.into();
        Self::with(move |mut stream| {
            let bytes = Arc::clone(&bytes);
            async move {
                let mut heard = [0; 4096];
                if stream.read(&mut heard).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                }
                // What still comes is taken, so that nothing of the answer is lost.
                while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {}
            }
        })
        .await
    }

    /// One who passes on to `to`, and only the first bytes of what comes back.
    pub async fn passing(to: SocketAddr, bytes: u64) -> Self {
        Self::with(move |stream| async move {
            let Ok(other) = TcpStream::connect(to).await else { return };
            let (mut from_us, mut to_us) = stream.into_split();
            let (from_them, mut to_them) = other.into_split();
            let there = tokio::spawn(async move { copy(&mut from_us, &mut to_them).await });
            let _ = copy(&mut from_them.take(bytes), &mut to_us).await;
            let _ = there.await;
        })
        .await
    }

    /// A forward proxy that consents to everything and leads to `to`.
    pub async fn proxy_to(to: SocketAddr) -> Self {
        Self::with(move |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let Ok(mut other) = TcpStream::connect(to).await else { return };
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
        })
        .await
    }

    /// One who speaks TLS and answers every request of HTTP/1.1 so; with `None` never.
    pub async fn https(speaks: Speaks<'_>, reply: Option<Reply>) -> Self {
        Self::https_at(Ipv4Addr::LOCALHOST, speaks, reply).await
    }

    /// The same at another address of the test's own network.
    pub async fn https_at(at: Ipv4Addr, speaks: Speaks<'_>, reply: Option<Reply>) -> Self {
        let tls = TlsAcceptor::from(Arc::new(config(&speaks)));
        Self::with_at(at, move |stream| {
            let tls = tls.clone();
            async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(move |_: Request<Incoming>| async move {
                    let Some((status, content_type, header, body)) = reply else {
                        return std::future::pending().await;
                    };
                    let mut response = Response::builder().status(status);
                    response = response.header("content-type", content_type);
                    if let Some((name, value)) = header {
                        response = response.header(name, value);
                    }
                    let body = Full::new(Bytes::from_static(body.as_bytes()));
                    Ok::<_, Infallible>(response.body(body).expect("an answer"))
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await
    }

    /// One who speaks TLS and inside it answers whatever comes first with these bytes; with none, never.
    pub async fn tls_saying(speaks: Speaks<'_>, words: &'static [u8]) -> Self {
        let tls = TlsAcceptor::from(Arc::new(config(&speaks)));
        Self::with(move |stream| {
            let tls = tls.clone();
            async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let mut heard = [0; 4096];
                if stream.read(&mut heard).await.is_ok_and(|read| read > 0) && !words.is_empty() {
                    let _ = stream.write_all(words).await;
                    let _ = stream.shutdown().await;
                }
                while stream.read(&mut heard).await.is_ok_and(|read| read > 0) {}
            }
        })
        .await
    }

    async fn with<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with_at(Ipv4Addr::LOCALHOST, serve).await
    }

    async fn with_at<F>(at: Ipv4Addr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((at, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn config(speaks: &Speaks<'_>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(speaks.versions)
        .expect("protocol versions");
    let builder = match speaks.trusts {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(authority.certificate()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("an authority for clients"))
        }
    };
    let key = PrivateKeyDer::from_pem_file(&speaks.shows.key).expect("a key");
    let chain = certificates(&speaks.shows.certificate);
    let mut config = builder.with_single_cert(chain, key).expect("a certificate with its key");
    config.alpn_protocols = speaks.protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).expect("a readable certificate");
    found.map(|certificate| certificate.expect("a certificate")).collect()
}
