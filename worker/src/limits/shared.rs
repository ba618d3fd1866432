//! The same limits in a Redis that several nodes share.
//!
//! Every node has its own say first, so that Redis is asked about nothing that this node refuses itself. Each bucket is one
//! script, which checks and counts in one step; all keys of a bucket are in one slot of a cluster:
//!
//! ```text
//! aisix:rl:<env>:{<bucket>}:c               requests in progress: a member for each, its score is when it is given up
//! aisix:rl:<env>:{<bucket>}:rpm:<number>    requests in the window of that number since 1970; rps, rph, rpd alike
//! aisix:rl:<env>:{<bucket>}:tpm:<number>    tokens; tpd alike
//! ```
//! Windows follow the clock of whoever counts: the clocks of the nodes should agree.

use std::cell::Cell;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::shared::counters::{CounterKey, Counters, LIMITS_REDIS, REDIS_ANSWERS, REDIS_AWAY};
use ::shared::dial::Dial;
use ::shared::worker_settings::ProxySettings;
use redis::{Cmd, cmd};
use uuid::Uuid;

use super::bucket::{Bucket, REQUESTS, TOKENS, Windowed};
use super::permit::Permit;
use super::{Exceeded, What};
use crate::redis::{Redis, RedisError};
use crate::upstream::TrustRoots;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How often Redis is asked whether it is there.
const PING: Duration = Duration::from_secs(5);

/// Keys: requests in progress, tokens of each window, requests of each window. Arguments: now, time to live of a place, its
/// name, limit of requests in progress or -1, number of windows of tokens, their limits, then limit and seconds to live of
/// each window of requests. Answer: 0, counts of tokens, counts of requests; or what is full, and which window of its kind.
const TAKE: &str = "
local now, ttl, name, most, tokens = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local function count(key) return tonumber(redis.call('GET', key) or '0') end
local told = {0}
if most >= 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  if redis.call('ZCARD', KEYS[1]) >= most then return {1, 0} end
end
for i = 1, tokens do
  told[i + 1] = count(KEYS[1 + i])
  if told[i + 1] > tonumber(ARGV[5 + i]) then return {2, i} end
end
local requests, at = #KEYS - 1 - tokens, 5 + tokens
for i = 1, requests do
  if count(KEYS[1 + tokens + i]) >= tonumber(ARGV[at + 2 * i - 1]) then return {3, i} end
end
for i = 1, requests do
  told[1 + tokens + i] = redis.call('INCR', KEYS[1 + tokens + i])
  redis.call('EXPIRE', KEYS[1 + tokens + i], ARGV[at + 2 * i])
end
if most >= 0 then
  redis.call('ZADD', KEYS[1], now + ttl, name)
  redis.call('PEXPIRE', KEYS[1], ttl)
end
return told";

/// Keys: requests in progress, requests of each window. Argument: name of the place.
const GIVE_BACK: &str = "
redis.call('ZREM', KEYS[1], ARGV[1])
for i = 2, #KEYS do
  if tonumber(redis.call('GET', KEYS[i]) or '0') > 0 then redis.call('DECR', KEYS[i]) end
end
return 0";

/// Keys: requests in progress, tokens of each window. Arguments: name of the place, tokens, seconds to live of each window.
const SETTLE: &str = "
redis.call('ZREM', KEYS[1], ARGV[1])
for i = 2, #KEYS do
  redis.call('INCRBY', KEYS[i], ARGV[2])
  redis.call('EXPIRE', KEYS[i], ARGV[i + 1])
end
return 0";

/// Limits in Redis.
pub(super) struct Shared {
    redis: Rc<Redis>,
    prefix: String,
    place_ttl_ms: u64,
    state: Option<&'static AtomicU64>,
    is_away: Cell<bool>,
}

