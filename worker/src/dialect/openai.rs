//! OpenAI's dialect: a chat request is read only as far as the gateway acts on it, and forwarded as the bytes it came in.
//!
//! What must change for the upstream (the model's name, asking for usage in a stream) is spliced into the caller's bytes;
//! everything else, known or not, stays as the caller wrote it.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use shared::budget::Denial;

use crate::request::RequestError;

/// The error as OpenAI's clients expect it.
#[derive(Serialize)]
pub(super) struct Envelope<'a> {
    error: Inner<'a>,
}

/// In the published order; what there is nothing to tell of is left out.
#[derive(Serialize)]
struct Inner<'a> {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_usd: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spent_usd: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period_resets_at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl<'a> From<&'a RequestError> for Envelope<'a> {
    fn from(error: &'a RequestError) -> Self {
        let denial = error.denial();
        let told =
            |field: fn(&Denial) -> &Option<String>| denial.and_then(|it| field(it).as_deref());
        let error = Inner {
            message: error.to_string(),
            kind: error.kind(),
            code: error.code(),
            param: error.param(),
            scope: told(|denial| &denial.scope),
            scope_ref: told(|denial| &denial.scope_ref),
            limit_usd: told(|denial| &denial.limit_usd),
            spent_usd: told(|denial| &denial.spent_usd),
            period: told(|denial| &denial.period),
            period_resets_at: told(|denial| &denial.period_resets_at),
            retry_after_seconds: denial.and_then(|denial| denial.retry_after_seconds),
        };
        Self { error }
    }
}

/// A chat request, as far as the gateway acts on it.
#[derive(Debug)]
pub struct ChatRequest {
    body: Bytes,
    /// The model's name as the caller sent it.
    pub model: String,
    /// Whether the answer should be a stream.
    pub is_stream: bool,
    /// Whether the caller asked for usage in the stream.
    pub wants_usage: bool,
    /// Size of the messages, for estimates.
    pub prompt_bytes: usize,
    model_at: Range<usize>,
    usage_at: UsageAt,
}

/// Where the wish for usage in a stream goes.
#[derive(Debug)]
enum UsageAt {
    /// It is there already, or the answer is no stream.
    Nowhere,
    /// In place of what is there.
    Replace(Range<usize>, &'static str),
    /// In front of what is there.
    Insert(usize, &'static str),
}

/// The fields that the gateway acts on. A field that comes twice is refused: who reads which one is anybody's guess.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(borrow)]
    messages: &'a RawValue,
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    include_usage: Option<&'a RawValue>,
}

impl ChatRequest {
    /// Reads the body of a request.
    pub fn parse(body: Bytes) -> Result<Self, RequestError> {
        let invalid = |reason: String| RequestError::Invalid(reason);
        let text = std::str::from_utf8(&body)
            .map_err(|_| invalid("the request body is not valid UTF-8".to_owned()))?;
        let fields: Fields<'_> =
            object(text).map_err(|reason| invalid(format!("invalid request body: {reason}")))?;
        let model: String = serde_json::from_str(fields.model.get())
            .map_err(|_| invalid("invalid request body: `model` must be a string".to_owned()))?;
        let messages = fields.messages.get();
        if !messages.starts_with('[') || is_empty_after(messages, '[', ']') {
            let reason = "invalid request body: `messages` must be a non-empty array";
            return Err(invalid(reason.to_owned()));
        }
        let is_stream = fields.stream.unwrap_or(false);
        let (wants_usage, usage_at) = match is_stream {
            true => usage_at(text, fields.stream_options).map_err(invalid)?,
            false => (false, UsageAt::Nowhere),
        };
        Ok(Self {
            model,
            is_stream,
            wants_usage,
            prompt_bytes: text_bytes(messages),
            model_at: place(text, fields.model.get()),
            usage_at,
            body,
        })
    }

