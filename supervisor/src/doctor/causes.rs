//! Which finding comes first, and which go with another. Pure.
//!
//! The catalogue is in layers: a cause stands before what it brings about. A finding is set aside if one of an earlier layer
//! explains it; a finding that explains a worse one counts as that bad. What is left stands in the order of its severity,
//! then of the layers; that no gateway answers at the control socket, or another one, stands last: why it does not run is above.

use std::cmp::Reverse;

use super::asked::{DOWN, OTHER};
use super::{Fault, Finding, Found, Report, Severity, catalogue};

/// What brings about what, from group to group; within a group the faults say it themselves. Codes, or groups where they end
/// with a dash.
const ACROSS: &[(&str, &[&str])] = &[
    ("host-clock-", &["bundle-expired", "bundle-not-yet-valid", "tls-server-", "tls-client-"]),
    ("host-no-nameserver", &["dns-"]),
    ("host-resolv-conf-", &["dns-"]),
    ("host-worker-missing", &["egress-missing"]),
    ("host-worker-not-executable", &["egress-missing"]),
    ("host-worker-other-version", &["egress-missing"]),
    ("bundle-", &["tls-client-", "cloud-identity-refused", "cloud-data-plane-unknown"]),
    ("egress-", REPORTS),
    ("dns-", REPORTS),
    ("proxy-", REPORTS),
    ("tls-", REPORTS),
    ("cloud-", &["gateway-rotation-refused"]),
    ("cloud-connection-refused", REPORTS),
    ("cloud-no-route", REPORTS),
    ("cloud-black-hole", REPORTS),
    ("cloud-not-", REPORTS),
    ("cloud-no-answer", REPORTS),
    ("cloud-console-url", REPORTS),
    ("cloud-web-page", REPORTS),
    ("cloud-redirects", REPORTS),
    ("cloud-wrong-environment", REPORTS),
    ("cloud-data-plane-unknown", REPORTS),
    ("cloud-identity-refused", REPORTS),
    ("cloud-failing", REPORTS),
    ("cloud-throttles", REPORTS),
    ("cloud-heartbeat-", &["gateway-heartbeat-failing"]),
    ("cloud-usage-", &["gateway-usage-undelivered"]),
    ("cloud-budget-", &["gateway-budgets-undecided"]),
    ("cloud-renewal-", &["gateway-certificate"]),
    ("etcd-", &["gateway-source-away", "gateway-no-configuration"]),
    ("etcd-away", &["gateway-budgets-undecided"]),
    ("daemon-silent", &["gateway-silent"]),
    ("daemon-other", &["gateway-silent", "gateway-other-state"]),
    ("daemon-down", &["gateway-silent", "gateway-socket-stale", "gateway-socket-missing"]),
];
/// What a gateway reports of itself that does not reach the Cloud.
const REPORTS: &[&str] = &[
    "gateway-egress-missing",
    "gateway-source-away",
    "gateway-no-configuration",
    "gateway-heartbeat-failing",
    "gateway-usage-undelivered",
    "gateway-budgets-undecided",
];

/// How much evidence one finding has, in characters.
const EVIDENCE_CHARS_MAX: usize = 2000;

/// Puts causes in front, and sets aside what they explain.
pub fn diagnose(findings: Vec<Finding>) -> Report {
    let layers = catalogue();
    let layer =
        |fault: &Fault| layers.iter().position(|it| it.code == fault.code).unwrap_or(usize::MAX);
    let mut merged: Vec<(usize, Finding)> = Vec::new();
    for finding in findings {
        match merged.iter_mut().find(|(_, it)| it.fault.code == finding.fault.code) {
            // The same seen twice, such as at the manager and at the store.
            Some((_, there)) if !there.evidence.contains(&finding.evidence) => {
                there.evidence = format!("{}; {}", there.evidence, finding.evidence);
            }
            Some(_) => {}
            None => merged.push((layer(finding.fault), finding)),
        }
    }
    merged.sort_by_key(|(layer, _)| *layer);
    let mut causes: Vec<(usize, Finding, Severity)> = Vec::new();
    let mut set_aside = Vec::new();
    for (layer, finding) in merged {
        let explained =
            |(_, cause, _): &&mut (usize, Finding, Severity)| explains(cause.fault, finding.fault);
        match causes.iter_mut().find(explained) {
            Some((_, _, severity)) => {
                *severity = (*severity).max(finding.fault.severity);
                set_aside.push(found(&finding, finding.fault.severity));
            }
            None => {
                let severity = finding.fault.severity;
                causes.push((layer, finding, severity));
            }
        }
    }
    causes.sort_by_key(|(layer, finding, severity)| {
        // What is always so on this host is no reason to look there first.
        let is_standing = *severity < Severity::Error && finding.fault.code.starts_with("host-");
        let is_absence = [DOWN.code, OTHER.code].contains(&finding.fault.code);
        let is_note = *severity == Severity::Note;
        (is_note, is_absence, Reverse(*severity), is_standing, *layer)
    });
    let findings = causes.iter().map(|(_, finding, severity)| found(finding, *severity)).collect();
    Report { findings, set_aside }
}

