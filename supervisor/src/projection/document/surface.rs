//! Kinds that belong to parts of the gateway which this build does not serve: MCP, A2A, passthrough routes. They guard and
//! serve nothing but those parts.

use serde_json::{Map, Value};

use super::shape::Rule::{Any, Bool, Choice, Like, List, Object, OrNull};
use super::shape::{
    ANY_TEXT, Field, POSITIVE, Rule, SOME_TEXTS, TEXT, TEXTS, field, has_any, needed,
};
use super::{Refusal, parse_failed, schema_failed};

const SERVER_NAME: Rule = Like("^(?:[^_]|_[^_])*$", "a name without two underscores in a row");
const AGENT_NAME: Rule =
    Like(r"^[^/?#%\s\x00-\x1f\x7f-\u{9f}]+$", "a name that can be a segment of a path");
const HEADER: Rule = Like("^[!#$%&'*+.^_`|~0-9a-z-]+$", "the name of a header in small letters");
/// Headers that a passthrough route may not take for its own ends.
static TAKEN_HEADERS: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
/// First segments of paths that are the gateway's own.
static OWN_SEGMENTS: [&str; 7] = ["v1", "mcp", "a2a", "admin", "livez", "readyz", "metrics"];

/// An MCP server; [`mcp_server_extra`] has what belongs together.
pub static MCP_SERVER: Rule = Object(&[
    needed("url", TEXT),
    field("api_key_header", OrNull(&TEXT)),
    field("auth_type", Choice(&["none", "bearer", "api_key", "oauth2"])),
    field("client_id", OrNull(&ANY_TEXT)),
    field("display_name", SERVER_NAME),
    field("enabled", Bool),
    field("name", SERVER_NAME),
    field("protocol_version", OrNull(&Choice(&["2026-07-28"]))),
    field("scopes", OrNull(&TEXTS)),
    field("secret", OrNull(&ANY_TEXT)),
    field("spec", Any),
    field("timeout_ms", OrNull(&POSITIVE)),
    field("token_url", OrNull(&ANY_TEXT)),
    field("transport", Choice(&["streamable_http"])),
    field("type", Choice(&["mcp", "openapi"])),
]);

/// What an MCP server must have beside what its table says.
pub fn mcp_server_extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    one_name(members)?;
    secret(members)?;
    let is = |name: &str, word: &str| members.get(name).and_then(Value::as_str) == Some(word);
    if is("auth_type", "oauth2") {
        filled(members, "client_id")?;
        filled(members, "token_url")?;
    }
    if !is("type", "openapi") {
        let there = ["api_key_header", "spec"]
            .into_iter()
            .find(|name| members.get(*name).is_some_and(|value| !value.is_null()));
        return there.map_or(Ok(()), |name| {
            Err(schema_failed(&format!("/{name}"), "expected null: the server is no `openapi`"))
        });
    }
    let spec = members.get("spec").and_then(Value::as_object);
    if spec.is_none_or(|spec| spec.contains_key("swagger")) {
        return Err(schema_failed("/spec", "expected an OpenAPI 3 document"));
    }
    if let Some(header) = members.get("api_key_header").and_then(Value::as_str) {
        let in_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&byte);
        if !header.bytes().all(in_token) {
            return Err(schema_failed("/api_key_header", "expected the name of a header"));
        }
        if !is("auth_type", "api_key") {
            return Err(schema_failed("/auth_type", "expected `api_key` beside `api_key_header`"));
        }
    }
    Ok(())
}

/// Which tools of MCP servers a team or everybody may use; [`mcp_policy_extra`] has what belongs together.
pub static MCP_POLICY: Rule = Object(&[
    needed("allow", TEXTS),
    needed("scope", Choice(&["env", "team"])),
    field("deny", TEXTS),
    field("enabled", Bool),
    field("scope_ref", OrNull(&TEXT)),
]);

/// A policy of a team says which.
pub fn mcp_policy_extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    let of_team = members.get("scope").and_then(Value::as_str) == Some("team");
    if of_team { filled(members, "scope_ref") } else { Ok(()) }
}

/// How MCP callers authenticate.
pub static MCP_AUTH_SETTINGS: Rule =
    Object(&[field("anonymous", Object(ANONYMOUS)), field("resource_url", TEXT)]);
static ANONYMOUS: &[Field] = &[
    needed("api_key_id", TEXT),
    needed("servers", SOME_TEXTS),
    needed("source_cidrs", SOME_TEXTS),
    field("aggregate_entry", Bool),
    field("enabled", Bool),
];

/// An agent; [`agent_extra`] has what belongs together.
pub static A2A_AGENT: Rule = Object(&[
    needed("url", TEXT),
    field("auth_type", Choice(&["none", "bearer", "api_key"])),
    field("display_name", AGENT_NAME),
    field("enabled", Bool),
    field("name", AGENT_NAME),
    field("protocol_version", Choice(&["1.0", "0.3"])),
    field("secret", OrNull(&ANY_TEXT)),
    field("timeout_ms", OrNull(&POSITIVE)),
]);

