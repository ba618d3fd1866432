//! The endpoints of the upstream beside chat, and a mirror for requests that are passed through.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/completions`, `/v1/embeddings`, `/v1/rerank`, `/v1/responses`, `/v1/images/generations` | JSON in, JSON (or events) out |
//! | `POST /v1/images/edits`, `/v1/audio/transcriptions`, `/v1/audio/translations` | a form in, which comes back in base64 |
//! | `POST /v1/audio/speech` | sound out; of the model `cut` only half of it |
//! | any `/mirror/…` | method, path, headers and body as they came |
//! | `/mirror/redirect`, `/mirror/events`, `/mirror/cut`, `/mirror/stall`, `/mirror/status/418` | what the name says |

use std::collections::{BTreeMap, VecDeque};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};

use super::Shared;
use super::ledger::{Entry, Outcome, Served};
use super::service::{Body, error, full, header, json_response, response};
use super::stream::{self, Step};

/// What speech consists of.
pub const SOUND: &[u8] = b"ID3\x04\x00\xff\xfb sound \x00 of \xfe words";

/// Answers, if the path is one of these.
pub(super) fn respond(
    shared: &Shared,
    connection: u64,
    head: &Parts,
    body: &Bytes,
) -> Option<Response<Body>> {
    let path = head.uri.path();
    if let Some(rest) = path.strip_prefix("/mirror") {
        let entry = enter(shared, connection, head, &Value::Null);
        return Some(mirror(shared, head, body, rest, entry));
    }
    let name = path.strip_prefix("/v1")?;
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut entry = enter(shared, connection, head, &request);
    if header(&head.headers, AUTHORIZATION.as_str()) != Some(format!("Bearer {}", shared.key)) {
        entry.answered();
        return Some(error(StatusCode::UNAUTHORIZED, "this is not the upstream's key"));
    }
    let words = |name: &str| {
        let text = match &request[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        text.split_whitespace().count()
    };
    let is_stream = request["stream"] == true;
    let answer = match name {
        "/completions" => {
            let count = words("prompt");
            let usage =
                json!({"prompt_tokens": count, "completion_tokens": 2, "total_tokens": count + 2});
            let answer = json!({
                "id": "cmpl-1", "object": "text_completion", "model": request["model"],
                "choices": [{"index": 0, "text": "two words", "finish_reason": "stop"}],
                "usage": usage,
            });
            if is_stream {
                let events = [answer.to_string(), "[DONE]".to_owned()];
                return Some(events_of(shared, &events.map(|data| ("", data)), entry));
            }
            answer
        }
        "/embeddings" => {
            let count = words("input");
            json!({
                "object": "list", "model": request["model"],
                "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}],
                "usage": {"prompt_tokens": count, "total_tokens": count},
            })
        }
        "/rerank" => json!({
            "id": "rerank-1", "results": [{"index": 1, "relevance_score": 0.9}],
            "meta": {"tokens": {"input_tokens": words("query")}},
        }),
        "/images/generations" => json!({
            "created": 1, "data": [{"b64_json": "AAAA"}],
            "usage": {"input_tokens": words("prompt"), "output_tokens": 9, "total_tokens": 0},
        }),
        "/responses" => {
            let answer = json!({
                "id": "resp_1", "object": "response", "status": "completed", "model": request["model"],
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "hello"}]}],
                "usage": {"input_tokens": words("input"), "output_tokens": 1, "total_tokens": 0,
                    "output_tokens_details": {"reasoning_tokens": 1}},
            });
            if is_stream {
                let delta = json!({"type": "response.output_text.delta", "delta": "hello"});
                let last = json!({"type": "response.completed", "response": answer});
                let events = [
                    ("response.output_text.delta", delta.to_string()),
                    ("response.completed", last.to_string()),
                ];
                return Some(events_of(shared, &events, entry));
            }
            answer
        }
        "/images/edits" | "/audio/transcriptions" | "/audio/translations" => json!({
            "text": "one two", "duration": 2.5,
            "content_type": header(&head.headers, CONTENT_TYPE.as_str()),
            "form": BASE64_STANDARD.encode(body),
        }),
        "/audio/speech" => {
            let mut steps: VecDeque<Step> =
                SOUND.chunks(5).map(|bytes| Step::Write(Bytes::copy_from_slice(bytes))).collect();
            if request["model"] == "cut" {
                steps.truncate(steps.len() / 2);
                steps.extend([Step::Wait(stream::PAUSE), Step::Cut]);
            }
            return Some(streamed(shared, "audio/mpeg", steps, entry));
        }
        _ => return None,
    };
    entry.answered();
    Some(json_response(StatusCode::OK, &answer))
}

