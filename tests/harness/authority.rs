//! A certificate authority that is not the local Cloud's: certificates as another tool would make them.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use crate::cloud::Bundle;

/// An authority with a folder for what it issues.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

/// A server's certificate and key, as files.
#[derive(Debug)]
pub struct ServerFiles {
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for Authority {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the authority");
        let key = KeyPair::generate().expect("a key");
        let mut params = named("another authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a root certificate");
        let path = write(folder.path(), "ca.crt", &certificate.pem());
        Self { folder, issuer: Issuer::new(params, key), certificate: path }
    }
}

impl Authority {
    /// One that is there already, with its certificate and key: what it issues is as good as what its owner does.
    pub fn of(certificate: &Path, key: &Path) -> Self {
        let read = |path: &Path| fs::read_to_string(path).expect("a file of the authority");
        let folder = tempfile::tempdir().expect("a folder for the authority");
        let key = KeyPair::from_pem(&read(key)).expect("a key");
        let pem = read(certificate);
        let issuer = Issuer::from_ca_cert_pem(&pem, key).expect("an authority");
        let certificate = write(folder.path(), "ca.crt", &pem);
        Self { folder, issuer, certificate }
    }

    /// As [`Authority::bundle`], in a folder of its own, valid for these seconds from now on and with `change` made to it.
    pub fn bundle_with(
        &self,
        environment: &str,
        data_plane: &str,
        valid: std::ops::Range<i64>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Bundle {
        let mut params = named("a gateway");
        for uri in [format!("x-aisix://dp/{data_plane}"), format!("x-aisix://env/{environment}")] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("an ASCII name")));
        }
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::seconds(valid.start);
        params.not_after = now + Duration::seconds(valid.end);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let folder = self.folder.path().join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&folder).expect("a folder for the bundle");
        Bundle {
            certificate: write(&folder, "client.crt", &certificate.pem()),
            key: write(&folder, "client.key", &key.serialize_pem()),
            issuers: self.certificate.clone(),
        }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// A certificate for servers on loopback.
    pub fn server(&self) -> ServerFiles {
        let mut params = named("a server");
        let address = "127.0.0.1".parse().expect("an address");
        params.subject_alt_names.push(SanType::IpAddress(address));
        let [certificate, key] =
            self.issue("server", &mut params, ExtendedKeyUsagePurpose::ServerAuth);
        ServerFiles { certificate, key }
    }

    /// A certificate for servers on loopback, with `change` made to it, in a folder of its own.
    pub fn server_with(&self, change: impl FnOnce(&mut CertificateParams)) -> ServerFiles {
        let mut params = named("a server");
        let address = "127.0.0.1".parse().expect("an address");
        params.subject_alt_names.push(SanType::IpAddress(address));
        change(&mut params);
        let name = format!("server-{}", uuid::Uuid::new_v4());
        let [certificate, key] =
            self.issue(&name, &mut params, ExtendedKeyUsagePurpose::ServerAuth);
        ServerFiles { certificate, key }
    }

    /// A bundle for a gateway, with the ids where the Cloud puts them.
    pub fn bundle(&self, environment: &str, data_plane: &str) -> Bundle {
        let mut params = named("a gateway");
        for uri in [format!("x-aisix://dp/{data_plane}"), format!("x-aisix://env/{environment}")] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("an ASCII name")));
        }
        let [certificate, key] =
            self.issue("client", &mut params, ExtendedKeyUsagePurpose::ClientAuth);
        Bundle { certificate, key, issuers: self.certificate.clone() }
    }

    /// A bundle whose certificate is as `change` makes it, for that use.
    pub fn bundle_for(
        &self,
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Bundle {
        let mut params = named("a gateway");
        change(&mut params);
        let [certificate, key] = self.issue("changed", &mut params, usage);
        Bundle { certificate, key, issuers: self.certificate.clone() }
    }

    fn issue(
        &self,
        name: &str,
        params: &mut CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> [PathBuf; 2] {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let folder = self.folder.path();
        [
            write(folder, &format!("{name}.crt"), &certificate.pem()),
            write(folder, &format!("{name}.key"), &key.serialize_pem()),
        ]
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file for the certificate");
    path
}
