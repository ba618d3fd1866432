//! Sealing: what lies in the state directory is authenticated and encrypted, and only this gateway can open it.
//!
//! ```text
//! client key (or a systemd credential) --HKDF--> wrapping key --AES-256-GCM--> data key, in mtls/seal
//! data key, salt of the file, purpose  --HKDF--> key of one file --AES-256-GCM, random nonce--> each value
//! ```
//!
//! The data key is random and stays the same for the life of the directory; a rotation of the bundle wraps it anew. A value
//! is bound to its place (environment, table, key), so that it opens nowhere else.

use std::path::Path;
use std::{fmt, fs, io};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use shared::secret::Secret;
use zeroize::Zeroizing;

/// Bytes of every key here: AES-256.
const KEY_BYTES: usize = 32;
/// Bytes of a file's salt.
pub const SALT_BYTES: usize = 16;
/// First word of a wrapped key, naming its format.
const FORMAT: &str = "aisix-seal-1";
/// Where systemd puts credentials, and the one that may take the place of the client key.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const CREDENTIAL: &str = "aisix-seal-key";

/// Why something was not sealed or opened. Says nothing about the content.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key to wrap under is no key.
    #[error("the private key cannot be read")]
    Key,
    /// Damaged, sealed under another key, or moved from another place.
    #[error("cannot be opened: damaged, or sealed under another key or for another place")]
    Open,
    /// Not written by this program.
    #[error("is not in a known format")]
    Format,
    /// The library refused; there is no chance or no memory.
    #[error("cannot be sealed")]
    Seal,
    /// The credential of systemd is named but not there.
    #[error("cannot read the credential {CREDENTIAL}: {0}")]
    Credential(#[source] io::Error),
}

/// What the data key is wrapped under: derived from the client's private key, or from a credential of systemd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappingKey(Secret<[u8; KEY_BYTES]>);

impl WrappingKey {
    /// From a PEM private key. The same key in another encoding (SEC1, PKCS #8) makes another wrapping key.
    pub fn of_client_key(pem: &Secret<String>) -> Result<Self, SealError> {
        let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes());
        let key = key.map_err(|_| SealError::Key)?;
        derive(&[], key.secret_der(), &["wrap client key"]).map(Self)
    }

    /// From the credential that systemd hands over; `None` where there is none. See systemd.exec(5), `LoadCredential=`.
    pub fn of_credential() -> Result<Option<Self>, SealError> {
        let Some(folder) = std::env::var_os(CREDENTIALS) else { return Ok(None) };
        match fs::read(Path::new(&folder).join(CREDENTIAL)).map(Zeroizing::new) {
            Ok(secret) if secret.is_empty() => Err(SealError::Key),
            Ok(secret) => derive(&[], &secret, &["wrap credential"]).map(Self).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SealError::Credential(error)),
        }
    }
}

/// The key of a state directory. Clones are the same key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataKey(Secret<[u8; KEY_BYTES]>);

impl DataKey {
    /// A new one.
    pub fn generate() -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(key.as_mut()).map_err(|_| SealError::Seal)?;
        Ok(Self(Secret::new(*key)))
    }

    /// The key as it is kept: text of one line.
    pub fn wrap(&self, under: &WrappingKey) -> Result<String, SealError> {
        let sealed = Sealer::new(&under.0)?.seal(FORMAT.as_bytes(), self.0.expose())?;
        Ok(format!("{FORMAT} {}\n", STANDARD.encode(sealed)))
    }

    /// The key that was wrapped.
    pub fn unwrap(wrapped: &str, under: &WrappingKey) -> Result<Self, SealError> {
        let sealed = wrapped.trim_end().strip_prefix(FORMAT).and_then(|rest| {
            let sealed = rest.strip_prefix(' ')?;
            STANDARD.decode(sealed).ok()
        });
        let opened =
            Sealer::new(&under.0)?.open(FORMAT.as_bytes(), &sealed.ok_or(SealError::Format)?)?;
        let key: Zeroizing<[u8; KEY_BYTES]> =
            Zeroizing::new(opened.as_slice().try_into().map_err(|_| SealError::Format)?);
        Ok(Self(Secret::new(*key)))
    }

    /// The key of one file: `salt` is random and stands in the file, `purpose` and `env_id` bind it.
    pub fn sealer(
        &self,
        salt: &[u8; SALT_BYTES],
        purpose: &str,
        env_id: &str,
    ) -> Result<Sealer, SealError> {
        Sealer::new(&derive(salt, self.0.expose(), &[purpose, env_id])?)
    }
}

/// A salt for a new file.
pub fn new_salt() -> Result<[u8; SALT_BYTES], SealError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|_| SealError::Seal)?;
    Ok(salt)
}

/// Seals and opens the values of one file.
pub struct Sealer(RandomizedNonceKey);

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[sealer]")
    }
}

