//! OpenAI's way to tell an error.

use serde::Serialize;
use shared::budget::Denial;

use crate::request::RequestError;

/// The error as OpenAI's clients expect it.
#[derive(Serialize)]
pub struct Envelope<'a> {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Policy<'a>>,
}

/// The policy whose limit is reached.
#[derive(Serialize)]
struct Policy<'a> {
    id: &'a str,
    name: &'a str,
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
            policy: error.policy().map(|(id, name)| Policy { id, name }),
        };
        Self { error }
    }
}
