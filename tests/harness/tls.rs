//! Callers that speak TLS with the proxy listener.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::Authority;
use crate::{Gateway, wait};

/// A listener's certificate and key in a folder of their own, to be replaced.
#[derive(Debug)]
pub struct ListenerFiles {
    folder: PathBuf,
}

impl ListenerFiles {
    /// A pair that this authority has issued, in `folder`.
    pub fn new(folder: &Path, authority: &Authority) -> Self {
        let files = Self { folder: folder.to_owned() };
        files.replace(authority);
        files
    }

    /// The certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("tls.crt")
    }

    /// Its key.
    pub fn key(&self) -> PathBuf {
        self.folder.join("tls.key")
    }

    /// Another pair in place of the one before, each file by renaming.
    pub fn replace(&self, authority: &Authority) {
        let issued = authority.server();
        for (from, to) in [(issued.certificate, self.certificate()), (issued.key, self.key())] {
            let beside = to.with_extension("new");
            fs::copy(from, &beside).expect("a file of the listener");
            fs::rename(beside, to).expect("a file of the listener");
        }
    }

    /// What goes below `proxy.tls`.
    pub fn settings(&self, min_version: &str) -> Value {
        serde_json::json!({
            "cert_file": self.certificate(),
            "key_file": self.key(),
            "min_version": min_version,
        })
    }
}

/// Who calls, and whom it trusts. Clones share the sessions that they may resume.
#[derive(Clone, Debug)]
pub struct TlsCaller {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// One connection.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    host: String,
}

impl TlsCaller {
    /// Speaks the newest version with whom the authority has certified.
    pub fn new(gateway: &Gateway, authority: &Authority) -> Self {
        Self::with(gateway, authority, &[&TLS13], &[])
    }

    /// Speaks TLS 1.2 only.
    pub fn older(gateway: &Gateway, authority: &Authority) -> Self {
        Self::with(gateway, authority, &[&TLS12], &[])
    }

    /// The same with other versions, and protocols to choose from.
    pub fn with(
        gateway: &Gateway,
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(authority.certificate()).expect("a root");
        roots.add(root).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions that there are")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self { address: gateway.proxy(), config: Arc::new(config) }
    }

    /// The same caller without any session to resume.
    #[must_use]
    pub fn stranger(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = rustls::client::Resumption::disabled();
        Self { address: self.address, config: Arc::new(config) }
    }

    /// Connects, handshake included.
    pub async fn connect(&self) -> io::Result<TlsConnection> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        Ok(TlsConnection { stream, host: self.address.to_string() })
    }

    /// Asks for a path over a connection of its own: the status and the body.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        self.connect().await?.get(path).await
    }

    /// Waits until every worker serves configuration, the signer too.
    ///
    /// # Panics
    /// If the gateway ends before.
    pub async fn wait_until_ready(&self, gateway: &mut Gateway) {
        wait::until("/readyz answers with 200 over TLS", async || {
            if let Some(status) = gateway.process.ended() {
                panic!("aisix ended ({status}):\n{}", gateway.process.log_tail());
            }
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        wait::until("every worker serves", async || {
            let answer = crate::client::fetch(gateway.status(), "/status/ready").await;
            let ready = answer.is_ok_and(|answer| answer.status == 200);
            if !ready {
                return Err("not ready".to_owned());
            }
            let metrics = gateway.metrics().await;
            let up = |role| metrics.sum("aisix_workers_up", &[("role", role)]);
            let (proxies, signers) = (up("proxy"), up("signer"));
            let started = gateway.proxies().len() as f64;
            if proxies >= started && signers >= 1.0 {
                Ok(())
            } else {
                Err(format!("{proxies} of {started} proxy workers, {signers} signers"))
            }
        })
        .await;
    }
}

impl TlsConnection {
    /// Asks for a path: the status and the body.
    pub async fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.host);
        self.exchange(head.as_bytes()).await
    }

    /// Asks a model, unary, with this caller key.
    pub async fn chat(&mut self, key: &str, body: &Value) -> io::Result<(u16, String)> {
        let body = body.to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.exchange(request.as_bytes()).await
    }

    /// Sends a request whose answer says how long it is.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, String)> {
        self.stream.write_all(request).await?;
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let status = head.get(9..12).and_then(|status| status.parse().ok());
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse().ok())?
                });
                let (Some(status), Some(length)) = (status, length) else {
                    return Err(io::Error::other(format!("no status and no length: {head}")));
                };
                let length: usize = length;
                if body.len() >= length {
                    return Ok((status, body.to_owned()));
                }
            }
            if self.stream.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether it resumed a session.
    pub fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The version that is spoken.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.stream.get_ref().1.protocol_version()
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<Vec<u8>> {
        self.stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// The certificate that was shown.
    pub fn certificate(&self) -> Vec<u8> {
        let chain = self.stream.get_ref().1.peer_certificates().unwrap_or_default();
        chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default()
    }

    /// Both ends: the listener's, then ours.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let socket = self.stream.get_ref().0;
        Ok((socket.peer_addr()?, socket.local_addr()?))
    }

    /// The stream, to speak something else over it.
    pub fn into_stream(self) -> TlsStream<TcpStream> {
        self.stream
    }
}
