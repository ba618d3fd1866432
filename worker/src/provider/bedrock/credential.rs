//! The secret of a provider key for AWS: access keys, or an API key of Bedrock's.

use serde::Deserialize;
use shared::resource::Endpoint;
use shared::secret::Secret;

use crate::request::RequestError;

/// The region, if nothing tells one.
const REGION: &str = "us-east-1";
/// The service in the name of its hosts.
const SERVICES: [&str; 2] = ["bedrock-runtime", "bedrock-runtime-fips"];

/// What is in the secret.
#[derive(Debug)]
pub enum Credential {
    /// Access keys, with which requests are signed.
    Keys(Keys),
    /// An API key, which is sent.
    Bearer(Secret<String>),
}

/// Access keys.
#[derive(Debug)]
pub struct Keys {
    /// Names the key; no secret.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: Secret<String>,
    /// Of a session, if the key belongs to one.
    pub session_token: Option<Secret<String>>,
    region: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(alias = "aws_access_key_id", alias = "accessKeyId", alias = "AccessKeyId")]
    access_key_id: Option<String>,
    #[serde(alias = "aws_secret_access_key", alias = "secretAccessKey", alias = "SecretAccessKey")]
    secret_access_key: Option<String>,
    #[serde(alias = "aws_session_token", alias = "sessionToken", alias = "SessionToken")]
    session_token: Option<String>,
    #[serde(alias = "aws_region", alias = "aws_region_name")]
    region: Option<String>,
    #[serde(alias = "bearer_token", alias = "token")]
    api_key: Option<String>,
}

impl Credential {
    /// Reads the secret: JSON, `ID:SECRET` or `ID:SECRET:TOKEN`, or an API key.
    ///
    /// # Errors
    /// [`RequestError::UnusableCredential`] if it is JSON without either.
    pub fn read(secret: &Secret<String>) -> Result<Self, RequestError> {
        let text = secret.expose().trim();
        if text.starts_with('{') {
            let raw: Raw =
                serde_json::from_str(text).map_err(|_| RequestError::UnusableCredential)?;
            return match (raw.access_key_id, raw.secret_access_key, raw.api_key) {
                (Some(id), Some(key), _) => {
                    Keys::new(id, key, raw.session_token, raw.region).map(Self::Keys)
                }
                (None, None, Some(key)) => Ok(Self::Bearer(Secret::new(key))),
                _ => Err(RequestError::UnusableCredential),
            };
        }
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(id), Some(key), token) => Keys::new(id, key, token, None).map(Self::Keys),
            _ => Ok(Self::Bearer(Secret::new(text.to_owned()))),
        }
    }
}

impl Keys {
    fn new(
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
        region: Option<String>,
    ) -> Result<Self, RequestError> {
        let is_word = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let region = region.filter(|region| !region.is_empty());
        if !is_word(&access_key_id) || !region.as_deref().is_none_or(is_word) {
            return Err(RequestError::UnusableCredential);
        }
        Ok(Self {
            access_key_id,
            secret_access_key: Secret::new(secret_access_key),
            session_token: session_token.filter(|token| !token.is_empty()).map(Secret::new),
            region,
        })
    }

    /// The region that a request to this endpoint is signed for: that of the secret, else that in the host's name.
    pub fn region<'a>(&'a self, endpoint: &'a Endpoint) -> &'a str {
        let of_host = || {
            let mut labels = endpoint.host.split('.');
            labels.find(|label| SERVICES.contains(label))?;
            labels.next()
        };
        self.region.as_deref().or_else(of_host).unwrap_or(REGION)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Credential, RequestError> {
        Credential::read(&Secret::new(text.to_owned()))
    }

    fn keys(text: &str) -> Keys {
        match read(text) {
            Ok(Credential::Keys(keys)) => keys,
            other => panic!("{other:?}"),
        }
    }

    fn region(keys: &Keys, base: &str) -> String {
        keys.region(&base.parse().unwrap()).to_owned()
    }

    #[test]
    fn a_secret_is_access_keys_in_two_forms_or_an_api_key() {
        let of_json = keys(r#"{"access_key_id":"A","secret_access_key":"s","region":"eu-west-1"}"#);
        assert_eq!((of_json.access_key_id.as_str(), of_json.session_token.is_none()), ("A", true));
        let of_text = keys("A:s/+=:t:o");
        assert_eq!(of_text.secret_access_key.expose(), "s/+=");
        assert_eq!(of_text.session_token.unwrap().expose(), "t:o");
        assert!(matches!(read("bedrock-api-key-x"), Ok(Credential::Bearer(_))));
        assert!(matches!(read(r#"{"api_key":"x"}"#), Ok(Credential::Bearer(_))));
        assert!(read(r#"{"region":"x"}"#).is_err());
    }

    #[test]
    fn the_region_is_the_secret_s_or_the_host_s() {
        let own = keys(r#"{"access_key_id":"A","secret_access_key":"s","region":"eu-west-1"}"#);
        assert_eq!(region(&own, "https://bedrock-runtime.us-west-2.amazonaws.com"), "eu-west-1");
        let none = keys("A:s");
        assert_eq!(region(&none, "https://bedrock-runtime.us-west-2.amazonaws.com"), "us-west-2");
        let private = "https://vpce-1.bedrock-runtime.eu-north-1.vpce.amazonaws.com";
        assert_eq!(region(&none, private), "eu-north-1");
        assert_eq!(region(&none, "http://127.0.0.1:8080"), "us-east-1");
    }

    proptest! {
        #[test]
        fn no_secret_can_panic_the_reader(text: String, json in r#"\{"access_key_id":"[a\r\n]{0,3}"[,:"a-z}]{0,20}"#) {
            let _ = (read(&text), read(&json));
        }
    }
}
