use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::candidate::{Reading, Verdict, judge};
use super::source::BundleSource;
use super::*;
use crate::settings::{Settings, Source};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// 2030-01-01: certificates here are valid from the day before for ten days.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000)
}

/// A certificate authority.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        Self::named("test CA", |_| {})
    }

    fn named(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = OffsetDateTime::from(now() - 100 * DAY);
        params.not_after = OffsetDateTime::from(now() + 1000 * DAY);
        change(&mut params);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// An authority below this one; its PEM is its certificate.
    fn intermediate(&self) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test intermediate");
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn parts(&self, params: &CertificateParams) -> Parts {
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Parts { chain, key: Secret::new(key.serialize_pem()), roots: self.pem.clone() }
    }

    fn good(&self) -> Parts {
        self.parts(&params(&NAMES))
    }
}

const NAMES: [&str; 2] = ["x-aisix://env/e-1", "x-aisix://dp/d-1"];

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let uri = |name: &&str| SanType::URI((*name).try_into().unwrap());
    params.subject_alt_names = names.iter().map(uri).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = OffsetDateTime::from(now() - DAY);
    params.not_after = OffsetDateTime::from(now() + 9 * DAY);
    params
}

/// A managed gateway with a state directory of its own.
struct Gateway {
    folder: TempDir,
    managed: Managed,
}

impl Gateway {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("config.json");
        let text = r#"{"proxy": {"addr": "127.0.0.1:1"}, "managed": {"enabled": true, "cp_base_url": "c:1"}}"#;
        fs::write(&config, text).unwrap();
        let Source::Managed(managed) = Settings::load(&config, []).unwrap().settings.source else {
            panic!("not managed")
        };
        let state = folder.path().join("state");
        let (mtls_dir, dp_id_file) = (state.join("mtls"), state.join("dp_id"));
        Self { managed: Managed { mtls_dir, dp_id_file, ..*managed }, folder }
    }

    fn supply(&mut self, parts: &Parts) {
        let Parts { chain, key, roots } = parts.clone();
        self.managed.bundle = BundleSource::Inline { chain, key, roots };
    }

    fn open(&self) -> Result<Bundle, String> {
        let opened = Bundle::open(&self.managed, now());
        opened.map(|(bundle, _)| bundle).map_err(|error| error.to_string())
    }

    /// Starts with `parts`, then again without.
    fn after(parts: &Parts) -> Self {
        let mut gateway = Self::new();
        gateway.supply(parts);
        gateway.open().unwrap();
        gateway.managed.bundle = BundleSource::Persisted;
        gateway
    }
}

/// What is told of the same bundle when it is found in changed files.
fn told_of_files(parts: &Parts, in_force: &Bundle) -> String {
    let reading = |parts: Parts| Reading { parts: Some(Ok(parts)), extra_roots: None };
    let settled = reading(in_force.parts());
    match judge(&reading(parts.clone()), &settled, in_force, now()) {
        Verdict::Rejected(rejection) => {
            assert!(!rejection.label().is_empty());
            rejection.to_string()
        }
        other => panic!("{other:?}"),
    }
}

/// What is told of a supplied bundle.
fn told(parts: &Parts) -> String {
    let mut gateway = Gateway::new();
    gateway.supply(parts);
    let told = gateway.open().unwrap_err();
    assert!(!told.contains('\n'), "{told}");
    assert!(!gateway.managed.mtls_dir.exists(), "something was written");
    told
}

#[test]
fn a_supplied_bundle_is_checked_kept_and_used_again_without_being_supplied() {
    let parts = Ca::new().good();
    let mut gateway = Gateway::new();
    gateway.supply(&parts);
    let supplied = gateway.open().unwrap();
    assert_eq!((supplied.env_id.as_str(), supplied.dp_id.as_deref()), ("e-1", Some("d-1")));
    assert_eq!(
        (supplied.origin, supplied.not_after_unix),
        (Origin::Supplied, 1_893_456_000 + 9 * 86_400)
    );
    assert!(supplied.findings.is_empty(), "{:?}", supplied.findings);
    gateway.managed.bundle = BundleSource::Persisted;
    let persisted = gateway.open().unwrap();
    assert_eq!(persisted.origin, Origin::Persisted);
    assert!(persisted.findings.is_empty(), "{:?}", persisted.findings);
    assert_eq!(persisted.parts(), parts);
    assert_eq!(fs::read_to_string(&gateway.managed.dp_id_file).unwrap(), "d-1");
}

