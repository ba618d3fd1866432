//! Answers kept in the Redis of `cache.redis`, where every gateway of the environment finds them.
//!
//! Keys are `aisix:cache:<environment>:<hash>`, and each goes with its time. As with the cache of the node, a Redis that is
//! away is a miss: a request waits for it once, for [`LIMIT`] at most, and for a moment after that nobody does. What fails is
//! logged once and counted. At [`KEEPING_MAX`] values on their way to it no more are given.

use std::cell::Cell;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use shared::cache::{Key, VALUE_BYTES_MAX};
use shared::dial::Dial;
use shared::worker_settings::RedisSettings;
use tracing::{error, info, warn};

use crate::metrics::Metrics;
use crate::redis::{Redis, RedisError};
use crate::upstream::TrustRoots;

/// How long an answer of Redis is waited for.
const LIMIT: Duration = Duration::from_millis(500);
/// How long Redis may take to keep something; nobody waits for it.
const KEEP_LIMIT: Duration = Duration::from_secs(5);
/// Values on their way to Redis.
const KEEPING_MAX: usize = 64;

/// The Redis of `cache.redis`.
pub struct RedisCache {
    redis: Rc<Redis>,
    metrics: Rc<Metrics>,
    prefix: String,
    keeping: Cell<usize>,
    is_away: Cell<bool>,
}

impl RedisCache {
    /// The Redis of the settings; nobody is asked yet. `None` where it cannot be used, which the log tells.
    pub fn new(
        dial: Rc<dyn Dial>,
        trust: &TrustRoots,
        settings: &RedisSettings,
        env_id: &str,
        metrics: Rc<Metrics>,
    ) -> Option<Rc<Self>> {
        let redis = Redis::new(dial, trust, settings).inspect_err(|error| {
            error!(%error, "cache.redis cannot be used: nothing is kept there; look at cache.redis.tls");
        });
        Some(Rc::new(Self {
            redis: redis.ok()?,
            metrics,
            prefix: format!("aisix:cache:{env_id}:"),
            keeping: Cell::new(0),
            is_away: Cell::new(false),
        }))
    }

    /// What is kept under the key; `None` if nothing is, or Redis does not say so in time.
    pub async fn find(&self, key: &Key) -> Option<Vec<u8>> {
        let name = self.name(key);
        let mut command = cmd("GET");
        command.arg(&name);
        let found = self.redis.ask::<Option<Vec<u8>>>(&command, &name, LIMIT).await;
        self.note("find", found).flatten()
    }

    /// Has a value kept, later. What is too long, or has nowhere to wait, is not.
    pub fn keep(self: &Rc<Self>, key: &Key, seconds: u32, value: Vec<u8>) {
        if value.len() > VALUE_BYTES_MAX
            || self.keeping.get() >= KEEPING_MAX
            || self.redis.is_away()
        {
            return;
        }
        self.keeping.set(self.keeping.get() + 1);
        let (this, name) = (Rc::clone(self), self.name(key));
        tokio::task::spawn_local(async move {
            let mut command = cmd("SET");
            command.arg(&name).arg(value).arg("EX").arg(seconds);
            let kept = this.redis.ask::<()>(&command, &name, KEEP_LIMIT).await;
            this.note("keep", kept);
            this.keeping.set(this.keeping.get().saturating_sub(1));
        });
    }

    fn name(&self, key: &Key) -> String {
        let mut name = self.prefix.clone();
        for byte in key {
            // A text takes everything.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }

    fn note<T>(&self, operation: &str, answer: Result<T, RedisError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                if self.is_away.replace(false) {
                    info!("the Redis of cache.redis answers again");
                }
                Some(answer)
            }
            Err(error) => {
                self.metrics.cache_failed(operation);
                if !self.is_away.replace(true) {
                    warn!(
                        %error,
                        "the Redis of cache.redis cannot be used: until it can, requests go to their providers"
                    );
                }
                None
            }
        }
    }
}
