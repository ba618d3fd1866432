//! What a request has taken, and how it comes back.

use std::rc::Rc;

use ::shared::counters::{CounterKey, Counters, Held, KeyBegin, Period, Window};
use http::{HeaderName, HeaderValue};

use super::bucket::{Bucket, Layer, remaining_seconds};
use super::shared::{Lease, Shared};
use super::value;

/// What a request holds while it is in progress. Dropped without [`Permit::settle`] it has used no tokens; one that was not
/// let through in the end gives everything back.
#[derive(Debug)]
pub struct Permit {
    counters: Counters,
    held: Vec<Held>,
    tokens: Vec<(CounterKey, Period)>,
    requests: Vec<(CounterKey, Window)>,
    is_admitted: bool,
    shared: Option<Rc<Shared>>,
    leases: Vec<Lease>,
    /// Where the caller key's own limits are counted, if it has any.
    of_key: Option<KeyBegin>,
    shown: Shown,
}

/// What a caller is told of its own limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Requests in a minute: the limit, and what is left of it.
    pub requests: Option<(u64, u64)>,
    /// Tokens in a minute.
    pub tokens: Option<(u64, u64)>,
    /// Requests at a time.
    pub concurrent: Option<(u64, u64)>,
}

impl Permit {
    pub(super) fn new(counters: Counters, shared: Option<Rc<Shared>>) -> Self {
        Self {
            counters,
            held: Vec::new(),
            tokens: Vec::new(),
            requests: Vec::new(),
            is_admitted: false,
            shared,
            leases: Vec::new(),
            of_key: None,
            shown: Shown::default(),
        }
    }

    pub(super) fn is_of_key(&mut self, keys: KeyBegin) {
        self.of_key = Some(keys);
    }

    pub(super) fn holds(&mut self, held: Held) {
        self.held.push(held);
    }

    pub(super) fn counts_tokens(&mut self, key: CounterKey, period: Period) {
        self.tokens.push((key, period));
    }

    pub(super) fn took(&mut self, key: CounterKey, window: Window) {
        self.requests.push((key, window));
    }

    pub(super) fn leases(&mut self, lease: Lease) {
        self.leases.push(lease);
    }

    /// Redis has said that the latest lease is taken.
    pub(super) fn leased(&mut self, lease: Lease) {
        self.leases.pop();
        self.leases.push(lease);
    }

    /// The request is let through: what it took in requests stays taken.
    pub(super) fn admitted(&mut self, buckets: &[Bucket], now: u64) {
        self.is_admitted = true;
        let key = buckets.iter().find(|bucket| bucket.layer == Layer::ApiKey);
        if let (Some(bucket), Some(keys)) = (key, self.of_key) {
            self.shown = self.left(bucket, keys, now);
        }
    }

    fn left(&self, bucket: &Bucket, keys: KeyBegin, now: u64) -> Shown {
        let minute = Window::at(Period::Minute, now);
        let here = |what: &str| self.counters.count(keys.with(what), minute);
        let lease = self.leases.iter().find(|lease| lease.is_of(&bucket.name));
        let counted = |what: &str| {
            let shared = lease.and_then(|lease| lease.counted(what));
            shared.unwrap_or_else(|| here(what))
        };
        let left = |limit: u64, count: u64| (limit, limit.saturating_sub(count));
        let in_progress = || self.counters.in_progress(keys.with("concurrency"));
        let limits = &bucket.limits;
        Shown {
            requests: limits.rpm.map(|limit| left(limit, counted("rpm"))),
            tokens: limits.tpm.map(|limit| left(limit, counted("tpm"))),
            concurrent: limits.concurrency.map(|limit| left(limit.into(), in_progress())),
        }
    }

    /// What to tell the caller.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// The request is over, and has used so many tokens; now is in seconds since 1970 UTC.
    pub fn settle(mut self, tokens: u64, now: u64) {
        if tokens > 0 {
            for (key, period) in &self.tokens {
                let _ = self.counters.take(*key, Window::at(*period, now), tokens, u64::MAX);
            }
        }
        if let Some(shared) = self.shared.take() {
            shared.settle(std::mem::take(&mut self.leases), tokens, now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_admitted {
            for (key, window) in &self.requests {
                self.counters.give_back(*key, *window, 1);
            }
        }
        if let Some(shared) = self.shared.take() {
            shared.end(std::mem::take(&mut self.leases), self.is_admitted);
        }
    }
}

impl Shown {
    /// The headers in which it is told, in their order.
    pub const NAMES: [HeaderName; 8] = [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-limit-concurrent"),
        HeaderName::from_static("x-ratelimit-remaining-concurrent"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ];

    /// What is told in each of them, after the request has used so many tokens; now is in seconds since 1970 UTC.
    pub fn values(&self, tokens: u64, now: u64) -> [Option<HeaderValue>; 8] {
        let limit = |of: Option<(u64, u64)>| of.map(|(limit, _)| value::of_limit(limit));
        let left = |of: Option<(u64, u64)>, used: u64| {
            of.map(|(_, left)| value::of_number(left.saturating_sub(used)))
        };
        let seconds = remaining_seconds(Period::Minute, now);
        let reset = |of: Option<(u64, u64)>| of.map(|_| value::of_seconds(seconds));
        [
            limit(self.requests),
            left(self.requests, 0),
            limit(self.tokens),
            left(self.tokens, tokens),
            limit(self.concurrent),
            left(self.concurrent, 0),
            reset(self.requests),
            reset(self.tokens),
        ]
    }
}
