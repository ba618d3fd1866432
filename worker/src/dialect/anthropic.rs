//! Anthropic's way to tell an error: the type follows from the status.

use serde_json::{Value, json};

use crate::request::RequestError;

/// The error as Anthropic's clients expect it.
pub(super) fn envelope(error: &RequestError) -> Value {
    let kind = match error.status().as_u16() {
        400 | 422 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": error.to_string()}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_follows_from_the_status() {
        assert_eq!(
            envelope(&RequestError::UnknownKey).to_string(),
            r#"{"error":{"message":"invalid API key","type":"authentication_error"},"type":"error"}"#
        );
        let not_served = RequestError::NotServed("/v1/messages");
        assert_eq!(envelope(&not_served)["error"]["type"], "api_error");
    }
}
