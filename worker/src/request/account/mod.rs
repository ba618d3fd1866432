//! What a request leaves behind: its usage event, its metrics, its line in the log, its trace. Exactly once, whatever becomes of it.
//!
//! A request whose caller goes away is simply dropped, wherever it is. The account is dropped with it, and settles then:
//! with status 499 and what was delivered until that moment.

mod attempts;
mod cache;
mod count;
mod guarding;
mod log;
mod places;
mod spans;
mod text;
mod usage;

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use http::{HeaderValue, StatusCode};
use shared::counters::Held;
use shared::resource::{ApiKey, Model, PassthroughRoute};
use time::OffsetDateTime;

use super::guard::Guarding;
use super::resolve::Target;
use super::route::Endpoint;
use super::{RequestError, trace};
use crate::identity::Identity;
use crate::limits::Permit;
use crate::provider::{Seen, TokenUsage};
use crate::server::Proxy;

use self::attempts::Attempts;
use self::spans::Traced;
use self::text::{address_text, shown_as, user_agent_text};

pub use cache::CacheStatus;

/// The status of a request whose caller has gone.
const CALLER_GONE: u16 = 499;
/// Longest error message in a usage event, in characters.
const MESSAGE_CHARS_MAX: usize = 2048;

/// The account of one request. The phases of the request enter what they find out.
pub struct Account {
    /// What the request is served with.
    pub proxy: Rc<Proxy>,
    /// The id of the request.
    pub request_id: HeaderValue,
    /// The address of the caller.
    pub client_ip: IpAddr,
    /// Where the request came in.
    pub endpoint: Endpoint,
    /// Who calls.
    pub caller: Option<Rc<ApiKey>>,
    /// Who the caller's token says that it is.
    pub identity: Option<Identity>,
    /// The name the caller sent; `None` until the body is understood, which is when usage begins.
    pub requested_model: Option<String>,
    /// The model of that name.
    pub model: Option<Rc<Model>>,
    /// Where the attempt goes, if that can be used.
    pub target: Option<Rc<Target>>,
    /// The direct model that the latest attempt was meant for.
    dispatched: Option<Rc<Model>>,
    attempt_kind: AttemptKind,
    /// How many targets were left for another one.
    fallbacks: u32,
    /// Whether the answer is a stream.
    pub is_stream: bool,
    /// Size of the prompt, for an estimate.
    pub prompt_bytes: usize,
    /// What the cache had to do with it; `None` where no policy asks for that.
    pub cache: Option<CacheStatus>,
    /// Tokens of the prompt and of the answer that the cache has saved.
    pub saved: (u32, u32),
    /// What guards the texts, and what it has done.
    pub guarding: Guarding,
    /// What it holds of the limits it is under.
    pub permit: Option<Permit>,
    /// What it holds of the limits of the target that is tried, until another one is.
    pub target_permit: Option<Permit>,
    /// The passthrough route by which it goes.
    pub route: Option<Rc<PassthroughRoute>>,
    /// The end user, as the network before the gateway names it.
    pub client_identity: String,
    /// How the caller is known, where that is no credential.
    pub auth_type: &'static str,
    attempt: Option<Attempt>,
    attempts: Attempts,
    total_tokens: u64,
    /// Tokens of attempts that failed, at all targets and at this one.
    spent: u64,
    spent_at_target: u64,
    failed_attempts: u32,
    started: Instant,
    ended: Option<Ended>,
    occurred_at: OffsetDateTime,
    /// [`Account::client_ip`] as it is written.
    client_address: String,
    method: Cow<'static, str>,
    path: Cow<'static, str>,
    user_agent: String,
    trace_id: String,
    /// What is noted for the export role; `None` if nobody wants to be told of this request.
    traced: Option<Box<Traced>>,
    is_settled: bool,
}

/// Why an attempt is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttemptKind {
    /// It is the first.
    #[default]
    Initial,
    /// The one before has failed, at the same target.
    Retry,
    /// The one before has failed, at another target.
    Fallback,
}

impl AttemptKind {
    /// The word for it in usage events.
    fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Retry => "retry",
            Self::Fallback => "fallback",
        }
    }
}

/// When a request was settled, and how long it and its last attempt had taken then. The clock is read once: all that is told of
/// the request tells the same.
#[derive(Clone, Copy)]
struct Ended {
    at: Instant,
    /// In seconds since 1970 UTC.
    unix: u64,
    took: Duration,
    attempt_took: Duration,
}

/// The attempt in progress.
struct Attempt {
    started: Instant,
    /// Counts it as in flight at its model, where somebody wants to know.
    _held: Option<Held>,
    /// The upstream has agreed to answer: it will count tokens.
    is_accepted: bool,
    first_event: Option<Instant>,
    seen: Seen,
}

