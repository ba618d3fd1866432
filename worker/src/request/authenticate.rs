//! Who calls: the key that was presented, found by its hash.

use std::rc::Rc;

use aws_lc_rs::digest;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use shared::resource::{ApiKey, KeyHash};

use super::RequestError;
use crate::tables::Tables;

/// The caller, by `Authorization: Bearer <key>`, or by `x-api-key` only where there is no `Authorization` at all.
pub fn caller(
    tables: &Tables,
    headers: &HeaderMap,
    now_unix_ms: i64,
) -> Result<Rc<ApiKey>, RequestError> {
    let key = presented(headers).ok_or(RequestError::MissingCredential)?;
    // As published: with a provider, what looks like its token is never looked up as a key.
    if let Some(provider) = tables.guards().identity_provider()
        && is_bearer_token(headers, key)
    {
        return Err(RequestError::TokenNotServed(provider.name.clone()));
    }
    let api_key = tables.api_key(&hash(key)).ok_or(RequestError::UnknownKey)?;
    in_force(api_key, now_unix_ms)
}

/// The key, if it is neither disabled nor past its end.
pub fn in_force(api_key: Rc<ApiKey>, now_unix_ms: i64) -> Result<Rc<ApiKey>, RequestError> {
    if api_key.disabled {
        return Err(RequestError::KeyDisabled);
    }
    match api_key.expires_at_unix_ms {
        Some(end) if end < now_unix_ms => Err(RequestError::KeyExpired),
        _ => Ok(api_key),
    }
}

/// The word for the outcome in metrics: `none` for a caller that was let in.
pub fn reason(result: &Result<Rc<ApiKey>, RequestError>) -> &'static str {
    match result {
        Ok(_) => "none",
        Err(RequestError::MissingCredential) => "missing_credentials",
        Err(RequestError::KeyDisabled) => "key_disabled",
        Err(RequestError::KeyExpired) => "key_expired",
        Err(RequestError::TokenNotServed(_)) => "jwt_invalid",
        Err(_) => "unknown_key",
    }
}

/// Whether a bearer has the shape of a JSON web token: three parts in base64url.
fn is_bearer_token(headers: &HeaderMap, key: &[u8]) -> bool {
    let base64url = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut parts = key.split(|byte| *byte == b'.');
    headers.contains_key(AUTHORIZATION)
        && parts.clone().count() == 3
        && parts.all(|part| !part.is_empty() && part.iter().all(base64url))
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let key = match headers.get(AUTHORIZATION) {
        Some(value) => value.as_bytes().strip_prefix(b"Bearer ")?,
        None => headers.get("x-api-key")?.as_bytes(),
    };
    let key = key.trim_ascii();
    (!key.is_empty()).then_some(key)
}

fn hash(key: &[u8]) -> KeyHash {
    let mut hash = KeyHash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use shared::resource::{OidcProvider, Resource};
    use shared::update::Change;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn tables(disabled: bool, expires_at_unix_ms: Option<i64>) -> Tables {
        let api_key = ApiKey {
            id: "k-1".to_owned(),
            key_hash: Some(hash(b"sk-demo")),
            allowed_models: vec!["*".to_owned()],
            disabled,
            expires_at_unix_ms,
            ..ApiKey::default()
        };
        let mut tables = Tables::default();
        let change = Change::Put(Box::new(Resource::ApiKey(api_key)));
        tables.apply(true, [Ok(change)].into_iter()).unwrap();
        tables
    }

    fn outcome(tables: &Tables, headers: &[(&'static str, &'static str)]) -> &'static str {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        reason(&caller(tables, &headers.collect(), NOW))
    }

    #[test]
    fn a_key_is_taken_from_either_header_but_authorization_decides_where_it_is() {
        let tables = tables(false, None);
        for (headers, expected) in [
            (&[("authorization", "Bearer sk-demo")][..], "none"),
            (&[("authorization", "Bearer   sk-demo ")], "none"),
            (&[("x-api-key", "sk-demo")], "none"),
            (&[("authorization", "Bearer sk-other")], "unknown_key"),
            (&[("authorization", "bearer sk-demo")], "missing_credentials"),
            (&[("authorization", "Basic c2s="), ("x-api-key", "sk-demo")], "missing_credentials"),
            (&[("authorization", ""), ("x-api-key", "sk-demo")], "missing_credentials"),
            (&[("authorization", "Bearer ")], "missing_credentials"),
            (&[], "missing_credentials"),
        ] {
            assert_eq!(outcome(&tables, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_key_ends_after_the_moment_of_its_expiry_and_while_it_is_disabled() {
        let header = [("x-api-key", "sk-demo")];
        assert_eq!(outcome(&tables(true, None), &header), "key_disabled");
        assert_eq!(outcome(&tables(false, Some(NOW)), &header), "none");
        assert_eq!(outcome(&tables(false, Some(NOW - 1)), &header), "key_expired");
    }

    #[test]
    fn with_an_identity_provider_only_bearers_in_the_shape_of_a_token_are_not_keys() {
        let mut tables = tables(false, None);
        let token = [("authorization", "Bearer eyJh.eyJz.c2ln")];
        assert_eq!(outcome(&tables, &token), "unknown_key");
        let provider =
            OidcProvider { id: "o".to_owned(), name: "corp".to_owned(), ..OidcProvider::default() };
        let put = Change::Put(Box::new(Resource::OidcProvider(provider)));
        tables.apply(false, [Ok(put)].into_iter()).unwrap();
        assert_eq!(outcome(&tables, &token), "jwt_invalid");
        assert_eq!(outcome(&tables, &[("authorization", "Bearer sk-demo")]), "none");
        assert_eq!(outcome(&tables, &[("authorization", "Bearer a.b.")]), "unknown_key");
        assert_eq!(outcome(&tables, &[("authorization", "Bearer a.b.c.d")]), "unknown_key");
        assert_eq!(outcome(&tables, &[("x-api-key", "a.b.c")]), "unknown_key");
    }

    #[test]
    fn the_hash_is_sha_256_of_the_key() {
        let known = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        let hex: String = hash(b"hello world").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, known);
    }
}
