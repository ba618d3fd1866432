//! A request that spends tokens, from its body to its answer: the phases in order.

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use super::account::{Account, unix_now};
use super::ask::{self, Asking, Outcome};
use super::attempt::Attempts;
use super::head::Head;
use super::repeat::Repeat;
use super::{RequestError, admit, body, guard, refuse, resolve};
use crate::cache::Kept;
use crate::call::{Call, Operation};
use crate::endpoint;
use crate::server::{Body, Incoming};

/// Serves a request of an authenticated caller.
pub async fn serve(
    mut account: Box<Account>,
    operation: Operation,
    head: &Rc<Parts>,
    body: Incoming,
) -> Response<Body> {
    let mut call = match understood(&mut account, operation, head, body).await {
        Ok(call) => call,
        Err(error) => return refuse(account, &error),
    };
    let (attempts, repeat) = match admitted(&mut account, &mut call, head).await {
        Ok(Admitted::Known { body, content_type }) => {
            return answered(account, operation, None, body, content_type);
        }
        Ok(Admitted::New(attempts, repeat)) => (attempts, repeat),
        Err(error) => return refuse(account, &error),
    };
    let mut of_stream = Head::of(operation, &account);
    of_stream.cache_control = Some(HeaderValue::from_static("no-cache"));
    let streamed = |stream, served_by, content_type| {
        let mut response = Response::new(Body::stream(stream));
        *response.headers_mut() = of_stream.map(content_type, served_by, (0, unix_now()));
        response
    };
    let outcome = match ask::interval(&account).filter(|_| call.is_stream) {
        None => ask::ask(account, &call, attempts, repeat, head).await,
        Some(interval) => {
            let head = Rc::clone(head);
            let mut asking: Asking =
                Box::pin(async move { ask::ask(account, &call, attempts, repeat, &head).await });
            match tokio::time::timeout(interval, &mut asking).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let content_type = HeaderValue::from_static("text/event-stream");
                    return streamed(ask::begun(asking, interval), None, content_type);
                }
            }
        }
    };
    match outcome {
        Outcome::Failed(account, error) => refuse(account, &error),
        Outcome::Whole { account, served_by, body, content_type } => {
            answered(account, operation, served_by, body, content_type)
        }
        Outcome::Stream { relay, served_by, content_type } => {
            streamed(relay.into_stream(), served_by, content_type)
        }
    }
}

/// A whole answer.
fn answered(
    mut account: Box<Account>,
    operation: Operation,
    served_by: Option<HeaderValue>,
    body: Bytes,
    content_type: HeaderValue,
) -> Response<Body> {
    let head = Head::of(operation, &account);
    account.settle(StatusCode::OK);
    let used = (account.total_tokens(), account.settled_at());
    let mut response = Response::new(Body::from(body));
    *response.headers_mut() = head.map(content_type, served_by, used);
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

/// A request that may be answered.
enum Admitted {
    /// With an answer that is known.
    Known { body: Bytes, content_type: HeaderValue },
    /// By one of these; what comes is kept, if a policy says so.
    New(Attempts, Repeat),
}

/// Finds the targets, if this caller may have the model, or an answer that is known.
async fn admitted(
    account: &mut Account,
    call: &mut Call,
    head: &Parts,
) -> Result<Admitted, RequestError> {
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
    guard::request(account, &found, call)?;
    if let Some(caller) = &account.caller {
        proxy.budgets.admit(&caller.id).await.map_err(RequestError::OverBudget)?;
    }
    admit::admit(account, Some(&found.model)).await?;
    let (repeat, kept) = Repeat::find(account, call, head).await;
    if let Some(Kept { body, content_type, .. }) = kept {
        // It may have been kept for a caller whom other guardrails guard.
        let body = account.guarding.answer(call.operation, body)?;
        return Ok(Admitted::Known { body, content_type });
    }
    Ok(Admitted::New(Attempts::plan(account, found, head)?, repeat))
}
