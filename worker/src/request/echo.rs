//! What an upstream repeats of the credential that it was asked with goes no further: not to the caller, not to the Cloud.

use serde_json::Value;
use shared::secret::Secret;

use crate::provider::ProviderError;

/// Shorter words are no secret, and may be part of any text.
const SECRET_BYTES_MIN: usize = 8;
/// What takes its place.
const MASK: &str = "***";

/// The error without the credential.
pub fn masked(mut error: ProviderError, credential: &Secret<String>) -> ProviderError {
    let mut secrets = vec![credential.expose().clone()];
    // Of an account or a pair of keys, each part.
    if let Ok(Value::Object(parts)) = serde_json::from_str(credential.expose()) {
        secrets.extend(parts.into_iter().filter_map(|(_, part)| match part {
            Value::String(part) => Some(part),
            _ => None,
        }));
    }
    let secrets: Vec<_> =
        secrets.into_iter().filter(|it| it.len() >= SECRET_BYTES_MIN).map(Secret::new).collect();
    let texts = [Some(&mut error.message), error.code.as_mut(), error.param.as_mut()];
    for text in texts.into_iter().flatten() {
        for secret in &secrets {
            if text.contains(secret.expose().as_str()) {
                *text = text.replace(secret.expose().as_str(), MASK);
            }
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_is_repeated_is_masked_and_the_rest_is_passed_on() {
        let error = |message: &str| ProviderError {
            message: message.to_owned(),
            code: Some(message.to_owned()),
            param: None,
            status: Some(401),
        };
        let key = Secret::new("sk-123456".to_owned());
        let masked_once = masked(error("no such key: sk-123456!"), &key);
        assert_eq!(masked_once, error("no such key: ***!"));
        let pair =
            r#"{"access_key_id": "AKID1234", "secret_access_key": "s/e+cret-1", "region": "eu"}"#;
        let pair = Secret::new(pair.to_owned());
        assert_eq!(masked(error("AKID1234 s/e+cret-1 in eu"), &pair), error("*** *** in eu"));
        // One that anything could hold is not looked for.
        assert_eq!(masked(error("a message"), &Secret::new("a".to_owned())), error("a message"));
    }
}
