//! Faults of the certificate bundle.

use super::*;

type Case = (&'static str, fn(&mut Site), &'static str);

#[test]
fn each_fault_of_the_bundle_is_found_alone() {
    let cases: &[Case] = &[
        ("bundle-absent", |site| site.variables.clear(), "state/mtls"),
        (
            "bundle-file-missing",
            |site| fs::remove_file(site.path("client.key")).unwrap(),
            "client.key",
        ),
        (
            "bundle-file-unreadable",
            |site| {
                let path = site.path("client.key");
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            },
            "client.key",
        ),
        ("bundle-not-pem", |site| site.put("client.crt", "no PEM", 0o644), "not usable PEM"),
        ("bundle-not-pem", |site| site.put("client.key", "\u{0}\u{1}", 0o600), "not usable PEM"),
        (
            "bundle-key-mismatch",
            |site| site.put("client.key", &KeyPair::generate().unwrap().serialize_pem(), 0o600),
            "does not belong",
        ),
        ("bundle-expired", |site| site.now = now() + 61 * DAY, "expired on"),
        ("bundle-not-yet-valid", |site| site.now = now() - 31 * DAY, "not valid before"),
        ("bundle-expires-soon", |site| site.now = now() + 50 * DAY, "10 day(s)"),
        (
            "bundle-renewal-manual",
            |site| {
                site.now = now() + 35 * DAY;
                site.set("AISIX_MANAGED__CERT_RENEWAL", "off");
            },
            "25 day(s)",
        ),
        ("bundle-not-of-its-ca", |site| site.put("ca.crt", &Ca::new().pem, 0o644), "not issued by"),
        (
            "bundle-not-for-clients",
            |site| {
                let mut params = params(&NAMES);
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                site.issue(&params);
            },
            "clientAuth",
        ),
        (
            "bundle-ca-unusable",
            |site| {
                let leaf = fs::read_to_string(site.path("client.crt")).unwrap();
                site.put("ca.crt", &leaf, 0o644);
            },
            "no certificate of a CA",
        ),
        ("bundle-names-no-environment", |site| site.issue(&params(&NAMES[1..])), "x-aisix://env/"),
        ("bundle-names-no-data-plane", |site| site.issue(&params(&NAMES[..1])), "x-aisix://dp/"),
        (
            "bundle-names-ambiguous",
            |site| site.issue(&params(&["x-aisix://env/a", "x-aisix://env/b", NAMES[1]])),
            "both a and b",
        ),
        (
            "bundle-state-contradicts",
            |site| {
                site.start();
                site.variables.clear();
                site.put("state/mtls/env_id", "e-2", 0o600);
            },
            "e-2",
        ),
        (
            "bundle-other-environment",
            |site| {
                site.start();
                site.issue(&params(&["x-aisix://env/e-2", NAMES[1]]));
            },
            "e-2",
        ),
        (
            "bundle-key-open",
            |site| site.put("client.key", &read(site, "client.key"), 0o644),
            "0644",
        ),
        (
            "bundle-extra-ca-empty",
            |site| {
                site.put("extra.crt", "nothing", 0o644);
                let path = site.path("extra.crt").display().to_string();
                site.set("AISIX_MANAGED__CP_CA_CERT_FILE", &path);
            },
            "extra.crt",
        ),
    ];
    for (code, inject, told) in cases {
        let mut site = Site::new();
        inject(&mut site);
        let evidence = site.has(code);
        assert!(evidence.contains(told), "{code}: {evidence}");
        let key = fs::read_to_string(site.path("client.key")).unwrap_or_default();
        assert!(key.lines().nth(1).is_none_or(|line| !evidence.contains(line)), "{evidence}");
    }
}

#[test]
fn a_bundle_that_is_a_credential_is_told_with_the_restart_that_a_new_one_needs() {
    let mut site = Site::new();
    site.now = now() + 50 * DAY;
    assert!(!site.has("bundle-expires-soon").contains("restart"));
    let folder = site.folder.path().display().to_string();
    site.set("CREDENTIALS_DIRECTORY", &folder);
    assert!(site.has("bundle-expires-soon").contains("restart the unit"));
    site.now = now() + 61 * DAY;
    assert!(site.has("bundle-expired").contains("restart the unit"));
}

fn read(site: &Site, name: &str) -> String {
    fs::read_to_string(site.path(name)).unwrap()
}

#[test]
fn a_kept_bundle_that_has_expired_is_told_as_one_that_is_given() {
    let mut site = Site::new();
    site.start();
    site.variables.clear();
    assert_eq!(serious(&site.look()), []);
    site.now = now() + 61 * DAY;
    let evidence = site.has("bundle-expired");
    assert!(evidence.contains("persisted"), "{evidence}");
}

#[test]
fn an_identity_that_tls_can_use_is_given_further_whatever_its_dates_say() {
    let mut site = Site::new();
    site.now = now() + 61 * DAY;
    assert!(site.look().identity.is_some());
    site.put("client.key", &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    assert!(site.look().identity.is_none());
}
