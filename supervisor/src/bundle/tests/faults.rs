//! Every fault of a bundle, and what is none.

use super::super::candidate::{Reading, Verdict, judge};
use super::*;

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
