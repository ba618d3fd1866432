//! Whether a certificate bundle is whole: PEM that can be read, a key that belongs to the leaf, a chain to the CA, valid
//! now, usable as a client, and an identity in its names. Pure: the time is passed in.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error as TlsError, RootCertStore};
use shared::secret::Secret;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::identity::Identity;
use crate::pem;

/// The three parts of a bundle, as PEM text.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Leaf first, then its issuers.
    pub chain: String,
    /// Private key of the leaf: PKCS#8, SEC1 or PKCS#1.
    pub key: Secret<String>,
    /// Certificates of the Cloud's CA.
    pub roots: String,
}

/// What a leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Whom it names.
    pub identity: Identity,
    /// Valid from, in seconds since 1970.
    pub not_before_unix: i64,
    /// Valid until, in seconds since 1970.
    pub not_after_unix: i64,
}

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Not PEM, or nothing of the kind in it.
    #[error("the {part} is not usable PEM: {reason}")]
    Pem {
        /// Which part.
        part: &'static str,
        /// Why.
        reason: String,
    },
    /// The leaf is no X.509 certificate.
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    /// The key is of a kind that cannot be used.
    #[error("the private key cannot be used: {0}")]
    Key(TlsError),
    /// The key is another certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The leaf's time is over.
    #[error("the certificate expired on {}; get a new bundle for this environment from AISIX Cloud", date(*.0))]
    Expired(i64),
    /// The leaf's time has not come.
    #[error("the certificate is not valid before {}; is this machine's clock right?", date(*.0))]
    NotYetValid(i64),
    /// The leaf does not descend from the CA.
    #[error("the certificate is not issued by the CA of the bundle")]
    UnknownIssuer,
    /// The leaf is for something else, a server for example.
    #[error("the certificate may not be used by a client: its extended key usage lacks clientAuth")]
    NotForClients,
    /// The leaf may sign other certificates.
    #[error("the certificate is that of a CA, not that of a client")]
    IsCa,
    /// The leaf's key may not be used to sign a handshake.
    #[error("the certificate may not be used by a client: its key usage lacks digitalSignature")]
    KeyUsage,
    /// What is given as the CA is none.
    #[error("the CA bundle holds no certificate of a CA")]
    NoCa,
    /// The CA's time is over, or has not come.
    #[error("the CA that issued the certificate is not valid now: its certificate is valid from {} until {}", date(*.0), date(*.1))]
    CaNotValid(i64, i64),
    /// The chain is refused for another reason.
    #[error("the certificate chain is refused: {0}")]
    Chain(TlsError),
    /// The leaf names no environment.
    #[error("the certificate names no environment: it needs a URI name x-aisix://env/<env_id>")]
    NoEnvironment,
    /// The leaf names no data plane, and must.
    #[error("the certificate names no data plane: it needs a URI name x-aisix://dp/<dp_id>")]
    NoDataPlane,
    /// The leaf names two environments, or two data planes.
    #[error("the certificate is ambiguous: it names both {0} and {1}")]
    TwoNames(String, String),
    /// The leaf names something that is no id.
    #[error("the certificate's URI name {0:?} does not end in an id")]
    BadName(String),
}

impl Fault {
    /// What kind of fault it is, for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pem { .. } | Self::Certificate(_) => "pem",
            Self::Key(_) => "key",
            Self::KeyMismatch => "key_mismatch",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::NotForClients | Self::IsCa | Self::KeyUsage => "usage",
            Self::NoCa | Self::CaNotValid(..) => "ca",
            Self::Chain(_) => "chain",
            Self::NoEnvironment | Self::NoDataPlane | Self::TwoNames(..) | Self::BadName(_) => {
                "names"
            }
        }
    }
}

/// A moment as people read it.
pub fn date(unix: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| unix.to_string())
}

