//! What is known of the identity: for the status page and the metrics.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;

use super::renewal::Mode;
use super::tls::InForce;
use crate::bundle::candidate::Rejection;
use crate::bundle::rotation::By;
use crate::metrics::RotationFacts;
use crate::projection::report::rfc3339;

/// What became of new bundles so far. Times are in seconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Report {
    from_files: u64,
    from_cloud: u64,
    rejected: BTreeMap<&'static str, u64>,
    last_rotation: Option<i64>,
    last_rejection: Option<(i64, String)>,
    renewal: Option<(Mode, Option<i64>)>,
    needs_restart: bool,
    is_candidate_waiting: bool,
}

/// The report, for whoever shows it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ReportCell(Rc<RefCell<Report>>);

/// The certificate in force, as the status page shows it.
#[derive(Debug, Serialize)]
pub struct CertificateStatus {
    env_id: String,
    dp_id: Option<String>,
    origin: String,
    fingerprint_sha256: String,
    not_before: String,
    not_after: String,
}

/// Rotation and renewal, as the status page shows them.
#[derive(Debug, Serialize)]
pub struct RotationStatus {
    /// `auto`, `manual` or `off`.
    pub renewal: Option<&'static str>,
    /// When the Cloud is asked for a new one.
    pub next_renewal_at: Option<String>,
    /// New bundles in force since the start that were supplied as files.
    pub rotations_from_files: u64,
    /// Those that the Cloud has issued.
    pub rotations_from_cloud: u64,
    /// When the latest came into force.
    pub last_rotation_at: Option<String>,
    /// One waits for its proof.
    pub candidate_waiting: bool,
    /// The files are credentials of the service manager: one that is supplied is seen after a restart only.
    pub new_bundle_needs_restart: bool,
    /// Those that were refused.
    pub rejected: u64,
    /// When the latest was.
    pub last_rejection_at: Option<String>,
    /// Why.
    pub last_rejection: Option<String>,
}

impl CertificateStatus {
    /// Of what is in force; `None` where there is no bundle.
    pub fn of(in_force: &InForce) -> Option<Self> {
        let bundle = in_force.bundle.as_ref()?;
        Some(Self {
            env_id: bundle.env_id.clone(),
            dp_id: bundle.dp_id.clone(),
            origin: bundle.origin.to_string(),
            fingerprint_sha256: bundle.fingerprint(),
            not_before: rfc3339(bundle.not_before_unix),
            not_after: rfc3339(bundle.not_after_unix),
        })
    }
}

impl ReportCell {
    /// A new bundle is in force.
    pub fn rotated(&self, by: By, now: i64) {
        let mut report = self.0.borrow_mut();
        match by {
            By::Files => report.from_files += 1,
            By::Cloud => report.from_cloud += 1,
        }
        report.last_rotation = Some(now);
    }

    /// A new bundle does not come into force.
    pub fn rejected(&self, rejection: &Rejection, now: i64) {
        let mut report = self.0.borrow_mut();
        *report.rejected.entry(rejection.label()).or_default() += 1;
        report.last_rejection = Some((now, rejection.to_string()));
    }

    /// Files that are supplied are seen after a restart only.
    pub fn needs_restart(&self) {
        self.0.borrow_mut().needs_restart = true;
    }

    /// What is to be done where the Cloud does not renew the certificate.
    pub fn remedy(&self) -> &'static str {
        if self.0.borrow().needs_restart {
            "supply a new bundle and restart the gateway, since it is a credential of the service manager"
        } else {
            "supply a new bundle"
        }
    }

    /// How and when the certificate will be renewed, and whether a new one waits for its proof.
    pub fn planned(&self, mode: Mode, at: Option<i64>, is_candidate_waiting: bool) {
        let mut report = self.0.borrow_mut();
        report.renewal = Some((mode, at));
        report.is_candidate_waiting = is_candidate_waiting;
    }

    /// For the status page.
    pub fn status(&self) -> RotationStatus {
        let report = self.0.borrow();
        let rejection = report.last_rejection.clone();
        RotationStatus {
            renewal: report.renewal.map(|(mode, _)| mode.name()),
            next_renewal_at: report.renewal.and_then(|(_, at)| at).map(rfc3339),
            rotations_from_files: report.from_files,
            rotations_from_cloud: report.from_cloud,
            last_rotation_at: report.last_rotation.map(rfc3339),
            candidate_waiting: report.is_candidate_waiting,
            new_bundle_needs_restart: report.needs_restart,
            rejected: report.rejected.values().sum(),
            last_rejection_at: rejection.as_ref().map(|(at, _)| rfc3339(*at)),
            last_rejection: rejection.map(|(_, text)| text),
        }
    }

    /// For the metrics.
    pub fn facts(&self) -> RotationFacts {
        let report = self.0.borrow();
        let rejections = report.rejected.iter();
        RotationFacts {
            rotations: vec![
                ("files".to_owned(), report.from_files),
                ("cloud".to_owned(), report.from_cloud),
            ],
            rejections: rejections.map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            last_rotation: report.last_rotation,
            last_rejection: report.last_rejection.as_ref().map(|(at, _)| *at),
            planned: report.renewal.and_then(|(_, at)| at),
            is_candidate_waiting: report.renewal.map(|_| report.is_candidate_waiting),
        }
    }
}