/// Whether a fault brings another one about. What is only worth knowing brings about nothing.
fn explains(cause: &Fault, other: &Fault) -> bool {
    if cause.severity == Severity::Note {
        return false;
    }
    let across = ACROSS.iter().filter(|(of, _)| is_of(cause, of)).flat_map(|(_, codes)| *codes);
    cause.explains.iter().chain(across).any(|code| is_of(other, code))
}

/// Whether a fault is that, or of that group.
fn is_of(fault: &Fault, code: &str) -> bool {
    if code.ends_with('-') { fault.code.starts_with(code) } else { fault.code == code }
}

/// The text with a capital at its beginning.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn found(finding: &Finding, severity: Severity) -> Found {
    Found {
        code: finding.fault.code.to_owned(),
        severity,
        title: sentence(finding.fault.title),
        evidence: finding.evidence.chars().take(EVIDENCE_CHARS_MAX).collect(),
        remedy: finding.fault.remedy.to_owned(),
    }
}

/// What another process has found, to be judged together with what was found here. What it knows and we do not, being of
/// another version, is given back as it is.
pub fn again(report: Report) -> (Vec<Finding>, Vec<Found>) {
    let known = catalogue();
    let (mut findings, mut strange) = (Vec::new(), Vec::new());
    for found in report.findings.into_iter().chain(report.set_aside) {
        match known.iter().find(|fault| fault.code == found.code) {
            Some(fault) => findings.push(Finding { fault, evidence: found.evidence }),
            None => strange.push(found),
        }
    }
    (findings, strange)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn diagnosed(codes: &[&str]) -> (Vec<String>, Vec<String>) {
        let known = catalogue();
        let finding = |code: &&str| {
            let fault = known.iter().find(|fault| fault.code == *code).expect("a known code");
            Finding { fault, evidence: format!("seen: {code}") }
        };
        let report = diagnose(codes.iter().map(finding).collect());
        let codes = |found: &[Found]| found.iter().map(|it| it.code.clone()).collect();
        (codes(&report.findings), codes(&report.set_aside))
    }

    #[test]
    fn every_fault_has_a_code_of_its_own_and_explains_what_there_is_or_may_be() {
        let known = catalogue();
        let codes: BTreeSet<_> = known.iter().map(|fault| fault.code).collect();
        assert_eq!(codes.len(), known.len());
        for fault in &known {
            let is_kebab = fault
                .code
                .bytes()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-');
            assert!(is_kebab && !fault.code.ends_with('-'), "{}", fault.code);
            assert!(
                !fault.title.ends_with('.') && !fault.why.is_empty() && !fault.remedy.is_empty(),
                "{}",
                fault.code
            );
        }
        println!("{} faults", known.len());
    }

    #[test]
    fn a_cause_sets_aside_what_follows_from_it_in_whatever_order_it_was_found() {
        let (findings, aside) = diagnosed(&["tls-server-expired", "clock-skewed"]);
        assert_eq!(
            (&findings[..], &aside[..]),
            (&["clock-skewed".to_owned()][..], &["tls-server-expired".to_owned()][..])
        );
        let (findings, aside) = diagnosed(&["etcd-no-h2", "cloud-web-page", "cloud-usage-failing"]);
        assert_eq!(findings, ["cloud-web-page"]);
        assert_eq!(aside.len(), 2);
    }

    #[test]
    fn errors_come_before_warnings_and_a_socket_without_an_answer_last() {
        let (findings, _) =
            diagnosed(&["daemon-down", "etcd-prefix-empty", "cloud-heartbeat-failing"]);
        assert_eq!(findings, ["cloud-heartbeat-failing", "etcd-prefix-empty", "daemon-down"]);
    }

    #[test]
    fn the_same_fault_in_two_places_is_one_finding_with_both_as_evidence() {
        let one = |evidence: &str| Finding { fault: &DOWN, evidence: evidence.to_owned() };
        let report = diagnose(vec![one("a"), one("b"), one("a")]);
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].evidence, "a; b");
    }

    #[test]
    fn what_another_process_has_found_is_judged_anew_and_what_it_alone_knows_is_kept() {
        let mut report = diagnose(vec![Finding { fault: &DOWN, evidence: "x".to_owned() }]);
        report
            .set_aside
            .push(Found { code: "of-the-future".to_owned(), ..report.findings[0].clone() });
        let (findings, strange) = again(report);
        assert_eq!(findings[0].fault, &DOWN);
        assert_eq!(strange[0].code, "of-the-future");
    }
}
