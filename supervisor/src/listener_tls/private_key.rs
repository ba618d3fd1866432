//! A private key out of PEM text, without a copy of it on the way: what was read or decoded is wiped when it is dropped.
//!
//! The library's own reader leaves what it has decoded in memory that is free again, from where this process, which lives
//! long after it has handed the key to the signer, would never wipe it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use shared::signing::{KEY_BYTES_MAX, KeyForm};
use zeroize::Zeroizing;

/// No file of a key is larger, certificates beside it included.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A private key.
pub struct PrivateKey {
    /// How it is written down.
    pub form: KeyForm,
    /// The key.
    pub der: Zeroizing<Vec<u8>>,
}

/// What is wrong with the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No key in it.
    #[error("holds no private key: it must have one between BEGIN and END lines")]
    Missing,
    /// Nobody could use it without its password.
    #[error("is encrypted; supply it decrypted")]
    Encrypted,
    /// The text between the lines is not what it should be.
    #[error("what stands between BEGIN and END is not base64")]
    Base64,
    /// Too long to be one.
    #[error("is larger than any private key")]
    TooLarge,
}

/// The bytes of a regular file. Never waits for another process, as opening a pipe would.
pub fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    // Of its whole size from the beginning: growing would leave copies.
    let bytes = usize::try_from(metadata.len()).unwrap_or_default();
    let mut content = Zeroizing::new(vec![0; bytes]);
    file.read_exact(&mut content)?;
    Ok(content)
}

/// What a file of certificates holds, without any key beside them: the library would decode it.
pub fn without_keys(text: &[u8]) -> Cow<'_, [u8]> {
    const CERTIFICATE: &[u8] = b"CERTIFICATE";
    if split(text, b"PRIVATE KEY").is_none() {
        return Cow::Borrowed(text);
    }
    let mut certificates = Vec::new();
    let mut rest = text;
    while let Some((label, body, after)) = section(rest) {
        if label == CERTIFICATE {
            for part in [&b"-----BEGIN CERTIFICATE-----"[..], body, b"-----END CERTIFICATE-----\n"]
            {
                certificates.extend_from_slice(part);
            }
        }
        rest = after;
    }
    Cow::Owned(certificates)
}

impl PrivateKey {
    /// The first private key of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Self, Fault> {
        let mut rest = text;
        while let Some((label, body, after)) = section(rest) {
            let form = match label {
                b"PRIVATE KEY" => Some(KeyForm::Pkcs8),
                b"EC PRIVATE KEY" => Some(KeyForm::Sec1),
                b"RSA PRIVATE KEY" => Some(KeyForm::Pkcs1),
                b"ENCRYPTED PRIVATE KEY" => return Err(Fault::Encrypted),
                _ => None,
            };
            if let Some(form) = form {
                return Ok(Self { form, der: decode(body)? });
            }
            rest = after;
        }
        Err(Fault::Missing)
    }

    /// The key as the library takes it.
    pub fn borrowed(&self) -> PrivateKeyDer<'_> {
        let der = self.der.as_slice();
        match self.form {
            KeyForm::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
            KeyForm::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
            KeyForm::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
        }
    }
}

/// The next section: its label, what stands in it, and what follows.
fn section(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const DASHES: &[u8] = b"-----";
    const END: &[u8] = b"-----END ";
    let (_, rest) = split(text, BEGIN)?;
    let (label, rest) = split(rest, DASHES)?;
    let (body, rest) = split(rest, END)?;
    Some((label, body, rest))
}

/// What stands before and behind the first `pattern`.
fn split<'a>(text: &'a [u8], pattern: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(pattern.len()).position(|window| window == pattern)?;
    let (before, rest) = text.split_at_checked(at)?;
    Some((before, rest.strip_prefix(pattern)?))
}

fn decode(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // A key that OpenSSL encrypted in the old way says so in a header.
    if split(body, b"ENCRYPTED").is_some() {
        return Err(Fault::Encrypted);
    }
    if body.len() > 2 * KEY_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    let mut digits = Zeroizing::new(Vec::with_capacity(body.len()));
    digits.extend(body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(digits.len())]);
    let bytes = STANDARD.decode_slice(digits.as_slice(), &mut der).map_err(|_| Fault::Base64)?;
    der.truncate(bytes);
    match der.len() {
        0 => Err(Fault::Missing),
        1..=KEY_BYTES_MAX => Ok(der),
        _ => Err(Fault::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_key_is_found_wherever_it_stands_as_the_library_would() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap().pem();
        let pem = pair.serialize_pem();
        for text in [
            pem.clone(),
            pem.replace('\n', "\r\n"),
            format!("a comment\n{certificate}{pem}{certificate}"),
        ] {
            let found = PrivateKey::from_pem(text.as_bytes()).unwrap();
            let expected = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(found.borrowed(), expected);
            assert_eq!(*found.der, pair.serialize_der());
        }
        let of_a_curve = pem.replace("PRIVATE KEY", "EC PRIVATE KEY");
        assert_eq!(PrivateKey::from_pem(of_a_curve.as_bytes()).unwrap().form, KeyForm::Sec1);
        assert_eq!(PrivateKey::from_pem(certificate.as_bytes()).err(), Some(Fault::Missing));
    }

    #[test]
    fn a_key_beside_certificates_is_left_out_of_what_is_read_of_them() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap().pem().replace("\r\n", "\n");
        let key = pair.serialize_pem();
        let text = format!("{certificate}{key}{certificate}");
        let left = without_keys(text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&left), format!("{certificate}{certificate}"));
        assert_eq!(without_keys(certificate.as_bytes()), certificate.as_bytes());
        assert!(without_keys(key.as_bytes()).is_empty());
    }

    #[test]
    fn what_is_no_key_is_told_by_its_reason() {
        let long = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END ", "A".repeat(50_000));
        for (text, fault) in [
            ("", Fault::Missing),
            ("-----BEGIN PRIVATE KEY-----\n", Fault::Missing),
            ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", Fault::Missing),
            ("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n", Fault::Base64),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ", Fault::Encrypted),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END ",
                Fault::Encrypted,
            ),
            (&long, Fault::TooLarge),
        ] {
            assert_eq!(PrivateKey::from_pem(text.as_bytes()).err(), Some(fault), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_can_panic_the_reader(text: Vec<u8>, middle in "[A-Za-z0-9+/= \n-]{0,200}") {
            let _ = PrivateKey::from_pem(&text);
            let text = format!("-----BEGIN PRIVATE KEY-----{middle}-----END PRIVATE KEY-----");
            let _ = PrivateKey::from_pem(text.as_bytes());
        }
    }
}
