//! What this worker counts, in memory that the supervisor reads.
//!
//! Counting takes one look-up of the labels and a store; nothing is allocated for a series that exists, nothing waits and
//! nothing fails: where there is no room for a new series, that is counted instead.

mod client_type;
mod left;
mod request;
mod slots;

use std::cell::{Ref, RefCell};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use shared::message::Series;
use shared::metric::family::{
    AUTH_DECISIONS, CACHE_REDIS_FAILURES, CACHE_REQUESTS, DEPLOYMENT_COOLED_DOWN, GUARDRAIL_BLOCKS,
    GUARDRAIL_BYPASSES, GUARDRAIL_LATENCY, OTLP_DROPS, OTLP_FAILURES, PROXY_BODY_LIMIT_REJECTIONS,
    PROXY_CLIENT_CANCELLED, PROXY_IN_FLIGHT, PROXY_OVERLOAD_REJECTIONS, RATE_LIMIT_REJECTIONS,
    RATE_LIMIT_REQUESTS_LEFT, RATE_LIMIT_TOKENS_LEFT, ROUTING_FAILED_FALLBACKS,
    ROUTING_SUCCESSFUL_FALLBACKS, TLS_HANDSHAKES, USAGE_EVENT_DROPS,
};
use shared::metric::{EdgeSets, Family, Kind, SLOTS};

use crate::limits::Shown;
use left::Left;
use slots::Slots;

pub use client_type::ClientTypes;
use request::Remembered;
pub use request::{Places, RequestFacts};

/// The counters of this worker.
pub struct Metrics {
    slots: RefCell<Slots>,
    requests: RefCell<Remembered>,
    fixed: RefCell<Vec<Fixed>>,
    left: RefCell<Left>,
    settings: RefCell<Settings>,
    announce: Box<dyn Fn(Series)>,
    /// Open for as long as we count: no other descriptor may get its number, which the system call filter knows.
    _memory: Option<File>,
}

#[derive(Default)]
struct Settings {
    env_id: String,
    edges: EdgeSets,
}

impl Metrics {
    /// Counts in `memory`, and tells `announce` of every series that is taken into use. `announce` must not count.
    ///
    /// # Errors
    /// The memory is smaller than agreed, or cannot be mapped.
    pub fn open(memory: OwnedFd, announce: impl Fn(Series) + 'static) -> io::Result<Self> {
        let memory = File::from(memory);
        let slots = shared::memory::mapped(&memory, SLOTS)?;
        Ok(Self { _memory: Some(memory), ..Self::new(slots, announce) })
    }

    /// Counts in private memory that nobody reads: for tests of what counts.
    pub fn disconnected() -> Self {
        const SLOTS_OF_A_TEST: usize = 16 * 1024;
        let slots = (0..SLOTS_OF_A_TEST).map(|_| AtomicU64::new(0)).collect();
        Self::new(Vec::leak(slots), |_| {})
    }

    fn new(slots: &'static [AtomicU64], announce: impl Fn(Series) + 'static) -> Self {
        Self {
            slots: RefCell::new(Slots::new(slots)),
            requests: RefCell::default(),
            fixed: RefCell::default(),
            left: RefCell::default(),
            settings: RefCell::default(),
            announce: Box::new(announce),
            _memory: None,
        }
    }

