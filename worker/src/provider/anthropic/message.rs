//! What a message, an event or an error of Anthropic's tells. Read leniently: a field of an unexpected type is as if it were
//! absent.

use serde_json::Value;

use crate::chat::StopReason;
use crate::provider::{ProviderError, TokenUsage, openai};

/// The counts in `usage`, those that it leaves out as they were before: the first event of a stream counts the prompt, the
/// last one the answer.
pub fn usage(told: &Value, before: Option<TokenUsage>) -> Option<TokenUsage> {
    let told = told.as_object()?;
    let mut usage = before.unwrap_or_default();
    let fields = [
        ("input_tokens", &mut usage.prompt),
        ("output_tokens", &mut usage.completion),
        ("cache_creation_input_tokens", &mut usage.cache_creation),
        ("cache_read_input_tokens", &mut usage.cache_read),
    ];
    for (name, count) in fields {
        if let Some(tokens) = told.get(name).and_then(Value::as_u64) {
            *count = u32::try_from(tokens).unwrap_or(u32::MAX);
        }
    }
    Some(usage)
}

/// A text member; empty if there is none.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Why an answer ended. <https://docs.anthropic.com/en/api/handling-stop-reasons>
pub fn stop_reason(word: &str) -> StopReason {
    match word {
        "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
        "stop_sequence" => StopReason::Sequence,
        "tool_use" => StopReason::ToolCalls,
        "refusal" => StopReason::Refusal,
        "pause_turn" => StopReason::Pause,
        _ => StopReason::End,
    }
}

/// The error in a body or an event; `None` if there is none. <https://docs.anthropic.com/en/api/errors>
pub fn error(body: &[u8]) -> Option<ProviderError> {
    let body: Value = serde_json::from_slice(body).ok()?;
    read_error(&body)
}

/// The error in a body or an event that is parsed already.
pub fn read_error(body: &Value) -> Option<ProviderError> {
    let error = body.get("error").filter(|error| !error.is_null())?;
    let kind = text(error, "type");
    let message = text(error, "message");
    if message.is_empty() {
        // Whoever stands in front of the provider tells errors in another way.
        return openai::provider_error(body.to_string().as_bytes());
    }
    let (code, status) = match kind {
        "invalid_request_error" if message.contains("credit balance") => {
            (Some("insufficient_quota"), Some(400))
        }
        "invalid_request_error" => (None, Some(400)),
        "authentication_error" => (Some("invalid_api_key"), Some(401)),
        "billing_error" => (Some("insufficient_quota"), Some(402)),
        "permission_error" => (Some("permission_denied"), Some(403)),
        "not_found_error" => (Some("model_not_found"), Some(404)),
        "request_too_large" => (Some("request_too_large"), Some(413)),
        "rate_limit_error" => (Some("rate_limit_exceeded"), Some(429)),
        "api_error" => (Some("model_error"), Some(500)),
        "timeout_error" => (Some("timeout"), Some(504)),
        "overloaded_error" => (Some("overloaded"), Some(529)),
        _ => (None, None),
    };
    Some(ProviderError {
        message: message.to_owned(),
        code: code.map(str::to_owned),
        param: None,
        status,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_later_count_leaves_out_stays() {
        let first = json!({"input_tokens": 7, "cache_read_input_tokens": 5, "output_tokens": 1});
        let first = usage(&first, None);
        let last = usage(&json!({"output_tokens": 40, "input_tokens": null}), first).unwrap();
        assert_eq!((last.prompt, last.cache_read, last.completion), (7, 5, 40));
        assert_eq!(usage(&json!("nonsense"), None), None);
        let huge = usage(&json!({"output_tokens": 99_999_999_999_u64}), None).unwrap();
        assert_eq!(huge.completion, u32::MAX);
    }

    #[test]
    fn an_error_has_the_code_of_its_type() {
        let read = |kind: &str| {
            let body = json!({"type": "error", "error": {"type": kind, "message": "no"}});
            let error = error(body.to_string().as_bytes()).unwrap();
            assert_eq!(error.message, "no");
            (error.code, error.status)
        };
        assert_eq!(read("rate_limit_error"), (Some("rate_limit_exceeded".into()), Some(429)));
        assert_eq!(read("overloaded_error"), (Some("overloaded".into()), Some(529)));
        assert_eq!(read("invalid_request_error"), (None, Some(400)));
        assert_eq!(read("of_tomorrow"), (None, None));
        assert_eq!(error(br#"{"error":"plain"}"#).unwrap().message, "plain");
        assert_eq!(error(br#"{"error":null}"#), None);
        assert_eq!(error(b"<html>"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_the_reader(bytes: Vec<u8>, text in r#"[\[\]{}",:a-z0-9\\ ]{0,40}"#) {
            let _ = (error(&bytes), error(text.as_bytes()));
        }
    }
}
