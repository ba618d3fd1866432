//! The request to an OpenAI-compatible provider: the caller's bytes, with the upstream's name of the model in them and, for a
//! stream, the wish for a count of tokens.

use std::borrow::Cow;

use bytes::Bytes;
use http::Request;
use shared::resource::ResponseOverrides;

use crate::call::{Call, Form, Operation};
use crate::chat::Translation;
use crate::dialect;
use crate::json::{Edit, JsonBody, is_empty_after, quoted};
use crate::multipart::{self, Fields};
use crate::provider::outgoing::{self, Finish, JSON};
use crate::provider::{Context, Exchange, Reading};
use crate::request::{RequestError, Target};

use super::convert;
use super::decoder::ChatDecoder;
use super::events::Events;
use super::native::Native;

/// The exchange with the provider.
///
/// # Errors
/// As [`crate::provider::exchange`].
pub fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let finish = |request: &mut Request<Bytes>| outgoing::bearer(request, target);
    exchange_at(call, target, context, &target.endpoint.path, &finish)
}

/// The same below another path than the endpoint's, and with another credential, which `finish` adds.
///
/// # Errors
/// As [`crate::provider::exchange`], and those of `finish`.
pub fn exchange_at(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
    base: &str,
    finish: &Finish<'_>,
) -> Result<Exchange, RequestError> {
    if !is_native(call, target) {
        return translated(call, target, context, base, finish);
    }
    let path = [base, path(call.operation).ok_or(RequestError::NotOffered(call.operation))?];
    let reading = reading(call, &target.provider_key.response);
    let (content_type, body) = body(call, &target.upstream_model)?;
    let accept = if reading.is_events() { outgoing::accept(call.is_stream) } else { "*/*" };
    let request = outgoing::post_alike(target, context, path, &content_type, accept, body, finish)?;
    Ok(Exchange { request, reading })
}

/// The path of an operation below a base URL, or below a deployment of Azure's; `None` for other dialects.
pub fn path(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Messages | Operation::CountTokens => None,
        operation => operation.path().strip_prefix("/v1"),
    }
}

/// Whether the provider of the target understands the call as it is. The Responses API is OpenAI's (and Azure's) own: what
/// is compatible with OpenAI mostly is so in chat completions only.
pub fn is_native(call: &Call, target: &Target) -> bool {
    match call.operation {
        Operation::Messages | Operation::CountTokens => false,
        Operation::Responses => target.provider == "openai",
        _ => true,
    }
}

/// Reads the answer for a caller of the same dialect.
pub fn reading(call: &Call, overrides: &ResponseOverrides) -> Box<dyn Reading> {
    match call.operation {
        Operation::ChatCompletions | Operation::Completions => {
            Box::new(Native::new(call.wants_usage).of(overrides))
        }
        _ => Box::new(Events::new(call)),
    }
}

/// Content type and body of the request: the caller's, with the upstream's name of the model.
///
/// # Errors
/// [`RequestError::Unusable`] if no form can carry that name.
pub fn body<'a>(
    call: &'a Call,
    upstream_model: &str,
) -> Result<(Cow<'a, str>, Bytes), RequestError> {
    match &call.form {
        Form::Json(body) => Ok((JSON.into(), body_for(call, body, upstream_model))),
        Form::Multipart { content_type, bytes } => {
            if !multipart::is_value(upstream_model) {
                let reason = "the upstream's name of the model is not usable in a form";
                return Err(RequestError::Unusable(reason.to_owned()));
            }
            let fields = Fields::parse(content_type, bytes).map_err(RequestError::Invalid)?;
            Ok((content_type.into(), fields.with("model", upstream_model)))
        }
    }
}

/// The exchange for a caller who speaks another dialect.
fn translated(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
    base: &str,
    finish: &Finish<'_>,
) -> Result<Exchange, RequestError> {
    let encoder = dialect::encoder(call).ok_or(RequestError::NotOffered(call.operation))?;
    let conversation = dialect::conversation(call)?;
    let overrides = &target.provider_key.response;
    let body = convert::body(&conversation, &target.upstream_model, call.is_stream, overrides)?;
    let (accept, body) = (outgoing::accept(call.is_stream), body.to_string().into());
    let path = [base, "/chat/completions"];
    let request = outgoing::post_alike(target, context, path, JSON, accept, body, finish)?;
    let decoder = ChatDecoder::new(overrides.reasoning_field.as_deref(), overrides.requires_done);
    let reading = Translation::new(Box::new(decoder), encoder);
    Ok(Exchange { request, reading: Box::new(reading) })
}

