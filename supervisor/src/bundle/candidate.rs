//! What changed files hold, judged while the gateway runs. Pure: what was read and the time are passed in.
//!
//! The rules are those of the start, and three more: the environment stays, what was in the files before is not a change,
//! and what the Cloud has renewed is not replaced by something older.

use std::time::SystemTime;

use super::check::{Fault, Parts};
use super::{Bundle, Origin, holds_certificate};
use crate::cloud::tls::{IdentityError, InForce};

/// What the watched files hold. A file that cannot be read is an error in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Certificate, key and CA; `None` where they are not supplied as files.
    pub parts: Option<Result<Parts, String>>,
    /// Extra issuers; `None` where there is no such file.
    pub extra_roots: Option<Result<String, String>>,
}

/// Why a new bundle does not come into force.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// A file cannot be read.
    #[error("{0}")]
    Read(String),
    /// It is not whole.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// TLS cannot use it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It belongs to another environment.
    #[error(
        "it belongs to environment {found}, and a running gateway stays in its environment ({expected}); restart to move"
    )]
    Environment {
        /// What it names.
        found: String,
        /// What is in force.
        expected: String,
    },
    /// The Cloud was asked to renew one identity and answered with another.
    #[error("the Cloud answered with a certificate for data plane {found} in place of {expected}")]
    DataPlane {
        /// What it names.
        found: String,
        /// What is in force.
        expected: String,
    },
    /// It was issued before the one that the Cloud has renewed.
    #[error("it was issued before the certificate in force, which the Cloud has renewed since")]
    Older,
    /// The file of extra issuers is empty.
    #[error("managed.cp_ca_cert_file holds no PEM certificate")]
    NoExtraRoots,
    /// The Cloud would not have it.
    #[error("a heartbeat with it was refused: {0}")]
    Refused(String),
    /// The Cloud's answer to a request for renewal makes no sense.
    #[error("the Cloud's answer cannot be used: {0}")]
    Answer(String),
}

impl Rejection {
    /// What kind of reason it is, for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Fault(fault) => fault.label(),
            Self::Identity(_) | Self::NoExtraRoots => "pem",
            Self::Environment { .. } => "environment",
            Self::DataPlane { .. } => "data_plane",
            Self::Older => "older",
            Self::Refused(_) => "refused",
            Self::Answer(_) => "answer",
        }
    }
}

/// What is to be made of a reading.
#[derive(Debug)]
pub enum Verdict {
    /// Nothing that is not in force, or was not there before.
    Unchanged,
    /// To be proved.
    Candidate(Box<Bundle>),
    /// Wrong.
    Rejected(Rejection),
}

/// Judges what the files hold now. `settled` is what they held when all was well.
pub fn judge(now_read: &Reading, settled: &Reading, in_force: &Bundle, now: SystemTime) -> Verdict {
    if now_read == settled {
        return Verdict::Unchanged;
    }
    match candidate(now_read, settled, in_force, now) {
        Ok(bundle) if is_same(&bundle, in_force) => Verdict::Unchanged,
        Ok(bundle) => Verdict::Candidate(Box::new(bundle)),
        Err(rejection) => Verdict::Rejected(rejection),
    }
}

fn is_same(bundle: &Bundle, in_force: &Bundle) -> bool {
    bundle.parts() == in_force.parts() && bundle.extra_roots_pem == in_force.extra_roots_pem
}

fn candidate(
    now_read: &Reading,
    settled: &Reading,
    in_force: &Bundle,
    now: SystemTime,
) -> Result<Bundle, Rejection> {
    let bundle = match &now_read.parts {
        Some(Err(error)) => return Err(Rejection::Read(error.clone())),
        Some(Ok(parts)) if now_read.parts != settled.parts => {
            let bundle = checked(parts.clone(), Origin::Supplied, in_force, now)?;
            let is_ours = in_force.origin == Origin::Supplied || !in_force.is_in_time(now);
            if !is_ours && in_force.is_newer_than(&bundle) {
                return Err(Rejection::Older);
            }
            bundle
        }
        _ => in_force.clone(),
    };
    let extra_roots_pem = match &now_read.extra_roots {
        None => None,
        Some(Err(error)) => return Err(Rejection::Read(error.clone())),
        Some(Ok(pem)) if holds_certificate(pem) => Some(pem.clone()),
        // It was empty at the start too, which is a finding of its own.
        Some(Ok(_)) if in_force.extra_roots_pem.is_none() => None,
        Some(Ok(_)) => return Err(Rejection::NoExtraRoots),
    };
    let bundle = Bundle { extra_roots_pem, findings: Vec::new(), ..bundle };
    InForce::new(bundle.clone())?;
    Ok(bundle)
}

/// Parts that may take the place of `in_force`, in this environment and at this time.
fn checked(
    parts: Parts,
    origin: Origin,
    in_force: &Bundle,
    now: SystemTime,
) -> Result<Bundle, Rejection> {
    let leaf = parts.read()?;
    parts.verify(&leaf, now)?;
    if leaf.identity.dp_id.is_none() {
        return Err(Fault::NoDataPlane.into());
    }
    if leaf.identity.env_id != in_force.env_id {
        let (found, expected) = (leaf.identity.env_id, in_force.env_id.clone());
        return Err(Rejection::Environment { found, expected });
    }
    Ok(Bundle::new(parts, leaf, origin))
}

/// What the Cloud has made of a request for renewal: the same identity, with the key that was made for it.
pub fn renewed(parts: Parts, in_force: &Bundle, now: SystemTime) -> Result<Bundle, Rejection> {
    let bundle = checked(parts, Origin::Renewed, in_force, now)?;
    if bundle.dp_id != in_force.dp_id {
        let id = |id: &Option<String>| id.clone().unwrap_or_else(|| "(none)".to_owned());
        let (found, expected) = (id(&bundle.dp_id), id(&in_force.dp_id));
        return Err(Rejection::DataPlane { found, expected });
    }
    let bundle = Bundle { extra_roots_pem: in_force.extra_roots_pem.clone(), ..bundle };
    InForce::new(bundle.clone())?;
    Ok(bundle)
}
