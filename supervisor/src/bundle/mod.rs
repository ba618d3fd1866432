//! The certificate bundle: who this gateway is towards the Cloud, and whom it takes for the Cloud.
//!
//! ```text
//! source     supplied inline, supplied as files, or kept from an earlier start: one of them
//! check      PEM, key, chain, dates, purpose; identity: the environment and data plane it names
//! store      on disk, replaced as a whole or not at all
//! ```
//!
//! Promises:
//! 1. a supplied bundle that cannot be used ends the start, and overwrites nothing;
//! 2. a kept bundle whose time is over does not: traffic is served, and the finding says what to do.

pub mod check;
pub mod identity;
pub mod source;
pub mod store;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shared::secret::Secret;

use self::check::{Fault, Leaf, Parts};
use self::source::BundleSource;
use self::store::{Kept, Store, StoreError};
use crate::settings::Managed;
use crate::state::seal::{DataKey, SealError, WrappingKey};

/// Where a bundle came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration, inline or as files.
    Supplied,
    /// The state directory.
    Persisted,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Supplied => "supplied",
            Self::Persisted => "persisted",
        })
    }
}

/// A bundle that can be used.
#[derive(Clone, Debug)]
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
    /// What an operator should know, a line each. None of it stops the start.
    pub findings: Vec<String>,
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
    /// The bundle to start with: the supplied one, checked and then kept on disk, or else the one kept there. With it the
    /// data key of the state directory, which from then on is wrapped under the key of this bundle.
    pub fn open(managed: &Managed, now: SystemTime) -> Result<(Self, DataKey), BundleError> {
        let store = store(managed);
        if managed.bundle == BundleSource::Persisted {
            store.recover()?;
        }
        let mut bundle = Self::examine(managed, now)?;
        let (data_key, lost) = data_key(&store)?;
        bundle.findings.extend(lost);
        let kept = bundle.sealed(&data_key, store.read().ok().flatten().as_ref())?;
        // The bundle works without being kept: traffic first.
        if let Err(error) = store.keep(&kept) {
            bundle.findings.push(format!(
                "the bundle is not kept as it is, a later start may fail: {error}; make {} writable",
                managed.state_dir().display()
            ));
        }
        bundle.findings.extend(store.tighten());
        Ok((bundle, data_key))
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

    /// As [`Bundle::open`], but writes nothing.
    pub fn examine(managed: &Managed, now: SystemTime) -> Result<Self, BundleError> {
        let mut bundle = match &managed.bundle {
            BundleSource::Inline { chain, key, roots } => {
                let (chain, key, roots) = (chain.clone(), key.clone(), roots.clone());
                Self::supplied(
                    Parts { chain, key, roots },
                    "the AISIX_MANAGED__CP_*_PEM variables",
                    now,
                )?
            }
            BundleSource::Files { chain, key, roots } => {
                let parts = Parts {
                    chain: read("managed.cp_cert_file", chain)?,
                    key: Secret::new(read("managed.cp_key_file", key)?),
                    roots: read("managed.cp_ca_file", roots)?,
                };
                Self::supplied(parts, "the AISIX_MANAGED__CP_*_FILE variables", now)?
            }
            BundleSource::Persisted => Self::persisted(managed, now)?,
        };
        if let Some(path) = &managed.extra_roots {
            bundle.trust_also(path)?;
        }
        Ok(bundle)
    }

    fn supplied(
        parts: Parts,
        supplied_by: &'static str,
        now: SystemTime,
    ) -> Result<Self, BundleError> {
        let check = || {
            let leaf = parts.read()?;
            parts.verify(&leaf, now)?;
            if leaf.identity.dp_id.is_some() { Ok(leaf) } else { Err(Fault::NoDataPlane) }
        };
        match check() {
            Ok(leaf) => Ok(Self::new(parts, leaf, Origin::Supplied)),
            Err(fault) => Err(BundleError::Supplied { supplied_by, fault }),
        }
    }

    fn persisted(managed: &Managed, now: SystemTime) -> Result<Self, BundleError> {
        let folder = managed.mtls_dir.clone();
        let Some(Kept { parts, env_id, dp_id, .. }) = store(managed).read()? else {
            return Err(BundleError::Absent { folder });
        };
        let leaf = match parts.read() {
            Ok(leaf) => leaf,
            Err(fault) => return Err(BundleError::Persisted { folder, fault }),
        };
        let named = &leaf.identity;
        if let Some(noted) = env_id.filter(|noted| *noted != named.env_id) {
            let file = folder.join("env_id");
            return Err(BundleError::WrongEnvironment { file, noted, named: named.env_id.clone() });
        }
        let mut findings = Vec::new();
        // The certificate counts: it is what the Cloud sees.
        let named_dp = leaf.identity.dp_id.clone();
        if named_dp.is_none() || dp_id != named_dp {
            findings.push(format!(
                "{} and the certificate do not agree on the id of this data plane: {} and {}",
                managed.dp_id_file.display(),
                dp_id.as_deref().unwrap_or("none"),
                named_dp.as_deref().unwrap_or("none")
            ));
        }
        // It was accepted once. Whether it still is, the Cloud decides; serving goes on either way.
        if let Err(fault) = parts.verify(&leaf, now) {
            findings.push(format!("the certificate bundle in {}: {fault}", folder.display()));
        }
        let bundle = Self::new(parts, leaf, Origin::Persisted);
        Ok(Self { dp_id: named_dp.or(dp_id), findings, ..bundle })
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
            findings: Vec::new(),
        }
    }

    fn trust_also(&mut self, path: &Path) -> Result<(), BundleError> {
        let pem = read("managed.cp_ca_cert_file", path)?;
        if CertificateDer::pem_slice_iter(pem.as_bytes()).any(|certificate| certificate.is_ok()) {
            self.extra_roots_pem = Some(pem);
        } else {
            let told = "holds no PEM certificate; nothing is trusted because of it";
            self.findings.push(format!("{} (managed.cp_ca_cert_file) {told}", path.display()));
        }
        Ok(())
    }

    fn parts(&self) -> Parts {
        Parts {
            chain: self.chain_pem.clone(),
            key: self.key_pem.clone(),
            roots: self.roots_pem.clone(),
        }
    }
}

