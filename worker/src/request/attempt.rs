//! The attempts at upstreams for one request: the targets in their order, retries at each, and what each attempt brings.
//!
//! ```text
//! target ── attempt ──▶ an answer
//!    ▲         ├─ failed, may be repeated ──▶ pause, the same target again
//!    └─────────┴─ failed, another may do better ──▶ the next target
//! ```
//! A direct model is a group of one. Nothing has been said to the caller before an attempt has succeeded; a stream counts as
//! such once its first event has come.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use shared::deployment::Deployment;
use shared::resource::{Model, ModelKind, Routing, Strategy};
use shared::worker_settings::UpstreamSettings;

use super::account::{Account, AttemptKind};
use super::{RequestError, UpstreamError, admit, echo, resolve};
use crate::call::Call;
use crate::provider::{self, Context, Exchange, ProviderError, Reading, Seen, Whole};
use crate::routing::{self, Asking, Sources};
use crate::tables::FoundModel;
use crate::upstream::{Answer, AnswerBody, SendError, TransportError};

/// The largest answer that is no stream, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How much of an error is read, and how much of it is told when it is not understood.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// How long the text of an error is waited for.
const ERROR_LIMIT: Duration = Duration::from_secs(10);
/// An upstream may ask a request to come again after so long; less, if there is another target to go to.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_WITH_ANOTHER: Duration = Duration::from_secs(1);
/// The first event of a stream is waited for this long before the caller is answered: an error in it still gets its own
/// status. Longer, if there is another target to go to.
const FIRST_EVENT_WAIT: Duration = Duration::from_secs(1);

/// What a successful attempt has brought.
pub enum Reply {
    /// The whole answer.
    Whole {
        /// For the caller.
        body: Bytes,
        /// What it is.
        content_type: HeaderValue,
    },
    /// The beginning of a stream.
    Stream {
        /// The stream, still to come.
        body: AnswerBody,
        /// What the provider says it is.
        content_type: HeaderValue,
        /// Reads it.
        reading: Box<dyn Reading>,
    },
}

/// How long an upstream may take; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For an answer that is no stream, from the connection to its last byte.
    pub whole: Option<Duration>,
    /// Without a byte of a stream.
    pub silence: Option<Duration>,
}

impl Limits {
    /// The limits of a model: its own, else its group's, else the deployment's.
    pub fn of(model: &Model, group: Option<&Model>, settings: &UpstreamSettings) -> Self {
        let limit = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        let positive = |ms: &u64| *ms > 0;
        let group_timeout = group.and_then(|group| group.timeout_ms);
        let group_silence = group.and_then(|group| group.stream_timeout_ms);
        let silence = model.stream_timeout_ms.filter(positive);
        let silence = silence.or(group_silence.filter(positive));
        let silence = silence.or(model.timeout_ms.filter(positive));
        let silence = silence.or(group_timeout.filter(positive));
        let silence = silence.or(Some(settings.stream_timeout_ms).filter(positive));
        let whole = model.timeout_ms.or(group_timeout).unwrap_or(settings.timeout_ms);
        Self { whole: limit(whole), silence: limit(silence.unwrap_or(settings.timeout_ms)) }
    }
}

/// Where a request may still go.
pub struct Attempts {
    /// The group that was asked for, if it was one.
    group: Option<Rc<Model>>,
    /// The target of the attempt in progress or of the next one.
    current: FoundModel,
    /// The targets after it, the next one last.
    later: Vec<FoundModel>,
    kind: AttemptKind,
    /// Retries at the current target.
    retries: u32,
}

impl Attempts {
    /// The way of a request for this model.
    ///
    /// # Errors
    /// It is a model of a kind that is not served, or a group without a target for this request.
    pub fn plan(account: &Account, found: FoundModel, head: &Parts) -> Result<Self, RequestError> {
        let proxy = &account.proxy;
        let group = found.model.clone();
        let one = |group, current, later| Self {
            group,
            current,
            later,
            kind: AttemptKind::Initial,
            retries: 0,
        };
        let routing = match &group.kind {
            ModelKind::Direct(_) => return Ok(one(None, found, Vec::new())),
            ModelKind::Routing(routing) => routing,
            ModelKind::Ensemble | ModelKind::Semantic => {
                return Err(RequestError::ModelNotServed(group.display_name.clone()));
            }
        };
        let asking = Asking {
            sources: Sources {
                headers: &head.headers,
                api_key_id: account.caller.as_ref().map_or("", |caller| caller.id.as_str()),
                client_ip: account.client_ip,
            },
            request_id: account.request_id.to_str().unwrap_or_default(),
            now_ms: routing::now_ms(),
        };
        let tables = proxy.tables.borrow();
        let order = proxy.groups.order(&group, routing, &tables, proxy.counters, &asking)?;
        let fallbacks_max = routing.max_fallbacks.map_or(usize::MAX, |max| max as usize);
        let mut order = order.into_iter().take(fallbacks_max.saturating_add(1));
        let first = order.next().ok_or(RequestError::NoTarget { retry_after: None })?;
        let later: Vec<_> = order.collect::<Vec<_>>().into_iter().rev().collect();
        drop(tables);
        Ok(one(Some(group), first, later))
    }

