//! What a handshake is made of: the certificate to show, who signs, which versions and protocols are spoken, and tickets.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, OtherError, ServerConfig, SignatureAlgorithm, SignatureScheme};
use shared::signing::{KeyId, KeyKind, ListenerCertificate};

use super::CertificateError;
use super::signer_link::SignerLink;
use super::tickets::Tickets;

/// What is spoken within TLS, the preferred protocol first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How callers are received with that certificate.
pub fn config(
    told: ListenerCertificate,
    signer: Arc<SignerLink>,
) -> Result<ServerConfig, CertificateError> {
    let versions: &[_] = if told.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let chain = told.chain.into_iter().map(CertificateDer::from).collect();
    let key = RemoteKey { signer, id: told.key, kind: told.kind };
    let certified = CertifiedKey::new(chain, Arc::new(key));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.ticketer = Arc::new(Tickets::new(&told.tickets).ok_or(CertificateError::Tickets)?);
    // A session that only this worker knows would not resume on another.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // What is sent before the handshake is complete could be sent again by whoever has recorded it.
    config.max_early_data_size = 0;
    Ok(config)
}

/// A key that another process holds.
#[derive(Clone, Debug)]
struct RemoteKey {
    signer: Arc<SignerLink>,
    id: KeyId,
    kind: KeyKind,
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut ours = self.kind.schemes().iter().map(|number| SignatureScheme::from(*number));
        let scheme = ours.find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner { key: self.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.kind {
            KeyKind::EcdsaP256 | KeyKind::EcdsaP384 => SignatureAlgorithm::ECDSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
            KeyKind::Rsa => SignatureAlgorithm::RSA,
        }
    }
}

/// A key and how it is used in one handshake.
#[derive(Debug)]
struct RemoteSigner {
    key: RemoteKey,
    scheme: SignatureScheme,
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.key.signer.sign(self.key.id, self.scheme.into(), message);
        signed.map_err(|error| Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