fn body_for(call: &Call, body: &JsonBody, upstream_model: &str) -> Bytes {
    let mut edit = body.edit();
    if call.model != upstream_model {
        edit.set("model", quoted(upstream_model));
    }
    let counts_on_wish =
        matches!(call.operation, Operation::ChatCompletions | Operation::Completions);
    if call.is_stream && counts_on_wish {
        ask_for_usage(body, &mut edit);
    }
    edit.finish()
}

/// Sees to it that a stream ends with a count of tokens, and keeps the caller's other options.
fn ask_for_usage(body: &JsonBody, edit: &mut Edit<'_>) {
    const WISH: &str = r#"{"include_usage":true}"#;
    let Some(options) = body.get("stream_options").filter(|options| *options != "null") else {
        return edit.set("stream_options", WISH);
    };
    let Ok(fields) = serde_json::from_str::<Options<'_>>(options) else { return };
    match fields.include_usage {
        Some(wish) if wish.get() == "true" => {}
        Some(wish) => edit.splice(wish.get(), "true"),
        None if is_empty_after(options, '{', '}') => edit.set("stream_options", WISH),
        None => edit.insert_into(options, r#""include_usage":true,"#),
    }
}

#[derive(serde::Deserialize)]
struct Options<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    include_usage: Option<&'a serde_json::value::RawValue>,
}

/// A field that is there, `null` included.
fn present<'de, D: serde::Deserializer<'de>>(
    field: D,
) -> Result<Option<&'de serde_json::value::RawValue>, D::Error> {
    serde::Deserialize::deserialize(field).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::dialect::openai::completions_like;

    fn forwarded(body: &str, upstream_model: &str) -> String {
        let body = JsonBody::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap();
        let call = completions_like(Operation::ChatCompletions, "messages", body).unwrap();
        let body = body_for(&call, call.json().unwrap(), upstream_model);
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn nothing_but_the_model_changes_in_an_unary_request() {
        let body =
            r#" { "messages": [ {"a" : 1e2} ], "model" : "chat", "x":"model","stream":null}"#;
        assert_eq!(forwarded(body, "chat"), body);
        assert_eq!(forwarded(body, "up\"a"), body.replace(r#""chat""#, r#""up\"a""#));
    }

    #[test]
    fn a_stream_asks_for_usage_and_keeps_the_caller_s_other_options() {
        let body =
            |options: &str| format!(r#"{{"model":"m",{options}"stream":true,"messages":[1]}}"#);
        let wish = r#"{"include_usage":true}"#;
        let added =
            format!(r#"{{"stream_options":{wish},"model":"m","stream":true,"messages":[1]}}"#);
        assert_eq!(forwarded(&body(""), "m"), added);
        for (before, after) in [
            ("null", wish),
            ("{}", wish),
            ("{ }", wish),
            (r#"{"include_usage":false}"#, wish),
            (r#"{"a":1,"include_usage": null }"#, r#"{"a":1,"include_usage": true }"#),
            (r#"{"a":{}}"#, r#"{"include_usage":true,"a":{}}"#),
            (r#"{"include_usage":true,"a":1}"#, r#"{"include_usage":true,"a":1}"#),
        ] {
            let options = |text: &str| body(&format!(r#""stream_options":{text},"#));
            assert_eq!(forwarded(&options(before), "m"), options(after));
        }
    }

    proptest! {
        #[test]
        fn what_is_forwarded_is_the_request_with_only_the_two_fields_changed(
            model: String,
            upstream_model: String,
            options in prop::option::of(prop::collection::btree_map("[a-c]|include_usage", any::<bool>(), 0..4)),
            extra: String,
        ) {
            let mut request = json!({"model": model, "messages": [extra], "stream": true, "x": extra});
            if let Some(options) = &options {
                request["stream_options"] = json!(options);
            }
            let body = serde_json::to_string_pretty(&request).unwrap();
            let forwarded: Value = serde_json::from_str(&forwarded(&body, &upstream_model)).unwrap();
            request["model"] = upstream_model.into();
            request["stream_options"]["include_usage"] = true.into();
            prop_assert_eq!(forwarded, request);
        }
    }
}
