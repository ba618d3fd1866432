//! The certificate authority: one ECDSA P-256 key in the data folder, made on first use, for client bundles, renewals
//! and the manager's own certificate.
//!
//! ```text
//! DATA/authority.lock   held while the authority is read or made, so that two processes never make two
//! DATA/ca.key           0600, written first
//! DATA/ca.crt           0644, written last: with it the authority exists
//! ```

use crate::{durable, identity::Identity};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use zeroize::Zeroizing;

/// The authority and every server certificate outlive any evaluation: ten years, and one year.
const AUTHORITY_DAYS: u32 = 3650;
const SERVER_DAYS: u32 = 365;
/// Certificates begin a little in the past, for clients whose clock is a little behind.
const CLOCK_SKEW: Duration = Duration::seconds(60);

/// The certificate authority, open for signing.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate with its key.
pub struct Issued {
    /// The leaf.
    pub certificate: Certificate,
    /// Its private key.
    pub key: KeyPair,
    /// When the leaf expires.
    pub expires_at: OffsetDateTime,
}

/// A certificate for a key that never left the gateway.
pub struct Renewed {
    /// The leaf.
    pub certificate: Certificate,
    /// When the leaf expires.
    pub expires_at: OffsetDateTime,
    /// When the gateway should have renewed it: at two thirds of its life.
    pub rotate_before: OffsetDateTime,
}

/// Why the authority could not be opened or could not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The data folder refused us.
    #[error("cannot use {} of the certificate authority", path.display())]
    File {
        /// What was read or written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A name, a key or a request that no certificate can be made from.
    #[error("cannot make a certificate for {subject}")]
    Certificate {
        /// Whom it was for.
        subject: String,
        /// Why it failed.
        source: rcgen::Error,
    },
    /// The request's key is not the key that was sent beside it.
    #[error("public_key is not the key of the csr")]
    OtherKey,
}

impl Authority {
    /// The authority of the folder `data`, made if there is none yet.
    pub fn open_or_create(data: &Path) -> Result<Self, AuthorityError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::File { path, source }
        };
        durable::create_folder(data).map_err(at(data))?;
        let (lock, key, certificate) =
            (data.join("authority.lock"), data.join("ca.key"), data.join("ca.crt"));
        let guard = File::create(&lock).map_err(at(&lock))?;
        guard.lock().map_err(at(&lock))?;
        if !certificate.exists() {
            let (certificate_pem, key_pem) = generate()?;
            durable::replace(&key, 0o600, key_pem.as_bytes()).map_err(at(&key))?;
            durable::replace(&certificate, 0o644, certificate_pem.as_bytes())
                .map_err(at(&certificate))?;
        }
        let key_pem = Zeroizing::new(fs::read_to_string(&key).map_err(at(&key))?);
        let certificate_pem = fs::read_to_string(&certificate).map_err(at(&certificate))?;
        let named = || "the authority itself".to_owned();
        let key = KeyPair::from_pem(&key_pem).map_err(refused(named))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(refused(named))?;
        Ok(Self { issuer, certificate_pem })
    }

    /// The root certificate (PEM).
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A client certificate with a new key.
    pub fn issue(&self, identity: &Identity, days: u32) -> Result<Issued, AuthorityError> {
        let subject = || identity.dp_id.clone();
        let (params, expires_at) = client(identity, days)?;
        let key = KeyPair::generate().map_err(refused(subject))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(refused(subject))?;
        Ok(Issued { certificate, key, expires_at })
    }

    /// A client certificate for the key of a certificate request (PEM). Only the key is taken from the request: the
    /// names are those of `identity`. `public_key` (SPKI PEM), where sent, must be the same key.
    pub fn renew(
        &self,
        identity: &Identity,
        csr: &str,
        public_key: Option<&str>,
        days: u32,
    ) -> Result<Renewed, AuthorityError> {
        let subject = || format!("the csr of {}", identity.dp_id);
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(refused(subject))?;
        if let Some(pem) = public_key {
            let beside = SubjectPublicKeyInfo::from_pem(pem).map_err(refused(subject))?;
            if beside.subject_public_key_info() != request.public_key.subject_public_key_info() {
                return Err(AuthorityError::OtherKey);
            }
        }
        let (params, expires_at) = client(identity, days)?;
        let rotate_before = params.not_before + (expires_at - params.not_before) * 2 / 3;
        let certificate =
            params.signed_by(&request.public_key, &self.issuer).map_err(refused(subject))?;
        Ok(Renewed { certificate, expires_at, rotate_before })
    }

    /// The manager's own certificate, for host names and addresses.
    pub fn server(&self, names: &[String]) -> Result<Issued, AuthorityError> {
        let subject = || names.join(", ");
        let named = CertificateParams::new(names).map_err(refused(subject))?;
        let (mut params, expires_at) = leaf("aisix-cloud manager", SERVER_DAYS);
        params.subject_alt_names = named.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(refused(subject))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(refused(subject))?;
        Ok(Issued { certificate, key, expires_at })
    }
}

/// A new root certificate and its key, both PEM.
fn generate() -> Result<(String, Zeroizing<String>), AuthorityError> {
    let named = || "a new authority".to_owned();
    // A name of its own, so that two authorities are told apart in any tool.
    let (mut params, _) =
        leaf(&format!("aisix-cloud local authority {}", Uuid::new_v4()), AUTHORITY_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    let key = KeyPair::generate().map_err(refused(named))?;
    let certificate = params.self_signed(&key).map_err(refused(named))?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

fn client(
    identity: &Identity,
    days: u32,
) -> Result<(CertificateParams, OffsetDateTime), AuthorityError> {
    let (mut params, expires_at) = leaf(&identity.dp_id, days);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for uri in identity.uris() {
        let name = uri.as_str().try_into().map_err(refused(|| uri.clone()))?;
        params.subject_alt_names.push(SanType::URI(name));
    }
    Ok((params, expires_at))
}

fn leaf(common_name: &str, days: u32) -> (CertificateParams, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days.into());
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let expires_at = params.not_after;
    (params, expires_at)
}

fn refused(subject: impl FnOnce() -> String) -> impl FnOnce(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError::Certificate { subject: subject(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { env_id: "e".into(), dp_id: "d".into() }
    }

    #[test]
    fn processes_that_race_for_the_first_use_get_one_authority() {
        let data = tempfile::tempdir().unwrap();
        let open = || Authority::open_or_create(data.path()).unwrap().certificate_pem;
        let pems: Vec<String> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert!(pems.iter().all(|pem| *pem == pems[0]));
    }

    #[test]
    fn a_renewal_keeps_the_identity_whatever_the_request_asks_for() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(data.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::new(vec!["other.example".to_owned()])
            .unwrap()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let renewed = authority.renew(&identity(), &csr, Some(&key.public_key_pem()), 9).unwrap();
        assert_eq!(Identity::from_leaf(renewed.certificate.der()).unwrap(), identity());
        assert!(renewed.rotate_before < renewed.expires_at);

        let other = KeyPair::generate().unwrap().public_key_pem();
        let refused = authority.renew(&identity(), &csr, Some(&other), 9);
        assert!(matches!(refused, Err(AuthorityError::OtherKey)));
    }
}
