//! The request to an OpenAI-compatible provider: the caller's bytes, with the upstream's name of the model in them and, for a
//! stream, the wish for a count of tokens.

use bytes::Bytes;

use crate::call::{Call, Form, Operation};
use crate::chat::Translation;
use crate::dialect;
use crate::json::{Edit, JsonBody, is_empty_after, quoted};
use crate::provider::{Context, Exchange, outgoing};
use crate::request::{RequestError, Target};

use super::convert;
use super::decoder::ChatDecoder;
use super::native::Native;

/// The exchange with the provider.
pub fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let path = match call.operation {
        Operation::ChatCompletions => "/chat/completions",
        Operation::Messages => return translated(call, target, context),
        operation => return Err(RequestError::NotOffered(operation)),
    };
    let Form::Json(body) = &call.form else {
        return Err(RequestError::NotOffered(call.operation));
    };
    let body = body_for(call, body, &target.upstream_model);
    let accept = outgoing::accept(call.is_stream);
    let mut request = outgoing::post(target, context, path, "application/json", accept, body)?;
    outgoing::bearer(&mut request, &target.provider_key.secret)?;
    Ok(Exchange { request, reading: Box::new(Native::new(call.wants_usage)) })
}

/// The exchange for a caller who speaks another dialect.
fn translated(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let encoder = dialect::encoder(call).ok_or_else(|| RequestError::NotOffered(call.operation))?;
    let conversation = dialect::conversation(call)?;
    let overrides = &target.provider_key.response;
    let body = convert::body(&conversation, &target.upstream_model, call.is_stream, overrides)?;
    let (accept, body) = (outgoing::accept(call.is_stream), body.to_string().into());
    let path = "/chat/completions";
    let mut request = outgoing::post(target, context, path, "application/json", accept, body)?;
    outgoing::bearer(&mut request, &target.provider_key.secret)?;
    let decoder = ChatDecoder::new(overrides.reasoning_field.as_deref(), overrides.requires_done);
    let reading = Translation::new(Box::new(decoder), encoder);
    Ok(Exchange { request, reading: Box::new(reading) })
}

fn body_for(call: &Call, body: &JsonBody, upstream_model: &str) -> Bytes {
    let mut edit = body.edit();
    if call.model != upstream_model {
        edit.set("model", quoted(upstream_model));
    }
    if call.is_stream {
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
