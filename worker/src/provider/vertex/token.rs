//! Tokens of service accounts: fetched once, by one request for all that wait, and kept until shortly before their end.
//!
//! Near its end a token is renewed while it still serves, so that no request waits for that. A token belongs to the secret
//! that it was asked with: a provider key with another one asks anew.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Method, Request};
use serde::Deserialize;
use shared::egress::Key;
use shared::resource::{Endpoint, ProviderKey, UpstreamTls};
use shared::secret::Secret;
use shared::version::VERSION;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::credential::Account;
use crate::request::{RequestError, UpstreamError};
use crate::upstream::{Place, Upstreams};

/// Most accounts whose tokens are kept. All are forgotten where there are more.
const ACCOUNTS_MAX: usize = 1024;
/// How long a token is waited for.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer of a token endpoint, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// So long before its end a token is renewed; Google's live an hour.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// So long before its end a token serves no more: a request takes a while to arrive.
const SERVES_UNTIL: Duration = Duration::from_secs(30);
/// After a renewal that failed the next one waits so long.
const RENEW_PAUSE: Duration = Duration::from_secs(10);

/// The tokens of one worker.
#[derive(Default)]
pub struct Tokens {
    accounts: Rc<RefCell<HashMap<String, Kept>>>,
}

/// What is known for one provider key.
struct Kept {
    secret: Secret<String>,
    token: Option<Token>,
    fetch: Option<Fetch>,
}

#[derive(Clone)]
struct Token {
    value: Secret<String>,
    renew_at: Instant,
    ends_at: Instant,
}

type Fetch = Shared<LocalBoxFuture<'static, Result<Token, TokenError>>>;

/// Why there is no token.
#[derive(Clone, Debug)]
enum TokenError {
    /// The account is not what Google takes.
    Unusable,
    /// The token endpoint did not answer, or not well.
    Unreached(String),
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Tokens {
    /// A token for the account of a provider key.
    ///
    /// # Errors
    /// That the credential is not usable, or that the token endpoint does not answer.
    pub async fn token(
        &self,
        key: &Rc<ProviderKey>,
        account: &Account,
        upstreams: &Rc<Upstreams>,
    ) -> Result<Secret<String>, RequestError> {
        let fetch = {
            let mut accounts = self.accounts.borrow_mut();
            if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(&key.id) {
                accounts.clear();
            }
            let kept = accounts.entry(key.id.clone()).or_insert_with(|| Kept::new(&key.secret));
            if kept.secret != key.secret {
                *kept = Kept::new(&key.secret);
            }
            let now = Instant::now();
            let is_due = kept.token.as_ref().is_none_or(|token| now >= token.renew_at);
            if is_due && kept.fetch.is_none() {
                kept.fetch = Some(self.start(key, account, upstreams)?);
            }
            match (&kept.token, &kept.fetch) {
                (Some(token), _) if now < token.ends_at => return Ok(token.value.clone()),
                (_, Some(fetch)) => fetch.clone(),
                (_, None) => return Err(RequestError::UnusableCredential),
            }
        };
        match fetch.await {
            Ok(token) => Ok(token.value),
            Err(TokenError::Unusable) => Err(RequestError::UnusableCredential),
            Err(TokenError::Unreached(reason)) => {
                Err(RequestError::Upstream(UpstreamError::Unreached(reason)))
            }
        }
    }

    /// Fetches a token beside the request that asks for it: it goes on when the caller leaves.
    fn start(
        &self,
        key: &Rc<ProviderKey>,
        account: &Account,
        upstreams: &Rc<Upstreams>,
    ) -> Result<Fetch, RequestError> {
        let unusable = |reason: &str| {
            tracing::warn!(provider_key = key.id, reason, "a service account cannot be used");
            RequestError::UnusableCredential
        };
        let endpoint = key.token_endpoint.clone();
        let endpoint = endpoint.ok_or_else(|| unusable("its token_uri is not usable"))?;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let assertion = account.assertion(now).map_err(unusable)?;
        let request = ask(&endpoint, &assertion).ok_or_else(|| unusable("no request"))?;
        // The trust settings of a provider key are for its `api_base` alone.
        let tls = UpstreamTls::default();
        let place = Rc::new(Place::new(Key::token(&key.id), endpoint, tls));
        let (upstreams, accounts, key) =
            (Rc::clone(upstreams), Rc::clone(&self.accounts), Rc::clone(key));
        let task = tokio::task::spawn_local(async move {
            let fetched = tokio::time::timeout(FETCH_LIMIT, fetch(&upstreams, &place, request));
            let fetched = fetched.await.unwrap_or_else(|_| {
                Err(TokenError::Unreached(format!("no token within {FETCH_LIMIT:?}")))
            });
            if let Err(error) = &fetched {
                tracing::warn!(provider_key = key.id, ?error, "cannot fetch a token");
            }
            if let Some(kept) = accounts.borrow_mut().get_mut(&key.id)
                && kept.secret == key.secret
            {
                kept.take_in(&fetched, Instant::now());
            }
            fetched
        });
        let waiting = async move {
            let ended = || TokenError::Unreached("the fetch of a token was given up".to_owned());
            task.await.unwrap_or_else(|_| Err(ended()))
        };
        Ok(waiting.boxed_local().shared())
    }
}

impl Kept {
    fn new(secret: &Secret<String>) -> Self {
        Self { secret: secret.clone(), token: None, fetch: None }
    }

