//! Anthropic's way to tell an error: the type follows from the status.

use serde::Serialize;

use crate::request::RequestError;

/// The error as Anthropic's clients expect it.
#[derive(Serialize)]
pub struct Envelope {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Inner,
}

#[derive(Serialize)]
struct Inner {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
}

impl From<&RequestError> for Envelope {
    fn from(error: &RequestError) -> Self {
        let inner = Inner { kind: kind(error), message: error.to_string() };
        Self { kind: "error", error: inner }
    }
}

fn kind(error: &RequestError) -> &'static str {
    match error.status().as_u16() {
        400 | 422 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use shared::budget::Denial;

    use super::*;

    fn envelope(error: &RequestError) -> String {
        serde_json::to_string(&Envelope::from(error)).unwrap()
    }

    #[test]
    fn the_type_follows_from_the_status() {
        assert_eq!(
            envelope(&RequestError::UnknownKey),
            r#"{"type":"error","error":{"type":"authentication_error","message":"invalid API key"}}"#
        );
        assert_eq!(kind(&RequestError::NotServed("/v1/messages")), "api_error");
    }

    #[test]
    fn a_denial_of_the_budget_is_only_its_message() {
        let denial = Denial { retry_after_seconds: Some(5), ..Denial::because("spent") };
        assert_eq!(
            envelope(&RequestError::OverBudget(denial.into())),
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"spent"}}"#
        );
    }
}
