//! The routes of the upstream.

use std::convert::Infallible;
use std::future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::Answer;
use super::behaviour::{Behaviour, NAMES};
use super::ledger::{Entry, Outcome, Served};
use super::stream::{self, Step};
use super::{Shared, endpoints};

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// Answers one request of one connection.
pub(super) async fn respond(
    shared: Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    Ok(match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/chat/completions") => {
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let Ok(request) = serde_json::from_slice(&body) else {
                return Ok(error(StatusCode::BAD_REQUEST, "the body is not JSON"));
            };
            complete(&shared, connection, &head.headers, &request).await
        }
        (&Method::GET, "/v1/models") => {
            let models: Vec<_> = NAMES
                .iter()
                .map(|name| json!({"id": name, "object": "model", "created": 0, "owned_by": "tests"}))
                .collect();
            json_response(StatusCode::OK, &json!({"object": "list", "data": models}))
        }
        (&Method::GET, "/ledger") => json_response(StatusCode::OK, &json!(shared.ledger.all())),
        (&Method::POST, "/release") => {
            shared.released.send_replace(true);
            json_response(StatusCode::OK, &json!({"released": true}))
        }
        _ => {
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            endpoints::respond(&shared, connection, &head, &body)
                .unwrap_or_else(|| error(StatusCode::NOT_FOUND, "no such route"))
        }
    })
}

async fn complete(
    shared: &Shared,
    connection: u64,
    headers: &HeaderMap,
    request: &Value,
) -> Response<Body> {
    let model = request["model"].as_str().unwrap_or_default();
    let behaviour = Behaviour::of(model);
    let answer = Answer::to(request, behaviour);
    let is_stream = request["stream"] == true;
    let include_usage = request["stream_options"]["include_usage"] == true;
    let is_error = matches!(behaviour, Behaviour::Status(_));
    let authorized =
        header(headers, AUTHORIZATION.as_str()) == Some(format!("Bearer {}", shared.key));
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort_unstable();
    // A map of JSON is sorted already.
    let fields = request.as_object().into_iter().flat_map(|body| body.keys().cloned()).collect();
    let mut entry = shared.ledger.enter(Served {
        request_id: header(headers, "x-aisix-request-id"),
        model: model.to_owned(),
        stream: is_stream,
        include_usage,
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: if is_error { 0 } else { answer.completion_tokens() },
        connection,
        authorized,
        headers: names,
        fields,
        outcome: Outcome::Running,
    });
    if !authorized {
        entry.answered();
        return error(StatusCode::UNAUTHORIZED, "this is not the upstream's key");
    }
    if let Behaviour::Status(status) = behaviour {
        entry.answered();
        return scripted_error(status);
    }
    if is_stream {
        let plan = stream::plan(&answer, behaviour, include_usage);
        let steps = stream::carry_out(plan, shared.released.subscribe(), entry);
        return response(
            StatusCode::OK,
            "text/event-stream",
            BodyExt::boxed(StreamBody::new(steps)),
        );
    }
    unary(shared, &answer, behaviour, entry).await
}

async fn unary(
    shared: &Shared,
    answer: &Answer,
    behaviour: Behaviour,
    mut entry: Entry,
) -> Response<Body> {
    let text = answer.completion().to_string();
    match behaviour {
        Behaviour::Slow(pause) => tokio::time::sleep(pause).await,
        Behaviour::Stall => future::pending().await,
        Behaviour::Hold => {
            let _ = shared.released.subscribe().wait_for(|released| *released).await;
        }
        Behaviour::Garbage => {
            entry.answered();
            return response(StatusCode::OK, "application/json", full("{not JSON"));
        }
        Behaviour::Cut => {
            let half = text.len() / 2;
            let half = Bytes::from(text).slice(..half);
            let steps = [Step::Write(half), Step::Cut].into();
            let steps = stream::carry_out(steps, shared.released.subscribe(), entry);
            let body = BodyExt::boxed(StreamBody::new(steps));
            return response(StatusCode::OK, "application/json", body);
        }
        Behaviour::Plain | Behaviour::Status(_) | Behaviour::Split | Behaviour::Big => {}
    }
    entry.answered();
    response(StatusCode::OK, "application/json", full(text))
}

fn scripted_error(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = error(status, "scripted failure");
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("7"));
    }
    response
}

pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    let error =
        json!({"message": message, "type": "scripted_error", "param": null, "code": "scripted"});
    json_response(status, &json!({"error": error}))
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    response(status, "application/json", full(body.to_string()))
}

pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}
