//! What the export role is told of a request: when it is over, and only if it is traced.

use std::time::Instant;

use shared::export::{ATTEMPTS_MAX, Attempt, TEXT_CHARS_MAX, Trace};
use shared::resource::ApiKey;

use super::text::cut;
use super::{Account, CALLER_GONE, CacheStatus, Tokens, guarding, usage};
use crate::call::Operation;
use crate::export::Context;
use crate::request::route::Action;
use crate::request::{RequestError, UpstreamError};

/// What is noted of a request that is traced.
pub(super) struct Traced {
    context: Context,
    attempts: Vec<Attempt>,
    left_out: u32,
    tokens: (u64, u64),
    cost_usd: f64,
    first_token: u64,
}

impl Traced {
    /// Of a request that begins.
    pub(super) fn new(context: Context) -> Box<Self> {
        Box::new(Self {
            context,
            attempts: Vec::new(),
            left_out: 0,
            tokens: (0, 0),
            cost_usd: 0.0,
            first_token: 0,
        })
    }
}

/// Notes the attempt in progress, if there is one, which is over. `error` is that of the attempt or of the request.
pub(super) fn note_attempt(
    account: &mut Account,
    status: u16,
    error: Option<&RequestError>,
    tokens: Tokens,
) {
    let Some(mut traced) = account.traced.take() else { return };
    if let Some(attempt) = attempt(account, status, error, tokens) {
        traced.first_token = attempt.first_token;
        if traced.attempts.len() < ATTEMPTS_MAX {
            traced.attempts.push(attempt);
        } else {
            traced.left_out = traced.left_out.saturating_add(1);
        }
    }
    traced.tokens.0 += u64::from(tokens.usage.prompt);
    traced.tokens.1 += u64::from(tokens.usage.completion);
    traced.cost_usd += usage::cost(account, tokens);
    account.traced = Some(traced);
}

/// Tells of a request that is over, and whose attempts are noted.
pub(super) fn tell(account: &mut Account, status: u16, error: Option<&RequestError>) {
    let Some(traced) = account.traced.take() else { return };
    let text = |text: &str| cut(text, TEXT_CHARS_MAX).into_owned();
    let caller = account.caller.as_deref();
    let of_caller = |field: fn(&ApiKey) -> &str| text(caller.map_or("", field));
    let gone = (status == CALLER_GONE).then_some("client_disconnected");
    let trace = Trace {
        trace_id: traced.context.trace_id,
        parent: traced.context.parent,
        started: moment(account, account.started),
        ended: moment(account, account.now()),
        method: account.method.clone().into_owned(),
        // A passthrough route has no path of the gateway's own.
        route: match account.route {
            Some(_) => String::new(),
            None => account.endpoint.template.to_owned(),
        },
        status,
        error_type: error.map(RequestError::class).or(gone).unwrap_or_default().to_owned(),
        request_id: text(account.id()),
        protocol: account.protocol().to_owned(),
        operation: operation(account).to_owned(),
        requested_model: text(account.requested_model.as_deref().unwrap_or_default()),
        served_model: match account.attempt {
            Some(_) => text(account.dispatched_name()),
            None => String::new(),
        },
        is_stream: account.is_stream,
        api_key_id: of_caller(|key| &key.id),
        team_id: of_caller(|key| key.team_id.as_deref().unwrap_or_default()),
        cache_status: account.cache.map(CacheStatus::name).unwrap_or_default().to_owned(),
        guardrail: guarding::outcome(account).to_owned(),
        input_tokens: traced.tokens.0,
        output_tokens: traced.tokens.1,
        cost_usd: traced.cost_usd,
        first_token: traced.first_token,
        attempts: traced.attempts,
        attempts_left_out: traced.left_out,
    };
    // Borrowed for the change of a table only, in which no request ends.
    if let Ok(tables) = account.proxy.tables.try_borrow() {
        account.proxy.traces.tell(tables.traces_wanted(), trace);
    }
}

fn attempt(
    account: &Account,
    status: u16,
    error: Option<&RequestError>,
    tokens: Tokens,
) -> Option<Attempt> {
    let attempt = account.attempt.as_ref()?;
    let text = |text: &str| cut(text, TEXT_CHARS_MAX).into_owned();
    let target = account.target.as_ref();
    let of_upstream = match error {
        Some(RequestError::Upstream(error)) => Some(error),
        _ => None,
    };
    let upstream_status = match of_upstream {
        Some(UpstreamError::Refused { status, .. } | UpstreamError::Failed { status, .. }) => {
            status.as_u16()
        }
        _ if attempt.is_accepted => 200,
        None if error.is_none() && status != CALLER_GONE => status,
        _ => 0,
    };
    let gone = (status == CALLER_GONE).then_some("client_disconnected");
    let failure = of_upstream.and(error).map(RequestError::class).or(gone);
    Some(Attempt {
        started: moment(account, attempt.started),
        ended: moment(account, Instant::now()),
        first_token: match attempt.first_event {
            Some(first) if account.is_stream => moment(account, first),
            _ => 0,
        },
        kind: account.attempt_kind.name().to_owned(),
        provider: text(target.map_or("", |target| &target.provider)),
        model: text(account.dispatched_name()),
        upstream_model: text(target.map_or("", |target| &target.upstream_model)),
        provider_key_id: text(target.map_or("", |target| &target.provider_key.id)),
        host: text(target.map_or("", |target| &target.endpoint.host)),
        port: target.map_or(0, |target| target.endpoint.port),
        status: upstream_status,
        error_type: failure.unwrap_or_default().to_owned(),
        response_id: text(&attempt.seen.id),
        response_model: text(&attempt.seen.model),
        finish_reason: text(&attempt.seen.finish_reason),
        input_tokens: tokens.usage.prompt,
        output_tokens: tokens.usage.completion,
        cache_read_tokens: tokens.usage.cache_read.max(tokens.usage.cached_prompt),
        cache_creation_tokens: tokens.usage.cache_creation,
        is_estimated: tokens.is_estimated,
    })
}

/// Nanoseconds since 1970, by the clock that does not jump from when the request came.
fn moment(account: &Account, at: Instant) -> u64 {
    let came = u64::try_from(account.occurred_at.unix_timestamp_nanos()).unwrap_or(0);
    let since = at.saturating_duration_since(account.started).as_nanos();
    came.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
}

/// What is asked for, in the words of the conventions where they have one.
fn operation(account: &Account) -> &'static str {
    let Action::Call(operation) = account.endpoint.action else { return "" };
    match operation {
        Operation::ChatCompletions | Operation::Messages | Operation::Responses => "chat",
        Operation::Completions => "text_completion",
        Operation::Embeddings => "embeddings",
        Operation::CountTokens => "count_tokens",
        Operation::Rerank => "rerank",
        Operation::ImageGenerations | Operation::ImageEdits => "generate_content",
        Operation::Speech => "speech",
        Operation::Transcriptions => "transcription",
        Operation::Translations => "translation",
    }
}