impl Sealer {
    fn new(key: &Secret<[u8; KEY_BYTES]>) -> Result<Self, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, key.expose()).map(Self).map_err(|_| SealError::Seal)
    }

    /// `plain` sealed for `place`: nonce, ciphertext, tag.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_behind(&[], place, plain)
    }

    /// The same, behind something that is not sealed.
    pub fn seal_behind(
        &self,
        before: &[u8],
        place: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let (nonce_at, text_at) = (before.len(), before.len() + NONCE_LEN);
        let mut sealed = Vec::with_capacity(text_at + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(before);
        sealed.extend_from_slice(&[0; NONCE_LEN]);
        sealed.extend_from_slice(plain);
        let text = sealed.get_mut(text_at..).unwrap_or_default();
        let (nonce, tag) = self
            .0
            .seal_in_place_separate_tag(Aad::from(place), text)
            .map_err(|_| SealError::Seal)?;
        if let Some(room) = sealed.get_mut(nonce_at..text_at) {
            room.copy_from_slice(nonce.as_ref());
        }
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// What was sealed for `place`.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Open)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut text);
        let plain_bytes = opened.map_err(|_| SealError::Open)?.len();
        text.truncate(plain_bytes);
        Ok(text)
    }
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

fn derive(
    salt: &[u8],
    secret: &[u8],
    labels: &[&str],
) -> Result<Secret<[u8; KEY_BYTES]>, SealError> {
    // A separator that no label holds keeps ("a", "bc") apart from ("ab", "c").
    let mut info: Vec<&[u8]> = vec![b"aisix"];
    for label in labels {
        info.extend([&b"\0"[..], label.as_bytes()]);
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    let extracted = Salt::new(HKDF_SHA256, salt).extract(secret);
    let expanded = extracted.expand(&info, KeyLength);
    expanded.and_then(|expanded| expanded.fill(key.as_mut())).map_err(|_| SealError::Seal)?;
    Ok(Secret::new(*key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client_key() -> WrappingKey {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        WrappingKey::of_client_key(&Secret::new(pem)).unwrap()
    }

    #[test]
    fn the_data_key_is_unwrapped_by_the_same_client_key_alone() {
        let (key, own) = (DataKey::generate().unwrap(), client_key());
        let wrapped = key.wrap(&own).unwrap();
        assert!(wrapped.starts_with("aisix-seal-1 ") && wrapped.ends_with('\n'));
        assert_eq!(DataKey::unwrap(&wrapped, &own).unwrap(), key);
        assert!(matches!(DataKey::unwrap(&wrapped, &client_key()), Err(SealError::Open)));
        assert_ne!(key.wrap(&own).unwrap(), wrapped, "each time with a nonce of its own");
    }

    #[test]
    fn a_value_opens_only_in_its_place_its_file_and_its_environment() {
        let key = DataKey::generate().unwrap();
        let salt = new_salt().unwrap();
        let sealer = key.sealer(&salt, "snapshot", "e").unwrap();
        let sealed = sealer.seal(b"documents/a", b"secret").unwrap();
        assert_eq!(*sealer.open(b"documents/a", &sealed).unwrap(), b"secret");
        assert!(sealer.open(b"documents/b", &sealed).is_err());
        let others = [
            key.sealer(&new_salt().unwrap(), "snapshot", "e"),
            key.sealer(&salt, "spool", "e"),
            key.sealer(&salt, "snapshot", "other"),
        ];
        for other in others {
            assert!(other.unwrap().open(b"documents/a", &sealed).is_err());
        }
    }

    #[test]
    fn nothing_of_the_keys_is_shown() {
        let key = DataKey::generate().unwrap();
        let sealer = key.sealer(&new_salt().unwrap(), "p", "e").unwrap();
        assert_eq!(format!("{key:?} {sealer:?}"), "DataKey([redacted]) [sealer]");
    }

    proptest! {
        #[test]
        fn every_damage_is_noticed(plain: Vec<u8>, at: prop::sample::Index, bit in 0..8u32) {
            let key = DataKey::generate().unwrap();
            let sealer = key.sealer(&[0; SALT_BYTES], "p", "e").unwrap();
            let sealed = sealer.seal(b"place", &plain).unwrap();
            prop_assert_eq!(&*sealer.open(b"place", &sealed).unwrap(), &plain);
            let mut damaged = sealed.clone();
            damaged[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(sealer.open(b"place", &damaged).is_err());
            prop_assert!(sealer.open(b"place", &sealed[..at.index(sealed.len())]).is_err());
        }

        #[test]
        fn no_text_can_panic_the_unwrapping(text: String) {
            let under = client_key();
            let _ = DataKey::unwrap(&text, &under);
            let _ = DataKey::unwrap(&format!("{FORMAT} {text}"), &under);
        }
    }
}
