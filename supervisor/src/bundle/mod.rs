//! The certificate bundle: who this gateway is towards the Cloud, and whom it takes for the Cloud.
//!
//! ```text
//! source      supplied inline, supplied as files, or neither
//! check       PEM, key, chain, dates, purpose; identity: the environment and data plane it names
//! open        at the start: which one, the supplied or the kept one
//! store       on disk, replaced as a whole or not at all; data_key: what the state directory is sealed with
//!
//! watch ─► candidate ─► rotation ─► store     while running: files change (or the Cloud renews), what they hold is
//!                                             checked, proved by a heartbeat, kept, and only then in force
//! ```
//!
//! Promises:
//! 1. a supplied bundle that cannot be used ends the start, and overwrites nothing;
//! 2. a bundle whose time is over does not, where one was kept: traffic is served, and the finding says what to do;
//! 3. while running nothing ends because of a bundle: whatever is wrong with a new one, the old one stays in force.

pub mod candidate;
pub mod check;
pub mod data_key;
pub mod identity;
mod open;
pub mod rotation;
pub mod source;
pub mod store;
pub mod watch;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shared::secret::Secret;

use self::check::{Fault, Leaf, Parts};
use self::data_key::wrapping_keys;
pub use self::open::read_files;
use self::store::{Kept, Store, StoreError};
use crate::cloud::tls::IdentityError;
use crate::denied;
use crate::settings::Managed;
use crate::state::seal::{DataKey, SealError};

/// Where a bundle came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration, inline or as files.
    Supplied,
    /// The state directory.
    Persisted,
    /// The Cloud, while running.
    Renewed,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Supplied => "supplied",
            Self::Persisted => "persisted",
            Self::Renewed => "renewed",
        })
    }
}

/// A bundle that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// The environment it belongs to.
    pub env_id: String,
    /// The data plane it belongs to; `None` only where a kept bundle does not say, and nothing can be reported.
    pub dp_id: Option<String>,
    /// PEM, leaf first, then its issuers.
    pub chain_pem: String,
    /// PEM private key of the leaf.
    pub key_pem: Secret<String>,
    /// PEM certificates of the Cloud's CA.
    pub roots_pem: String,
    /// More of them, from `managed.cp_ca_cert_file`.
    pub extra_roots_pem: Option<String>,
    /// The leaf is valid from here, in seconds since 1970.
    pub not_before_unix: i64,
    /// The leaf is valid until here, in seconds since 1970.
    pub not_after_unix: i64,
    /// Where it came from.
    pub origin: Origin,
    /// Why this one and no other.
    pub why: &'static str,
    /// What an operator should know, a line each. None of it stops the start.
    pub findings: Vec<String>,
    /// The same of the state directory: it holds whatever bundle is in force.
    pub lasting: Vec<String>,
    /// Why the start could not keep it on disk; `None` = it is kept, or that is not tried yet.
    pub unkept: Option<String>,
}

