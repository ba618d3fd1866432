//! A handshake that remembers what the other side has shown, whatever comes of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cloud::tls::{Identity, Material, Protocol};
use crate::process::{TcpFacts, tcp_facts};

/// How long is waited for a judgement on our certificate, which TLS 1.3 sends after the handshake.
const VERDICT: Duration = Duration::from_millis(250);

/// Whom to take for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Who has a certificate of the bundle's CA that is valid now.
    Bundle,
    /// The same at the time for which the certificate was made: to ask what time it is.
    AnyTime,
    /// Anybody, without showing our own certificate: to see who it is.
    Anybody,
}

/// Why there is no TLS.
#[derive(Debug)]
pub(super) enum Failure {
    /// A step failed.
    Io(io::Error),
    /// A step took too long; what the kernel has seen of the other side since the connection was handed over.
    Silent(TcpFacts),
    /// It agreed on another protocol, or none.
    Protocol(Option<String>),
    /// Our own side is not in order.
    Own(String),
}

/// What came of a handshake.
pub(super) struct Attempt {
    /// The stream, or why there is none.
    pub result: Result<TlsStream<TcpStream>, Failure>,
    /// The certificate that the other side has shown, in DER.
    pub shown: Option<Vec<u8>>,
}

/// TLS over `stream` with who must be called `name`, within `limit`.
pub(super) async fn handshake(
    stream: TcpStream,
    name: &str,
    protocol: Protocol,
    identity: &Identity,
    trust: Trust,
    limit: Duration,
) -> Attempt {
    let failed = |words: String| Attempt { result: Err(Failure::Own(words)), shown: None };
    let verifier = match Watching::new(identity, trust) {
        Ok(verifier) => Arc::new(verifier),
        Err(words) => return failed(words),
    };
    let config = match config(identity, &verifier, protocol) {
        Ok(config) => config,
        Err(words) => return failed(words),
    };
    let Ok(name) = ServerName::try_from(name.to_owned()) else {
        return failed(format!("{name} is no name for a server"));
    };
    let watch = Watch::new(&stream);
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let result = match timeout(limit, connecting).await {
        Err(_) => Err(Failure::Silent(watch.facts())),
        Ok(Err(error)) => Err(Failure::Io(error)),
        Ok(Ok(stream)) => agreed(stream, protocol),
    };
    let shown = verifier.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    Attempt { result, shown }
}

fn agreed(
    stream: TlsStream<TcpStream>,
    protocol: Protocol,
) -> Result<TlsStream<TcpStream>, Failure> {
    match stream.get_ref().1.alpn_protocol() {
        Some(chosen) if chosen == protocol.alpn() => Ok(stream),
        None if protocol == Protocol::Http1 => Ok(stream),
        other => {
            let other = other.map(|it| String::from_utf8_lossy(it).into_owned());
            Err(Failure::Protocol(other))
        }
    }
}

/// Waits a moment for the other side's judgement on our certificate. What it says of its own accord is given back.
pub(super) async fn verdict(stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
    let mut first = [0_u8; 1];
    match timeout(VERDICT, stream.read(&mut first)).await {
        // It waits for us.
        Err(_) => Ok(Vec::new()),
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) => Ok(first.to_vec()),
        Ok(Err(error)) => Err(error),
    }
}

fn config(
    identity: &Identity,
    verifier: &Arc<Watching>,
    protocol: Protocol,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as Arc<dyn ServerCertVerifier>);
    let mut config = match verifier.trust {
        Trust::Anybody => builder.with_no_client_auth(),
        Trust::Bundle | Trust::AnyTime => {
            let own = Material::of(identity).map_err(|error| error.to_string())?;
            builder.with_client_auth_cert(own.chain, own.key).map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(config)
}

/// Verifies as it is told to, and keeps what it was shown.
#[derive(Debug)]
struct Watching {
    trust: Trust,
    provider: CryptoProvider,
    inner: Arc<WebPkiServerVerifier>,
    shown: Mutex<Option<Vec<u8>>>,
}

impl Watching {
    fn new(identity: &Identity, trust: Trust) -> Result<Self, String> {
        let provider = aws_lc_rs::default_provider();
        let roots = Material::of(identity).map_err(|error| error.to_string())?.roots;
        let inner = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(provider.clone()),
        )
        .build()
        .map_err(|error| error.to_string())?;
        Ok(Self { trust, provider, inner, shown: Mutex::default() })
    }
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaf.to_vec());
        let now = match self.trust {
            Trust::Anybody => return Ok(ServerCertVerified::assertion()),
            Trust::Bundle => now,
            Trust::AnyTime => its_own_time(leaf).unwrap_or(now),
        };
        self.inner.verify_server_cert(leaf, issuers, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The first moment for which a certificate was made.
fn its_own_time(leaf: &[u8]) -> Option<UnixTime> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(certificate.validity().not_before.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds.saturating_add(1))))
}

/// What the kernel sees of a connection from now on.
pub(super) struct Watch(Option<OwnedFd>, TcpFacts);

impl Watch {
    pub fn new(stream: &TcpStream) -> Self {
        let facts = tcp_facts(stream.as_fd()).unwrap_or_default();
        Self(stream.as_fd().try_clone_to_owned().ok(), facts)
    }

    /// What has come since.
    pub fn facts(&self) -> TcpFacts {
        let now =
            self.0.as_ref().and_then(|socket| tcp_facts(socket.as_fd()).ok()).unwrap_or_default();
        TcpFacts {
            bytes_in: now.bytes_in.saturating_sub(self.1.bytes_in),
            segments_in: now.segments_in.saturating_sub(self.1.segments_in),
            retransmits: now.retransmits,
        }
    }
}