    /// Takes over what the supervisor has set, before anything is counted: the environment's id and the edges of the
    /// histograms.
    pub fn configure(&self, env_id: &str, edges: EdgeSets) {
        *self.settings.borrow_mut() = Settings { env_id: env_id.to_owned(), edges };
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn in_flight(
        self: &Rc<Self>,
        endpoint: &'static str,
        protocol: &'static str,
    ) -> InFlightGuard {
        let slot = self.slot_of_fixed(&PROXY_IN_FLIGHT, [endpoint, protocol]);
        if let Some(slot) = slot {
            self.slots.borrow().shift(slot, 1);
        }
        InFlightGuard { metrics: Rc::clone(self), slot }
    }

    /// Counts a decision about a caller. `reason` is `none` if it was let in.
    pub fn auth(&self, method: &'static str, result: &'static str, reason: &'static str) {
        if let Some(slot) = self.slot_of_fixed(&AUTH_DECISIONS, [method, result, reason]) {
            self.slots.borrow().add(slot, 1);
        }
    }

    /// Counts a TLS handshake of a caller that is over.
    pub fn handshake(&self, result: &str) {
        self.add(&TLS_HANDSHAKES, &[result], 1);
    }

    /// Counts a guardrail that has looked: at which side of a request, what has come of it, and how long it took.
    pub fn guardrail(
        &self,
        name: &str,
        kind: &str,
        phase: &str,
        result: &str,
        error_type: &str,
        took: Duration,
    ) {
        let env_id = self.env_id().to_owned();
        let labels = [env_id.as_str(), name, kind, phase, result, error_type];
        self.time(&GUARDRAIL_LATENCY, &labels, took);
    }

    /// Counts a request or an answer that a guardrail has refused.
    pub fn guardrail_blocked(&self) {
        self.add(&GUARDRAIL_BLOCKS, &[], 1);
    }

    /// Counts a request or an answer that a guardrail has let through unseen.
    pub fn guardrail_bypassed(&self, reason: &str) {
        self.add(&GUARDRAIL_BYPASSES, &[reason], 1);
    }

    /// Counts a usage event that was lost.
    pub fn usage_dropped(
        &self,
        reason: &str,
        model: &str,
        provider_key_id: &str,
        provider_key_name: &str,
    ) {
        self.add(&USAGE_EVENT_DROPS, &[reason, model, provider_key_id, provider_key_name], 1);
    }

    /// Counts a request under a cache policy.
    pub fn cache_request(&self, policy: &str, outcome: &str) {
        self.add(&CACHE_REQUESTS, &[policy, outcome], 1);
    }

    /// Counts something that the Redis of the cache was asked for and did not do.
    pub fn cache_failed(&self, operation: &str) {
        self.add(&CACHE_REDIS_FAILURES, &[operation], 1);
    }

    /// Counts spans that an exporter was not told of.
    pub fn export_dropped(&self, exporter: &str, reason: &str, spans: usize) {
        if spans > 0 {
            self.add(&OTLP_DROPS, &[exporter, reason], u64::try_from(spans).unwrap_or(u64::MAX));
        }
    }

    /// Counts a batch that an exporter could not be told of.
    pub fn export_failed(&self, exporter: &str) {
        self.add(&OTLP_FAILURES, &[exporter], 1);
    }

    /// Counts a model that is left alone from now on.
    pub fn cooled_down(
        &self,
        provider: &str,
        model: &str,
        upstream_model: &str,
        provider_key_id: &str,
    ) {
        let labels = [provider, model, upstream_model, provider_key_id];
        self.add(&DEPLOYMENT_COOLED_DOWN, &labels, 1);
    }

    /// Counts what became of a target that a group has fallen back to.
    pub fn fallback(&self, model: &str, fallback_model: &str, success: bool) {
        let ended = if success { &ROUTING_SUCCESSFUL_FALLBACKS } else { &ROUTING_FAILED_FALLBACKS };
        self.add(ended, &[model, fallback_model], 1);
    }

    /// Counts a caller that left before its answer ended.
    pub fn client_cancelled(
        &self,
        endpoint: &str,
        model: &str,
        provider_key_id: &str,
        provider_key_name: &str,
    ) {
        let labels = [endpoint, model, provider_key_id, provider_key_name];
        self.add(&PROXY_CLIENT_CANCELLED, &labels, 1);
    }

    /// Counts a request refused for the size of its body; `outcome` tells how reading the rest of it ended.
    pub fn body_limit_rejected(&self, endpoint: &str, protocol: &str, outcome: &str) {
        self.add(&PROXY_BODY_LIMIT_REJECTIONS, &[endpoint, protocol, outcome], 1);
    }

    /// Counts a request refused since there were too many.
    pub fn overload_rejected(&self, endpoint: &str, protocol: &str) {
        self.add(&PROXY_OVERLOAD_REJECTIONS, &[endpoint, protocol], 1);
    }

    /// Counts a request that a limit has refused.
    pub fn limited(&self, scope: &str, layer: &str, policy_id: &str) {
        self.add(&RATE_LIMIT_REJECTIONS, &[scope, layer, policy_id], 1);
    }

    /// Notes what is left to a caller key; the labels are its id and the model.
    pub fn limits_left(&self, labels: [&str; 2], left: &Shown) {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since_1970.map_or(0, |it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX));
        let mut places = self.left.borrow_mut();
        let places = places.of(labels);
        for (family, left, place) in [
            (&RATE_LIMIT_REQUESTS_LEFT, left.requests, &mut places.requests),
            (&RATE_LIMIT_TOKENS_LEFT, left.tokens, &mut places.tokens),
        ] {
            let Some((_, number)) = left else { continue };
            *place = place.or_else(|| self.slot(family, &labels));
            if let Some(slot) = *place {
                self.slots.borrow().found(slot, micros, number);
            }
        }
    }

