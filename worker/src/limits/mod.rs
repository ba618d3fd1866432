//! How much is let through: the gate that every request passes before it goes anywhere.
//!
//! 1. A limit of N admits N on this node, whichever workers are asked: what is counted lies in memory that all of them share
//!    and nobody waits for. With `ratelimit.backend: redis` the same holds over all nodes that share a Redis.
//! 2. All limits of a request are asked; what a request took from some of them before another one refused it is given back.
//! 3. A request that is in progress holds a [`Permit`] and nothing else does: whatever becomes of it, its places come back,
//!    and the tokens that it has used are counted once.
//! 4. A Redis that does not answer refuses nobody: this node counts alone then, and says so. It has counted all the while, so
//!    it goes on from what it has let through itself.
//!
//! ```text
//! bucket      which limits a request is under, and what each is called
//! policies    the rate limit policies, and which of them concern a request
//! schedule    when a policy is suspended
//! permit      what a request has taken
//! shared      the same in Redis
//! value       what callers are told of it, as values of headers
//! ```

mod bucket;
mod permit;
mod policies;
mod schedule;
mod shared;
mod value;

use std::fmt;
use std::rc::Rc;

use ::shared::counters::{Counters, Taken, Window};
use ::shared::dial::Dial;
use ::shared::worker_settings::ProxySettings;

pub use bucket::{Asked, Bucket, Layer, buckets};
pub use permit::{Permit, Shown};
pub use policies::Policies;

use self::shared::Shared;
use crate::upstream::TrustRoots;
use bucket::{REQUESTS, TOKENS, keys_of};

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Of what there is too much.
    pub what: What,
    /// Whose limit it is.
    pub layer: Layer,
    /// Seconds until the window ends; `None` for what has no window.
    pub retry_after: Option<u64>,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Requests in a window.
    Requests,
    /// Tokens in a window.
    Tokens,
    /// Requests at a time.
    Concurrency,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.what {
            What::Requests => "request limit exceeded (requests)",
            What::Tokens => "token limit exceeded (tokens)",
            What::Concurrency => "concurrency limit exceeded",
        })?;
        match &self.layer {
            Layer::Policy { name, .. } => write!(formatter, " (policy '{name}')"),
            Layer::ApiKey | Layer::Model => Ok(()),
        }
    }
}

/// The gate.
pub struct Limits {
    counters: Counters,
    shared: Option<Rc<Shared>>,
}

impl Limits {
    /// A gate that counts in `counters`, and in Redis if the settings say so.
    pub fn new(
        counters: Counters,
        settings: &ProxySettings,
        dial: &Rc<dyn Dial>,
        trust: &TrustRoots,
    ) -> Self {
        let shared = Shared::new(counters, settings, dial, trust);
        Self { counters, shared }
    }

    /// Lets a request through, if every bucket has room for it at this moment, in seconds since 1970 UTC.
    ///
    /// # Errors
    /// The first limit that is reached.
    pub async fn admit(&self, buckets: Vec<Bucket>, now: u64) -> Result<Permit, Exceeded> {
        let mut permit = Permit::new(self.counters, self.shared.clone());
        for bucket in &buckets {
            self.take(&mut permit, bucket, now)?;
        }
        if let Some(shared) = &self.shared {
            for bucket in &buckets {
                shared.take(&mut permit, bucket, now).await?;
            }
        }
        permit.admitted(&buckets, now);
        Ok(permit)
    }

    /// Takes from one bucket what there is: a place, then a look at the tokens, then the requests.
    fn take(&self, permit: &mut Permit, bucket: &Bucket, now: u64) -> Result<(), Exceeded> {
        let exceeded =
            |what, retry_after| Exceeded { what, layer: bucket.layer.clone(), retry_after };
        let keys = keys_of(&bucket.name);
        if bucket.layer == Layer::ApiKey {
            permit.is_of_key(keys);
        }
        if let Some(limit) = bucket.limits.concurrency {
            match self.counters.hold(keys.with("concurrency"), limit.into()) {
                Ok(Some(held)) => permit.holds(held),
                Ok(None) => return Err(exceeded(What::Concurrency, None)),
                // More is counted than there is memory for: rather one too many than nobody.
                Err(_) => {}
            }
        }
        for window in &TOKENS {
            let Some(limit) = (window.limit)(&bucket.limits) else { continue };
            let key = keys.with(window.name);
            // Counted after the answer, so that the request which reaches the limit is still let through.
            if self.counters.count(key, Window::at(window.period, now)) > limit {
                return Err(exceeded(What::Tokens, Some(window.remaining_seconds(now))));
            }
            permit.counts_tokens(key, window.period);
        }
        for window in &REQUESTS {
            let Some(limit) = (window.limit)(&bucket.limits) else { continue };
            let key = keys.with(window.name);
            let at = Window::at(window.period, now);
            match self.counters.take(key, at, 1, limit) {
                Taken::Counted(_) => permit.took(key, at),
                Taken::Full(_) => {
                    return Err(exceeded(What::Requests, Some(window.remaining_seconds(now))));
                }
                Taken::NoRoom => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Limits").field("shared", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
