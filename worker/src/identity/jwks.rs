//! JSON web key sets (RFC 7517): what identity providers publish, reduced to what verifies signatures.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// More keys of one provider are passed over: no provider has so many, and a token without a key id is tried with each.
const KEYS_MAX: usize = 100;

/// The keys of one provider.
#[derive(Debug, Default)]
pub struct Keys(Vec<SigningKey>);

/// A key that verifies signatures.
#[derive(Debug)]
pub(super) struct SigningKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub key: DecodingKey,
}

/// What is published is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// No JSON object with a list of keys.
    #[error("it is not a JSON web key set")]
    Shape,
    /// None that is for signatures of a kind that is known here.
    #[error("it holds no RSA, EC (P-256, P-384) or Ed25519 key for signatures")]
    Empty,
}

/// One key as it is published, as far as it matters. The rest, certificates among it, is left out.
#[derive(Debug, Deserialize, Serialize)]
struct Jwk {
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_ops: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

#[derive(Serialize)]
struct Reduced {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Published {
    /// One by one: a key of a kind that is not known must not cost the others.
    keys: Vec<Value>,
}

/// The published set without what does not verify signatures.
pub fn reduce(published: &[u8]) -> Result<Vec<u8>, JwksError> {
    let published: Published = serde_json::from_slice(published).map_err(|_| JwksError::Shape)?;
    let keys = published.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
    let keys: Vec<Jwk> = keys.filter(|key| signing_key(key).is_some()).take(KEYS_MAX).collect();
    if keys.is_empty() {
        return Err(JwksError::Empty);
    }
    serde_json::to_vec(&Reduced { keys }).map_err(|_| JwksError::Shape)
}

impl Keys {
    /// The keys of a set.
    pub fn read(set: &[u8]) -> Result<Self, JwksError> {
        let set: Published = serde_json::from_slice(set).map_err(|_| JwksError::Shape)?;
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<_> = keys.filter_map(|key: Jwk| signing_key(&key)).take(KEYS_MAX).collect();
        if keys.is_empty() { Err(JwksError::Empty) } else { Ok(Self(keys)) }
    }

    /// Whether there is a key of that id; without an id any will do.
    pub(super) fn has(&self, id: Option<&str>) -> bool {
        id.is_none() || self.0.iter().any(|key| key.id.as_deref() == id)
    }

    /// Those of that id (without one, all) that are for signatures by this algorithm.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &SigningKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithms.contains(&algorithm))
    }
}

fn signing_key(jwk: &Jwk) -> Option<SigningKey> {
    let is_for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|it| it == "verify"));
    if !is_for_signatures {
        return None;
    }
    let (key, possible) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
            let key = DecodingKey::from_rsa_components(jwk.n.as_ref()?, jwk.e.as_ref()?);
            (key, vec![RS256, RS384, RS512, PS256, PS384, PS512])
        }
        ("EC", Some("P-256")) => (ec(jwk)?, vec![Algorithm::ES256]),
        ("EC", Some("P-384")) => (ec(jwk)?, vec![Algorithm::ES384]),
        ("OKP", Some("Ed25519")) => {
            (DecodingKey::from_ed_components(jwk.x.as_ref()?), vec![Algorithm::EdDSA])
        }
        _ => return None,
    };
    let algorithms: Vec<_> = match &jwk.alg {
        None => possible,
        Some(name) => {
            // RFC 9864 gives EdDSA with this curve a name of its own.
            let name = if name == "Ed25519" { "EdDSA" } else { name };
            let named = name.parse().ok();
            possible.into_iter().filter(|algorithm| Some(*algorithm) == named).collect()
        }
    };
    let key = key.ok().filter(|_| !algorithms.is_empty())?;
    Some(SigningKey { id: jwk.kid.clone(), algorithms, key })
}

fn ec(jwk: &Jwk) -> Option<jsonwebtoken::errors::Result<DecodingKey>> {
    Some(DecodingKey::from_ec_components(jwk.x.as_ref()?, jwk.y.as_ref()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(keys: &Value) -> Vec<u8> {
        json!({"keys": keys, "more": 1}).to_string().into_bytes()
    }

    fn algorithms(key: &Value) -> Vec<Algorithm> {
        let keys = Keys::read(&set(&json!([key])));
        keys.map(|keys| keys.0[0].algorithms.clone()).unwrap_or_default()
    }

    #[test]
    fn a_key_verifies_only_what_its_kind_its_curve_and_its_own_word_allow() {
        use Algorithm::{ES256, ES384, EdDSA, PS256, RS256};
        let rsa = json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"});
        assert_eq!(algorithms(&rsa).len(), 6);
        let mut pinned = rsa.clone();
        pinned["alg"] = json!("PS256");
        assert_eq!(algorithms(&pinned), [PS256]);
        pinned["alg"] = json!("RS256");
        pinned["use"] = json!("sig");
        assert_eq!(algorithms(&pinned), [RS256]);
        for (name, value) in [
            ("alg", json!("HS256")),
            ("alg", json!("RSA-OAEP")),
            ("use", json!("enc")),
            ("key_ops", json!(["encrypt"])),
        ] {
            let mut other = rsa.clone();
            other[name] = value;
            assert_eq!(algorithms(&other), [], "{other}");
        }
        assert_eq!(
            algorithms(&json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"})),
            [ES256]
        );
        assert_eq!(
            algorithms(&json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"})),
            [ES384]
        );
        assert_eq!(algorithms(&json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"})), [EdDSA]);
        assert_eq!(algorithms(&json!({"kty": "oct", "k": "AQAB", "alg": "HS256"})), []);
        assert_eq!(algorithms(&json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"})), []);
    }

    #[test]
    fn a_reduced_set_has_the_same_keys_and_nothing_else() {
        let published = set(&json!([
            {"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB", "x5c": ["long"]},
            {"kty": "oct", "kid": "b", "k": "c2VjcmV0"},
            {"kty": 7},
            {"kty": "OKP", "crv": "Ed25519", "kid": "c", "x": "AA"},
        ]));
        let reduced = reduce(&published).unwrap();
        let text = String::from_utf8(reduced.clone()).unwrap();
        assert!(!text.contains("x5c") && !text.contains("oct"), "{text}");
        let keys = Keys::read(&reduced).unwrap();
        assert!(keys.has(Some("a")) && keys.has(Some("c")) && !keys.has(Some("b")));
        assert_eq!(reduce(&reduced).unwrap(), reduced);
    }

    #[test]
    fn what_is_no_set_of_keys_is_told_apart_from_one_without_usable_keys() {
        assert_eq!(Keys::read(b"<html>").unwrap_err(), JwksError::Shape);
        assert_eq!(reduce(b"{\"keys\": {}}").unwrap_err(), JwksError::Shape);
        assert_eq!(reduce(&set(&json!([]))).unwrap_err(), JwksError::Empty);
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_the_reader(bytes: Vec<u8>, text: String, other: String) {
            let _ = Keys::read(&bytes);
            let key = json!({"kty": "EC", "crv": "P-256", "x": text, "y": other, "n": text});
            let _ = reduce(&set(&json!([key])));
        }
    }
}
