//! `api_keys`: callers.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use shared::resource::{ApiKey, JwtBinding, KeyHash, Resource};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::field::{Count32, Object, RateLimit, Text};
use super::{Document, Refusal, parse_failed, read_as};

#[derive(Deserialize)]
#[expect(
    dead_code,
    reason = "what is only checked is about MCP and A2A, which this build does not have"
)]
struct Raw {
    key_hash: Text,
    allowed_models: Vec<String>,
    #[serde(default)]
    disabled: bool,
    display_name: Option<String>,
    expires_at: Option<String>,
    team_id: Option<Text>,
    user_id: Option<Text>,
    user_name: Option<String>,
    rate_limit: Option<Object<RateLimit>>,
    allowed_agents: Option<Vec<String>>,
    allowed_routes: Option<Vec<String>>,
    jwt_provider: Option<Text>,
    jwt_subject: Option<Text>,
    mcp_access: Option<Object<McpAccess>>,
    mcp_rate_limits: Option<BTreeMap<String, Object<McpRateLimit>>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct McpAccess {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be checked, not enforced yet")]
struct McpRateLimit {
    concurrency: Option<Count32>,
    rpd: Option<u64>,
    rph: Option<u64>,
    rpm: Option<u64>,
    rps: Option<u64>,
}

/// The caller key `id`.
pub fn read(id: &str, value: Value) -> Result<Document, Refusal> {
    let (raw, fields) = read_as::<Raw>(value)?;
    let expires_at_unix_ms = raw.expires_at.map(|text| unix_ms(&text)).transpose()?;
    let resource = ApiKey {
        id: id.to_owned(),
        key_hash: key_hash(&raw.key_hash.0),
        display_name: raw.display_name,
        allowed_models: raw.allowed_models,
        disabled: raw.disabled,
        expires_at_unix_ms,
        team_id: raw.team_id.map(|id| id.0),
        user_id: raw.user_id.map(|id| id.0),
        user_name: raw.user_name,
        // A subject that no provider vouches for is nobody's.
        jwt: raw
            .jwt_provider
            .zip(raw.jwt_subject)
            .map(|(provider, subject)| JwtBinding { provider: provider.0, subject: subject.0 }),
        rate_limits: raw.rate_limit.map(|it| it.0.limits()).unwrap_or_default(),
        allowed_routes: raw.allowed_routes.unwrap_or_default(),
    };
    let resource = Some(Resource::ApiKey(resource));
    Ok(Document { resource, name: Some(raw.key_hash.0), fields })
}

fn unix_ms(text: &str) -> Result<i64, Refusal> {
    let refusal = || parse_failed("/expires_at", "expected an RFC 3339 timestamp");
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| refusal())?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).map_err(|_| refusal())
}

/// 64 lower-case hex digits; no key hashes to anything else.
fn key_hash(text: &str) -> Option<KeyHash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect();
    bytes?.try_into().ok()
}