    /// Asks the targets until one answers, or there is no use in asking any further.
    ///
    /// # Errors
    /// The last failure, whose attempt is still open in the account.
    pub async fn reply(
        &mut self,
        account: &mut Account,
        call: &Call,
        head: &Parts,
    ) -> Result<Reply, RequestError> {
        loop {
            if self.retries == 0
                && let Some(group) = &self.group
                && let Err(error) = admit::target(account, group, &self.current.model).await
            {
                account.attempt_at(self.current.model.clone(), self.kind);
                // What that target has no room for may find some at the next.
                let Some(next) = self.later.pop() else { return Err(error) };
                self.current = next;
                self.kind = AttemptKind::Fallback;
                continue;
            }
            match self.once(account, call, head).await {
                Ok(reply) => return Ok(reply),
                Err(error) => self.go_on(account, error).await?,
            }
        }
    }

    /// Prepares another attempt after the last one has failed with `error`.
    ///
    /// # Errors
    /// The same error, if there is no use in another.
    pub async fn go_on(
        &mut self,
        account: &mut Account,
        error: RequestError,
    ) -> Result<(), RequestError> {
        let routing = self.routing();
        let has_another = !self.later.is_empty()
            && routing.is_some_and(|routing| routing::may_fall_back(&error, routing));
        if routing::may_repeat(&error, routing) && self.retries < self.retries_max(account) {
            let asked = match &error {
                RequestError::Upstream(error) => error.retry_after(),
                _ => None,
            };
            let patience = if has_another { PATIENCE_WITH_ANOTHER } else { PATIENCE };
            if let Some(pause) = routing::pause_before(self.retries, chance(), asked, patience) {
                account.attempt_failed(&error, true);
                tokio::time::sleep(pause).await;
                self.retries += 1;
                self.kind = AttemptKind::Retry;
                return Ok(());
            }
        }
        if !has_another {
            return Err(error);
        }
        let Some(next) = self.later.pop() else { return Err(error) };
        account.attempt_failed(&error, false);
        self.current = next;
        self.retries = 0;
        self.kind = AttemptKind::Fallback;
        Ok(())
    }

    /// The limits at the current target.
    pub fn limits(&self, account: &Account) -> Limits {
        let settings = &account.proxy.settings.upstream;
        Limits::of(&self.current.model, self.group.as_deref(), settings)
    }

    /// How long the first event of a stream is waited for before the caller is answered. With another target to go to, up to
    /// the moment when the caller has to be sent something.
    pub fn first_event_wait(&self, account: &Account) -> Duration {
        match account.proxy.settings.sse_keepalive_ms {
            _ if self.later.is_empty() => FIRST_EVENT_WAIT,
            0 => self.limits(account).silence.unwrap_or(FIRST_EVENT_WAIT),
            keep_alive => FIRST_EVENT_WAIT.max(Duration::from_millis(keep_alive)),
        }
    }

    /// The name of the target that has answered for a group, for a header; `None` for a direct model and for a name that no
    /// header can carry.
    pub fn served_by(&self) -> Option<HeaderValue> {
        self.group.as_ref()?;
        HeaderValue::from_str(&self.current.model.display_name).ok()
    }

    fn routing(&self) -> Option<&Routing> {
        match &self.group.as_ref()?.kind {
            ModelKind::Routing(routing) => Some(routing),
            _ => None,
        }
    }

    /// What the target says, else the group, else the deployment.
    fn retries_max(&self, account: &Account) -> u32 {
        let of_group = self.routing().and_then(|routing| routing.retries);
        self.current.model.retries.or(of_group).unwrap_or(account.proxy.settings.retries)
    }