/// The data key that is kept, or a new one; and what is lost, if one was kept and cannot be opened.
fn data_key(store: &Store<'_>) -> Result<(DataKey, Option<String>), SealError> {
    let Some(Kept { parts, seal: Some(seal), .. }) = store.read().ok().flatten() else {
        return Ok((DataKey::generate()?, None));
    };
    let keys = wrapping_keys(&parts.key)?;
    match keys.iter().find_map(|under| DataKey::unwrap(&seal, under).ok()) {
        Some(key) => Ok((key, None)),
        None => {
            let lost = format!(
                "{}/seal does not open under the key beside it; what was sealed before (snapshot, unsent usage) cannot be read",
                store.mtls_dir.display()
            );
            Ok((DataKey::generate()?, Some(lost)))
        }
    }
}

/// What the data key may be wrapped under, the preferred one first.
fn wrapping_keys(client_key: &Secret<String>) -> Result<Vec<WrappingKey>, SealError> {
    let mut keys = Vec::from_iter(WrappingKey::of_credential()?);
    keys.push(WrappingKey::of_client_key(client_key)?);
    Ok(keys)
}

fn store(managed: &Managed) -> Store<'_> {
    Store { mtls_dir: &managed.mtls_dir, dp_id_file: &managed.dp_id_file }
}

fn read(key: &'static str, path: &Path) -> Result<String, BundleError> {
    let failed = |source| BundleError::Read { key, path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if bytes as u64 > FILE_BYTES_MAX {
        let reason = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
