//! The keys that the signer has: the one in force, and for a while the one before, with which handshakes may have begun.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use shared::memory::MemoryReader;
use shared::signing::{KEY_BYTES_MAX, KeyForm, KeyId, KeyKind, Refusal, Sign, SigningKey};
use zeroize::Zeroizing;

use super::layout::Layout;

/// How long a key is kept after another came: much longer than a handshake may take.
pub const KEPT: Duration = Duration::from_secs(60);

struct Key {
    id: KeyId,
    kind: KeyKind,
    tls12: bool,
    key: Arc<dyn rustls::sign::SigningKey>,
    /// From when on it is of no use any more; `None` for the one in force.
    until: Option<Instant>,
}

/// All keys, the one in force last.
#[derive(Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Takes a key into force. What was read of it is wiped.
    pub fn take(&mut self, about: &SigningKey, memory: OwnedFd, now: Instant) -> io::Result<()> {
        let mut der = Zeroizing::new(Vec::with_capacity(KEY_BYTES_MAX));
        MemoryReader::new(memory).take(KEY_BYTES_MAX as u64).read_to_end(&mut der)?;
        let der = match about.form {
            KeyForm::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice())),
            KeyForm::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der.as_slice())),
            KeyForm::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der.as_slice())),
        };
        let key = any_supported_type(&der).map_err(io::Error::other)?;
        self.0.retain(|key| key.id != about.id);
        for before in &mut self.0 {
            before.until.get_or_insert(now + KEPT);
        }
        self.0.push(Key { id: about.id, kind: about.kind, tls12: about.tls12, key, until: None });
        Ok(())
    }

    /// Wipes what is of no use any more.
    pub fn forget(&mut self, now: Instant) {
        self.0.retain(|key| key.until.is_none_or(|until| now < until));
    }

    /// Signs, if it is a handshake and everything fits.
    pub fn sign(&self, sign: &Sign) -> Result<Vec<u8>, Refusal> {
        let key = self.0.iter().find(|key| key.id == sign.key).ok_or(Refusal::UnknownKey)?;
        let layout = match Layout::of(&sign.message).ok_or(Refusal::Layout)? {
            Layout::Tls12 if !key.tls12 => return Err(Refusal::Layout),
            layout => layout,
        };
        if !layout.fits(key.kind, sign.scheme) {
            return Err(Refusal::Scheme);
        }
        let scheme = SignatureScheme::from(sign.scheme);
        let signer = key.key.choose_scheme(&[scheme]).ok_or(Refusal::Scheme)?;
        signer.sign(&sign.message).map_err(|_| Refusal::Failed)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use rcgen::PublicKeyData;
    use shared::memory;

    use super::*;

    const ID: KeyId = [1; 32];

    fn about(id: KeyId, tls12: bool) -> SigningKey {
        SigningKey { number: 1, id, kind: KeyKind::EcdsaP256, form: KeyForm::Pkcs8, tls12 }
    }

    fn keys(tls12: bool) -> (Keys, rcgen::KeyPair) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut keys = Keys::default();
        let memory = memory::sealed_secret("test", &pair.serialize_der()).unwrap();
        keys.take(&about(ID, tls12), memory, Instant::now()).unwrap();
        (keys, pair)
    }

    fn certificate_verify() -> Vec<u8> {
        [&[0x20; 64][..], b"TLS 1.3, server CertificateVerify\0", &[7; 32]].concat()
    }

    fn key_exchange() -> Vec<u8> {
        [&[1; 64][..], &[3, 0, 29, 32], &[5; 32]].concat()
    }

    #[test]
    fn a_handshake_is_signed_with_the_key_that_was_named() {
        let (keys, pair) = keys(false);
        let message = certificate_verify();
        let sign = Sign { key: ID, scheme: 0x0403, message: message.clone() };
        let signature = keys.sign(&sign).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.der_bytes());
        public.verify(&message, &signature).unwrap();
        let other = Sign { key: [2; 32], ..sign.clone() };
        assert_eq!(keys.sign(&other), Err(Refusal::UnknownKey));
        let scheme = Sign { scheme: 0x0804, ..sign };
        assert_eq!(keys.sign(&scheme), Err(Refusal::Scheme));
    }

    #[test]
    fn the_older_handshake_is_signed_only_where_it_is_spoken() {
        let sign = Sign { key: ID, scheme: 0x0403, message: key_exchange() };
        assert_eq!(keys(false).0.sign(&sign), Err(Refusal::Layout));
        assert!(keys(true).0.sign(&sign).is_ok());
    }

    #[test]
    fn anything_else_is_not_signed() {
        let client = [&[0x20; 64][..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat();
        for message in [client, b"token".to_vec(), vec![0; 32], Vec::new()] {
            let sign = Sign { key: ID, scheme: 0x0403, message };
            assert_eq!(keys(true).0.sign(&sign), Err(Refusal::Layout));
        }
    }

    #[test]
    fn the_key_before_is_good_for_a_while_and_then_gone() {
        let (mut keys, _) = keys(false);
        let now = Instant::now();
        let next = rcgen::KeyPair::generate().unwrap();
        let memory = memory::sealed_secret("test", &next.serialize_der()).unwrap();
        keys.take(&about([2; 32], false), memory, now).unwrap();
        let with = |key| Sign { key, scheme: 0x0403, message: certificate_verify() };
        keys.forget(now + KEPT / 2);
        assert!(keys.sign(&with(ID)).is_ok() && keys.sign(&with([2; 32])).is_ok());
        keys.forget(now + KEPT);
        assert_eq!(keys.sign(&with(ID)), Err(Refusal::UnknownKey));
        assert!(keys.sign(&with([2; 32])).is_ok());
    }
}