/// What a request has taken from one bucket in Redis.
#[derive(Debug)]
pub(super) struct Lease {
    bucket: Bucket,
    /// Of its place among those in progress.
    name: String,
    /// When it was taken.
    at: u64,
    /// Redis has said so. Without its word nothing but the place is given back.
    is_taken: bool,
    /// What Redis had counted by then.
    counts: Vec<(&'static str, u64)>,
}

impl Shared {
    /// Limits in the Redis of the settings; `None` if there is none, or none that could be used.
    pub(super) fn new(
        counters: Counters,
        settings: &ProxySettings,
        dial: &Rc<dyn Dial>,
        trust: &TrustRoots,
    ) -> Option<Rc<Self>> {
        let redis = settings.limits_redis.as_ref()?;
        let state = counters.cell(CounterKey::of(LIMITS_REDIS));
        let redis = match Redis::new(Rc::clone(dial), trust, redis) {
            Ok(redis) => redis,
            Err(error) => {
                tracing::error!(
                    "limits are counted on this node alone: ratelimit.redis.tls: {error}"
                );
                tell(state, REDIS_AWAY);
                return None;
            }
        };
        let shared = Rc::new(Self {
            redis,
            prefix: format!("aisix:rl:{}:", settings.env_id),
            place_ttl_ms: settings.concurrency_ttl_ms,
            state,
            is_away: Cell::new(false),
        });
        tokio::task::spawn_local(watch(Rc::downgrade(&shared)));
        Some(shared)
    }

    /// Takes from one bucket what is not full. Where Redis does not answer, this node's own word stands.
    pub(super) async fn take(
        &self,
        permit: &mut Permit,
        bucket: &Bucket,
        now: u64,
    ) -> Result<(), Exceeded> {
        let mut lease = Lease::new(bucket.clone(), now);
        let command = self.command_to_take(&lease);
        let key = self.key(&bucket.name, "c");
        // Known to the permit before Redis is asked: the caller may leave meanwhile.
        permit.leases(lease.same_place());
        let answer: Result<Vec<i64>, _> = self.redis.ask(&command, &key, LIMIT).await;
        self.note(&answer);
        let Ok(answer) = answer else { return Ok(()) };
        let mut numbers = answer.into_iter().map(|number| u64::try_from(number).unwrap_or(0));
        let what = match numbers.next().unwrap_or(0) {
            0 => {
                let windows = tokens_of(bucket).chain(requests_of(bucket));
                lease.counts = windows.map(|(window, _)| window.name).zip(numbers).collect();
                lease.is_taken = true;
                permit.leased(lease);
                return Ok(());
            }
            1 => What::Concurrency,
            2 => What::Tokens,
            _ => What::Requests,
        };
        let index = usize::try_from(numbers.next().unwrap_or(0)).unwrap_or(0).saturating_sub(1);
        let window = match what {
            What::Concurrency => None,
            What::Tokens => tokens_of(bucket).nth(index),
            What::Requests => requests_of(bucket).nth(index),
        };
        let retry_after = window.map(|(window, _)| window.remaining_seconds(now));
        Err(Exceeded { what, layer: bucket.layer.clone(), retry_after })
    }

    /// The request is over: its places are free, and its tokens count.
    pub(super) fn settle(self: Rc<Self>, leases: Vec<Lease>, tokens: u64, now: u64) {
        self.tell_later(leases, |shared, lease| {
            let windows: Vec<_> =
                tokens_of(&lease.bucket).filter(|_| tokens > 0 && lease.is_taken).collect();
            let has_place = lease.bucket.limits.concurrency.is_some();
            if windows.is_empty() && !has_place {
                return None;
            }
            let mut command = shared.script(SETTLE, lease, windows.iter().map(|it| (it.0, now)));
            command.arg(&lease.name).arg(tokens);
            for (window, _) in windows {
                command.arg(seconds_to_live(window));
            }
            Some(command)
        });
    }

    /// The request was not let through, or is over without a word.
    pub(super) fn end(self: Rc<Self>, leases: Vec<Lease>, is_admitted: bool) {
        self.tell_later(leases, |shared, lease| {
            let gives_back = !is_admitted && lease.is_taken;
            if !gives_back && lease.bucket.limits.concurrency.is_none() {
                return None;
            }
            let windows = requests_of(&lease.bucket).filter(|_| gives_back);
            let mut command = shared.script(GIVE_BACK, lease, windows.map(|it| (it.0, lease.at)));
            command.arg(&lease.name);
            Some(command)
        });
    }

    fn tell_later(
        self: Rc<Self>,
        leases: Vec<Lease>,
        command: impl Fn(&Self, &Lease) -> Option<Cmd>,
    ) {
        let commands: Vec<_> = leases
            .iter()
            .filter_map(|lease| Some((command(&self, lease)?, self.key(&lease.bucket.name, "c"))))
            .collect();
        if commands.is_empty() || self.redis.is_away() {
            return;
        }
        tokio::task::spawn_local(async move {
            for (command, key) in commands {
                let told: Result<i64, _> = self.redis.ask(&command, &key, LIMIT).await;
                self.note(&told);
            }
        });
    }

