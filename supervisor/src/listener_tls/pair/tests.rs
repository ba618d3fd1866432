use std::fs;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SignatureAlgorithm};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::*;

const DAY: i64 = 24 * 60 * 60;

fn params(valid: std::ops::Range<i64>) -> CertificateParams {
    let mut params = CertificateParams::new(["gateway.example".to_owned()]).unwrap();
    params.not_before = OffsetDateTime::from_unix_timestamp(valid.start).unwrap();
    params.not_after = OffsetDateTime::from_unix_timestamp(valid.end).unwrap();
    params
}

struct Folder {
    _folder: TempDir,
    files: ListenerFiles,
}

impl Folder {
    fn new(certificate: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = ListenerFiles {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
        };
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key).unwrap();
        Self { _folder: folder, files }
    }

    fn read_at(&self, day: i64) -> Result<Pair, PairError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(day * DAY).unwrap());
        Pair::read(&self.files, now)
    }

    fn told(&self) -> String {
        self.read_at(15).unwrap_err().to_string()
    }
}

fn pair_of(algorithm: &'static SignatureAlgorithm) -> (String, KeyPair) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    (params(10 * DAY..20 * DAY).self_signed(&key).unwrap().pem(), key)
}

#[test]
fn a_pair_of_every_kind_that_callers_know_is_taken() {
    for (algorithm, kind) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::EcdsaP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::EcdsaP384),
        (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa),
    ] {
        let (certificate, key) = pair_of(algorithm);
        let pair = Folder::new(&certificate, &key.serialize_pem()).read_at(15).unwrap();
        assert_eq!((pair.kind, pair.form, pair.chain.len()), (kind, KeyForm::Pkcs8, 1));
        let mut sealed = memory::MemoryReader::new(pair.key);
        let mut der = Vec::new();
        io::Read::read_to_end(&mut sealed, &mut der).unwrap();
        assert_eq!(der, key.serialize_der());
    }
}

#[test]
fn what_is_wrong_is_told_with_the_setting_the_path_the_reason_and_the_remedy() {
    let (certificate, key) = pair_of(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (_, other) = pair_of(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (unusual, unusual_key) = pair_of(&rcgen::PKCS_ECDSA_P521_SHA512);
    let key = key.serialize_pem();
    for (certificate, key, words) in [
        (
            certificate.as_str(),
            other.serialize_pem(),
            ["proxy.tls.key_file", "tls.key", "does not belong"],
        ),
        ("nothing", key.clone(), ["proxy.tls.cert_file", "tls.crt", "no usable PEM"]),
        (&key, key.clone(), ["proxy.tls.cert_file", "tls.crt", "no usable PEM"]),
        (&certificate, certificate.clone(), ["proxy.tls.key_file", "tls.key", "no private key"]),
        (&unusual, unusual_key.serialize_pem(), ["proxy.tls.key_file", "tls.key", "use ECDSA"]),
        (
            &certificate,
            key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
            ["proxy.tls.key_file", "tls.key", "decrypted"],
        ),
    ] {
        let told = Folder::new(certificate, &key).told();
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
        let secret = key.lines().nth(1).unwrap_or_default();
        assert!(!secret.is_empty() && !told.contains(secret), "{told}");
    }
    let folder = Folder::new(&certificate, &key);
    fs::remove_file(&folder.files.key).unwrap();
    let told = folder.told();
    assert!(told.contains("proxy.tls.key_file") && told.contains("No such file"), "{told}");
    fs::remove_file(&folder.files.certificate).unwrap();
    let told = folder.told();
    assert!(told.contains("proxy.tls.cert_file") && told.contains("No such file"), "{told}");
}

#[test]
fn a_certificate_is_good_only_within_its_time() {
    let (certificate, key) = pair_of(&rcgen::PKCS_ECDSA_P256_SHA256);
    let folder = Folder::new(&certificate, &key.serialize_pem());
    let early = folder.read_at(9).unwrap_err();
    assert!(early.to_string().contains("not valid before 1970-01-11"), "{early}");
    assert!(early.to_string().contains("clock"), "{early}");
    let late = folder.read_at(21).unwrap_err();
    assert!(late.to_string().contains("expired on 1970-01-21"), "{late}");
    assert_eq!((early.fault.label(), late.fault.label()), ("not_yet_valid", "expired"));
}

#[test]
fn a_certificate_for_clients_is_refused_and_one_for_both_is_not() {
    let key = KeyPair::generate().unwrap();
    let with = |usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = params(10 * DAY..20 * DAY);
        params.extended_key_usages = usages.to_vec();
        let certificate = params.self_signed(&key).unwrap().pem();
        Folder::new(&certificate, &key.serialize_pem()).read_at(15)
    };
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    assert_eq!(with(&[ClientAuth]).unwrap_err().fault.label(), "usage");
    assert!(with(&[ClientAuth, ServerAuth]).is_ok());
    assert!(with(&[ServerAuth]).is_ok());
}
