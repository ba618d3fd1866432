//! From a token to the caller key that it stands for: the checks in order.

use std::rc::Rc;

use serde_json::Value;
use shared::resource::{ApiKey, OidcProvider};
use tracing::{debug, warn};

use super::directory::Found;
use super::store::Known;
use super::token::{Signed, Token};
use super::{Identity, Rejection, claims};
use crate::server::Proxy;

/// The caller key that a token stands for, at a time in milliseconds since 1970 UTC. Whether that key may be used is not
/// looked at.
pub async fn authenticate(
    proxy: &Proxy,
    token: &Token<'_>,
    now_unix_ms: i64,
) -> Result<(Rc<ApiKey>, Identity), Rejection> {
    let claims = token.claims()?;
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Rejection::MissingIssuer)?;
    let provider = proxy.tables.borrow().identities().of_issuer(issuer)?;
    let verified = verify(proxy, token, &provider, &claims, now_unix_ms).await;
    let resolved = verified.and_then(|()| resolve(proxy, &provider, &claims));
    if let Err(rejection) = resolved {
        debug!(provider = provider.name, reason = rejection.reason(), "a token is not accepted");
    }
    resolved
}

async fn verify(
    proxy: &Proxy,
    token: &Token<'_>,
    provider: &OidcProvider,
    claims: &Value,
    now_unix_ms: i64,
) -> Result<(), Rejection> {
    let signed = token.signed()?;
    let store = &proxy.identity_keys;
    let known = store.keys(provider).await.ok_or(Rejection::KeysUnavailable)?;
    let result = match verify_with(token, &signed, &known) {
        // The provider may have begun to sign with another key.
        Err(rejection) if may_be_newer(&signed, rejection) => {
            match store.newer(provider, &known).await {
                Some(newer) => verify_with(token, &signed, &newer),
                None => Err(rejection),
            }
        }
        result => result,
    };
    result.and_then(|()| claims::check(provider, claims, now_unix_ms))
}

/// Whether another set of keys could make a difference. A token that names its key is never helped by others.
fn may_be_newer(signed: &Signed, rejection: Rejection) -> bool {
    rejection == Rejection::UnknownKey
        || (signed.key_id.is_none() && rejection == Rejection::BadSignature)
}

fn verify_with(token: &Token<'_>, signed: &Signed, known: &Known) -> Result<(), Rejection> {
    let id = signed.key_id.as_deref();
    if !known.keys.has(id) {
        return Err(Rejection::UnknownKey);
    }
    let mut candidates = known.keys.candidates(id, signed.algorithm).peekable();
    if candidates.peek().is_none() {
        return Err(Rejection::AlgorithmNotAllowed);
    }
    token.verify(signed.algorithm, candidates)
}

fn resolve(
    proxy: &Proxy,
    provider: &OidcProvider,
    claims: &Value,
) -> Result<(Rc<ApiKey>, Identity), Rejection> {
    let tables = proxy.tables.borrow();
    match tables.identities().find(provider, claims)? {
        (Found::Bound(key), identity) => Ok((key, identity)),
        (Found::Mapped(mapping), identity) => {
            let Some(key) = tables.api_key_of_id(&mapping.api_key_id) else {
                warn!(
                    mapping = mapping.name,
                    api_key_id = mapping.api_key_id,
                    "a claim mapping leads to a caller key that does not exist: what it maps is refused"
                );
                return Err(Rejection::IdentityUnmapped);
            };
            Ok((key, identity))
        }
    }
}
