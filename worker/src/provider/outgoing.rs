//! The HTTP request to a provider: what all protocols have in common.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use shared::secret::Secret;
use shared::version::VERSION;

use super::{Context, overrides};
use crate::request::{REQUEST_ID, RequestError, Target};

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
    let path = format!("{}{path}", target.endpoint.path);
    post_at(target, context, &path, content_type, accept, body)
}

/// The same to a path that is whole already.
///
/// # Errors
/// [`RequestError::Unusable`] if the path makes no target.
pub fn post_at(
    target: &Target,
    context: &Context<'_>,
    path: &str,
    content_type: &str,
    accept: &'static str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, RequestError> {
    let body = match content_type {
        "application/json" => overrides::body(&target.provider_key, body),
        _ => body,
    };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, target.endpoint.authority())
        .header(CONTENT_TYPE, content_type)
        .header(ACCEPT, accept)
        // What comes back is read here, and relayed as it came.
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, format!("AISIX/{VERSION}"))
        .header(REQUEST_ID, context.request_id)
        .body(Full::new(body))
        .map_err(|error| {
            RequestError::Unusable(format!("the provider key's api_base is not usable: {error}"))
        })?;
    overrides::headers(request.headers_mut(), target, context);
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
