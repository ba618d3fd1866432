//! Which headers of a caller reach the upstream of a passthrough route, and which of its headers the caller.
//!
//! Everything goes through but what concerns one connection only, what is between the caller and the gateway (credential,
//! ids, traces, who forwarded), and what the provider key says.

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use shared::resource::{Adapter, PassthroughRoute, ProviderKey, RouteAuth};

use crate::request::{REQUEST_ID, RequestError};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What Anthropic asks for beside the key (https://docs.anthropic.com/en/api/versioning).
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// What concerns one connection only (RFC 9110, 7.6.1).
const OF_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What is between the caller and the gateway.
const OF_GATEWAY: [&str; 9] = [
    "traceparent",
    "tracestate",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "via",
];

/// Everything of the gateway's own begins so.
const OWN: &str = "x-aisix-";

/// Headers for the upstream. `of_settings`: those in which the settings let callers name addresses and requests.
pub fn to_upstream<'a>(
    headers: &HeaderMap,
    route: &PassthroughRoute,
    injected: Option<&ProviderKey>,
    of_settings: impl Iterator<Item = &'a str>,
) -> HeaderMap {
    let mut out = passed_on(headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT] {
        out.remove(name);
    }
    for name in OF_GATEWAY.into_iter().chain(of_settings) {
        out.remove(name);
    }
    match &route.auth {
        // The one that was read; the other may be for the upstream.
        RouteAuth::GatewayKey if headers.contains_key(AUTHORIZATION) => out.remove(AUTHORIZATION),
        RouteAuth::GatewayKey => out.remove(API_KEY),
        RouteAuth::Header(name) => out.remove(name.as_str()),
        RouteAuth::Anonymous(_) => None,
    };
    if let Some(name) = &route.identity_header {
        out.remove(name.as_str());
    }
    if let Some(provider_key) = injected {
        for name in [AUTHORIZATION, API_KEY, COOKIE] {
            out.remove(name);
        }
        for name in &provider_key.strip_headers {
            out.remove(name.as_str());
        }
    }
    // A client library would undo a compression that nobody has asked for.
    if !out.contains_key(ACCEPT_ENCODING) {
        out.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    out
}

/// Adds the provider key's secret, as its provider expects it.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if no header can carry it.
pub fn inject(headers: &mut HeaderMap, provider_key: &ProviderKey) -> Result<(), RequestError> {
    let secret = provider_key.secret.expose();
    let is_anthropic = match provider_key.adapter {
        Some(adapter) => adapter == Adapter::Anthropic,
        None => provider_key.provider == "anthropic",
    };
    let (name, value) = if is_anthropic {
        if !headers.contains_key(ANTHROPIC_VERSION) {
            headers.insert(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
        }
        (API_KEY, HeaderValue::try_from(secret.as_str()))
    } else {
        (AUTHORIZATION, HeaderValue::try_from(format!("Bearer {secret}")))
    };
    let mut value = value.map_err(|_| RequestError::UnusableCredential)?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// Headers for the caller.
pub fn to_caller(headers: &HeaderMap) -> HeaderMap {
    passed_on(headers)
}

/// All but those of a connection, those that `Connection` names, and the gateway's own.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    // RFC 9112 (6.3): it counts for nothing beside a coding, which is the connection's.
    let is_coded = headers.contains_key(TRANSFER_ENCODING);
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let is_kept = !OF_CONNECTION.contains(name)
            && !name.as_str().starts_with(OWN)
            && *name != REQUEST_ID
            && (!is_coded || *name != CONTENT_LENGTH)
            && !named.iter().any(|other| other == name.as_str());
        if is_kept {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn route(auth: RouteAuth) -> PassthroughRoute {
        PassthroughRoute {
            id: "r".to_owned(),
            name: "r".to_owned(),
            path_prefix: None,
            hosts: Vec::new(),
            target: None,
            auth,
            provider_key_id: None,
            identity_header: Some("x-user".to_owned()),
            source_cidrs: Vec::new(),
            timeout_ms: None,
        }
    }

    #[test]
    fn nothing_between_caller_and_gateway_and_nothing_of_a_connection_goes_on() {
        let headers = map(&[
            ("authorization", "Bearer sk-demo"),
            ("x-api-key", "own"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "gateway"),
            ("x-aisix-anything", "1"),
            ("x-user", "me"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-client-ip", "10.0.0.1"),
            ("traceparent", "00"),
            ("accept-encoding", "gzip"),
            ("x-kept", "1"),
        ]);
        let route = route(RouteAuth::GatewayKey);
        let out = to_upstream(&headers, &route, None, ["x-client-ip"].into_iter());
        assert_eq!(names(&out), ["accept-encoding", "x-api-key", "x-kept"]);
        assert_eq!(out.get("accept-encoding").unwrap(), "gzip");
    }

    #[test]
    fn a_secret_takes_the_place_of_whatever_credential_the_caller_has_sent() {
        let headers = map(&[
            ("authorization", "Bearer own"),
            ("x-key", "sk-demo"),
            ("cookie", "a=b"),
            ("x-strip", "1"),
        ]);
        let route = route(RouteAuth::Header("x-key".to_owned()));
        let forwarded = to_upstream(&headers, &route, None, [].into_iter());
        assert_eq!(names(&forwarded), ["accept-encoding", "authorization", "cookie", "x-strip"]);
        let mut provider_key = ProviderKey {
            secret: "sk-upstream".to_owned().into(),
            strip_headers: vec!["x-strip".to_owned()],
            ..ProviderKey::default()
        };
        let mut out = to_upstream(&headers, &route, Some(&provider_key), [].into_iter());
        assert_eq!(names(&out), ["accept-encoding"]);
        inject(&mut out, &provider_key).unwrap();
        assert_eq!(out.get("authorization").unwrap(), "Bearer sk-upstream");
        provider_key.adapter = Some(Adapter::Anthropic);
        let mut out = HeaderMap::new();
        inject(&mut out, &provider_key).unwrap();
        assert_eq!(names(&out), ["anthropic-version", "x-api-key"]);
    }
}