    /// One attempt at the current target.
    async fn once(
        &self,
        account: &mut Account,
        call: &Call,
        head: &Parts,
    ) -> Result<Reply, RequestError> {
        let proxy = account.proxy.clone();
        account.attempt_at(self.current.model.clone(), self.kind);
        let target = {
            let tables = proxy.tables.borrow();
            if self.group.is_some()
                && let Some(caller) = &account.caller
            {
                // What guards a target cannot be passed by through its group.
                resolve::unguarded(&tables, caller, &self.current)?;
            }
            resolve::target(&tables, &self.current)?
        };
        account.target = Some(target.clone());
        let Exchange { mut request, mut reading } = exchange(account, call, &target, head).await?;
        let held = self.routing().filter(|routing| routing.strategy == Strategy::LeastBusy);
        let held = held.and_then(|_| {
            let deployment = Deployment::new(proxy.counters, &self.current.model.id);
            proxy.counters.hold(deployment.in_flight_key(), u64::MAX).ok().flatten()
        });
        let begins = account.attempt_begins(held);
        let limits = self.limits(account);
        let answering = async {
            let sending = proxy.upstreams.send(&target.place, &mut request);
            let answer = sending.await.map_err(unanswered)?;
            if !answer.head.status.is_success() {
                return Err(refusal(answer, &*reading, &target).await.into());
            }
            account.attempt_accepted();
            match &answer.head.content_type {
                Some(content_type) if call.is_stream && reading.is_stream(content_type) => {
                    let content_type =
                        reading.stream_type().unwrap_or_else(|| content_type.clone());
                    Ok(Reply::Stream { content_type, body: answer.body, reading })
                }
                _ => {
                    let read = |body| account.see(|seen| reading.whole(body, seen));
                    let (body, content_type) = whole(answer, read).await?;
                    Ok(Reply::Whole { body, content_type })
                }
            }
        };
        let limit = if call.is_stream { limits.silence } else { limits.whole };
        // It is large: not to be moved.
        let answering = pin!(answering);
        let Some(limit) = limit else { return answering.await };
        let deadline = (begins + limit).into();
        let answered = proxy.upstreams.timers().within(deadline, answering).await;
        answered.unwrap_or_else(|| Err(UpstreamError::Timeout(limit).into()))
    }
}

/// Asks the target once, for an answer that nobody is waiting for: whether it gives one.
///
/// # Errors
/// As an attempt of a request.
pub async fn ask_once(
    call: &Call,
    target: &resolve::Target,
    context: &Context<'_>,
) -> Result<(), RequestError> {
    let Exchange { mut request, mut reading } = provider::exchange(call, target, context).await?;
    let sending = context.proxy.upstreams.send(&target.place, &mut request);
    let answer = sending.await.map_err(unanswered)?;
    if !answer.head.status.is_success() {
        return Err(refusal(answer, &*reading, target).await.into());
    }
    whole(answer, |body| reading.whole(body, &mut Seen::default())).await?;
    Ok(())
}

/// What the provider is asked for this request.
async fn exchange(
    account: &Account,
    call: &Call,
    target: &resolve::Target,
    head: &Parts,
) -> Result<Exchange, RequestError> {
    let context = Context {
        proxy: &account.proxy,
        request_id: &account.request_id,
        headers: &head.headers,
        caller: account.caller.as_deref(),
        client_ip: account.client_ip,
    };
    provider::exchange(call, target, &context).await
}

