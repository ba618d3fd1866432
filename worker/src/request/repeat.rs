//! A request that was answered before: whether its answer is given again, and whether this one's is kept.
//!
//! Under a policy of the cache an answer that is no stream is looked up under a hash of everything it depends on. What is
//! found is given as it was, with no attempt at a provider; what is not is asked for, and a complete answer kept. Nothing
//! crosses the border that the policy draws: its key, or its environment. A cache, or Redis, that is not there, or does not answer
//! in its short time, is a miss, never an error.

use std::rc::Rc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use shared::cache::Key;
use shared::resource::CachePolicy;

use super::account::{Account, CacheStatus};
use crate::cache::{Kept, RedisCache, canonical};
use crate::call::{Call, Operation};

/// Whether the answer was kept.
pub const CACHE: HeaderName = HeaderName::from_static("x-aisix-cache");
/// How it was recognised.
pub const CACHE_LAYER: HeaderName = HeaderName::from_static("x-aisix-cache-layer");
/// The caller's wish for certain targets of a group: another one may have another answer.
const ROUTING_TAGS: HeaderName = HeaderName::from_static("x-aisix-routing-tags");

/// The layout of what is hashed: another one finds nothing of this.
const LAYOUT: &[u8] = b"aisix-cache-1";
/// A longer body is not worth the time it takes to bring it into one form.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is to become of the answer of a request: it is kept there, unless it came from there.
pub struct Repeat(Option<Place>);

/// Where an answer is kept, and for how long.
struct Place {
    key: Key,
    seconds: u32,
    /// In Redis, rather than on this node.
    redis: Option<Rc<RedisCache>>,
}

/// What the caller wishes, in `cache-control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    None,
    /// No kept answer, but this one may be kept.
    NoCache,
    /// Neither.
    NoStore,
}

impl Repeat {
    /// Looks the request up. What is found takes the place of an attempt.
    pub async fn find(account: &mut Account, call: &Call, head: &Parts) -> (Self, Option<Kept>) {
        let Some((policy, key)) = place(account, call, head) else { return (Self(None), None) };
        let redis = account.proxy.cache_redis.clone().filter(|_| policy.in_redis);
        if policy.in_redis && redis.is_none() {
            account.cache = Some(CacheStatus::Disabled);
            return (Self(None), None);
        }
        let place = Place { key, seconds: policy.ttl_seconds, redis };
        let wish = Wish::of(&head.headers);
        let found = match wish {
            Wish::None => place.find(account).await,
            Wish::NoCache | Wish::NoStore => None,
        };
        let (status, outcome) = match (&found, wish) {
            (Some(_), _) => (CacheStatus::Hit, "hit_exact"),
            (None, Wish::None) => (CacheStatus::Miss, "miss"),
            (None, _) => (CacheStatus::Bypass, "bypass"),
        };
        account.proxy.metrics.cache_request(&policy.name, outcome);
        account.cache = Some(status);
        if let Some(kept) = &found {
            account.saved = (kept.input_tokens, kept.output_tokens);
        }
        let is_kept = found.is_none() && wish != Wish::NoStore;
        (Self(is_kept.then_some(place)), found)
    }

    /// Keeps an answer that is complete, and in order.
    pub fn keep(&self, account: &Account, content_type: &HeaderValue, body: &Bytes) {
        let Some(Place { key, seconds, redis }) = &self.0 else { return };
        let (input_tokens, output_tokens) = account.counted_tokens();
        let (content_type, body) = (content_type.clone(), body.clone());
        let Some(bytes) = Kept { content_type, body, input_tokens, output_tokens }.write() else {
            return;
        };
        match redis {
            Some(redis) => redis.keep(key, *seconds, bytes),
            None => account.proxy.cache.keep(*key, *seconds, bytes),
        }
    }
}

