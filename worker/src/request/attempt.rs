//! One attempt at an upstream: connect, send, wait for the answer's beginning, tell its errors apart.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use shared::resource::Model;
use shared::worker_settings::UpstreamSettings;

use super::account::Account;
use super::resolve::Target;
use super::{RequestError, UpstreamError};
use crate::call::Call;
use crate::provider::{self, Context, Exchange, ProviderError, Reading};
use crate::upstream::{Answer, AnswerBody, SendError};

/// The largest answer that is no stream, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How much of an error is read, and how much of it is told when it is not understood.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// A failed attempt is repeated after this pause, each further one after twice the last.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the text of an error is waited for.
const ERROR_LIMIT: Duration = Duration::from_secs(10);

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
    /// The limits of a model: its own, else the deployment's.
    pub fn of(model: &Model, settings: &UpstreamSettings) -> Self {
        let limit = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        let positive = |ms: &u64| *ms > 0;
        let silence = model.stream_timeout_ms.filter(positive);
        let silence = silence.or(model.timeout_ms.filter(positive));
        let silence = silence.or(Some(settings.stream_timeout_ms).filter(positive));
        Self {
            whole: limit(model.timeout_ms.unwrap_or(settings.timeout_ms)),
            silence: limit(silence.unwrap_or(settings.timeout_ms)),
        }
    }
}

/// Asks the target until it answers, or there is no use in asking again.
pub async fn all(
    account: &mut Account,
    call: &Call,
    target: &Target,
    head: &Parts,
    limits: Limits,
) -> Result<Reply, RequestError> {
    account.target = Some(target.clone());
    let retries = account.proxy.settings.retries;
    let mut pause = RETRY_PAUSE;
    loop {
        match one(account, call, target, head, limits).await {
            Err(RequestError::Upstream(error))
                if error.may_be_repeated() && account.failed_attempts() < retries =>
            {
                account.attempt_failed(&error.into());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
            result => return result,
        }
    }
}

/// Sends the request to the target.
async fn one(
    account: &mut Account,
    call: &Call,
    target: &Target,
    head: &Parts,
    limits: Limits,
) -> Result<Reply, RequestError> {
    let proxy = account.proxy.clone();
    let context = Context {
        proxy: &proxy,
        request_id: &account.request_id,
        headers: &head.headers,
        caller: account.caller.as_deref(),
        client_ip: account.client_ip,
    };
    let Exchange { request, mut reading } = provider::exchange(call, target, &context).await?;
    account.attempt_begins();
    let answering = async {
        let sending = proxy.upstreams.send(&target.place, request);
        let answer = sending.await.map_err(|error| match error {
            SendError::Connect(error) => UpstreamError::Unreached(error.to_string()),
            SendError::Transport(_) => UpstreamError::Transport(error.to_string()),
        })?;
        if !answer.head.status.is_success() {
            return Err(refusal(answer, &*reading).await);
        }
        account.attempt_accepted();
        match answer.head.headers.get(CONTENT_TYPE) {
            Some(content_type) if call.is_stream && reading.is_stream(content_type) => {
                let content_type = reading.stream_type().unwrap_or_else(|| content_type.clone());
                Ok(Reply::Stream { content_type, body: answer.body, reading })
            }
            _ => whole(account, answer, &mut *reading).await,
        }
    };
    let limit = if call.is_stream { limits.silence } else { limits.whole };
    Ok(within(limit, answering).await?)
}

/// What `work` brings, if it does so in time.
pub async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    match limit {
        None => work.await,
        Some(limit) => {
            tokio::time::timeout(limit, work).await.unwrap_or(Err(UpstreamError::Timeout(limit)))
        }
    }
}

async fn whole(
    account: &mut Account,
    mut answer: Answer,
    reading: &mut dyn Reading,
) -> Result<Reply, UpstreamError> {
    let body = collect(&mut answer.body, ANSWER_BYTES_MAX).await?;
    if body.len() > ANSWER_BYTES_MAX {
        let reason = format!("the answer is larger than {ANSWER_BYTES_MAX} bytes");
        return Err(UpstreamError::Decode(reason));
    }
    let whole = account.see(|seen| reading.whole(body, seen))?;
    let content_type = whole.content_type.or_else(|| answer.head.headers.remove(CONTENT_TYPE));
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
    Ok(Reply::Whole { body: whole.body, content_type })
}

/// The body; more than `bytes_max` only if it is longer than that, and then not all of it.
async fn collect(body: &mut AnswerBody, bytes_max: usize) -> Result<Bytes, UpstreamError> {
    let mut collected = BytesMut::new();
    while let Some(chunk) = body.chunk().await {
        let chunk = chunk.map_err(|error| UpstreamError::Transport(error.to_string()))?;
        collected.extend_from_slice(&chunk);
        if collected.len() > bytes_max {
            break;
        }
    }
    Ok(collected.freeze())
}

/// The error that the upstream has answered with.
async fn refusal(mut answer: Answer, reading: &dyn Reading) -> UpstreamError {
    let status = answer.head.status;
    if !status.is_client_error() {
        return UpstreamError::Failed { status };
    }
    // An error whose text does not come is still an error of that status.
    let body = tokio::time::timeout(ERROR_LIMIT, collect(&mut answer.body, ERROR_BYTES_MAX)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let retry_after = (status == StatusCode::TOO_MANY_REQUESTS)
        .then(|| answer.head.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok())
        .flatten();
    let error = reading.error(&body).unwrap_or_else(|| ProviderError {
        message: text_of(&body, status),
        ..ProviderError::default()
    });
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

    #[test]
    fn a_model_s_own_limit_goes_first_and_zero_means_none_or_the_deployment_s() {
        let limits = |timeout_ms, stream_timeout_ms, deployment: (u64, u64)| {
            let model = Model { timeout_ms, stream_timeout_ms, ..Model::default() };
            let (timeout_ms, stream_timeout_ms) = deployment;
            let settings =
                UpstreamSettings { timeout_ms, stream_timeout_ms, ..test_settings().upstream };
            let limits = Limits::of(&model, &settings);
            [limits.whole, limits.silence].map(|limit| limit.map(|limit| limit.as_millis()))
        };
        assert_eq!(limits(None, None, (10, 20)), [Some(10), Some(20)]);
        assert_eq!(limits(Some(1), Some(2), (10, 20)), [Some(1), Some(2)]);
        assert_eq!(limits(Some(0), Some(0), (10, 20)), [None, Some(20)]);
        assert_eq!(limits(Some(5), None, (10, 0)), [Some(5), Some(5)]);
        assert_eq!(limits(Some(5), None, (10, 20)), [Some(5), Some(5)]);
        assert_eq!(limits(None, None, (0, 0)), [None, None]);
    }
}