impl Account {
    /// Opens the account of a request. It is handed on many times: boxed.
    pub fn open(
        proxy: Rc<Proxy>,
        request_id: HeaderValue,
        client_ip: IpAddr,
        endpoint: Endpoint,
        head: &Parts,
    ) -> Box<Self> {
        let user_agent = head.headers.get(http::header::USER_AGENT);
        let incoming = trace::incoming(&head.headers);
        let parent = incoming.as_ref().map(|trace| (trace.trace_id, trace.parent));
        let traced = proxy.traces.begin(proxy.tables.borrow().traces_wanted(), parent);
        Box::new(Self {
            request_id,
            client_ip,
            endpoint,
            caller: None,
            identity: None,
            requested_model: None,
            model: None,
            target: None,
            dispatched: None,
            attempt_kind: AttemptKind::Initial,
            fallbacks: 0,
            is_stream: false,
            prompt_bytes: 0,
            cache: None,
            saved: (0, 0),
            guarding: Guarding::default(),
            permit: None,
            target_permit: None,
            route: None,
            client_identity: String::new(),
            auth_type: "",
            attempt: None,
            attempts: Attempts::default(),
            total_tokens: 0,
            spent: 0,
            spent_at_target: 0,
            failed_attempts: 0,
            started: Instant::now(),
            ended: None,
            occurred_at: OffsetDateTime::now_utc(),
            client_address: address_text(client_ip),
            method: shown_as("POST", head.method.as_str()),
            path: shown_as(endpoint.template, head.uri.path()),
            user_agent: user_agent.map(user_agent_text).unwrap_or_default(),
            trace_id: incoming.map(|trace| trace.id).unwrap_or_default(),
            traced: traced.map(Traced::new),
            is_settled: false,
            proxy,
        })
    }

    /// When the request came, in milliseconds since 1970 UTC.
    pub fn occurred_at_ms(&self) -> i64 {
        self.occurred_at.unix_timestamp() * 1000 + i64::from(self.occurred_at.millisecond())
    }

    /// The next attempt is meant for this model.
    pub fn attempt_at(&mut self, model: Rc<Model>, kind: AttemptKind) {
        self.target = None;
        self.dispatched = Some(model);
        self.attempt_kind = kind;
    }

    /// Tokens that the request has used, once it is settled.
    pub fn total_tokens(&self) -> u64 {
        self.total_tokens
    }

    /// The id of the caller's key.
    pub fn key_id(&self) -> &str {
        self.caller.as_ref().map_or("", |caller| caller.id.as_str())
    }

