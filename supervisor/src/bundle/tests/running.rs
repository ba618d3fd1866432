//! Bundles that come while the gateway runs.

use super::super::candidate::{self, Reading, Verdict, judge};
use super::*;

#[test]
fn the_data_key_stays_the_same_over_every_change_of_the_bundle() {
    let ca = Ca::new();
    let mut gateway = Gateway::after(&dated(&ca, -5, 90, &NAMES));
    let (first, data_key) = Bundle::open(&gateway.managed, now()).unwrap();
    let next = Bundle { why: "", ..first.clone() };
    let parts = dated(&ca, -4, 90, &NAMES);
    let next = Bundle { chain_pem: parts.chain, key_pem: parts.key, ..next };
    next.keep(&gateway.managed, &data_key).unwrap();
    let (opened, same) = Bundle::open(&gateway.managed, now()).unwrap();
    assert!(same == data_key && opened.findings.is_empty(), "{:?}", opened.findings);
    assert_eq!(opened.chain_pem, next.chain_pem);
    let previous = gateway.managed.mtls_dir.join("previous");
    // The bundle before can be put back, with what was sealed under its key.
    for name in ["client.crt", "client.key", "ca.crt", "seal", "env_id"] {
        fs::copy(previous.join(name), gateway.managed.mtls_dir.join(name)).unwrap();
    }
    let (opened, same) = Bundle::open(&gateway.managed, now()).unwrap();
    assert!(same == data_key && opened.chain_pem == first.chain_pem);
    gateway.supply(&dated(&ca, -3, 90, &NAMES));
    assert!(Bundle::open(&gateway.managed, now()).unwrap().1 == data_key);
}

#[test]
fn changed_files_are_judged_beside_what_is_in_force_and_what_was_there_before() {
    let ca = Ca::new();
    let good = dated(&ca, -5, 90, &NAMES);
    let in_force = Gateway::after(&good).open().unwrap();
    let in_force = Bundle { origin: Origin::Supplied, ..in_force };
    let of = |parts: &Parts| Reading { parts: Some(Ok(parts.clone())), extra_roots: None };
    let judged = |reading: &Reading, settled: &Reading, in_force: &Bundle| match judge(
        reading,
        settled,
        in_force,
        now(),
    ) {
        Verdict::Unchanged => "unchanged".to_owned(),
        Verdict::Candidate(bundle) => bundle.dp_id.clone().unwrap(),
        Verdict::Rejected(rejection) => rejection.label().to_owned(),
    };
    let newer = dated(&ca, -1, 90, &[NAMES[0], "x-aisix://dp/d-2"]);
    let older = dated(&ca, -9, 90, &NAMES);
    assert_eq!(judged(&of(&good), &of(&good), &in_force), "unchanged");
    assert_eq!(judged(&of(&newer), &of(&good), &in_force), "d-2", "another data plane will do");
    assert_eq!(judged(&of(&older), &of(&good), &in_force), "d-1", "a file says what is wanted");
    let elsewhere = dated(&ca, -1, 90, &["x-aisix://env/e-2", NAMES[1]]);
    assert_eq!(judged(&of(&elsewhere), &of(&good), &in_force), "environment");

    // After a renewal the files are what they were, and then something older than the renewed one.
    let renewed =
        Bundle { origin: Origin::Renewed, not_before_unix: unix(now()), ..in_force.clone() };
    assert_eq!(judged(&of(&good), &of(&good), &renewed), "unchanged");
    assert_eq!(judged(&of(&newer), &of(&good), &renewed), "older");
    let expired = Bundle { not_after_unix: 0, ..renewed };
    assert_eq!(judged(&of(&newer), &of(&good), &expired), "d-2");

    // Issuers of their own come and go beside it.
    let extra = |pem: Option<Result<&str, &str>>| Reading {
        extra_roots: pem.map(|pem| pem.map(str::to_owned).map_err(str::to_owned)),
        ..of(&good)
    };
    let (with, without) = (extra(Some(Ok(&ca.pem))), extra(Some(Ok(""))));
    assert_eq!(judged(&with, &without, &in_force), "d-1");
    let trusting = Bundle { extra_roots_pem: Some(ca.pem.clone()), ..in_force.clone() };
    assert_eq!(judged(&without, &with, &trusting), "pem");
    assert_eq!(judged(&extra(Some(Err("gone"))), &with, &trusting), "read");
}

#[test]
fn a_renewal_must_be_for_the_same_identity_and_the_key_that_was_made_for_it() {
    let ca = Ca::new();
    let in_force = Gateway::after(&ca.good()).open().unwrap();
    let judged = |parts| candidate::renewed(parts, &in_force, now());
    assert_eq!(judged(dated(&ca, 0, 90, &NAMES)).unwrap().origin, Origin::Renewed);
    let other = dated(&ca, 0, 90, &[NAMES[0], "x-aisix://dp/d-2"]);
    assert!(judged(other).unwrap_err().to_string().contains("d-2 in place of d-1"));
    let elsewhere = dated(&ca, 0, 90, &["x-aisix://env/e-2", NAMES[1]]);
    assert_eq!(judged(elsewhere).unwrap_err().label(), "environment");
    let foreign = Parts { key: ca.good().key, ..ca.good() };
    assert_eq!(judged(foreign).unwrap_err().label(), "key_mismatch");
}
