//! The secret of a provider key for Google: a service account's key, a token, or an API key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use shared::secret::Secret;

use crate::request::RequestError;

/// Where Google hands out tokens, unless the key says otherwise.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// What a token is asked for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Google takes no assertion that is valid for longer.
const ASSERTION_SECONDS: i64 = 3600;

/// What is in the secret.
pub enum Credential {
    /// A service account, which asks for tokens.
    Account(Box<Account>),
    /// A token that somebody else has asked for.
    Token(Secret<String>),
    /// An API key, or a token, as the place asks.
    Text(Secret<String>),
}

/// The key of a service account, as Google's console hands it out. `location` is ours.
#[derive(Clone, Default, Deserialize)]
pub struct Account {
    /// Name of the account.
    pub client_email: String,
    /// PEM, PKCS #8.
    #[serde(deserialize_with = "secret")]
    pub(super) private_key: Secret<String>,
    #[serde(default)]
    pub(super) private_key_id: String,
    /// Where its models are used.
    #[serde(default, rename = "project_id", alias = "project")]
    pub project: String,
    /// In which of Google's locations.
    #[serde(default, alias = "region")]
    pub location: Option<String>,
    #[serde(default)]
    pub(super) token_uri: String,
}

#[derive(Deserialize)]
struct Given {
    #[serde(deserialize_with = "secret")]
    access_token: Secret<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(field).map(Secret::new)
}

impl Credential {
    /// Reads the secret.
    ///
    /// # Errors
    /// [`RequestError::UnusableCredential`] if it is JSON, but neither a service account's key nor a token.
    pub fn read(secret: &Secret<String>) -> Result<Self, RequestError> {
        let text = secret.expose().trim();
        if text.starts_with('{') {
            if let Ok(account) = serde_json::from_str::<Account>(text) {
                return Ok(Self::Account(Box::new(account)));
            }
            let given: Given =
                serde_json::from_str(text).map_err(|_| RequestError::UnusableCredential)?;
            return Ok(Self::Token(given.access_token));
        }
        let token = text.strip_prefix("Bearer ").unwrap_or(text);
        let is_token = token.len() < text.len() || token.starts_with("ya29.");
        let secret = Secret::new(token.to_owned());
        Ok(if is_token { Self::Token(secret) } else { Self::Text(secret) })
    }

    /// The service account, if it is one.
    pub fn account(&self) -> Option<&Account> {
        match self {
            Self::Account(account) => Some(account),
            Self::Token(_) | Self::Text(_) => None,
        }
    }
}

/// Whether this has the form of Google's API keys.
pub fn is_api_key(text: &Secret<String>) -> bool {
    ["AIza", "AQ."].iter().any(|prefix| text.expose().starts_with(prefix))
}

impl Account {
    /// A signed statement that this is the account, for which Google gives a token (RFC 7523). `now`: seconds of the Unix era.
    ///
    /// # Errors
    /// What is wrong with the private key; nothing of it is in the words.
    pub fn assertion(&self, now: i64) -> Result<Secret<String>, &'static str> {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.private_key_id});
        let audience = if self.token_uri.is_empty() { TOKEN_URI } else { &self.token_uri };
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": audience,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let key = PrivateKeyDer::from_pem_slice(self.private_key.expose().as_bytes())
            .map_err(|_| "its private key is not PEM")?;
        let key = KeyPair::from_pkcs8(key.secret_der())
            .or_else(|_| KeyPair::from_der(key.secret_der()))
            .map_err(|_| "its private key is not an RSA key")?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|_| "its private key cannot sign")?;
        Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Credential, RequestError> {
        Credential::read(&Secret::new(text.to_owned()))
    }

    #[test]
    fn a_secret_is_an_account_a_token_or_a_key() {
        assert!(matches!(read("AIzaSomething"), Ok(Credential::Text(_))));
        assert!(matches!(read("ya29.something"), Ok(Credential::Token(_))));
        assert!(matches!(read("{\"access_token\":\"t\"}"), Ok(Credential::Token(_))));
        let account =
            r#"{"client_email":"a@b","private_key":"k","project_id":"p","type":"service_account"}"#;
        assert!(
            matches!(read(account), Ok(Credential::Account(account)) if account.project == "p")
        );
        assert!(matches!(
            read("{\"type\":\"authorized_user\"}"),
            Err(RequestError::UnusableCredential)
        ));
    }

    #[test]
    fn an_assertion_is_signed_by_the_account_s_key_and_names_the_token_endpoint() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = pair.as_der().unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let account = Account {
            client_email: "a@b".to_owned(),
            private_key: Secret::new(pem),
            private_key_id: "id".to_owned(),
            token_uri: "https://x.example/token".to_owned(),
            ..Account::default()
        };
        let assertion = account.assertion(1000).unwrap();
        let (message, signature) = assertion.expose().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let public =
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
        public.verify(message.as_bytes(), &signature).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(message.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["aud"], "https://x.example/token");
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(1000), &json!(4600)));
    }

    proptest! {
        #[test]
        fn no_secret_can_panic_the_reader(text: String) {
            let _ = read(&text);
            let account = Account { private_key: Secret::new(text), ..Account::default() };
            prop_assert!(account.assertion(0).is_err());
        }
    }
}