impl Place {
    async fn find(&self, account: &Account) -> Option<Kept> {
        let found = match &self.redis {
            Some(redis) => redis.find(&self.key).await,
            None => account.proxy.cache.find(self.key).await,
        };
        found.and_then(|bytes| Kept::read(&bytes))
    }
}

/// What the caller of a successful answer is told of what the cache had to do with it, in [`CACHE`] and [`CACHE_LAYER`].
pub fn told(status: Option<CacheStatus>) -> [Option<HeaderValue>; 2] {
    let status = status.filter(|status| *status != CacheStatus::Disabled);
    let is_hit = status == Some(CacheStatus::Hit);
    [
        status.map(|status| HeaderValue::from_static(status.name())),
        is_hit.then(|| HeaderValue::from_static("exact")),
    ]
}

/// The policy that the request is under, and where its answer is kept. `None` if it is under none, is no chat, or wants a stream.
fn place(account: &Account, call: &Call, head: &Parts) -> Option<(Rc<CachePolicy>, Key)> {
    let is_chat = matches!(call.operation, Operation::ChatCompletions | Operation::Messages);
    let (caller, model) = (account.caller.as_ref()?, account.model.as_ref()?);
    if !is_chat || call.is_stream {
        return None;
    }
    let tables = account.proxy.tables.borrow();
    let names = [call.model.as_str(), model.display_name.as_str()];
    let policy = tables.cache_policies().find(&caller.id, names)?.clone();
    let body = call.json()?.bytes();
    let body = (body.len() <= BODY_BYTES_MAX).then(|| canonical(body)).flatten()?;
    let tags = head.headers.get_all(ROUTING_TAGS).iter().map(HeaderValue::as_bytes);
    let tags: Vec<u8> = tags.collect::<Vec<_>>().join(&b',');
    let scope = if policy.is_shared { "" } else { caller.id.as_str() };
    let key = hash(&[
        LAYOUT,
        account.proxy.settings.env_id.as_bytes(),
        policy.id.as_bytes(),
        &policy.generation.to_le_bytes(),
        &[u8::from(policy.is_shared)],
        scope.as_bytes(),
        call.operation.path().as_bytes(),
        model.id.as_bytes(),
        call.model.as_bytes(),
        &tags,
        &body,
    ]);
    Some((policy, key))
}

/// SHA-256 of the parts, each with its length in front: where one ends and the next begins makes a difference.
fn hash(parts: &[&[u8]]) -> Key {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    key
}

impl Wish {
    /// Of all directives, in any case; those that mean nothing here are passed over.
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(CACHE_CONTROL).iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let mut wish = Self::None;
        for directive in values.flat_map(|value| value.split(',')).map(str::trim) {
            if directive.eq_ignore_ascii_case("no-store") {
                return Self::NoStore;
            }
            if directive.eq_ignore_ascii_case("no-cache") {
                wish = Self::NoCache;
            }
        }
        wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(values: &[&str]) -> Wish {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(value).unwrap());
        }
        Wish::of(&headers)
    }

    #[test]
    fn the_stricter_of_several_wishes_counts_and_what_means_nothing_is_passed_over() {
        assert_eq!(wish(&[]), Wish::None);
        assert_eq!(wish(&["max-age=0", "no-cachet", "no-transform"]), Wish::None);
        assert_eq!(wish(&["No-Cache"]), Wish::NoCache);
        assert_eq!(wish(&["max-age=0 , no-cache"]), Wish::NoCache);
        assert_eq!(wish(&["no-store"]), Wish::NoStore);
        assert_eq!(wish(&["no-cache", "no-store"]), Wish::NoStore);
        assert_eq!(wish(&["no-store,no-cache"]), Wish::NoStore);
    }

    #[test]
    fn the_border_between_two_parts_makes_a_difference() {
        assert_eq!(hash(&[b"ab", b"c"]), hash(&[b"ab", b"c"]));
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"a", b""]), hash(&[b"a"]));
    }
}
