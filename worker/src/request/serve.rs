//! A request that spends tokens, from its body to its answer: the phases in order.

use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;

use super::account::Account;
use super::attempt::{self, Limits, Reply};
use super::relay::{Relay, RelayOptions};
use super::{RequestError, admit, body, refuse, resolve};
use crate::call::{Call, Operation};
use crate::endpoint;
use crate::server::Body;

/// Names the call in a successful answer; the same id as the request's.
const CALL_ID: HeaderName = HeaderName::from_static("x-aisix-call-id");

/// Serves a request of an authenticated caller.
pub async fn serve(
    mut account: Account,
    operation: Operation,
    head: &Parts,
    body: Incoming,
) -> Response<Body> {
    let call = match understood(&mut account, operation, head, body).await {
        Ok(call) => call,
        Err(error) => return refuse(account, &error),
    };
    let (reply, limits) = match attempted(&mut account, &call, head).await {
        Ok(reply) => reply,
        Err(error) => return refuse(account, &error),
    };
    let id = account.request_id.clone();
    let limits_left = account.permit.as_ref().map(|permit| permit.shown().clone());
    let mut tokens = 0;
    let mut response = match reply {
        Reply::Whole { body, content_type } => {
            account.settle(StatusCode::OK);
            tokens = account.total_tokens();
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Reply::Stream { body, content_type, reading } => {
            let keep_alive = account.proxy.settings.sse_keepalive_ms;
            let options = RelayOptions {
                silence: limits.silence,
                keep_alive: (keep_alive > 0).then(|| Duration::from_millis(keep_alive)),
            };
            let relay = match Relay::begin(account, body, reading, options).await {
                Ok(relay) => relay,
                Err((account, error)) => return refuse(account, &error),
            };
            let mut response = Response::new(Body::stream(relay.into_stream()));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, content_type);
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
    };
    if call.operation == Operation::ChatCompletions {
        response.headers_mut().insert(CALL_ID, id);
        if let Some(left) = limits_left {
            admit::show(&left, tokens, response.headers_mut());
        }
    }
    response
}

/// Reads and understands the request. From here on it leaves a usage event.
async fn understood(
    account: &mut Account,
    operation: Operation,
    head: &Parts,
    mut incoming: Incoming,
) -> Result<Call, RequestError> {
    let read = match endpoint::content_type(operation, head) {
        Ok(()) => body::whole(&mut incoming, account.proxy.settings.request_body_bytes_max).await,
        Err(error) => Err(error),
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => {
            let outcome = body::drain(head, incoming).await;
            if let RequestError::BodyTooLarge { .. } = error {
                let (endpoint, dialect) = (account.endpoint.template, account.endpoint.dialect);
                account.proxy.metrics.body_limit_rejected(endpoint, dialect.name(), outcome);
            }
            return Err(error);
        }
    };
    let call = endpoint::read(operation, head, bytes)?;
    account.requested_model = Some(call.model.clone());
    account.is_stream = call.is_stream;
    account.prompt_bytes = call.prompt_bytes;
    Ok(call)
}

/// Finds the target, if this caller may have it, and asks it.
async fn attempted(
    account: &mut Account,
    call: &Call,
    head: &Parts,
) -> Result<(Reply, Limits), RequestError> {
    let proxy = account.proxy.clone();
    let found = {
        let tables = proxy.tables.borrow();
        let found = resolve::model(&tables, &call.model)?;
        account.model = Some(found.model.clone());
        if let Some(caller) = &account.caller {
            resolve::permission(caller, &found, &call.model, account.client_ip)?;
            resolve::unguarded(&tables, caller, &found)?;
        }
        found
    };
    if let Some(caller) = &account.caller {
        proxy.budgets.admit(&caller.id).await.map_err(RequestError::OverBudget)?;
    }
    admit::admit(account, Some(&found.model)).await?;
    let target = resolve::target(&proxy.tables.borrow(), &found)?;
    admit::target(account, &found.model, &target.model).await?;
    let limits = Limits::of(&found.model, &proxy.settings.upstream);
    let reply = attempt::all(account, call, &target, head, limits).await?;
    Ok((reply, limits))
}
