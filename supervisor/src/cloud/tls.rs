//! The gateway's side of mutual TLS: which certificate it shows, and whose it accepts.
//!
//! Trusted are the bundle's issuers and the configured extra ones, never the platform's. What is in force travels as one
//! value in a [`watch`](tokio::sync::watch) channel, so that a rotation replaces all of it under every session at once: a
//! session notices, lets what is on the way finish on the old connection, and dials anew.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use shared::secret::Secret;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bundle::Bundle;
use crate::pem;

/// A certificate bundle, as PEM text.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Leaf first, then its issuers.
    pub chain_pem: String,
    /// Private key of the leaf.
    pub key_pem: Secret<String>,
    /// Issuers of the other side's certificate.
    pub roots_pem: String,
    /// More of them, from the configuration.
    pub extra_roots_pem: Option<String>,
}

/// Why a bundle cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A part is not PEM, or holds nothing.
    #[error("cannot read the {part} of the certificate bundle: {reason}")]
    Part {
        /// Which of chain, private key, CA certificates, extra CA certificates.
        part: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The parts do not make an identity together.
    #[error("certificate and private key of the bundle cannot be used together: {0}")]
    Together(#[source] rustls::Error),
}

/// An identity, ready for use: one configuration per protocol, since the manager tells them apart by ALPN.
#[derive(Clone, Debug)]
pub struct Credentials {
    http1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
}

/// What is in force: what to show, whom to trust, and who that says we are. One value, so that nothing is ever half new.
#[derive(Clone, Debug)]
pub struct InForce {
    credentials: Credentials,
    /// The bundle that the credentials are made of; `None` for an etcd of one's own.
    pub bundle: Option<Bundle>,
}

/// Whoever connects looks here for what is in force.
pub type CredentialsInForce = watch::Receiver<Arc<InForce>>;

impl InForce {
    /// Makes a checked bundle ready for use.
    pub fn new(bundle: Bundle) -> Result<Self, IdentityError> {
        let credentials = Credentials::new(&Identity {
            chain_pem: bundle.chain_pem.clone(),
            key_pem: bundle.key_pem.clone(),
            roots_pem: bundle.roots_pem.clone(),
            extra_roots_pem: bundle.extra_roots_pem.clone(),
        })?;
        Ok(Self { credentials, bundle: Some(bundle) })
    }

    /// Credentials that say nothing about an environment.
    pub fn without_bundle(credentials: Credentials) -> Self {
        Self { credentials, bundle: None }
    }

    /// The data plane that heartbeats are sent for.
    pub fn dp_id(&self) -> Option<&str> {
        self.bundle.as_ref().and_then(|bundle| bundle.dp_id.as_deref())
    }

    /// See [`Credentials::connect`].
    pub async fn connect(
        &self,
        stream: TcpStream,
        server_name: &str,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.credentials.connect(stream, server_name, protocol).await
    }
}

/// What is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The manager's REST interface.
    Http1,
    /// The manager's etcd interface.
    H2,
}

impl Protocol {
    /// Its name in TLS.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }
}

impl Credentials {
    /// Checks the bundle's parts and makes them ready for use.
    pub fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let Material { chain, key, roots } = Material::of(identity)?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Together)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(IdentityError::Together)?;
        let speaking = |protocol: Protocol| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.alpn().to_vec()];
            Arc::new(config)
        };
        Ok(Self { http1: speaking(Protocol::Http1), h2: speaking(Protocol::H2) })
    }

    /// TLS over `stream` with the server that must be called `server_name`.
    pub async fn connect(
        &self,
        stream: TcpStream,
        server_name: &str,
        protocol: Protocol,
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::H2 => &self.h2,
        };
        let name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(chosen) if chosen == protocol.alpn() => Ok(stream),
            // A server without ALPN may well speak HTTP/1.1; nothing speaks h2 without having agreed to it.
            None if protocol == Protocol::Http1 => Ok(stream),
            _ => Err(io::Error::other(format!(
                "the server does not offer {}: is this the address of the manager?",
                String::from_utf8_lossy(protocol.alpn())
            ))),
        }
    }
}

/// The parts of an identity, read.
pub struct Material {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Private key of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// Whom to trust.
    pub roots: RootCertStore,
}

impl Material {
    /// Reads an identity.
    pub fn of(identity: &Identity) -> Result<Self, IdentityError> {
        let chain = certificates("certificate", &identity.chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes())
            .map_err(|error| part("private key", pem::fault(&error)))?;
        let mut roots = RootCertStore::empty();
        let extra = identity.extra_roots_pem.as_deref();
        for (name, pem) in [("CA certificates", Some(identity.roots_pem.as_str()))]
            .into_iter()
            .chain([("extra CA certificates", extra)])
        {
            for certificate in pem.map_or(Ok(Vec::new()), |pem| certificates(name, pem))? {
                roots.add(certificate).map_err(|error| part(name, error))?;
            }
        }
        Ok(Self { chain, key, roots })
    }
}

fn part(part: &'static str, error: impl ToString) -> IdentityError {
    IdentityError::Part { part, reason: error.to_string() }
}

fn certificates(
    name: &'static str,
    text: &str,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(part(name, "no certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(part(name, pem::fault(&error))),
    }
}

/// What TLS had to say in a chain of errors, in words that help; `None` if TLS had no part in it.
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    find(error).map(in_words)
}

/// The error of TLS in a chain of errors.
pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // The source of an `io::Error` is the source of what it wraps, not what it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn in_words(error: &rustls::Error) -> String {
    match error {
        // A bad signature is that of another CA of the same name.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "the server's certificate is not issued by the bundle's CA (nor by managed.cp_ca_cert_file)".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("the server's certificate is for another name: {error}"),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => format!("the server's certificate is not valid now; is this machine's clock right? {error}"),
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError),
        ) => format!("the server refused the gateway's certificate ({alert:?})"),
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS on this port".to_owned(),
        other => format!("TLS: {other}"),
    }
}