    fn take_in(&mut self, fetched: &Result<Token, TokenError>, now: Instant) {
        self.fetch = None;
        match (fetched, &mut self.token) {
            (Ok(token), _) => self.token = Some(token.clone()),
            (Err(_), Some(former)) => former.renew_at = now + RENEW_PAUSE,
            (Err(_), None) => {}
        }
    }
}

impl Token {
    /// `seconds`: how long it is valid.
    fn new(value: String, seconds: u64, now: Instant) -> Self {
        let lives = Duration::from_secs(seconds.min(86_400));
        // One that lives very short serves for half of that.
        let ends_in = lives.saturating_sub(SERVES_UNTIL).max(lives / 2);
        let renew_in = lives.saturating_sub(RENEW_BEFORE).max(lives / 2).min(ends_in);
        Self { value: Secret::new(value), renew_at: now + renew_in, ends_at: now + ends_in }
    }
}

fn ask(endpoint: &Endpoint, assertion: &Secret<String>) -> Option<Request<Bytes>> {
    let body = format!(
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={}",
        assertion.expose()
    );
    let path = if endpoint.path.is_empty() { "/" } else { &endpoint.path };
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, endpoint.authority())
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, format!("AISIX/{VERSION}"))
        .body(body.into())
        .ok()
}

async fn fetch(
    upstreams: &Rc<Upstreams>,
    place: &Rc<Place>,
    request: Request<Bytes>,
) -> Result<Token, TokenError> {
    let unreached = |reason: String| TokenError::Unreached(format!("token endpoint: {reason}"));
    let answer = upstreams.send(place, &mut request.into()).await;
    let mut answer = answer.map_err(|error| unreached(error.to_string()))?;
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.body.chunk().await {
        body.extend_from_slice(&chunk.map_err(|error| unreached(error.to_string()))?);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(unreached(format!("it answers with more than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    let status = answer.head.status;
    if status.is_client_error() && status != http::StatusCode::TOO_MANY_REQUESTS {
        return Err(TokenError::Unusable);
    }
    if !status.is_success() {
        return Err(unreached(format!("it answers {}", status.as_u16())));
    }
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_| unreached("its answer holds no access_token".to_owned()))?;
    Ok(Token::new(answer.access_token, answer.expires_in, Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_it_ends_and_serves_while_it_is() {
        let now = Instant::now();
        let token = Token::new("t".to_owned(), 3600, now);
        assert_eq!(token.renew_at - now, Duration::from_secs(3300));
        assert_eq!(token.ends_at - now, Duration::from_secs(3570));
        let short = Token::new("t".to_owned(), 10, now);
        assert!(short.ends_at > now && short.renew_at <= short.ends_at);
    }

    #[test]
    fn a_renewal_that_fails_leaves_the_token_and_waits_for_the_next() {
        let now = Instant::now();
        let mut kept = Kept::new(&Secret::new("s".to_owned()));
        kept.take_in(&Ok(Token::new("t".to_owned(), 3600, now)), now);
        let later = now + Duration::from_secs(3400);
        kept.take_in(&Err(TokenError::Unusable), later);
        assert_eq!(kept.token.unwrap().renew_at, later + RENEW_PAUSE);
    }
}
