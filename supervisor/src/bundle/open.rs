//! Which bundle a start takes: the supplied one or the kept one.
//!
//! ```text
//! supplied      kept, of the same environment    taken
//! usable        none, or not usable              the supplied one
//! usable        usable                           the newer one; of two as old as each other the supplied one
//! expired       there                            the newer one, with a finding: it expired while this was switched off
//! too early     the same one                     it, with a finding: the clock of this machine is not set yet
//! faulty        any                              none: the start ends, nothing is overwritten
//! none          there                            the kept one, expired or not
//! ```
//!
//! A supplied bundle of another environment is taken whatever is kept: the gateway moves there.

use std::path::Path;
use std::time::SystemTime;

use shared::secret::Secret;

use super::check::{Fault, Parts};
use super::source::BundleSource;
use super::store::Kept;
use super::{Bundle, BundleError, Origin, data_key, holds_certificate, read, store};
use crate::cloud::tls::InForce;
use crate::settings::Managed;
use crate::state::seal::DataKey;

const INLINE: &str = "the AISIX_MANAGED__CP_*_PEM variables";
const FILES: &str = "the AISIX_MANAGED__CP_*_FILE variables";

impl Bundle {
    /// The data key of the state directory, if one is kept and opens under a key that is at hand; `Ok(None)` = none is
    /// kept. Writes nothing and makes none.
    pub fn kept_data_key(&self, managed: &Managed) -> Result<Option<DataKey>, data_key::Closed> {
        data_key::look(&store(managed), &self.key_pem)
    }
}

/// What the supplied parts are good for.
enum Supplied {
    Usable(Bundle),
    /// Right in every other way; its time is over or has not come.
    Expired(Bundle, Fault),
    None,
}

impl Bundle {
    /// The bundle to start with, checked and kept on disk. With it the data key of the state directory, which from then on
    /// is wrapped under the key of this bundle.
    pub fn open(managed: &Managed, now: SystemTime) -> Result<(Self, DataKey), BundleError> {
        let mut bundle = Self::examine(managed, now)?;
        let store = store(managed);
        // What an interruption has left is in its place before anything is looked for; else `keep` says why not.
        let _ = store.recover();
        let (data_key, lost) = data_key::find(&store, &bundle.key_pem, now)?;
        bundle.lasting.extend(lost);
        // The bundle works without being kept: traffic first.
        if let Err(error) = bundle.keep(managed, &data_key) {
            bundle.unkept = Some(format!(
                "the bundle is not kept as it is, a later start may fail: {error}; make {} writable",
                managed.state_dir().display()
            ));
        }
        bundle.lasting.extend(store.tighten());
        Ok((bundle, data_key))
    }

    /// As [`Bundle::open`], but writes nothing.
    pub fn examine(managed: &Managed, now: SystemTime) -> Result<Self, BundleError> {
        let (supplied, by) = match &managed.bundle {
            BundleSource::Inline { chain, key, roots } => {
                let (chain, key, roots) = (chain.clone(), key.clone(), roots.clone());
                (supplied(Parts { chain, key, roots }, now), INLINE)
            }
            BundleSource::Files { chain, key, roots } => {
                (supplied(read_files(chain, key, roots)?, now), FILES)
            }
            BundleSource::Persisted => (Ok(Supplied::None), ""),
        };
        let refused = |fault| BundleError::Supplied { supplied_by: by, fault };
        let mut bundle = match supplied.map_err(refused)? {
            Supplied::None => {
                let kept = Self::persisted(managed, now)?;
                kept.ok_or_else(|| BundleError::Absent { folder: managed.mtls_dir.clone() })?
            }
            Supplied::Usable(supplied) => {
                supplied.or_newer(Self::persisted(managed, now).ok().flatten(), now)
            }
            Supplied::Expired(supplied, fault) => {
                // One that was never kept was never in use: that is a mistake rather than a long pause.
                let kept = Self::persisted(managed, now).ok().flatten();
                let kept = kept.filter(|kept| match &fault {
                    // Known to be good: the clock is not set yet.
                    Fault::NotYetValid(_) => kept.parts() == supplied.parts(),
                    _ => kept.env_id == supplied.env_id,
                });
                let Some(kept) = kept else { return Err(refused(fault)) };
                supplied.expired(kept, &fault, by, now)
            }
        };
        if let Some(path) = &managed.extra_roots {
            bundle.trust_also(path)?;
        }
        // Before anything is overwritten by it.
        InForce::new(bundle.clone())?;
        Ok(bundle)
    }

