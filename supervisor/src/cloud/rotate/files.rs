//! What comes of changed files: a candidate, or a reason why not.

use std::time::SystemTime;

use super::Rotator;
use crate::bundle::candidate::{self, Reading, Rejection, Verdict};
use crate::bundle::check::date;
use crate::bundle::rotation::{By, Input};
use crate::bundle::{Bundle, Origin, unix};

/// What was read from the files.
#[derive(Default)]
pub struct Files {
    /// When all was well.
    pub settled: Option<Reading>,
    /// What the candidate is made of.
    pub offered: Option<Reading>,
    /// Wrong, but perhaps only half written: counts when it is read again.
    suspect: Option<Reading>,
    /// What is wrong with them.
    pub trouble: Option<String>,
}

impl Rotator {
    /// Judges what was read, and offers it or says what is wrong with it.
    pub(super) async fn take_in(&mut self, reading: Reading) {
        let settled = match self.files.settled.take() {
            Some(settled) => settled,
            None => in_force_in(&reading, &self.bundle),
        };
        if self.files.offered.as_ref() == Some(&reading) {
            self.files.settled = Some(settled);
            return;
        }
        let verdict = candidate::judge(&reading, &settled, &self.bundle, SystemTime::now());
        self.files.settled = Some(settled);
        let suspect = self.files.suspect.take();
        match verdict {
            Verdict::Unchanged => {
                self.withdraw().await;
                self.files.settled = Some(reading);
                self.files.trouble = None;
            }
            Verdict::Candidate(bundle) => {
                self.files.offered = Some(reading);
                self.files.trouble = None;
                self.offer(*bundle, By::Files).await;
            }
            Verdict::Rejected(rejection) => {
                self.withdraw().await;
                if suspect.as_ref() == Some(&reading) {
                    self.reject_files(&rejection);
                }
                self.files.suspect = Some(reading);
            }
        }
        self.tell();
    }

    async fn withdraw(&mut self) {
        if self.files.offered.take().is_some() {
            self.step(Input::Withdraw).await;
        }
    }

    fn reject_files(&mut self, rejection: &Rejection) {
        let text = format!(
            "the files of the certificate bundle have changed, {}",
            self.kept_by(rejection)
        );
        // Seen again: nothing new.
        if self.files.trouble.as_ref() != Some(&text) {
            self.parts.report.rejected(rejection, unix(SystemTime::now()));
            self.files.trouble = Some(text);
        }
    }

    fn kept_by(&self, rejection: &Rejection) -> String {
        let until = date(self.bundle.not_after_unix);
        format!(
            "and what they hold now is not taken into use: {rejection}; the bundle in force (valid until {until}) stays"
        )
    }
}

/// What the files would have to hold to be what is in force.
fn in_force_in(reading: &Reading, bundle: &Bundle) -> Reading {
    if bundle.origin != Origin::Supplied {
        // They hold something older, as they did at the start.
        return reading.clone();
    }
    let extra_roots = bundle.extra_roots_pem.clone().map(Ok);
    Reading {
        parts: reading.parts.as_ref().map(|_| Ok(bundle.parts())),
        extra_roots: extra_roots.or_else(|| reading.extra_roots.clone()),
    }
}