fn unanswered(error: SendError) -> UpstreamError {
    match error {
        SendError::Connect(error) => UpstreamError::Unreached(error.to_string()),
        SendError::Transport(_) => UpstreamError::Transport(error.to_string()),
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    // Without chance the pauses are the longest ones.
    getrandom::u32().map_or(0.0, |number| f64::from(number) / f64::from(u32::MAX))
}

/// An answer that is no stream, as the caller is sent it, and what it is.
async fn whole(
    mut answer: Answer,
    read: impl FnOnce(Bytes) -> Result<Whole, UpstreamError>,
) -> Result<(Bytes, HeaderValue), UpstreamError> {
    let body = collect(&mut answer.body, ANSWER_BYTES_MAX).await?;
    if body.len() > ANSWER_BYTES_MAX {
        let reason = format!("the answer is larger than {ANSWER_BYTES_MAX} bytes");
        return Err(UpstreamError::Decode(reason));
    }
    let whole = read(body)?;
    let content_type = whole.content_type.or_else(|| answer.head.content_type.take());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
    Ok((whole.body, content_type))
}

/// The body; more than `bytes_max` only if it is longer than that, and then not all of it.
async fn collect(body: &mut AnswerBody, bytes_max: usize) -> Result<Bytes, UpstreamError> {
    let failed = |error: TransportError| UpstreamError::Transport(error.to_string());
    let Some(first) = body.chunk().await else { return Ok(Bytes::new()) };
    let first = first.map_err(failed)?;
    if first.len() > bytes_max {
        return Ok(first);
    }
    let Some(second) = body.chunk().await else { return Ok(first) };
    let mut collected = BytesMut::from(first);
    collected.extend_from_slice(&second.map_err(failed)?);
    while collected.len() <= bytes_max
        && let Some(chunk) = body.chunk().await
    {
        collected.extend_from_slice(&chunk.map_err(failed)?);
    }
    Ok(collected.freeze())
}

/// The error that the upstream has answered with.
async fn refusal(
    mut answer: Answer,
    reading: &dyn Reading,
    target: &resolve::Target,
) -> UpstreamError {
    let status = answer.head.status;
    let headers = answer.head.headers();
    let retry_after = headers.get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    if !status.is_client_error() {
        return UpstreamError::Failed { status, retry_after };
    }
    // An error whose text does not come is still an error of that status.
    let body = tokio::time::timeout(ERROR_LIMIT, collect(&mut answer.body, ERROR_BYTES_MAX)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    // Of other statuses it says nothing that a caller could rely on.
    let retry_after = retry_after.filter(|_| status == StatusCode::TOO_MANY_REQUESTS);
    let error = reading.error(&body).unwrap_or_else(|| ProviderError {
        message: text_of(&body, status),
        ..ProviderError::default()
    });
    let error = echo::masked(error, &target.provider_key.secret);
    UpstreamError::Refused { status, error, retry_after }
}

/// The beginning of an error that is not understood.
fn text_of(body: &[u8], status: StatusCode) -> String {
    let body = body.get(..ERROR_TEXT_BYTES_MAX).unwrap_or(body);
    let text = String::from_utf8_lossy(body);
    match text.trim() {
        "" => format!("upstream returned {}", status.as_u16()),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::test_settings;

    fn model(timeout_ms: Option<u64>, stream_timeout_ms: Option<u64>) -> Model {
        Model { timeout_ms, stream_timeout_ms, ..Model::default() }
    }

    fn millis(
        model: &Model,
        group: Option<&Model>,
        (timeout_ms, stream_timeout_ms): (u64, u64),
    ) -> [Option<u128>; 2] {
        let upstream = test_settings().upstream;
        let settings = UpstreamSettings { timeout_ms, stream_timeout_ms, ..upstream };
        let limits = Limits::of(model, group, &settings);
        [limits.whole, limits.silence].map(|limit| limit.map(|limit| limit.as_millis()))
    }

    #[test]
    fn a_model_s_own_limit_goes_first_and_zero_means_none_or_the_deployment_s() {
        let limits =
            |timeout, stream, deployment| millis(&model(timeout, stream), None, deployment);
        assert_eq!(limits(None, None, (10, 20)), [Some(10), Some(20)]);
        assert_eq!(limits(Some(1), Some(2), (10, 20)), [Some(1), Some(2)]);
        assert_eq!(limits(Some(0), Some(0), (10, 20)), [None, Some(20)]);
        assert_eq!(limits(Some(5), None, (10, 0)), [Some(5), Some(5)]);
        assert_eq!(limits(Some(5), None, (10, 20)), [Some(5), Some(5)]);
        assert_eq!(limits(None, None, (0, 0)), [None, None]);
    }

    #[test]
    fn a_group_s_limit_is_that_of_a_target_without_one_and_stands_before_the_deployment_s() {
        let group = model(Some(7), Some(8));
        let limits = |timeout, stream| millis(&model(timeout, stream), Some(&group), (10, 20));
        assert_eq!(limits(None, None), [Some(7), Some(8)]);
        assert_eq!(limits(Some(1), None), [Some(1), Some(8)]);
        assert_eq!(limits(Some(0), Some(2)), [None, Some(2)]);
        let group = model(Some(7), None);
        assert_eq!(millis(&model(None, None), Some(&group), (10, 20)), [Some(7), Some(7)]);
        assert_eq!(millis(&model(Some(3), None), Some(&group), (10, 20)), [Some(3), Some(3)]);
    }
}
