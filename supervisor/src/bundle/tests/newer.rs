//! The supplied bundle beside a kept one.

use super::*;

#[test]
fn between_bundles_of_one_environment_the_newer_valid_one_wins() {
    let ca = Ca::new();
    let [old, new] = [dated(&ca, -5, 90, &NAMES), dated(&ca, -1, 90, &NAMES)];
    let opened = |kept: &Parts, supplied: &Parts| {
        let mut gateway = Gateway::after(kept);
        gateway.supply(supplied);
        let bundle = gateway.open().unwrap();
        assert!(!bundle.why.is_empty() && bundle.findings.is_empty(), "{:?}", bundle.findings);
        // The next start, without anything supplied, has the same one.
        gateway.managed.bundle = BundleSource::Persisted;
        assert_eq!(gateway.open().unwrap().parts(), bundle.parts());
        (bundle.origin, bundle.parts())
    };
    assert_eq!(opened(&old, &new), (Origin::Supplied, new.clone()));
    assert_eq!(opened(&new, &old), (Origin::Persisted, new.clone()));
    assert_eq!(opened(&old, &old), (Origin::Supplied, old.clone()));
    let as_old = dated(&ca, -5, 90, &NAMES);
    assert_eq!(opened(&old, &as_old), (Origin::Supplied, as_old));
    let short = dated(&ca, -1, 0, &NAMES);
    // Kept while it was valid, expired by now.
    let mut later = Gateway::new();
    later.supply(&dated(&ca, -2, 1, &NAMES));
    Bundle::open(&later.managed, now() - 3 * DAY / 2).unwrap();
    later.supply(&old);
    assert_eq!(later.open().unwrap().parts(), old);
    assert!(told(&short).contains("expired"));
    let elsewhere = dated(&ca, -9, 90, &["x-aisix://env/e-2", NAMES[1]]);
    assert_eq!(opened(&new, &elsewhere), (Origin::Supplied, elsewhere));
}

#[test]
fn a_bundle_that_expired_while_the_gateway_was_off_does_not_stop_the_start() {
    let ca = Ca::new();
    let [old, newer] = [dated(&ca, -5, 8, &NAMES), dated(&ca, -4, 8, &NAMES)];
    let open_late = |gateway: &Gateway| Bundle::open(&gateway.managed, now() + 30 * DAY);
    for (kept, supplied, expected) in
        [(&old, &old, &old), (&newer, &old, &newer), (&old, &newer, &newer)]
    {
        let mut gateway = Gateway::after(kept);
        gateway.supply(supplied);
        let (bundle, _) = open_late(&gateway).unwrap();
        assert_eq!(&bundle.parts(), expected);
        assert!(bundle.findings[0].contains("expired on"), "{:?}", bundle.findings);
    }
    // What was kept last is valid still: nothing is wrong.
    let mut gateway = Gateway::after(&dated(&ca, -1, 90, &NAMES));
    gateway.supply(&old);
    let (bundle, _) = open_late(&gateway).unwrap();
    assert!(bundle.origin == Origin::Persisted && bundle.findings.is_empty());
    // Nothing of this environment was ever kept: a mistake.
    let mut gateway = Gateway::after(&dated(&ca, -1, 90, &["x-aisix://env/e-2", NAMES[1]]));
    gateway.supply(&old);
    assert!(open_late(&gateway).unwrap_err().to_string().contains("expired on"));
}

#[test]
fn the_kept_bundle_does_not_end_a_start_before_the_clock_is_set() {
    let ca = Ca::new();
    let parts = dated(&ca, -5, 90, &NAMES);
    let mut gateway = Gateway::after(&parts);
    gateway.supply(&parts);
    let (bundle, _) = Bundle::open(&gateway.managed, SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(bundle.parts(), parts);
    assert!(bundle.findings[0].contains("clock"), "{:?}", bundle.findings);
    // One that was never in use may be meant for later.
    gateway.supply(&dated(&ca, -1, 90, &NAMES));
    let told = Bundle::open(&gateway.managed, SystemTime::UNIX_EPOCH).unwrap_err().to_string();
    assert!(told.contains("clock"), "{told}");
}
