//! A certificate authority, for one test.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use shared::secret::Secret;
use supervisor::bundle::{Bundle, Origin};
use supervisor::cloud::tls::{Identity, InForce};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("an authority")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For `127.0.0.1` and `localhost`, as server and as client.
    pub fn issue(&self) -> Certificate {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Certificate { pem, key_pem: key.serialize_pem() }
    }

    /// An identity of this authority that trusts `other`'s servers.
    pub fn identity_trusting(&self, other: &Self) -> Identity {
        let certificate = self.issue();
        Identity {
            chain_pem: certificate.pem,
            key_pem: Secret::new(certificate.key_pem),
            roots_pem: other.pem.clone(),
            extra_roots_pem: None,
        }
    }

    /// An identity of this authority that trusts `other`'s servers, as it is in force.
    pub fn in_force_trusting(&self, other: &Self) -> InForce {
        let Identity { chain_pem, key_pem, roots_pem, extra_roots_pem } =
            self.identity_trusting(other);
        let bundle = Bundle {
            env_id: "env-1".to_owned(),
            dp_id: Some("dp-1".to_owned()),
            chain_pem,
            key_pem,
            roots_pem,
            extra_roots_pem,
            not_before_unix: 0,
            not_after_unix: i64::MAX,
            origin: Origin::Supplied,
            why: "",
            findings: Vec::new(),
            lasting: Vec::new(),
            unkept: None,
        };
        InForce::new(bundle).unwrap()
    }
}