    /// A supplied bundle beside what is kept.
    fn or_newer(self, kept: Option<Self>, now: SystemTime) -> Self {
        let why = match kept {
            None => "none is kept that could be used",
            Some(kept) if kept.env_id != self.env_id => {
                "the kept one belongs to another environment"
            }
            Some(kept) if kept.parts() == self.parts() => "it is the kept one",
            Some(kept) if !kept.is_usable(now) => "the kept one can no longer be used",
            Some(kept) if kept.is_newer_than(&self) => {
                return Self { why: "it is newer than the supplied one", ..kept };
            }
            Some(_) => "it is at least as new as the kept one",
        };
        Self { why, ..self }
    }

    /// The better of an expired supplied bundle and a kept one.
    fn expired(self, kept: Self, fault: &Fault, by: &str, now: SystemTime) -> Self {
        if kept.is_usable(now) {
            return Self { why: "the supplied one has expired", ..kept };
        }
        let findings =
            vec![format!("the certificate bundle of {by}: {fault}; traffic is served meanwhile")];
        if kept.parts() == self.parts() {
            Self { why: "it is the kept one", findings, ..self }
        } else if kept.is_newer_than(&self) {
            Self { why: "both have expired, it is the newer one", findings, ..kept }
        } else {
            Self { why: "both have expired, it is not older than the kept one", findings, ..self }
        }
    }

    /// The kept bundle as it is, whatever is supplied; `None` = none is kept. Writes nothing.
    pub fn persisted(managed: &Managed, now: SystemTime) -> Result<Option<Self>, BundleError> {
        let folder = managed.mtls_dir.clone();
        let Some(Kept { parts, env_id, dp_id, .. }) = store(managed).read()? else {
            return Ok(None);
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
        let why = "none is supplied";
        Ok(Some(Self { dp_id: named_dp.or(dp_id), why, findings, ..bundle }))
    }

    fn trust_also(&mut self, path: &Path) -> Result<(), BundleError> {
        let pem = read("managed.cp_ca_cert_file", path)?;
        if holds_certificate(&pem) {
            self.extra_roots_pem = Some(pem);
        } else {
            let told = "holds no PEM certificate; nothing is trusted because of it";
            self.findings.push(format!("{} (managed.cp_ca_cert_file) {told}", path.display()));
        }
        Ok(())
    }
}

/// The three roles as they are on disk at this moment.
pub fn read_files(chain: &Path, key: &Path, roots: &Path) -> Result<Parts, BundleError> {
    Ok(Parts {
        chain: read("managed.cp_cert_file", chain)?,
        key: Secret::new(read("managed.cp_key_file", key)?),
        roots: read("managed.cp_ca_file", roots)?,
    })
}

fn supplied(parts: Parts, now: SystemTime) -> Result<Supplied, Fault> {
    let leaf = parts.read()?;
    if leaf.identity.dp_id.is_none() {
        return Err(Fault::NoDataPlane);
    }
    let verified = parts.verify(&leaf, now);
    let bundle = |parts| Bundle::new(parts, leaf.clone(), Origin::Supplied);
    match verified {
        Ok(()) => Ok(Supplied::Usable(bundle(parts))),
        Err(fault @ (Fault::Expired(_) | Fault::NotYetValid(_))) => {
            Ok(Supplied::Expired(bundle(parts), fault))
        }
        Err(fault) => Err(fault),
    }
}