#[test]
fn files_are_read_and_an_unreadable_one_is_named() {
    let parts = Ca::new().good();
    let mut gateway = Gateway::new();
    let path = |name: &str| gateway.folder.path().join(name);
    let (chain, key, roots) = (path("c"), path("k"), path("a"));
    fs::write(&chain, &parts.chain).unwrap();
    fs::write(&key, parts.key.expose()).unwrap();
    gateway.managed.bundle = BundleSource::Files { chain, key, roots: roots.clone() };
    let told = gateway.open().unwrap_err();
    assert!(told.contains(&roots.display().to_string()), "{told}");
    assert!(told.contains("managed.cp_ca_file") && told.contains("No such file"), "{told}");
    fs::write(&roots, &parts.roots).unwrap();
    assert_eq!(gateway.open().unwrap().parts(), parts);
}

#[test]
fn a_leaf_may_come_with_its_issuers_and_with_one_name_for_both_ids() {
    let ca = Ca::new();
    let intermediate = ca.intermediate();
    let leaf = intermediate.parts(&params(&["x-aisix://env/e-1/dp/d-1"]));
    let chain = format!("{}{}", leaf.chain, intermediate.pem);
    let mut gateway = Gateway::new();
    gateway.supply(&Parts { chain, roots: ca.pem.clone(), ..leaf.clone() });
    assert_eq!(gateway.open().unwrap().dp_id.as_deref(), Some("d-1"));
    let without = Parts { roots: ca.pem, ..leaf };
    assert!(told(&without).contains("not issued by the CA"));
}

/// One key of no use to anybody, in both forms.
const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIF04yKpVRYcVVIrDxaP1JmqCYlu/3aENeGQNyRn9fQ8soAoGCCqGSM49
AwEHoUQDQgAE0l2jkQF3nwwkclGt2VaFURgboldhZarBbROZu0P2n0aGqKRk5yqK
16KIcnJakrBkxU3QRj2yyQq9fgfJ/p+xJQ==
-----END EC PRIVATE KEY-----
";
const PKCS8: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgXTjIqlVFhxVUisPF
o/UmaoJiW7/doQ14ZA3JGf19DyyhRANCAATSXaORAXefDCRyUa3ZVoVRGBuiV2Fl
qsFtE5m7Q/afRoaopGTnKorXoohyclqSsGTFTdBGPbLJCr1+B8n+n7El
-----END PRIVATE KEY-----
";

#[test]
fn a_key_may_be_in_the_sec1_or_the_pkcs8_form() {
    let ca = Ca::new();
    let signer = KeyPair::from_pem(PKCS8).unwrap();
    let chain = params(&NAMES).signed_by(&signer, &ca.issuer).unwrap().pem();
    for key in [SEC1, PKCS8] {
        let key = Secret::new(key.to_owned());
        let mut gateway = Gateway::new();
        gateway.supply(&Parts { chain: chain.clone(), key, roots: ca.pem.clone() });
        gateway.open().unwrap();
    }
    let encrypted = PKCS8.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let parts = Parts { chain, key: Secret::new(encrypted), roots: ca.pem };
    assert!(told(&parts).contains("supply it decrypted"));
}

