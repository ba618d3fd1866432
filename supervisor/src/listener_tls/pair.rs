//! A certificate and its key, read from their files and checked: PEM that can be read, a key that belongs to the
//! certificate, of a kind that callers know, valid now, and usable by a server.
//!
//! The key leaves this process's memory before [`Pair::read`] returns: what is kept is sealed memory that nobody maps, to be
//! handed to each signer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign;
use shared::memory;
use shared::signing::{KeyForm, KeyId, KeyKind, scheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::private_key::{self, PrivateKey};
use crate::bundle::check::date;
use crate::pem;
use crate::settings::ListenerFiles;

const CERTIFICATE_KEY: &str = "proxy.tls.cert_file";
const KEY_KEY: &str = "proxy.tls.key_file";

/// A certificate and its key, good to be used.
#[derive(Debug)]
pub struct Pair {
    /// The certificate and its issuers, as DER, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Which key it is.
    pub id: KeyId,
    /// Its kind.
    pub kind: KeyKind,
    /// How it is written down.
    pub form: KeyForm,
    /// The key, sealed.
    pub key: OwnedFd,
    /// Valid from, in seconds since 1970.
    pub not_before_unix: i64,
    /// Valid until, in seconds since 1970.
    pub not_after_unix: i64,
}

/// What is wrong with one of the files.
#[derive(Debug, thiserror::Error)]
#[error("{key} ({}): {fault}", path.display())]
pub struct PairError {
    key: &'static str,
    path: PathBuf,
    /// What it is.
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read.
    #[error("cannot be read: {0}; check the path, and that the user of aisix may read it")]
    Read(io::Error),
    /// It is no PEM, or has no certificate in it.
    #[error(
        "holds no usable PEM certificate: {0}; it must begin with the listener's own, then its issuers"
    )]
    Pem(&'static str),
    /// The leaf is no X.509 certificate.
    #[error("the certificate cannot be parsed: {0}; issue it anew")]
    Certificate(String),
    /// Its time is over.
    #[error("the certificate expired on {}; put a new one there, with its key", date(*.0))]
    Expired(i64),
    /// Its time has not come.
    #[error("the certificate is not valid before {}; is this machine's clock right?", date(*.0))]
    NotYetValid(i64),
    /// It is for something else.
    #[error(
        "the certificate may not be used by a server: its extended key usage lacks serverAuth; issue one for servers"
    )]
    NotForServers,
    /// The key cannot be had from the file.
    #[error("{0}")]
    PrivateKey(#[from] private_key::Fault),
    /// The key is of a kind that cannot be used.
    #[error(
        "the key is damaged or of a kind that cannot be used; use ECDSA on P-256 or P-384, Ed25519, or RSA from 2048 bits"
    )]
    KeyKind,
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate in {}; both files must be of one pair", .0.display())]
    Mismatch(PathBuf),
    /// It cannot be handed over.
    #[error("cannot be sealed for the signer: {0}")]
    Seal(io::Error),
}

impl PairError {
    /// The file and the reason, if it could not be read.
    pub fn unreadable(&self) -> Option<(&Path, io::ErrorKind)> {
        match &self.fault {
            Fault::Read(error) => Some((&self.path, error.kind())),
            _ => None,
        }
    }
}

impl Fault {
    /// What kind of fault it is, for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Pem(_) | Self::Certificate(_) => "pem",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::NotForServers => "usage",
            Self::PrivateKey(_) | Self::KeyKind => "key",
            Self::Mismatch(_) => "key_mismatch",
            Self::Seal(_) => "system",
        }
    }
}

/// What the leaf says.
struct Leaf {
    spki: Vec<u8>,
    not_before_unix: i64,
    not_after_unix: i64,
}

impl Pair {
    /// Reads and checks both files, for the time `now`.
    pub fn read(files: &ListenerFiles, now: SystemTime) -> Result<Self, PairError> {
        let of_certificate =
            |fault| PairError { key: CERTIFICATE_KEY, path: files.certificate.clone(), fault };
        let of_key = |fault| PairError { key: KEY_KEY, path: files.key.clone(), fault };
        let chain = chain(&files.certificate).map_err(of_certificate)?;
        let leaf = chain.first().ok_or(Fault::Pem("there is none in it"));
        let leaf = leaf.and_then(|der| Leaf::read(der)).map_err(of_certificate)?;
        let key = private_key::read(&files.key).map_err(|error| of_key(Fault::Read(error)))?;
        let key = PrivateKey::from_pem(&key).map_err(|fault| of_key(fault.into()))?;
        let kind = check_key(&key, &leaf.spki, &files.certificate).map_err(of_key)?;
        leaf.check_time(now).map_err(of_certificate)?;
        let sealed = memory::sealed_secret("aisix-listener-key", &key.der)
            .map_err(|error| of_key(Fault::Seal(error)))?;
        let mut id = KeyId::default();
        id.copy_from_slice(digest(&SHA256, &leaf.spki).as_ref());
        let Leaf { not_before_unix, not_after_unix, .. } = leaf;
        Ok(Self { chain, id, kind, form: key.form, key: sealed, not_before_unix, not_after_unix })
    }

    /// Whether both are one certificate with one key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.chain == other.chain
    }
}

fn chain(path: &Path) -> Result<Vec<Vec<u8>>, Fault> {
    let text = private_key::read(path).map_err(Fault::Read)?;
    let pem = private_key::without_keys(&text);
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| Fault::Pem(pem::fault(&error)))?;
    Ok(certificates.iter().map(|der| der.to_vec()).collect())
}

/// The kind of the key, if it is one that can be used and belongs to the certificate.
fn check_key(key: &PrivateKey, spki: &[u8], certificate: &Path) -> Result<KeyKind, Fault> {
    let usable = any_supported_type(&key.borrowed()).map_err(|_| Fault::KeyKind)?;
    let kind = kind(usable.as_ref()).ok_or(Fault::KeyKind)?;
    match usable.public_key() {
        Some(public) if public.as_ref() == spki => Ok(kind),
        _ => Err(Fault::Mismatch(certificate.to_owned())),
    }
}

fn kind(key: &dyn sign::SigningKey) -> Option<KeyKind> {
    [
        (scheme::ECDSA_P256, KeyKind::EcdsaP256),
        (scheme::ECDSA_P384, KeyKind::EcdsaP384),
        (scheme::ED25519, KeyKind::Ed25519),
        (scheme::RSA_PSS[0], KeyKind::Rsa),
    ]
    .into_iter()
    .find_map(|(scheme, kind)| key.choose_scheme(&[SignatureScheme::from(scheme)]).map(|_| kind))
}

impl Leaf {
    fn read(der: &[u8]) -> Result<Self, Fault> {
        let failed = |error: &dyn std::fmt::Display| Fault::Certificate(error.to_string());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| failed(&error))?;
        let usage = certificate.extended_key_usage().map_err(|error| failed(&error))?;
        if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
            return Err(Fault::NotForServers);
        }
        Ok(Self {
            spki: certificate.public_key().raw.to_vec(),
            not_before_unix: certificate.validity().not_before.timestamp(),
            not_after_unix: certificate.validity().not_after.timestamp(),
        })
    }

    fn check_time(&self, now: SystemTime) -> Result<(), Fault> {
        let now = unix(now);
        if now > self.not_after_unix {
            return Err(Fault::Expired(self.not_after_unix));
        }
        if now < self.not_before_unix {
            return Err(Fault::NotYetValid(self.not_before_unix));
        }
        Ok(())
    }
}

/// Seconds since 1970.
pub fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
