//! The entrance of a request, and the answer to one for which there is no room: as cheap as an answer can be.
//!
//! Nobody is looked up, and nothing is left behind but numbers: neither a usage event nor a line of the log.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http_body::Body as _;
use shared::counters::{CounterKey, OVERLOADED_AT};

use super::route::{self, Endpoint, Route};
use super::{JSON, RequestError, body, finish, request_id};
use crate::dialect::Dialect;
use crate::metrics::RequestFacts;
use crate::server::{Body, Incoming, Proxy, Refused};

/// Returns when a request to that path may begin. Health routes always may; any other may as it was told, if it has asked before.
///
/// # Errors
/// There is no room for it.
pub async fn enter(
    proxy: &Proxy,
    path: &str,
    passed: Option<Result<(), Refused>>,
) -> Result<(), Refused> {
    match passed {
        _ if matches!(path, "/livez" | "/readyz") => Ok(()),
        Some(passed) => passed,
        None => pass(proxy).await,
    }
}

/// Returns when a request may begin.
///
/// # Errors
/// There is no room for it.
pub async fn pass(proxy: &Proxy) -> Result<(), Refused> {
    proxy.entrance.pass(proxy.health.in_flight()).await
}

/// Answers a request for which there is no room.
pub async fn refuse(
    proxy: &Proxy,
    head: &Parts,
    incoming: Incoming,
    refused: Refused,
) -> Response<Body> {
    // What lies in the connection's way is read, so that the next request can come over it.
    if !incoming.is_end_stream() {
        body::drain(head, incoming).await;
    }
    let endpoint = match route::find(&head.method, head.uri.path()) {
        Route::Endpoint(endpoint) => endpoint,
        _ => route::OTHER,
    };
    count(proxy, endpoint);
    let mut response = Response::new(Body::from(words(endpoint.dialect)));
    *response.status_mut() = RequestError::Overloaded.status();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.headers_mut().insert(RETRY_AFTER, refused.retry_after.into());
    let id = request_id::choose(&proxy.request_id_headers, &head.headers);
    finish(proxy, head, id, &mut response);
    response
}

fn count(proxy: &Proxy, endpoint: Endpoint) {
    if let Some(told) = proxy.counters.cell(CounterKey::of(OVERLOADED_AT)) {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        told.store(now, Relaxed);
    }
    let (template, protocol) = (endpoint.template, endpoint.dialect.name());
    proxy.metrics.overload_rejected(template, protocol);
    let facts = RequestFacts {
        endpoint: template,
        inbound_protocol: protocol,
        status: RequestError::Overloaded.status().as_u16(),
        duration: Duration::ZERO,
        ..RequestFacts::default()
    };
    proxy.metrics.request(&facts, &proxy.metrics.places(&facts));
}

fn words(dialect: Dialect) -> Bytes {
    static OPENAI: OnceLock<Bytes> = OnceLock::new();
    static ANTHROPIC: OnceLock<Bytes> = OnceLock::new();
    let words = match dialect {
        Dialect::OpenAi => &OPENAI,
        Dialect::Anthropic => &ANTHROPIC,
    };
    words.get_or_init(|| dialect.envelope(&RequestError::Overloaded).into()).clone()
}