/// What an agent must have beside what its table says.
pub fn agent_extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    one_name(members)?;
    secret(members)
}

/// A route past the gateway's own endpoints; [`route_extra`] has what belongs together.
pub static PASSTHROUGH_ROUTE: Rule = Object(&[
    field("anonymous_key_id", OrNull(&TEXT)),
    field("auth_header_name", HEADER),
    field("auth_mode", Choice(&["gateway_key", "header_key", "anonymous"])),
    field("credential_mode", Choice(&["inject", "forward_client"])),
    field("display_name", TEXT),
    field("enabled", Bool),
    field(
        "hosts",
        List(
            1,
            usize::MAX,
            &Like(
                r"^(\*\.)?([A-Za-z0-9-]+\.)+[A-Za-z0-9-]+$|^[A-Za-z0-9-]+$",
                "a host name, or `*.` and a domain",
            ),
        ),
    ),
    field("identity_header", HEADER),
    field("name", TEXT),
    field("path_prefix", Like("^/", "a path that begins with /")),
    field("preserve_host", Bool),
    field("provider_key_id", OrNull(&TEXT)),
    field("source_cidrs", OrNull(&TEXTS)),
    field("target_url", Like("^https?://", "a URL with http or https")),
    field("timeout_ms", OrNull(&POSITIVE)),
]);

/// What a route must and must not have beside what its table says.
pub fn route_extra(members: &Map<String, Value>) -> Result<(), Refusal> {
    let has = |name: &str| members.contains_key(name);
    let word = |name: &str| members.get(name).and_then(Value::as_str);
    let rule = |holds: bool, pointer: &str, expected: &str| {
        if holds { Ok(()) } else { Err(schema_failed(pointer, expected)) }
    };
    one_name(members)?;
    rule(has("path_prefix") || has("hosts"), "", "expected `path_prefix` or `hosts`")?;
    let own = word("path_prefix").and_then(|path| path.split('/').nth(1));
    let own = own.is_some_and(|segment| OWN_SEGMENTS.contains(&segment));
    rule(has("hosts") || !own, "/path_prefix", "expected a path that is not the gateway's own")?;
    let preserves = members.get("preserve_host") == Some(&Value::Bool(true));
    rule(
        preserves != has("target_url") && (!preserves || has("hosts")),
        "",
        "expected either `target_url`, or `preserve_host` with `hosts`",
    )?;
    for name in ["auth_header_name", "identity_header"] {
        let taken = word(name).is_some_and(|header| TAKEN_HEADERS.contains(&header));
        rule(!taken, &format!("/{name}"), "expected a header that has no meaning of its own")?;
    }
    let mode = word("auth_mode").unwrap_or("gateway_key");
    rule(
        has("auth_header_name") == (mode == "header_key"),
        "",
        "expected `auth_header_name` with `header_key`, and with nothing else",
    )?;
    rule(
        has("anonymous_key_id") == (mode == "anonymous"),
        "",
        "expected `anonymous_key_id` with `anonymous`, and with nothing else",
    )?;
    if mode == "anonymous" {
        filled(members, "anonymous_key_id")?;
        let blocks = members.get("source_cidrs").and_then(Value::as_array);
        let filled = blocks.is_some_and(|blocks| {
            !blocks.is_empty() && blocks.iter().all(|block| block != &Value::from(""))
        });
        rule(filled, "/source_cidrs", "expected at least one block")?;
    }
    if word("credential_mode").unwrap_or("inject") == "inject" {
        return filled(members, "provider_key_id");
    }
    rule(!has("provider_key_id"), "/provider_key_id", "expected none with `forward_client`")
}

/// A name under exactly one of two names for it.
fn one_name(members: &Map<String, Value>) -> Result<(), Refusal> {
    match (members.contains_key("name"), members.contains_key("display_name")) {
        (false, false) => Err(schema_failed("", "expected a field `name`")),
        (true, true) => Err(parse_failed("", "expected either `name` or `display_name`")),
        _ => Ok(()),
    }
}

/// A kind of authentication that needs a secret has one.
fn secret(members: &Map<String, Value>) -> Result<(), Refusal> {
    match members.get("auth_type").and_then(Value::as_str) {
        Some("bearer" | "api_key" | "oauth2") => filled(members, "secret"),
        _ => Ok(()),
    }
}

fn filled(members: &Map<String, Value>, name: &str) -> Result<(), Refusal> {
    match members.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        None if !has_any(members, &[name]) => {
            Err(schema_failed("", &format!("missing field `{name}`")))
        }
        _ => Err(schema_failed(&format!("/{name}"), "expected a string of at least one character")),
    }
}
