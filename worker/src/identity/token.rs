//! A token, taken apart: header, claims, signature. Nothing of it is believed yet.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::Rejection;
use super::jwks::SigningKey;

/// A longer bearer is not taken for a token: those of providers have a few thousand bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What signs with a key whose other half is public. An algorithm of shared secrets, or `none`, is not among them: a public
/// key must never serve as a secret.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// A bearer in the shape of a token.
#[derive(Debug)]
pub struct Token<'a> {
    header: Value,
    /// Header and claims as they are signed.
    message: &'a str,
    claims: &'a str,
    signature: &'a str,
}

/// What the header says of the signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    pub algorithm: Algorithm,
    /// Which key, if it says so.
    pub key_id: Option<String>,
}

impl<'a> Token<'a> {
    /// The bearer as a token, if it has the shape of one: three parts of which the first is a JSON object with `alg`. A key
    /// that merely has dots in it is none.
    pub fn of(bearer: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(bearer).ok().filter(|text| text.len() <= TOKEN_BYTES_MAX)?;
        let (message, signature) = text.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        if [header, claims, signature].iter().any(|part| part.is_empty() || part.contains('.')) {
            return None;
        }
        let header = object(header).filter(|header| header.get("alg").is_some())?;
        Some(Self { header, message, claims, signature })
    }

    /// What is signed with: by an algorithm for public keys.
    pub(super) fn signed(&self) -> Result<Signed, Rejection> {
        // Extensions that must be understood (RFC 7515, section 4.1.11): none is.
        if self.header.get("crit").is_some() {
            return Err(Rejection::Invalid);
        }
        let name = self.header.get("alg").and_then(Value::as_str).ok_or(Rejection::Malformed)?;
        let algorithm = name.parse().ok().filter(|algorithm| ALGORITHMS.contains(algorithm));
        let key_id = match self.header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Rejection::Malformed),
        };
        Ok(Signed { algorithm: algorithm.ok_or(Rejection::AlgorithmNotAllowed)?, key_id })
    }

    /// What it claims.
    pub(super) fn claims(&self) -> Result<Value, Rejection> {
        object(self.claims).ok_or(Rejection::Malformed)
    }

    /// Whether the signature is of one of these keys.
    pub(super) fn verify<'k>(
        &self,
        algorithm: Algorithm,
        keys: impl Iterator<Item = &'k SigningKey>,
    ) -> Result<(), Rejection> {
        for key in keys {
            let message = self.message.as_bytes();
            match jsonwebtoken::crypto::verify(self.signature, message, &key.key, algorithm) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // The signature is not in base64url.
                Err(_) => return Err(Rejection::Invalid),
            }
        }
        Err(Rejection::BadSignature)
    }
}

fn object(part: &str) -> Option<Value> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok().filter(Value::is_object)
}
