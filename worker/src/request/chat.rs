//! `POST /v1/chat/completions`: the phases of a chat request, in order.

use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;

use super::account::Account;
use super::attempt::{self, Limits, Reply};
use super::relay::{Relay, RelayOptions};
use super::{RequestError, admit, refuse, resolve};
use crate::dialect::openai::ChatRequest;
use crate::server::Body;

/// Names the call in a successful answer; the same id as the request's.
const CALL_ID: HeaderName = HeaderName::from_static("x-aisix-call-id");

/// A failed attempt is repeated after this pause, each further one after twice the last.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves a chat request of an authenticated caller.
pub async fn serve(mut account: Account, head: &Parts, body: Incoming) -> Response<Body> {
    let request = match admitted(&mut account, head, body).await {
        Ok(request) => request,
        Err(error) => return refuse(account, &error),
    };
    let (reply, limits) = match attempted(&mut account, &request).await {
        Ok(reply) => reply,
        Err(error) => return refuse(account, &error),
    };
    let mut response = match reply {
        Reply::Whole { body, content_type } => {
            account.settle(StatusCode::OK);
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Reply::Stream { body, content_type } => {
            let keep_alive = account.proxy.settings.sse_keepalive_ms;
            let options = RelayOptions {
                wants_usage: request.wants_usage,
                silence: limits.silence,
                keep_alive: (keep_alive > 0).then(|| Duration::from_millis(keep_alive)),
            };
            let id = account.request_id.clone();
            let relay = match Relay::begin(account, body, options).await {
                Ok(relay) => relay,
                Err((account, error)) => return refuse(account, &error),
            };
            let mut response = Response::new(Body::stream(relay.into_stream()));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, content_type);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert(CALL_ID, id);
            return response;
        }
    };
    response.headers_mut().insert(CALL_ID, account.request_id.clone());
    response
}

/// Reads and understands the request. From here on it leaves a usage event.
async fn admitted(
    account: &mut Account,
    head: &Parts,
    mut body: Incoming,
) -> Result<ChatRequest, RequestError> {
    let read = match admit::content_type(head) {
        Ok(()) => admit::body(&mut body, account.proxy.settings.request_body_bytes_max).await,
        Err(error) => Err(error),
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => {
            let outcome = admit::drain(head, body).await;
            if let RequestError::BodyTooLarge { .. } = error {
                let (endpoint, dialect) = (account.endpoint.template, account.endpoint.dialect);
                account.proxy.metrics.body_limit_rejected(endpoint, dialect.name(), outcome);
            }
            return Err(error);
        }
    };
    let request = ChatRequest::parse(bytes)?;
    account.requested_model = Some(request.model.clone());
    account.is_stream = request.is_stream;
    account.prompt_bytes = request.prompt_bytes;
    Ok(request)
}

/// Finds the target, if this caller may have it, and asks it.
async fn attempted(
    account: &mut Account,
    request: &ChatRequest,
) -> Result<(Reply, Limits), RequestError> {
    let proxy = account.proxy.clone();
    let found = {
        let tables = proxy.tables.borrow();
        let found = resolve::model(&tables, &request.model)?;
        account.model = Some(found.model.clone());
        if let Some(caller) = &account.caller {
            resolve::permission(caller, &found, &request.model, account.client_ip)?;
            resolve::unguarded(&tables, caller, &found)?;
        }
        found
    };
    if let Some(caller) = &account.caller {
        proxy.budgets.admit(&caller.id).await.map_err(RequestError::OverBudget)?;
    }
    let target = resolve::target(&proxy.tables.borrow(), &found)?;
    let limits = Limits::of(&found.model, &proxy.settings.upstream);
    account.target = Some(target.clone());
    let retries = account.proxy.settings.retries;
    let mut pause = RETRY_PAUSE;
    loop {
        match attempt::run(account, &target, request, limits).await {
            Err(RequestError::Upstream(error))
                if error.may_be_repeated() && account.failed_attempts() < retries =>
            {
                account.attempt_failed(&error.into());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
            result => return Ok((result?, limits)),
        }
    }
}
