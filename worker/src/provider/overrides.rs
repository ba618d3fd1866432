//! How the operator changes requests on their way to one provider. Where nothing is configured nothing is looked at.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use shared::resource::{ProviderKey, RequestOverrides};

use super::Context;
use crate::json::JsonBody;
use crate::request::Target;

/// Headers that no override sets or passes on: they are the gateway's, the connection's, or carry a credential.
const RESERVED: [&str; 22] = [
    "accept-encoding",
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-api-key",
    "x-goog-api-key",
];
const RESERVED_PREFIXES: [&str; 4] = ["x-aisix-", "x-amz-", "x-forwarded-", "sec-websocket-"];

/// The body of a request, changed as the provider key says; as it is if it is no JSON object.
pub fn body(provider_key: &ProviderKey, bytes: Bytes) -> Bytes {
    let request = &provider_key.request;
    let flattens = provider_key.response.content_list_to_string;
    let is_changed = !request.default_body_fields.is_empty()
        || !request.param_renames.is_empty()
        || request.temperature != (None, None);
    if !is_changed && !flattens {
        return bytes;
    }
    let Ok(body) = JsonBody::parse(bytes.clone()) else { return bytes };
    let mut edit = body.edit();
    for (name, value) in &request.default_body_fields {
        if body.get(name).is_none() {
            edit.set(name, value.clone());
        }
    }
    if let Some(temperature) = clamped(&body, request) {
        edit.set("temperature", temperature);
    }
    if flattens && let Some(messages) = body.get("messages").and_then(flat) {
        edit.set("messages", messages);
    }
    for (from, to) in &request.param_renames {
        edit.rename(from, to);
    }
    edit.finish()
}

/// Another temperature, where the caller's is not within the bounds.
fn clamped(body: &JsonBody, request: &RequestOverrides) -> Option<String> {
    let (min, max) = request.temperature;
    let asked: f64 = serde_json::from_str(body.get("temperature")?).ok()?;
    let least = asked.max(min.unwrap_or(f64::NEG_INFINITY));
    let given = least.min(max.unwrap_or(f64::INFINITY));
    ((given - asked).abs() > 0.0).then(|| Value::from(given).to_string())
}

/// The messages with lists of texts as one text each; `None` if there are none.
fn flat(messages: &str) -> Option<String> {
    let mut messages: Vec<Value> = serde_json::from_str(messages).ok()?;
    let mut is_changed = false;
    for message in &mut messages {
        let Some(Value::Array(parts)) = message.get("content") else { continue };
        let texts: Option<Vec<&str>> = parts
            .iter()
            .map(|part| match part.get("type").and_then(Value::as_str) {
                Some("text") => part.get("text")?.as_str(),
                _ => None,
            })
            .collect();
        if let Some(texts) = texts {
            let text = Value::from(texts.join("\n"));
            if let Some(content) = message.get_mut("content") {
                *content = text;
                is_changed = true;
            }
        }
    }
    is_changed.then(|| Value::from(messages).to_string())
}

/// Whether headers of a request depend on its caller or are the operator's.
pub fn has_headers(provider_key: &ProviderKey) -> bool {
    let RequestOverrides { forward_client_headers, default_headers, .. } = &provider_key.request;
    !forward_client_headers.is_empty() || !default_headers.is_empty()
}

/// Adds the caller's headers that are passed on, and then those that the operator adds, each where there is none yet.
pub fn headers(out: &mut HeaderMap, target: &Target, context: &Context<'_>) {
    let request = &target.provider_key.request;
    if !request.forward_client_headers.is_empty() {
        for (name, value) in context.headers {
            let is_passed = request.forward_client_headers.iter().any(|glob| fits(glob, name));
            if is_passed && !is_reserved(name) && !is_of_connection(context.headers, name) {
                // One that the gateway sets itself, such as its name, gives way.
                out.insert(name.clone(), value.clone());
            }
        }
    }
    for (name, template) in &request.default_headers {
        let Ok(name) = HeaderName::try_from(name.as_str()) else { continue };
        let Some(value) = filled(template, |variable| fact(variable, target, context)) else {
            continue;
        };
        // Something that no header can carry is left out, like what is not known.
        if let (false, false, Ok(value)) =
            (is_reserved(&name), is_sent(out, context, &name), HeaderValue::try_from(value))
        {
            out.insert(name, value);
        }
    }
}

/// Whether a header is there already: our own `User-Agent` and `Accept` give way to the operator's.
fn is_sent(out: &HeaderMap, context: &Context<'_>, name: &HeaderName) -> bool {
    let is_default = *name == http::header::USER_AGENT || *name == http::header::ACCEPT;
    match out.get(name) {
        None => false,
        Some(value) => !is_default || context.headers.get(name) == Some(value),
    }
}

fn is_reserved(name: &HeaderName) -> bool {
    RESERVED.contains(&name.as_str())
        || RESERVED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
        || matches!(name.as_str(), "traceparent" | "tracestate" | "x-real-ip")
}

fn is_of_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    let named = headers.get_all(http::header::CONNECTION).iter();
    named
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|other| other.trim().eq_ignore_ascii_case(name.as_str())))
}

