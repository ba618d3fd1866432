//! Tokens with real signatures against real keys, and bytes that are none.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::jwks::{Keys, reduce};
use super::{Rejection, Token};

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and a signature by `sign`.
fn token(header: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message =
        format!("{}.{}", encoded(header.to_string()), encoded(json!({"iss": "i"}).to_string()));
    let signature = encoded(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn rsa(pair: &RsaKeyPair, how: &'static dyn RsaEncoding) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |message| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(how, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }
}

fn rsa_jwk(pair: &RsaKeyPair, id: &str) -> Value {
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    json!({"kty": "RSA", "kid": id, "n": encoded(public.n), "e": encoded(public.e)})
}

fn ec(curve: &str, how: &'static EcdsaSigningAlgorithm) -> (EcdsaKeyPair, Value) {
    let pair = EcdsaKeyPair::generate(how).unwrap();
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({"kty": "EC", "crv": curve, "kid": curve, "x": encoded(x), "y": encoded(y)});
    (pair, jwk)
}

/// Takes the way that a request takes, but for the time that keys take to come.
fn verified(keys: &Value, token: &str) -> Result<(), Rejection> {
    let set = json!({ "keys": keys }).to_string();
    let keys = Keys::read(&reduce(set.as_bytes()).unwrap()).unwrap();
    let token = Token::of(token.as_bytes()).ok_or(Rejection::Malformed)?;
    let signed = token.signed()?;
    let id = signed.key_id.as_deref();
    if !keys.has(id) {
        return Err(Rejection::UnknownKey);
    }
    token.claims()?;
    let mut candidates = keys.candidates(id, signed.algorithm).peekable();
    if candidates.peek().is_none() {
        return Err(Rejection::AlgorithmNotAllowed);
    }
    token.verify(signed.algorithm, candidates)
}

#[test]
fn a_signature_of_every_kind_counts_if_it_is_of_the_key_that_is_named() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let (p256, p256_jwk) = ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING);
    let (p384, p384_jwk) = ec("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING);
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed_jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(ed.public_key())});
    let keys = json!([rsa_jwk(&pair, "rsa"), p256_jwk, p384_jwk, ed_jwk]);
    let ec_sign = |pair: &EcdsaKeyPair, message: &[u8]| {
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    };
    let good = [
        token(&json!({"alg": "RS256", "kid": "rsa"}), rsa(&pair, &RSA_PKCS1_SHA256)),
        token(&json!({"alg": "PS256", "kid": "rsa"}), rsa(&pair, &RSA_PSS_SHA256)),
        token(&json!({"alg": "ES256", "kid": "P-256"}), |message| ec_sign(&p256, message)),
        token(&json!({"alg": "ES384", "kid": "P-384"}), |message| ec_sign(&p384, message)),
        token(&json!({"alg": "EdDSA", "kid": "ed"}), |message| ed.sign(message).as_ref().to_vec()),
        token(&json!({"alg": "ES256"}), |message| ec_sign(&p256, message)),
    ];
    for token in &good {
        assert_eq!(verified(&keys, token), Ok(()), "{token}");
        // Another claim under the same signature.
        let parts: Vec<_> = token.split('.').collect();
        let other = encoded(json!({"iss": "j"}).to_string());
        let forged = format!("{}.{other}.{}", parts[0], parts[2]);
        assert_eq!(verified(&keys, &forged), Err(Rejection::BadSignature), "{token}");
    }
    let stranger = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let header = json!({"alg": "RS256", "kid": "rsa"});
    let forged = token(&header, rsa(&stranger, &RSA_PKCS1_SHA256));
    assert_eq!(verified(&keys, &forged), Err(Rejection::BadSignature));
    let header = json!({"alg": "RS256", "kid": "gone"});
    let unknown = token(&header, rsa(&pair, &RSA_PKCS1_SHA256));
    assert_eq!(verified(&keys, &unknown), Err(Rejection::UnknownKey));
}

#[test]
fn an_algorithm_that_the_key_is_not_for_is_refused_whatever_the_signature() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut pinned = rsa_jwk(&pair, "rsa");
    pinned["alg"] = json!("RS256");
    let keys = json!([pinned]);
    // The well-known attack: the public key as a shared secret.
    let modulus = pinned["n"].as_str().unwrap().to_owned();
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, modulus.as_bytes());
    let hmac = |message: &[u8]| aws_lc_rs::hmac::sign(&secret, message).as_ref().to_vec();
    for algorithm in ["HS256", "HS512", "none", "None", "ES512", "", "rs256"] {
        let token = token(&json!({"alg": algorithm, "kid": "rsa"}), hmac);
        assert_eq!(verified(&keys, &token), Err(Rejection::AlgorithmNotAllowed), "{algorithm}");
    }
    for algorithm in ["PS256", "RS512", "ES256", "EdDSA"] {
        let token = token(&json!({"alg": algorithm, "kid": "rsa"}), rsa(&pair, &RSA_PSS_SHA256));
        assert_eq!(verified(&keys, &token), Err(Rejection::AlgorithmNotAllowed), "{algorithm}");
    }
}

#[test]
fn a_header_that_asks_for_more_than_is_understood_is_refused() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let keys = json!([rsa_jwk(&pair, "rsa")]);
    for (header, expected) in [
        (json!({"alg": "RS256", "crit": ["exp"]}), Rejection::Invalid),
        (json!({"alg": "RS256", "kid": 7}), Rejection::Malformed),
        (json!({"alg": 7}), Rejection::Malformed),
    ] {
        let token = token(&header, rsa(&pair, &RSA_PKCS1_SHA256));
        assert_eq!(verified(&keys, &token), Err(expected), "{header}");
    }
}

#[test]
fn only_three_parts_behind_a_header_with_an_algorithm_are_a_token() {
    let header = encoded(json!({"alg": "RS256"}).to_string());
    assert!(Token::of(format!("{header}.a.b").as_bytes()).is_some());
    let without = encoded(json!({"typ": "JWT"}).to_string());
    for other in [
        "sk-demo".to_owned(),
        "a.b.c".to_owned(),
        format!("{without}.a.b"),
        format!("{header}.a"),
        format!("{header}.a."),
        format!("{header}..b"),
        format!("{header}.a.b.c"),
        format!("{header}.a.{}", "b".repeat(16 * 1024)),
    ] {
        assert!(Token::of(other.as_bytes()).is_none(), "{other}");
    }
}

proptest! {
    #[test]
    fn no_bytes_can_panic_the_reader_of_tokens(
        bytes: Vec<u8>,
        header: String,
        parts in "[A-Za-z0-9_.-]{0,80}",
    ) {
        for candidate in [
            bytes,
            parts.clone().into_bytes(),
            format!("{}.{parts}", encoded(json!({"alg": header, "kid": header}).to_string())).into_bytes(),
            format!("{}.{parts}.x", encoded(json!({"alg": "ES256"}).to_string())).into_bytes(),
        ] {
            if let Some(token) = Token::of(&candidate) {
                let _ = token.claims();
                let key = json!({"kty": "EC", "crv": "P-256", "x": parts, "y": "AA"});
                let set = json!({"keys": [key]}).to_string();
                if let (Ok(signed), Ok(keys)) = (token.signed(), Keys::read(set.as_bytes())) {
                    let _ = token.verify(signed.algorithm, keys.candidates(None, signed.algorithm));
                }
            }
        }
    }
}