/// Why there is no bundle to start with.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file that the configuration names.
    #[error("cannot read {} ({key}): {source}", path.display())]
    Read {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The supplied bundle.
    #[error("the certificate bundle of {supplied_by} cannot be used: {fault}")]
    Supplied {
        /// The variables it was supplied by.
        supplied_by: &'static str,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The bundle in the state directory.
    #[error("the certificate bundle in {} cannot be used: {fault}; supply a bundle again by {VARIABLES}", folder.display())]
    Persisted {
        /// The state directory's folder.
        folder: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// TLS cannot use it, or what `managed.cp_ca_cert_file` adds to it.
    #[error(
        "the certificate bundle, with managed.cp_ca_cert_file if that is set, cannot be used: {0}"
    )]
    Identity(#[from] IdentityError),
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key under which the state directory is sealed.
    #[error("the state directory cannot be sealed: {0}")]
    Seal(#[from] SealError),
    /// Neither supplied nor kept.
    #[error("there is no certificate bundle: supply one by {VARIABLES}; none is kept in {} either", folder.display())]
    Absent {
        /// Where it would be kept.
        folder: PathBuf,
    },
    /// The note beside the kept bundle contradicts it.
    #[error("{} says that the environment is {noted}, but the certificate beside it names {named}: the state directory is a mix of two; supply a bundle again by {VARIABLES}", file.display())]
    WrongEnvironment {
        /// The note.
        file: PathBuf,
        /// What it says.
        noted: String,
        /// What the certificate says.
        named: String,
    },
}

/// No part of a bundle is larger, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Every way to supply a bundle.
const VARIABLES: &str = "AISIX_MANAGED__CP_CERT_FILE, AISIX_MANAGED__CP_KEY_FILE and AISIX_MANAGED__CP_CA_FILE, \
    or AISIX_MANAGED__CP_CERT_PEM, AISIX_MANAGED__CP_KEY_PEM and AISIX_MANAGED__CP_CA_PEM";

impl Bundle {
    /// Makes this the bundle that is kept, the data key wrapped under its key.
    pub fn keep(&self, managed: &Managed, data_key: &DataKey) -> Result<(), BundleError> {
        let store = store(managed);
        let kept = self.sealed(data_key, store.read().ok().flatten().as_ref())?;
        Ok(store.keep(&kept)?)
    }

    /// The bundle as it is kept, with the data key wrapped under its key; the wrap that is there stays if it fits.
    fn sealed(&self, data_key: &DataKey, there: Option<&Kept>) -> Result<Kept, SealError> {
        let under = wrapping_keys(&self.key_pem)?;
        let fits = |seal: &String| {
            let first = under.first();
            first
                .is_some_and(|under| DataKey::unwrap(seal, under).is_ok_and(|key| key == *data_key))
        };
        let seal = match there.and_then(|there| there.seal.clone()).filter(fits) {
            Some(seal) => Some(seal),
            None => under.first().map(|under| data_key.wrap(under)).transpose()?,
        };
        Ok(Kept {
            parts: self.parts(),
            env_id: Some(self.env_id.clone()),
            dp_id: self.dp_id.clone(),
            seal: seal.map(|seal| seal.trim().to_owned()),
        })
    }

    fn new(parts: Parts, leaf: Leaf, origin: Origin) -> Self {
        Self {
            env_id: leaf.identity.env_id,
            dp_id: leaf.identity.dp_id,
            chain_pem: parts.chain,
            key_pem: parts.key,
            roots_pem: parts.roots,
            extra_roots_pem: None,
            not_before_unix: leaf.not_before_unix,
            not_after_unix: leaf.not_after_unix,
            origin,
            why: "",
            findings: Vec::new(),
            lasting: Vec::new(),
            unkept: None,
        }
    }

    /// Whether the leaf's time has come and is not over.
    pub fn is_in_time(&self, now: SystemTime) -> bool {
        (self.not_before_unix..=self.not_after_unix).contains(&unix(now))
    }

    /// Whether it would be taken if it were supplied at the time `now`.
    fn is_usable(&self, now: SystemTime) -> bool {
        let parts = self.parts();
        let verified = parts.read().and_then(|leaf| parts.verify(&leaf, now));
        verified.is_ok() && self.dp_id.is_some()
    }

    /// Whether this one was issued later than `other`: begins later, or as early and lasts longer.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let age = |bundle: &Self| (bundle.not_before_unix, bundle.not_after_unix);
        age(self) > age(other)
    }

    /// SHA-256 of the leaf, in hex, by which tools name a certificate.
    pub fn fingerprint(&self) -> String {
        let leaf = CertificateDer::from_pem_slice(self.chain_pem.as_bytes());
        let leaf = leaf.as_deref().unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As PEM, without what comes from elsewhere.
    pub fn parts(&self) -> Parts {
        Parts {
            chain: self.chain_pem.clone(),
            key: self.key_pem.clone(),
            roots: self.roots_pem.clone(),
        }
    }
}

/// Seconds since 1970.
pub fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Where the bundle of a gateway with these settings is kept.
pub fn store(managed: &Managed) -> Store<'_> {
    Store { mtls_dir: &managed.mtls_dir, dp_id_file: &managed.dp_id_file }
}

fn read(key: &'static str, path: &Path) -> Result<String, BundleError> {
    let failed = |source: io::Error| {
        let source = match source.kind() {
            kind @ io::ErrorKind::PermissionDenied => {
                io::Error::new(kind, format!("permission denied: {}", denied::reason(path)))
            }
            _ => source,
        };
        BundleError::Read { key, path: path.to_owned(), source }
    };
    let mut text = String::new();
    // A pipe that nobody writes to would hold up the start for ever.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(failed)?;
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if bytes as u64 > FILE_BYTES_MAX {
        let reason = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    // Editors of another system mark their files so; PEM knows no such mark.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Whether there is a certificate in a text of extra issuers.
fn holds_certificate(pem: &str) -> bool {
    CertificateDer::pem_slice_iter(pem.as_bytes()).any(|certificate| certificate.is_ok())
}

#[cfg(test)]
mod tests;