    /// The body for the upstream: the caller's bytes, with the upstream's name of the model and, for a stream, the wish
    /// for usage.
    pub fn body_for(&self, upstream_model: &str) -> Bytes {
        let mut edits = Vec::new();
        if self.model != upstream_model {
            edits.push((self.model_at.clone(), Value::from(upstream_model).to_string()));
        }
        match &self.usage_at {
            UsageAt::Nowhere => {}
            UsageAt::Replace(range, text) => edits.push((range.clone(), (*text).to_owned())),
            UsageAt::Insert(at, text) => edits.push((*at..*at, (*text).to_owned())),
        }
        if edits.is_empty() {
            return self.body.clone();
        }
        edits.sort_by_key(|(range, _)| range.start);
        let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
        let mut body = Vec::with_capacity(self.body.len() + added);
        let mut copied = 0;
        for (range, text) in edits {
            body.extend_from_slice(self.body.get(copied..range.start).unwrap_or_default());
            body.extend_from_slice(text.as_bytes());
            copied = range.end;
        }
        body.extend_from_slice(self.body.get(copied..).unwrap_or_default());
        body.into()
    }
}

/// A JSON object; serde alone would take the fields from an array too.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    if !text.trim_start().starts_with('{') {
        return Err("not a JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// A field that is there, `null` included.
fn present<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(field).map(Some)
}

/// Whether the caller asked for usage, and where the wish goes if not.
fn usage_at(text: &str, options: Option<&RawValue>) -> Result<(bool, UsageAt), String> {
    let Some(options) = options else {
        // Behind the brace that opens the body, in front of the fields that are there for certain.
        let inside = text.find('{').map_or(0, |brace| brace + 1);
        let wish = r#""stream_options":{"include_usage":true},"#;
        return Ok((false, UsageAt::Insert(inside, wish)));
    };
    let at = place(text, options.get());
    if options.get() == "null" {
        return Ok((false, UsageAt::Replace(at, r#"{"include_usage":true}"#)));
    }
    let fields: StreamOptions<'_> = object(options.get())
        .map_err(|reason| format!("invalid request body: `stream_options`: {reason}"))?;
    Ok(match fields.include_usage.map(RawValue::get) {
        Some("true") => (true, UsageAt::Nowhere),
        Some(wish) => (false, UsageAt::Replace(place(text, wish), "true")),
        None if is_empty_after(options.get(), '{', '}') => {
            (false, UsageAt::Replace(at, r#"{"include_usage":true}"#))
        }
        None => (false, UsageAt::Insert(at.start + 1, r#""include_usage":true,"#)),
    })
}

/// Where `part` stands in `text`, of which it is a part.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start + part.len()
}

/// Whether valid JSON that begins with `open` has nothing before its `close`.
fn is_empty_after(json: &str, open: char, close: char) -> bool {
    json.strip_prefix(open).is_some_and(|rest| rest.trim_start().starts_with(close))
}

/// Size of the messages without images and sounds in them, which are no text: `"data:…"` URLs.
fn text_bytes(messages: &str) -> usize {
    const DATA: &str = "\"data:";
    let media = messages.match_indices(DATA).map(|(start, _)| {
        let rest = messages.get(start + DATA.len()..).unwrap_or_default();
        rest.find('"').unwrap_or(rest.len())
    });
    messages.len().saturating_sub(media.sum())
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_image_in_a_message_is_no_text() {
        let text = r#"[{"role":"user","content":[{"type":"text","text":"what is this?"}]}]"#;
        let url = format!(r#"{{"url":"data:image/png;base64,{}"}}"#, "A".repeat(100_000));
        let with_image =
            text.replace("]}]", &format!(r#",{{"type":"image_url","image_url":{url}}}]}}]"#));
        assert!(text_bytes(&with_image) < text.len() + 100);
        assert_eq!(text_bytes(text), text.len());
    }

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(body: &str) -> Result<ChatRequest, String> {
        ChatRequest::parse(Bytes::copy_from_slice(body.as_bytes()))
            .map_err(|error| error.to_string())
    }

    fn forwarded(body: &str, upstream_model: &str) -> String {
        let body = parse(body).unwrap().body_for(upstream_model);
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
            assert_eq!(
                parse(&options(before)).unwrap().wants_usage,
                before.contains(r#""include_usage":true"#)
            );
        }
    }

    #[test]
    fn an_escaped_name_of_a_field_is_the_field() {
        let body = r#"{"mod\u0065l":"a\u0062","messages":[{}]}"#;
        assert_eq!(parse(body).unwrap().model, "ab");
        assert_eq!(forwarded(body, "up"), r#"{"mod\u0065l":"up","messages":[{}]}"#);
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_reason() {
        for (body, reason) in [
            ("", "not a JSON object"),
            (r#"["m",[1]]"#, "not a JSON object"),
            (r#"{"messages":[1]}"#, "missing field `model`"),
            (r#"{"model":"m"}"#, "missing field `messages`"),
            (r#"{"model":"m","messages":[ ]}"#, "`messages` must be a non-empty array"),
            (r#"{"model":"m","messages":{}}"#, "`messages` must be a non-empty array"),
            (r#"{"model":1,"messages":[1]}"#, "`model` must be a string"),
            (r#"{"model":"m","model":"n","messages":[1]}"#, "duplicate field `model`"),
            (r#"{"model":"m","messages":[1],"stream":"yes"}"#, "expected a boolean"),
            (r#"{"model":"m","messages":[1],"stream":true,"stream_options":1}"#, "stream_options"),
            (r#"{"model":"m","messages":[1]} x"#, "trailing characters"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(reason), "{body}: {error}");
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

        #[test]
        fn no_bytes_can_panic_the_reader(bytes: Vec<u8>) {
            let _ = ChatRequest::parse(bytes.into());
        }
    }
}
