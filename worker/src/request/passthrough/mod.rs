//! A request through a passthrough route: past the gateway's own endpoints, to where the route leads, as it came but for
//! what [`headers`] takes away. Answers come back as they are, redirects included: nobody follows them here.
//!
//! A route is used with a caller key like any endpoint, whose list of routes, budget and limits apply.

mod headers;
mod relay;
mod target;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use shared::resource::{ApiKey, Model, RouteAuth};
use tokio::time::Instant;

use self::relay::Relay;
use super::account::Account;
use super::authenticate::Decision;
use super::{REQUEST_ID, RequestError, UpstreamError};
use super::{admit, authenticate, body, real_ip, refuse, route};
use crate::routes::FoundRoute;
use crate::server::{Body, Incoming, Proxy};
use crate::upstream::{Answer, SendError};

/// The word for the model of what goes past all models.
const MODEL: &str = "passthrough";

/// The route whose host the request names. It is found before anything else is looked at.
pub fn of_host(proxy: &Proxy, head: &Parts) -> Option<FoundRoute> {
    let tables = proxy.tables.borrow();
    if tables.routes().is_empty() {
        return None;
    }
    let named = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    let host = head.uri.host().or_else(|| named?.split(':').next())?;
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    tables.routes().of_host(&host, head.uri.path())
}

/// The route that has the beginning of the path, where no endpoint is.
pub fn of_path(proxy: &Proxy, head: &Parts) -> Option<FoundRoute> {
    match route::find(&head.method, head.uri.path()) {
        route::Route::Unknown | route::Route::Removed => {
            proxy.tables.borrow().routes().of_path(head.uri.path())
        }
        _ => None,
    }
}

/// Reads headers as a route does, and keeps nothing.
pub fn look_at(headers: &HeaderMap) {
    let _ = (bearer(headers, "x-api-key"), identity(headers, Some("host")));
    let out = headers::to_caller(headers);
    debug_assert!(!out.contains_key(http::header::CONNECTION));
}

/// Answers a request by a route.
pub async fn serve(
    proxy: Rc<Proxy>,
    id: HeaderValue,
    peer: SocketAddr,
    found: FoundRoute,
    head: &Parts,
    mut incoming: Incoming,
) -> Response<Body> {
    let client_ip = real_ip::find(&proxy.settings, peer.ip(), &head.headers);
    let mut account = Account::open(proxy.clone(), id, client_ip, route::PASSTHROUGH, head);
    account.route = Some(found.route.clone());
    let in_flight = proxy.health.enter();
    let counted = proxy.metrics.in_flight(account.endpoint.template, account.protocol());
    let outcome = exchange(&mut account, &found, head, &mut incoming).await;
    let mut response = match outcome {
        Ok(outcome) => answer(account, outcome, head),
        Err(error) => {
            let outcome = body::drain(head, incoming).await;
            if let RequestError::BodyTooLarge { .. } = error {
                let (endpoint, protocol) = (account.endpoint.template, account.protocol());
                proxy.metrics.body_limit_rejected(endpoint, protocol, outcome);
            }
            if matches!(error, RequestError::BodyTooLarge { .. } | RequestError::BodyTimeout) {
                // Of a body that was not read there is no usage.
                account.requested_model = None;
            }
            refuse(account, &error)
        }
    };
    response.body_mut().hold((in_flight, counted));
    response
}

/// An answer that has begun, and until when it must be complete.
struct Begun {
    answer: Answer,
    deadline: Option<(Instant, Duration)>,
}