    /// The word for what the caller speaks in metrics.
    pub fn protocol(&self) -> &'static str {
        if self.route.is_some() { "other" } else { self.endpoint.dialect.name() }
    }

    /// An attempt at the target begins, now.
    pub fn attempt_begins(&mut self, held: Option<Held>) -> Instant {
        let started = Instant::now();
        self.attempt = Some(Attempt {
            started,
            _held: held,
            is_accepted: false,
            first_event: None,
            seen: Seen::default(),
        });
        started
    }

    /// The attempt has failed, and another one follows, at the same target or at another. It leaves a usage event of its own.
    pub fn attempt_failed(&mut self, error: &RequestError, at_same_target: bool) {
        let status = error.status().as_u16();
        let tokens = self.tokens(status);
        usage::tell(self, status, Some(error), tokens);
        spans::note_attempt(self, status, Some(error), tokens);
        self.spent += tokens.total();
        self.spent_at_target += tokens.total();
        let facts = self.facts(status, tokens, "");
        self.count_attempt(&facts, &self.proxy.metrics.places(&facts));
        self.cool_down(error);
        if !at_same_target {
            self.leave_target();
            self.count_fallback(status);
            self.fallbacks += 1;
        }
        self.log_failed(error, at_same_target);
        self.log_call();
        self.list_attempt(status, Some(error));
        self.attempt = None;
        self.failed_attempts += 1;
    }

    /// Gives back what is held of the target's own limits, and counts what it was used for.
    fn leave_target(&mut self) {
        let used = std::mem::take(&mut self.spent_at_target);
        if let Some(permit) = self.target_permit.take() {
            permit.settle(used, unix_now());
        }
    }

    /// The upstream has begun to answer, and not with an error.
    pub fn attempt_accepted(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.is_accepted = true;
        }
        if self.is_stream && self.attempt.is_some() && self.proxy.settings.access_log {
            self.log_opened();
        }
    }

    /// Lets `read` enter what the provider tells.
    pub fn see<T>(&mut self, read: impl FnOnce(&mut Seen) -> T) -> T {
        match &mut self.attempt {
            Some(attempt) => read(&mut attempt.seen),
            None => read(&mut Seen::default()),
        }
    }

    /// Bytes of the stream have come: the first that belong to the answer itself count.
    pub fn event_arrived(&mut self) {
        if let Some(attempt) = &mut self.attempt
            && attempt.seen.has_begun
        {
            attempt.first_event.get_or_insert_with(Instant::now);
        }
    }

    /// Tokens of the prompt and of the answer, as the provider has counted them or as they are estimated.
    pub fn counted_tokens(&self) -> (u32, u32) {
        let TokenUsage { prompt, completion, .. } = self.tokens(200).usage;
        (prompt, completion)
    }

    /// The request is answered in full.
    pub fn settle(&mut self, status: StatusCode) {
        self.close(status.as_u16(), None);
    }

    /// The request has failed.
    pub fn settle_failed(&mut self, error: &RequestError) {
        self.close(error.status().as_u16(), Some(error));
    }

    fn close(&mut self, status: u16, error: Option<&RequestError>) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let (at, unix) = (Instant::now(), unix_now());
        let took = at.saturating_duration_since(self.started);
        let attempt_took = self.attempt_took_until(at);
        self.ended = Some(Ended { at, unix, took, attempt_took });
        self.guarding.close();
        guarding::count(self);
        let tokens = self.tokens(status);
        self.total_tokens = self.spent + tokens.total();
        self.spent_at_target += tokens.total();
        self.leave_target();
        if let Some(permit) = self.permit.take() {
            permit.settle(self.total_tokens, unix);
        }
        usage::tell(self, status, error, tokens);
        self.count(status, tokens);
        if let Some(error) = error {
            self.cool_down(error);
        }
        self.count_fallback(status);
        self.note_latency(status);
        if self.attempt.is_some() {
            self.list_attempt(status, error);
        }
        self.log(status, error, tokens.usage);
        spans::note_attempt(self, status, error, tokens);
        spans::tell(self, status, error);
    }

    fn list_attempt(&mut self, status: u16, error: Option<&RequestError>) {
        let took = self.attempt_took();
        let model = self.dispatched.as_ref().or(self.model.as_ref());
        let model = model.map_or("", |model| model.display_name.as_str());
        let provider = self.target.as_ref().map_or("", |target| target.provider.as_str());
        self.attempts.add(model, provider, status, error, took);
    }

    /// The provider's count; where it gave none, an estimate of what it has probably counted.
    fn tokens(&self, status: u16) -> Tokens {
        let Some(attempt) = &self.attempt else { return Tokens::default() };
        if let Some(mut usage) = attempt.seen.usage {
            // Anthropic counts the prompt when a stream begins; an answer that was broken off is not counted then.
            let delivered = estimate(attempt.seen.text_bytes);
            let is_broken_off = status != StatusCode::OK.as_u16()
                && attempt.seen.finish_reason.is_empty()
                && usage.completion < delivered;
            if is_broken_off {
                usage.completion = delivered;
            }
            return Tokens { usage, is_estimated: is_broken_off };
        }
        if self.route.is_some() {
            // Nobody here knows what has gone through.
            return Tokens::default();
        }
        if !attempt.is_accepted && status != CALLER_GONE {
            return Tokens::default();
        }
        let usage = TokenUsage {
            prompt: estimate(self.prompt_bytes),
            completion: estimate(attempt.seen.text_bytes),
            ..TokenUsage::default()
        };
        Tokens { usage, is_estimated: true }
    }

    /// This moment; of what is settled the one when it was.
    fn now(&self) -> Instant {
        self.ended.map_or_else(Instant::now, |ended| ended.at)
    }

    /// How long it has taken until then.
    fn took(&self) -> Duration {
        self.ended.map_or_else(|| self.started.elapsed(), |ended| ended.took)
    }

    /// The same of the attempt in progress, if there is one.
    fn attempt_took(&self) -> Duration {
        let now = || self.attempt_took_until(Instant::now());
        self.ended.map_or_else(now, |ended| ended.attempt_took)
    }

    fn attempt_took_until(&self, end: Instant) -> Duration {
        let attempt = self.attempt.as_ref();
        attempt.map_or(Duration::ZERO, |it| end.saturating_duration_since(it.started))
    }

    /// When it was settled, in seconds since 1970 UTC.
    pub fn settled_at(&self) -> u64 {
        self.ended.map_or_else(unix_now, |ended| ended.unix)
    }

    fn id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close(CALLER_GONE, None);
    }
}

#[derive(Clone, Copy, Default)]
struct Tokens {
    usage: TokenUsage,
    is_estimated: bool,
}

impl Tokens {
    fn total(&self) -> u64 {
        u64::from(self.usage.prompt) + u64::from(self.usage.completion)
    }
}

/// Seconds since 1970 UTC.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Tokens of a text of which only the size is known: four bytes each, on average.
fn estimate(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