fn mirror(
    shared: &Shared,
    head: &Parts,
    body: &Bytes,
    rest: &str,
    mut entry: Entry,
) -> Response<Body> {
    let event = |data: &str| Step::Write(Bytes::from(format!("data: {data}\n\n")));
    let part = || Step::Write(Bytes::from_static(b"half of it"));
    match rest {
        "/redirect" => {
            entry.answered();
            let mut answer = response(StatusCode::FOUND, "text/plain", full(""));
            let elsewhere = HeaderValue::from_static("http://127.0.0.1:1/elsewhere");
            answer.headers_mut().insert(LOCATION, elsewhere);
            answer
        }
        "/events" => {
            let steps = [event("one"), Step::UntilReleased, event("two")].into();
            streamed(shared, "text/event-stream", steps, entry)
        }
        "/cut" => streamed(
            shared,
            "text/plain",
            [part(), Step::Wait(stream::PAUSE), Step::Cut].into(),
            entry,
        ),
        "/stall" => streamed(shared, "text/plain", [part(), Step::Stall].into(), entry),
        _ => {
            entry.answered();
            let status = rest.strip_prefix("/status/").and_then(|status| status.parse().ok());
            let headers: BTreeMap<_, _> = head
                .headers
                .iter()
                .map(|(name, value)| {
                    (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect();
            let seen = json!({
                "method": head.method.as_str(),
                "path": head.uri.to_string(),
                "headers": headers,
                "body": String::from_utf8_lossy(body),
            });
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            let mut answer = json_response(status.unwrap_or(StatusCode::OK), &seen);
            for (name, value) in [
                ("x-upstream", "kept"),
                ("x-aisix-upstream", "not kept"),
                ("connection", "keep-alive, x-hop"),
                ("x-hop", "not kept"),
            ] {
                answer.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            answer
        }
    }
}

fn events_of(shared: &Shared, events: &[(&str, String)], entry: Entry) -> Response<Body> {
    let steps = events.iter().map(|(name, data)| {
        let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
        Step::Write(Bytes::from(format!("{name}data: {data}\n\n")))
    });
    streamed(shared, "text/event-stream", steps.collect(), entry)
}

fn streamed(
    shared: &Shared,
    content_type: &'static str,
    steps: VecDeque<Step>,
    entry: Entry,
) -> Response<Body> {
    let steps = stream::carry_out(steps, shared.released.subscribe(), entry);
    response(StatusCode::OK, content_type, BodyExt::boxed(StreamBody::new(steps)))
}

fn enter(shared: &Shared, connection: u64, head: &Parts, request: &Value) -> Entry {
    let mut names: Vec<_> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort_unstable();
    shared.ledger.enter(Served {
        request_id: header(&head.headers, "x-aisix-request-id"),
        model: request["model"].as_str().unwrap_or_default().to_owned(),
        stream: request["stream"] == true,
        include_usage: request["stream_options"]["include_usage"] == true,
        prompt_tokens: 0,
        completion_tokens: 0,
        connection,
        authorized: true,
        headers: names,
        fields: request.as_object().into_iter().flat_map(|it| it.keys().cloned()).collect(),
        outcome: Outcome::Running,
    })
}
