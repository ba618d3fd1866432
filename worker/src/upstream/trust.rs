//! Which certificates of upstreams are believed.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use shared::secret::Secret;

/// The issuers trusted by default: the platform's and Mozilla's.
#[derive(Clone, Debug)]
pub struct TrustRoots {
    roots: Arc<RootCertStore>,
}

/// TLS settings that cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not a PEM certificate. The parser's own words are left out: they quote the text.
    #[error("the certificates to trust are not valid PEM")]
    Pem,
    /// A certificate that cannot be an issuer.
    #[error("a certificate to trust is not usable: {0}")]
    Certificate(rustls::Error),
    /// Text without any certificate.
    #[error("there is no certificate among the certificates to trust")]
    Empty,
    /// The certificate that upstreams are shown cannot be used.
    #[error("the client certificate for upstreams is not usable: {0}")]
    Identity(String),
}

/// What one endpoint's TLS is made of, beside the default issuers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsOptions<'a> {
    /// PEM certificates trusted beside the default issuers.
    pub ca_pem: [Option<&'a str>; 2],
    /// `false` accepts any certificate.
    pub verify: bool,
    /// PEM chain and key presented to the upstream.
    pub identity: Option<&'a (String, Secret<String>)>,
}

impl TrustRoots {
    /// Mozilla's, and these of the platform, in DER. What cannot be an issuer is passed over.
    pub fn new(platform: Vec<Vec<u8>>) -> Self {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        roots.add_parsable_certificates(platform.into_iter().map(CertificateDer::from));
        Self { roots: Arc::new(roots) }
    }

    /// The TLS settings of one endpoint.
    pub(crate) fn config(&self, options: TlsOptions<'_>) -> Result<Arc<ClientConfig>, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Certificate)?;
        let builder = if options.verify {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(self.with(options)?, provider)
                    .build()
                    .map_err(|error| {
                        TrustError::Certificate(rustls::Error::General(error.to_string()))
                    })?;
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            let anyone = Arc::new(AcceptAny(provider));
            builder.dangerous().with_custom_certificate_verifier(anyone)
        };
        let mut config = match options.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let identity = |_| TrustError::Identity("it is not valid PEM".to_owned());
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
                builder
                    .with_client_auth_cert(chain.map_err(identity)?, key.map_err(identity)?)
                    .map_err(|error| TrustError::Identity(error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// The default issuers, and those of the options.
    fn with(&self, options: TlsOptions<'_>) -> Result<Arc<RootCertStore>, TrustError> {
        if options.ca_pem == [None, None] {
            return Ok(self.roots.clone());
        }
        let mut roots = RootCertStore::clone(&self.roots);
        for pem in options.ca_pem.into_iter().flatten() {
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| TrustError::Pem)?;
                roots.add(certificate).map_err(TrustError::Certificate)?;
            }
            if roots.len() == before {
                return Err(TrustError::Empty);
            }
        }
        Ok(Arc::new(roots))
    }
}

/// Takes any certificate, as an operator asked for; that the peer holds its key is still checked.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