async fn exchange(
    account: &mut Account,
    found: &FoundRoute,
    head: &Parts,
    incoming: &mut Incoming,
) -> Result<Begun, RequestError> {
    let proxy = account.proxy.clone();
    let route = &found.route;
    let caller = caller(account, found, head).await?;
    account.caller = Some(caller.clone());
    // From here on it leaves a usage event.
    account.requested_model = Some(String::new());
    account.model = Some(Rc::new(Model { display_name: MODEL.to_owned(), ..Model::default() }));
    account.client_identity = identity(&head.headers, route.identity_header.as_deref());
    if !caller.allows_route(&route.name) {
        return Err(RequestError::RouteNotAllowed(route.name.clone()));
    }
    let provider_key = {
        let tables = proxy.tables.borrow();
        if let Some(guard) = tables.guards().on_route(&caller, &route.id) {
            return Err(RequestError::Guarded(guard));
        }
        match &route.provider_key_id {
            None => None,
            Some(id) => Some(tables.provider_key(id).ok_or_else(|| {
                let what = format!("passthrough route '{}' has no provider key", route.name);
                RequestError::Unusable(what)
            })?),
        }
    };
    let place = target::place(found, provider_key.as_deref())?;
    let uri = target::uri(found, &place, &head.uri)?;
    proxy.budgets.admit(&caller.id).await.map_err(RequestError::OverBudget)?;
    admit::admit(account, None).await?;
    let bytes = body::whole(incoming, proxy.settings.request_body_bytes_max).await?;

    let settings = &proxy.settings;
    let of_settings = settings.request_id_headers.iter().map(String::as_str);
    let of_settings = of_settings.chain([settings.real_ip_header.as_str()]);
    let mut headers =
        headers::to_upstream(&head.headers, route, provider_key.as_deref(), of_settings);
    if let Some(provider_key) = &provider_key {
        headers::inject(&mut headers, provider_key)?;
    }
    let host = place.host.clone();
    let host =
        host.ok_or_else(|| RequestError::Unusable("the route's target is not usable".to_owned()))?;
    headers.insert(HOST, host);
    headers.insert(REQUEST_ID, account.request_id.clone());
    let mut request = Request::new(bytes);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let mut request = request.into();

    let limit = route.timeout_ms.unwrap_or(settings.upstream.timeout_ms);
    let limit = (limit > 0).then(|| Duration::from_millis(limit));
    let deadline = limit.map(|limit| (Instant::now() + limit, limit));
    account.attempt_begins(None);
    let sending = proxy.upstreams.send(&place, &mut request);
    let sent = match deadline {
        None => sending.await,
        Some((deadline, limit)) => tokio::time::timeout_at(deadline, sending)
            .await
            .map_err(|_| UpstreamError::Timeout(limit))?,
    };
    let answer = sent.map_err(|error| match error {
        SendError::Connect(error) => UpstreamError::Unreached(error.to_string()),
        SendError::Transport(_) => UpstreamError::Transport(error.to_string()),
    })?;
    Ok(Begun { answer, deadline })
}

/// Who calls, as the route says.
async fn caller(
    account: &mut Account,
    found: &FoundRoute,
    head: &Parts,
) -> Result<Rc<ApiKey>, RequestError> {
    let (proxy, route) = (account.proxy.clone(), &found.route);
    let now = account.occurred_at_ms();
    let is_near = route.source_cidrs.is_empty()
        || route.source_cidrs.iter().any(|block| block.contains(account.client_ip));
    let Decision { caller, method, identity } = match &route.auth {
        RouteAuth::GatewayKey => {
            authenticate::caller(&proxy, &head.headers, head.extensions.get(), now).await
        }
        RouteAuth::Header(name) => {
            authenticate::caller(&proxy, &bearer(&head.headers, name), None, now).await
        }
        RouteAuth::Anonymous(id) => {
            account.auth_type = "anonymous";
            let caller = if is_near {
                let key = proxy.tables.borrow().api_key_of_id(id);
                let key = key.ok_or(RequestError::UnknownKey);
                key.and_then(|key| authenticate::in_force(key, now))
            } else {
                Err(RequestError::SourceNotAllowed)
            };
            Decision { caller, method: "anonymous", identity: None }
        }
    };
    let caller = if is_near { caller } else { caller.and(Err(RequestError::SourceNotAllowed)) };
    account.identity = identity;
    let reason = match (&caller, method) {
        (Err(RequestError::SourceNotAllowed), _) => "source_not_allowed",
        (Err(RequestError::UnknownKey), "anonymous") => "principal_missing",
        (Err(RequestError::KeyDisabled), "anonymous") => "principal_disabled",
        (Err(RequestError::KeyExpired), "anonymous") => "principal_expired",
        _ => authenticate::reason(&caller),
    };
    let result = if caller.is_ok() { "allowed" } else { "denied" };
    proxy.metrics.auth(method, result, reason);
    caller
}

/// The credential in a header of the route's own, as it would be presented elsewhere.
fn bearer(headers: &HeaderMap, name: &str) -> HeaderMap {
    let mut presented = HeaderMap::new();
    if let Some(value) = headers.get(name) {
        let value = value.as_bytes();
        let key = value.strip_prefix(b"Bearer ").unwrap_or(value);
        if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", key].concat()) {
            presented.insert(AUTHORIZATION, value);
        }
    }
    presented
}

/// What the network before the gateway calls the end user.
fn identity(headers: &HeaderMap, name: Option<&str>) -> String {
    let value = name.and_then(|name| headers.get(name));
    value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

fn answer(mut account: Box<Account>, begun: Begun, head: &Parts) -> Response<Body> {
    let Begun { answer, deadline } = begun;
    let status = answer.head.status;
    let is_events = answer.head.content_type.as_ref().is_some_and(|value| {
        value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream")
    });
    account.is_stream = is_events;
    let headers = headers::to_caller(&answer.head.headers());
    let is_empty = headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    let has_body = !is_empty
        && head.method != Method::HEAD
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED;
    let mut relay = Relay {
        account,
        status,
        upstream: Some(answer.body),
        deadline: deadline.filter(|_| !is_events),
        ahead: None,
    };
    if !has_body {
        relay.account.settle(status);
    }
    let mut response = Response::new(Body::stream(relay.into_stream()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