    fn env_id(&self) -> Ref<'_, str> {
        Ref::map(self.settings.borrow(), |settings| settings.env_id.as_str())
    }

    fn add(&self, family: &Family, labels: &[&str], amount: u64) {
        if let Some(slot) = self.slot(family, labels) {
            self.slots.borrow().add(slot, amount);
        }
    }

    /// Counts a duration in a summary or a histogram.
    fn time(&self, family: &Family, labels: &[&str], duration: Duration) {
        self.time_at(self.slot(family, labels), family, duration);
    }

    fn time_at(&self, slot: Option<usize>, family: &Family, duration: Duration) {
        let Some(slot) = slot else { return };
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let mut slots = self.slots.borrow_mut();
        if let Kind::Histogram(latency) = family.kind {
            let settings = self.settings.borrow();
            slots.add_to_histogram(slot, settings.edges.of(latency), micros);
        } else if !slots.add_to_summary(slot, micros) {
            drop(slots);
            self.dropped();
        }
    }

    fn slot(&self, family: &Family, labels: &[&str]) -> Option<usize> {
        let found = self.slots.borrow_mut().find(family, labels);
        found.new.into_iter().for_each(&self.announce);
        if found.slot.is_none() {
            self.dropped();
        }
        found.slot
    }

    /// As [`Metrics::slot`], for labels of which there are few: found by where they lie.
    fn slot_of_fixed<const N: usize>(
        &self,
        family: &'static Family,
        labels: [&'static str; N],
    ) -> Option<usize> {
        if let Some(known) = self.fixed.borrow().iter().find(|known| known.is(family, &labels)) {
            return Some(known.slot);
        }
        let slot = self.slot(family, &labels)?;
        let mut fixed = self.fixed.borrow_mut();
        if fixed.len() < FIXED_MAX {
            fixed.push(Fixed { family, labels: labels.into(), slot });
        }
        Some(slot)
    }

    fn dropped(&self) {
        let new = self.slots.borrow().add_dropped();
        new.into_iter().for_each(&self.announce);
    }
}

/// Series that are found by where their labels lie.
const FIXED_MAX: usize = 64;

/// A series whose labels are part of the program.
struct Fixed {
    family: &'static Family,
    labels: Box<[&'static str]>,
    slot: usize,
}

impl Fixed {
    fn is(&self, family: &'static Family, labels: &[&'static str]) -> bool {
        ptr::eq(self.family, family)
            && self.labels.len() == labels.len()
            && self.labels.iter().zip(labels).all(|(one, other)| ptr::eq(*one, *other))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A request that is in flight while this lives.
#[derive(Debug)]
pub struct InFlightGuard {
    metrics: Rc<Metrics>,
    slot: Option<usize>,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.metrics.slots.borrow().shift(slot, -1);
        }
    }
}

/// The class of a status: `2xx`.
fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}

/// A status in digits, without an allocation.
struct StatusText([u8; 3]);

impl StatusText {
    /// Statuses have three digits; a larger number shows as 999.
    fn new(status: u16) -> Self {
        let status = status.min(999);
        Self([status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8))
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("")
    }
}

#[cfg(test)]
mod tests;
