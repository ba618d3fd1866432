//! The HTTP request to a provider: what all protocols have in common.

use std::fmt::Display;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use shared::secret::Secret;

use super::{Context, overrides};
use crate::request::{REQUEST_ID, RequestError, Target};

/// Headers of a usual request.
const HEADERS_EXPECTED: usize = 12;

/// `POST` of a body to a path below the target's endpoint, changed as its provider key says. Nothing of the caller's headers
/// is in it beside what that passes on.
///
/// # Errors
/// [`RequestError::Unusable`] if endpoint and path make no target.
pub fn post(
    target: &Target,
    context: &Context<'_>,
    path: &str,
    content_type: &str,
    accept: &'static str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, RequestError> {
    let path = [&target.endpoint.path, path].concat();
    post_at(target, context, path, content_type, accept, body)
}

/// The same to a path that is whole already.
///
/// # Errors
/// [`RequestError::Unusable`] if the path makes no target.
pub fn post_at(
    target: &Target,
    context: &Context<'_>,
    path: String,
    content_type: &str,
    accept: &'static str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, RequestError> {
    let body = match content_type {
        "application/json" => overrides::body(&target.provider_key, body),
        _ => body,
    };
    let unusable = |why: &dyn Display| {
        RequestError::Unusable(format!("the provider key's api_base is not usable: {why}"))
    };
    let uri = PathAndQuery::try_from(path).map_err(|error| unusable(&error))?;
    let host = target.place.host.clone();
    let host = host.ok_or_else(|| unusable(&"no header can carry its host"))?;
    let content_type = match content_type {
        "application/json" => HeaderValue::from_static("application/json"),
        other => HeaderValue::try_from(other).map_err(|error| unusable(&error))?,
    };
    // Room for what follows, a credential and what the connection adds.
    let mut headers = HeaderMap::with_capacity(HEADERS_EXPECTED);
    headers.insert(HOST, host);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    // What comes back is read here, and relayed as it came.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, context.proxy.server_name.clone());
    headers.insert(REQUEST_ID, context.request_id.clone());
    overrides::headers(&mut headers, target, context);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(uri);
    *request.headers_mut() = headers;
    Ok(request)
}

/// A text as one segment of a path: nothing in it leads to another one.
pub fn segment(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let is_dots = !text.is_empty() && text.bytes().all(|byte| byte == b'.');
    text.bytes().fold(String::with_capacity(text.len()), |mut path, byte| {
        if is_plain(byte) && !is_dots {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
        path
    })
}

/// What an answer should be.
pub fn accept(is_stream: bool) -> &'static str {
    if is_stream { "text/event-stream" } else { "application/json" }
}

/// Adds `Authorization: Bearer` with the secret; nothing if it is empty: a server of one's own often asks for no key.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if no header can carry it.
pub fn bearer(
    request: &mut Request<Full<Bytes>>,
    secret: &Secret<String>,
) -> Result<(), RequestError> {
    if secret.expose().is_empty() {
        return Ok(());
    }
    let value = Secret::new(format!("Bearer {}", secret.expose()));
    set_secret(request, AUTHORIZATION, &value)
}

/// Adds a header that holds a secret.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if no header can carry it.
pub fn set_secret(
    request: &mut Request<Full<Bytes>>,
    name: HeaderName,
    secret: &Secret<String>,
) -> Result<(), RequestError> {
    let mut value = HeaderValue::try_from(secret.expose().as_str())
        .map_err(|_| RequestError::UnusableCredential)?;
    value.set_sensitive(true);
    request.headers_mut().insert(name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_leads_nowhere_else() {
        assert_eq!(segment("a.b-c_1"), "a.b-c_1");
        assert_eq!(segment("../x?y#z"), "..%2Fx%3Fy%23z");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("v1:0 é"), "v1%3A0%20%C3%A9");
    }
}