impl Parts {
    /// What the leaf says, if every part can be read and the key belongs to it. Says nothing about time and trust.
    pub fn read(&self) -> Result<Leaf, Fault> {
        let chain = certificates("certificate", &self.chain)?;
        certificates("CA bundle", &self.roots)?;
        let leaf = leaf(chain.first().ok_or_else(|| nothing("certificate"))?)?;
        let key = self.key()?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            TlsError::InconsistentKeys(_) => Fault::KeyMismatch,
            error => Fault::Key(error),
        })?;
        Ok(leaf)
    }

    /// Whether a server that trusts the CA would accept this chain from a client at the time `now`.
    pub fn verify(&self, leaf: &Leaf, now: SystemTime) -> Result<(), Fault> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_unix = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now_unix > leaf.not_after_unix {
            return Err(Fault::Expired(leaf.not_after_unix));
        }
        if now_unix < leaf.not_before_unix {
            return Err(Fault::NotYetValid(leaf.not_before_unix));
        }
        let chain = certificates("certificate", &self.chain)?;
        let mut roots = RootCertStore::empty();
        let mut not_valid = None;
        for root in certificates("CA bundle", &self.roots)? {
            let Some((from, until)) = ca(&root)? else { continue };
            if !(from..=until).contains(&now_unix) {
                not_valid = Some(Fault::CaNotValid(from, until));
                continue;
            }
            roots
                .add(root)
                .map_err(|error| Fault::Pem { part: "CA bundle", reason: error.to_string() })?;
        }
        if roots.is_empty() {
            return Err(not_valid.unwrap_or(Fault::NoCa));
        }
        let (leaf, issuers) = chain.split_first().ok_or_else(|| nothing("certificate"))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
                .build()
                .map_err(|error| Fault::Pem { part: "CA bundle", reason: error.to_string() })?;
        match verifier.verify_client_cert(leaf, issuers, UnixTime::since_unix_epoch(now)) {
            Ok(_) => usage(leaf),
            Err(error) => match (chain_fault(error), not_valid) {
                // It may well be the issuer that was left out.
                (Fault::UnknownIssuer, Some(not_valid)) => Err(not_valid),
                (fault, _) => usage(leaf).and(Err(fault)),
            },
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Fault> {
        PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes()).map_err(|error| {
            let reason = if self.key.expose().contains("ENCRYPTED") {
                "it is encrypted; supply it decrypted".to_owned()
            } else {
                pem::fault(&error).to_owned()
            };
            Fault::Pem { part: "private key", reason }
        })
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn nothing(part: &'static str) -> Fault {
    Fault::Pem { part, reason: "no certificate in it".to_owned() }
}

/// All certificates of a PEM text; at least one.
fn certificates(part: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(nothing(part)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Fault::Pem { part, reason: pem::fault(&error).to_owned() }),
    }
}

fn chain_fault(error: TlsError) -> Fault {
    match error {
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Fault::UnknownIssuer,
        TlsError::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => Fault::NotForClients,
        error => Fault::Chain(error),
    }
}

/// From when until when this is a CA; `None` if it is none. Before version 3 certificates did not say.
fn ca(der: &CertificateDer<'_>) -> Result<Option<(i64, i64)>, Fault> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| Fault::Pem { part: "CA bundle", reason: error.to_string() })?;
    if certificate.version() == X509Version::V3 && !certificate.is_ca() {
        return Ok(None);
    }
    let validity = certificate.validity();
    Ok(Some((validity.not_before.timestamp(), validity.not_after.timestamp())))
}

/// Whether a client may show this leaf. What a verifier leaves to whoever it verifies for.
fn usage(der: &CertificateDer<'_>) -> Result<(), Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::Certificate(error.to_string());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| failed(&error))?;
    if certificate.is_ca() {
        return Err(Fault::IsCa);
    }
    match certificate.key_usage().map_err(|error| failed(&error))? {
        Some(usage) if !usage.value.digital_signature() => Err(Fault::KeyUsage),
        _ => Ok(()),
    }
}

fn leaf(der: &CertificateDer<'_>) -> Result<Leaf, Fault> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| Fault::Certificate(error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| Fault::Certificate(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    Ok(Leaf {
        identity: Identity::from_names(uris)?,
        not_before_unix: certificate.validity().not_before.timestamp(),
        not_after_unix: certificate.validity().not_after.timestamp(),
    })
}
