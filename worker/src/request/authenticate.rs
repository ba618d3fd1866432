//! Who calls: the key that was presented, found by its hash, or the key that a token of an identity provider stands for.

use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use shared::resource::{ApiKey, KeyHash};

use super::RequestError;
use crate::identity::{self, Identity, Token};
use crate::server::Proxy;
use crate::tables::Tables;

/// What was decided about a caller.
#[derive(Debug)]
pub struct Decision {
    /// Who it is, or why it is nobody.
    pub caller: Result<Rc<ApiKey>, RequestError>,
    /// By what it is known, for metrics.
    pub method: &'static str,
    /// Who its token says that it is.
    pub identity: Option<Identity>,
}

/// The hash of the key that a head presents, once it was worked out: requests with the same head share it.
#[derive(Clone, Debug, Default)]
pub struct HashOnce(Arc<OnceLock<KeyHash>>);

impl HashOnce {
    fn of(&self, key: &[u8]) -> KeyHash {
        *self.0.get_or_init(|| hash(key))
    }
}

/// The caller, by `Authorization: Bearer <key>`, or by `x-api-key` only where there is no `Authorization` at all. With an
/// identity provider, what looks like a token is never looked up as a key. `once` is of the head that has these headers.
pub async fn caller(
    proxy: &Proxy,
    headers: &HeaderMap,
    once: Option<&HashOnce>,
    now_unix_ms: i64,
) -> Decision {
    let Some(credential) = presented(headers) else {
        let caller = Err(RequestError::MissingCredential);
        return Decision { caller, method: "none", identity: None };
    };
    let is_token = !proxy.tables.borrow().identities().is_empty();
    if let Some(token) = is_token.then(|| Token::of(credential)).flatten() {
        let (caller, identity) = match identity::authenticate(proxy, &token, now_unix_ms).await {
            Ok((api_key, identity)) => (in_force(api_key, now_unix_ms), Some(identity)),
            Err(rejection) => (Err(rejection.into()), None),
        };
        return Decision { caller, method: "jwt", identity };
    }
    let hash = once.map_or_else(|| hash(credential), |once| once.of(credential));
    let caller = by_key(&proxy.tables.borrow(), &hash, now_unix_ms);
    Decision { caller, method: "api_key", identity: None }
}

/// The word for the outcome in metrics: `none` for a caller that was let in.
pub fn reason(caller: &Result<Rc<ApiKey>, RequestError>) -> &'static str {
    match caller {
        Ok(_) => "none",
        Err(RequestError::MissingCredential) => "missing_credentials",
        Err(RequestError::KeyDisabled) => "key_disabled",
        Err(RequestError::KeyExpired) => "key_expired",
        Err(RequestError::Token(rejection)) => rejection.reason(),
        Err(_) => "unknown_key",
    }
}

fn by_key(tables: &Tables, hash: &KeyHash, now_unix_ms: i64) -> Result<Rc<ApiKey>, RequestError> {
    let api_key = tables.api_key(hash).ok_or(RequestError::UnknownKey)?;
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
    use shared::resource::Resource;
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
        let headers: HeaderMap = headers.collect();
        reason(&match presented(&headers) {
            Some(credential) => by_key(tables, &hash(credential), NOW),
            None => Err(RequestError::MissingCredential),
        })
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
    fn the_hash_is_sha_256_of_the_key() {
        let known = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        let hex: String = hash(b"hello world").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, known);
    }
}
