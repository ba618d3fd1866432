//! The life of a request, told in order: rewrite, route, authenticate, admit, resolve, attempt, relay, account.
//!
//! Every answer carries the gateway's name and the id of the request. Nothing of a caller's headers reaches an upstream but
//! that id, and nothing of an upstream's but the content type and when to ask again.

mod account;
mod admit;
mod ask;
mod attempt;
mod authenticate;
mod body;
mod echo;
mod error;
mod guard;
mod head;
mod models;
mod overload;
mod passthrough;
mod probe;
mod real_ip;
mod relay;
mod repeat;
mod request_id;
mod resolve;
mod rewrite;
mod route;
mod serve;
mod trace;

use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SERVER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body as _;
use time::OffsetDateTime;

use crate::server::{Body, Incoming, Proxy};
use account::Account;
use route::{Action, Endpoint, Route};

pub use attempt::ask_once;
pub use authenticate::HashOnce;
pub use body::is_json;
pub use error::{RequestError, UpstreamError};
pub use overload::{enter, pass, refuse as refuse_overload};
pub use request_id::REQUEST_ID;
pub use resolve::{Target, target as resolve_target};
pub use rewrite::Rewrites;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Reads headers as the life of a request does, and keeps nothing: for those who try what can be sent.
pub fn look_at(headers: &HeaderMap) {
    let _ = request_id::choose(&[HeaderName::from_static("x-request-id")], headers);
    let _ = trace::incoming(headers);
    passthrough::look_at(headers);
}

/// Answers a request that came from `peer`.
pub async fn serve(
    proxy: Rc<Proxy>,
    peer: SocketAddr,
    mut head: Rc<Parts>,
    incoming: Incoming,
) -> Response<Body> {
    let mut through = passthrough::of_host(&proxy, &head);
    if through.is_none() {
        if let Some(uri) = proxy.rewrites.rewritten(&head.uri) {
            Rc::make_mut(&mut head).uri = uri;
        }
        through = passthrough::of_path(&proxy, &head);
    }
    let id = request_id::choose(&proxy.request_id_headers, &head.headers);
    if let Some(found) = through {
        let serving = passthrough::serve(proxy.clone(), id.clone(), peer, found, &head, incoming);
        let mut response = serving.await;
        finish(&proxy, &head, id, &mut response);
        return response;
    }
    let mut response = match route::find(&head.method, head.uri.path()) {
        Route::Live => probe::live(&proxy.health, head.uri.query()),
        Route::Ready => probe::ready(&proxy.health, head.uri.query()),
        Route::Endpoint(endpoint) => {
            let client_ip = real_ip::find(&proxy.settings, peer.ip(), &head.headers);
            let account = Account::open(proxy.clone(), id.clone(), client_ip, endpoint, &head);
            let in_flight = proxy.health.enter();
            let counted = proxy.metrics.in_flight(endpoint.template, endpoint.dialect.name());
            let mut response = endpoint_answer(account, endpoint, &head, incoming).await;
            response.body_mut().hold((in_flight, counted));
            response
        }
        route @ (Route::WrongMethod(_) | Route::Removed | Route::Unknown) => {
            let client_ip = real_ip::find(&proxy.settings, peer.ip(), &head.headers);
            let account = Account::open(proxy.clone(), id.clone(), client_ip, route::OTHER, &head);
            body::drain(&head, incoming).await;
            elsewhere(account, route)
        }
    };
    finish(&proxy, &head, id, &mut response);
    response
}

/// Answers a request that tells the length of its body in two ways. Nothing of the connection can be trusted after it.
pub async fn refuse_ambiguous(
    proxy: Rc<Proxy>,
    peer: SocketAddr,
    head: &Parts,
    incoming: Incoming,
) -> Response<Body> {
    body::drain(head, incoming).await;
    let id = request_id::choose(&proxy.request_id_headers, &head.headers);
    let client_ip = real_ip::find(&proxy.settings, peer.ip(), &head.headers);
    let account = Account::open(proxy.clone(), id.clone(), client_ip, route::OTHER, head);
    let reason = "the request has conflicting Content-Length or Transfer-Encoding headers";
    let mut response = refuse(account, &RequestError::Invalid(reason.to_owned()));
    finish(&proxy, head, id, &mut response);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Answers at an endpoint, which every caller needs a key for.
async fn endpoint_answer(
    mut account: Box<Account>,
    endpoint: Endpoint,
    head: &Rc<Parts>,
    incoming: Incoming,
) -> Response<Body> {
    let proxy = account.proxy.clone();
    let now = account.occurred_at_ms();
    let decision = authenticate::caller(&proxy, &head.headers, head.extensions.get(), now).await;
    let result = if decision.caller.is_ok() { "allowed" } else { "denied" };
    proxy.metrics.auth(decision.method, result, authenticate::reason(&decision.caller));
    let caller = match decision.caller {
        Ok(caller) => caller,
        Err(error) => {
            body::drain(head, incoming).await;
            return refuse(account, &error);
        }
    };
    account.identity = decision.identity;
    account.caller = Some(caller.clone());
    match endpoint.action {
        Action::Call(operation) => serve::serve(account, operation, head, incoming).await,
        Action::Models => {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let list = models::list(&proxy.tables.borrow(), &caller, now);
            account.settle(StatusCode::OK);
            json(StatusCode::OK, list)
        }
        Action::NotServed => {
            body::drain(head, incoming).await;
            if endpoint.is_charged()
                && let Err(denial) = proxy.budgets.admit(&caller.id).await
            {
                // It leaves a usage event, although the model is not known.
                account.requested_model = Some(String::new());
                return refuse(account, &RequestError::OverBudget(denial));
            }
            refuse(account, &RequestError::NotServed(endpoint.template))
        }
    }
}

/// Answers where no endpoint is.
fn elsewhere(mut account: Box<Account>, route: Route) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    match route {
        Route::Removed => return refuse(account, &RequestError::EndpointRemoved),
        Route::WrongMethod(allowed) => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        Route::Live | Route::Ready | Route::Endpoint(_) | Route::Unknown => {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
    }
    account.settle(response.status());
    response
}

/// Answers with an error, and settles the account with it.
fn refuse(mut account: Box<Account>, error: &RequestError) -> Response<Body> {
    account.settle_failed(error);
    let mut response = json(error.status(), account.endpoint.dialect.envelope(error));
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// What every answer has in common.
fn finish(proxy: &Proxy, head: &Parts, id: HeaderValue, response: &mut Response<Body>) {
    if head.method == Method::HEAD
        && let Some(length) = response.body().size_hint().exact()
    {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Body::empty();
    }
    let headers = response.headers_mut();
    headers.insert(SERVER, proxy.server_name.clone());
    headers.insert(REQUEST_ID, id);
    if proxy.health.is_retiring() && head.version <= Version::HTTP_11 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