#[test]
fn every_fault_of_a_bundle_ends_the_start_or_is_refused_in_changed_files() {
    let ca = Ca::new();
    let good = ca.good();
    let with = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params(&NAMES);
        change(&mut params);
        ca.parts(&params)
    };
    let text = |text: &str| text.to_owned();
    let key = |text: String| Secret::new(text);
    let good_key = good.key.expose();
    let old_ca = Ca::named("test CA", |params| {
        params.not_after = OffsetDateTime::from(now() - DAY / 2);
    });
    let of_old_ca = old_ca.good();
    let no_ca = with(&|_| {});
    let half = good.chain.split_at(good.chain.len() / 2).0.to_owned();
    let cases = [
        (Parts { chain: text("x"), ..good.clone() }, "the certificate is not usable PEM"),
        (Parts { chain: text(""), ..good.clone() }, "no certificate in it"),
        (Parts { chain: half, ..good.clone() }, "the certificate is not usable PEM"),
        (Parts { chain: good_key.clone(), ..good.clone() }, "no certificate in it"),
        (
            Parts { chain: good.chain.replace("MII", "MIJ"), ..good.clone() },
            "the certificate cannot be parsed",
        ),
        (Parts { key: key(text("x")), ..good.clone() }, "the private key is not usable PEM"),
        (Parts { key: key(good.chain.clone()), ..good.clone() }, "the private key is not"),
        (
            Parts { key: key(PKCS8.replace("PRIVATE", "ENCRYPTED PRIVATE")), ..good.clone() },
            "supply it decrypted",
        ),
        (
            Parts {
                key: key(SEC1.replace(
                    "KEY-----\nMHc",
                    "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMHc",
                )),
                ..good.clone()
            },
            "supply it decrypted",
        ),
        (
            Parts { key: key(good_key.replace("MIG", "MIH")), ..good.clone() },
            "the private key cannot be used",
        ),
        (Parts { roots: text(""), ..good.clone() }, "the CA bundle is not usable PEM"),
        (Parts { roots: no_ca.chain, ..good.clone() }, "no certificate of a CA"),
        (Parts { key: ca.good().key, ..good.clone() }, "does not belong"),
        (Parts { roots: Ca::new().pem, ..good.clone() }, "not issued by the CA"),
        (of_old_ca, "the CA that issued the certificate is not valid now"),
        (
            with(&|params| params.not_after = OffsetDateTime::from(now() - DAY / 2)),
            "expired on 2029-12-31T12:00:00Z",
        ),
        (
            with(&|params| params.not_before = OffsetDateTime::from(now() + DAY)),
            "not valid before 2030-01-02T00:00:00Z",
        ),
        (
            with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "lacks clientAuth",
        ),
        (
            with(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            "lacks digitalSignature",
        ),
        (with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "that of a CA"),
        (with(&|params| params.subject_alt_names.clear()), "names no environment"),
        (with(&|params| params.subject_alt_names.truncate(1)), "names no data plane"),
        (ca.parts(&params(&["x-aisix://env/", NAMES[1]])), "does not end in an id"),
        (ca.parts(&params(&[NAMES[0], "x-aisix://dp/a/b"])), "does not end in an id"),
        (ca.parts(&params(&[NAMES[0], NAMES[1], "x-aisix://env/e-2"])), "both e-1 and e-2"),
    ];
    let in_force = Gateway::after(&good).open().unwrap();
    for (parts, expected) in cases {
        let told = told(&parts);
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(told.contains("AISIX_MANAGED__CP_*_PEM"), "{told}");
        let told = told_of_files(&parts, &in_force);
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[test]
fn what_other_tools_add_to_good_files_is_no_fault() {
    let ca = Ca::new();
    let good = ca.good();
    let in_words = "subject=CN = somebody\nissuer=CN = test CA\n";
    let mut no_usage = params(&NAMES);
    no_usage.extended_key_usages.clear();
    let two_cas = format!("{}{}", Ca::new().pem, ca.pem);
    for parts in [
        Parts { chain: good.chain.replace('\n', "\r\n"), ..good.clone() },
        Parts { key: Secret::new(good.key.expose().replace('\n', "\r\n")), ..good.clone() },
        Parts { chain: format!("{in_words}{}{in_words}", good.chain), ..good.clone() },
        Parts { roots: two_cas, ..good.clone() },
        ca.parts(&no_usage),
    ] {
        let mut gateway = Gateway::new();
        gateway.supply(&parts);
        gateway.open().unwrap();
    }
    let gateway = Gateway::new();
    let marked = gateway.folder.path().join("marked");
    fs::write(&marked, format!("\u{feff}{}", good.chain)).unwrap();
    assert_eq!(read("k", &marked).unwrap(), good.chain);
}

/// A good bundle that is valid from this day on, counted from now, for so many days.
fn dated(ca: &Ca, from: i64, days: i64, names: &[&str]) -> Parts {
    let mut params = params(names);
    params.not_before = OffsetDateTime::from(now()) + time::Duration::days(from);
    params.not_after = params.not_before + time::Duration::days(days);
    ca.parts(&params)
}

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

#[test]
fn a_faulty_supplied_bundle_leaves_the_kept_one_alone() {
    let ca = Ca::new();
    let mut gateway = Gateway::after(&ca.good());
    let kept = gateway.open().unwrap().parts();
    gateway.supply(&Parts { key: ca.good().key, ..ca.good() });
    assert!(gateway.open().unwrap_err().contains("does not belong"));
    gateway.managed.bundle = BundleSource::Persisted;
    assert_eq!(gateway.open().unwrap().parts(), kept);
}

#[test]
fn without_any_bundle_the_start_ends_with_what_to_set() {
    let told = Gateway::new().open().unwrap_err();
    for expected in ["AISIX_MANAGED__CP_CERT_FILE", "AISIX_MANAGED__CP_CA_PEM", "/state/mtls"] {
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_kept_bundle_that_has_expired_is_used_and_told() {
    let gateway = Gateway::after(&Ca::new().good());
    let (bundle, _) = Bundle::open(&gateway.managed, now() + 30 * DAY).unwrap();
    assert_eq!(bundle.env_id, "e-1");
    assert!(bundle.findings[0].contains("expired on"), "{:?}", bundle.findings);
}

#[test]
fn a_kept_bundle_without_its_notes_is_used_and_one_with_contrary_notes_is_not() {
    let gateway = Gateway::after(&Ca::new().good());
    let env_id = gateway.managed.mtls_dir.join("env_id");
    fs::remove_file(&env_id).unwrap();
    fs::remove_file(&gateway.managed.dp_id_file).unwrap();
    let bundle = gateway.open().unwrap();
    assert_eq!((bundle.env_id.as_str(), bundle.dp_id.as_deref()), ("e-1", Some("d-1")));
    assert!(bundle.findings[0].contains("dp_id"), "{:?}", bundle.findings);
    fs::write(&env_id, "another\n").unwrap();
    let told = gateway.open().unwrap_err();
    assert!(told.contains("another") && told.contains("e-1"), "{told}");
}

#[test]
fn a_kept_bundle_that_cannot_be_read_ends_the_start() {
    let gateway = Gateway::after(&Ca::new().good());
    fs::write(gateway.managed.mtls_dir.join("client.key"), "torn").unwrap();
    let told = gateway.open().unwrap_err();
    assert!(told.contains("private key") && told.contains("supply a bundle again"), "{told}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_a_finding() {
    let mut gateway = Gateway::new();
    let file = gateway.folder.path().join("file");
    fs::write(&file, "").unwrap();
    gateway.managed.mtls_dir = file.join("mtls");
    gateway.supply(&Ca::new().good());
    let bundle = gateway.open().unwrap();
    assert!(bundle.findings[0].contains("is not kept"), "{:?}", bundle.findings);
}

#[test]
fn looking_at_a_bundle_writes_nothing() {
    let mut gateway = Gateway::new();
    gateway.supply(&Ca::new().good());
    Bundle::examine(&gateway.managed, now()).unwrap();
    assert!(!gateway.managed.mtls_dir.exists());
}

#[test]
fn a_key_that_everybody_could_read_is_a_finding() {
    let gateway = Gateway::after(&Ca::new().good());
    let key = gateway.managed.mtls_dir.join("client.key");
    fs::set_permissions(&key, Permissions::from_mode(0o604)).unwrap();
    let bundle = gateway.open().unwrap();
    assert!(bundle.findings[0].contains("client.key"), "{:?}", bundle.findings);
    assert!(gateway.open().unwrap().findings.is_empty());
}

#[test]
fn extra_issuers_are_read_and_a_file_without_any_is_a_finding() {
    let ca = Ca::new();
    let mut gateway = Gateway::after(&ca.good());
    let extra = gateway.folder.path().join("extra.pem");
    gateway.managed.extra_roots = Some(extra.clone());
    let told = gateway.open().unwrap_err();
    assert!(told.contains("extra.pem") && told.contains("managed.cp_ca_cert_file"), "{told}");
    fs::write(&extra, "nothing").unwrap();
    let bundle = gateway.open().unwrap();
    assert_eq!(bundle.extra_roots_pem, None);
    assert!(bundle.findings[0].contains("extra.pem"), "{:?}", bundle.findings);
    fs::write(&extra, &ca.pem).unwrap();
    assert_eq!(gateway.open().unwrap().extra_roots_pem, Some(ca.pem));
}