/// Whether a glob with at most one `*` fits; both are in lower case.
fn fits(glob: &str, name: &HeaderName) -> bool {
    let name = name.as_str();
    match glob.split_once('*') {
        None => glob == name,
        Some((_, tail)) if tail.contains('*') => false,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| rest.ends_with(tail)),
    }
}

/// The template with its variables, `${…}`, replaced; `None` if one of them is not known.
fn filled(template: &str, fact: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}')?;
        out.push_str(before);
        out.push_str(&fact(variable.trim())?);
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

/// A fact of the request, where it is known and not empty.
fn fact(variable: &str, target: &Target, context: &Context<'_>) -> Option<String> {
    let caller = context.caller;
    let of_caller = |name: &str| match name {
        "id" => caller.map(|key| key.id.clone()),
        "name" | "display_name" => caller?.display_name.clone(),
        "team_id" => caller?.team_id.clone(),
        "user_id" => caller?.user_id.clone(),
        "user_name" => caller?.user_name.clone(),
        _ => None,
    };
    let value = match variable.strip_prefix("request.")? {
        "id" => context.request_id.to_str().ok().map(str::to_owned),
        "client_ip" | "source_ip" => Some(context.client_ip.to_string()),
        "model" => Some(target.model.display_name.clone()),
        "upstream_model" => Some(target.upstream_model.clone()),
        "provider" => Some(target.provider.clone()),
        name => of_caller(name.strip_prefix("api_key.")?),
    };
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn changed(edit: impl FnOnce(&mut ProviderKey), text: &str) -> String {
        let mut provider_key = ProviderKey::default();
        edit(&mut provider_key);
        let bytes = body(&provider_key, Bytes::copy_from_slice(text.as_bytes()));
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn only_what_is_configured_changes() {
        let text = r#"{ "model":"m", "temperature": 1.5, "max_tokens":3}"#;
        assert_eq!(changed(|_| {}, text), text);
        let defaults = |key: &mut ProviderKey| {
            key.request.default_body_fields =
                vec![("model".into(), "\"x\"".into()), ("safe".into(), "[1]".into())];
        };
        assert_eq!(changed(defaults, text), text.replacen('{', r#"{"safe":[1],"#, 1));
        let clamp = |key: &mut ProviderKey| key.request.temperature = (Some(0.1), Some(1.0));
        assert_eq!(changed(clamp, text), text.replace("1.5", "1.0"));
        assert_eq!(changed(clamp, r#"{"temperature":0}"#), r#"{"temperature":0.1}"#);
        assert_eq!(changed(clamp, r#"{"temperature":0.5}"#), r#"{"temperature":0.5}"#);
        assert_eq!(changed(clamp, r#"{"temperature":null}"#), r#"{"temperature":null}"#);
        let rename = |key: &mut ProviderKey| {
            key.request.param_renames = vec![("max_tokens".into(), "max_new_tokens".into())];
        };
        assert_eq!(changed(rename, text), text.replace("max_tokens", "max_new_tokens"));
        assert_eq!(changed(rename, "no JSON"), "no JSON");
    }

    #[test]
    fn lists_of_texts_become_one_text_where_nothing_else_is_in_them() {
        let flatten = |key: &mut ProviderKey| key.response.content_list_to_string = true;
        let texts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}"#;
        let expected = r#"{"messages":[{"content":"a\nb","role":"user"}]}"#;
        assert_eq!(changed(flatten, texts), expected);
        let other = r#"{"messages":[{"content":[{"type":"image_url","image_url":{}}]}]}"#;
        assert_eq!(changed(flatten, other), other);
    }

    #[test]
    fn a_template_is_filled_or_left_out_as_a_whole() {
        let fact = |name: &str| (name == "request.api_key.team_id").then(|| "t-1".to_owned());
        let filled = |template: &str| filled(template, fact);
        assert_eq!(filled("plain").as_deref(), Some("plain"));
        assert_eq!(filled("a-${request.api_key.team_id}-b").as_deref(), Some("a-t-1-b"));
        assert_eq!(filled("${request.api_key.user_id}"), None);
        assert_eq!(filled("${unclosed"), None);
    }

    #[test]
    fn no_credential_and_nothing_of_the_gateway_s_is_passed_on() {
        for name in ["authorization", "x-api-key", "cookie", "x-aisix-model", "host", "traceparent"]
        {
            assert!(is_reserved(&HeaderName::from_static(name)), "{name}");
        }
        let name = HeaderName::from_static("x-trace-a");
        assert!(fits("x-trace-*", &name) && fits("*", &name) && fits("x-trace-a", &name));
        assert!(!fits("x-*-*", &name) && !fits("x-trace", &name));
    }

    proptest! {
        #[test]
        fn no_template_and_no_body_can_panic_it(template: String, text in r#"[\[\]{}",:a-z0-9 ]{0,40}"#) {
            let _ = filled(&template, |_| Some(String::new()));
            let edit = |key: &mut ProviderKey| {
                key.response.content_list_to_string = true;
                key.request.temperature = (Some(0.0), None);
                key.request.param_renames = vec![("a".into(), "b".into())];
            };
            let _ = changed(edit, &text);
        }
    }
}
