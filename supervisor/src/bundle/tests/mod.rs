//! Starts with every kind of bundle; `faults.rs` has the bad ones, `newer.rs` the choice between two, `running.rs` what
//! happens later, `sealed.rs` what becomes of the data key.

mod faults;
mod newer;
mod running;
mod sealed;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use time::OffsetDateTime;

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

/// What is told of a supplied bundle.
fn told(parts: &Parts) -> String {
    let mut gateway = Gateway::new();
    gateway.supply(parts);
    let told = gateway.open().unwrap_err();
    assert!(!told.contains('\n'), "{told}");
    assert!(!gateway.managed.mtls_dir.exists(), "something was written");
    told
}

/// A good bundle that is valid from this day on, counted from now, for so many days.
fn dated(ca: &Ca, from: i64, days: i64, names: &[&str]) -> Parts {
    let mut params = params(names);
    params.not_before = OffsetDateTime::from(now()) + time::Duration::days(from);
    params.not_after = params.not_before + time::Duration::days(days);
    ca.parts(&params)
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
    let told = bundle.unkept.unwrap_or_default();
    assert!(told.contains("is not kept"), "{told}");
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
    assert!(bundle.lasting[0].contains("client.key"), "{:?}", bundle.lasting);
    assert!(gateway.open().unwrap().lasting.is_empty());
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
    assert_eq!(gateway.open().unwrap().extra_roots_pem, Some(ca.pem.clone()));
    // PEM around what is no certificate: the start ends before it overwrites anything.
    fs::write(&extra, ca.pem.replace("MII", "MIJ")).unwrap();
    let kept = fs::read_to_string(gateway.managed.mtls_dir.join("client.crt")).unwrap();
    gateway.supply(&dated(&ca, 0, 90, &NAMES));
    let told = gateway.open().unwrap_err();
    assert!(told.contains("extra CA certificates") && told.contains("cp_ca_cert_file"), "{told}");
    assert_eq!(fs::read_to_string(gateway.managed.mtls_dir.join("client.crt")).unwrap(), kept);
}