    fn command_to_take(&self, lease: &Lease) -> Cmd {
        let bucket = &lease.bucket;
        let at = lease.at;
        let windows = tokens_of(bucket).chain(requests_of(bucket)).map(|(window, _)| (window, at));
        let mut command = self.script(TAKE, lease, windows);
        command.arg(at.saturating_mul(1000)).arg(self.place_ttl_ms).arg(&lease.name);
        command.arg(bucket.limits.concurrency.map_or(-1, i64::from));
        command.arg(tokens_of(bucket).count());
        for (_, limit) in tokens_of(bucket) {
            command.arg(limit);
        }
        for (window, limit) in requests_of(bucket) {
            command.arg(limit).arg(seconds_to_live(window));
        }
        command
    }

    fn script<'a>(
        &self,
        script: &str,
        lease: &Lease,
        windows: impl Iterator<Item = (&'a Windowed, u64)>,
    ) -> Cmd {
        let bucket = &lease.bucket.name;
        let mut keys = vec![self.key(bucket, "c")];
        keys.extend(windows.map(|(window, at)| {
            let number = at / window.period.seconds();
            self.key(bucket, &format!("{}:{number}", window.name))
        }));
        let mut command = cmd("EVAL");
        command.arg(script).arg(keys.len()).arg(keys);
        command
    }

    fn key(&self, bucket: &str, what: &str) -> String {
        format!("{}{{{bucket}}}:{what}", self.prefix)
    }

    /// Tells the log and the node when Redis goes or comes, once.
    fn note<T>(&self, answer: &Result<T, RedisError>) {
        match answer {
            Ok(_) => {
                if self.is_away.replace(false) {
                    tracing::info!("Redis answers again: limits are shared with other nodes");
                }
                tell(self.state, REDIS_ANSWERS);
            }
            Err(error) => {
                if !self.is_away.replace(true) {
                    tracing::warn!(
                        "limits are counted on this node alone, since the Redis of ratelimit.redis cannot be used: {error}"
                    );
                }
                tell(self.state, REDIS_AWAY);
            }
        }
    }
}

/// Asks now and then whether Redis is there, so that it is known without a request.
async fn watch(shared: Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let told: Result<String, _> = shared.redis.ask(&cmd("PING"), "", LIMIT).await;
        shared.note(&told);
        drop(shared);
        tokio::time::sleep(PING).await;
    }
}

fn tell(state: Option<&'static AtomicU64>, word: u64) {
    if let Some(state) = state {
        state.store(word, Ordering::Relaxed);
    }
}

impl Lease {
    fn new(bucket: Bucket, at: u64) -> Self {
        let name = Uuid::new_v4().to_string();
        Self { bucket, name, at, is_taken: false, counts: Vec::new() }
    }

    /// Its place alone.
    fn same_place(&self) -> Self {
        Self { bucket: self.bucket.clone(), name: self.name.clone(), counts: Vec::new(), ..*self }
    }

    pub(super) fn is_of(&self, bucket: &str) -> bool {
        self.is_taken && self.bucket.name == bucket
    }

    /// What Redis had counted in a window when it was taken.
    pub(super) fn counted(&self, window: &str) -> Option<u64> {
        self.counts.iter().find(|(name, _)| *name == window).map(|(_, count)| *count)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("redis", &self.redis).finish_non_exhaustive()
    }
}

fn tokens_of(bucket: &Bucket) -> impl Iterator<Item = (&'static Windowed, u64)> {
    limited(&TOKENS, bucket)
}

fn requests_of(bucket: &Bucket) -> impl Iterator<Item = (&'static Windowed, u64)> {
    limited(&REQUESTS, bucket)
}

fn limited<'a>(
    windows: &'static [Windowed],
    bucket: &'a Bucket,
) -> impl Iterator<Item = (&'static Windowed, u64)> + use<'a> {
    windows.iter().filter_map(|window| Some((window, (window.limit)(&bucket.limits)?)))
}

/// Two windows, so that clocks that differ a little count in the same.
fn seconds_to_live(window: &Windowed) -> u64 {
    window.period.seconds() * 2
}
