//! The HTTP request to a provider: what all protocols have in common.

use std::cell::RefCell;
use std::fmt::{self, Display};

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use shared::secret::Secret;

use super::{Context, overrides};
use crate::request::{REQUEST_ID, RequestError, Target};
use crate::upstream::{Common, Outgoing};

/// What nearly all requests are.
pub const JSON: &str = "application/json";
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
) -> Result<Request<Bytes>, RequestError> {
    post_to(target, context, [&target.endpoint.path, path], content_type, accept, body)
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
) -> Result<Request<Bytes>, RequestError> {
    post_to(target, context, [path, ""], content_type, accept, body)
}

/// Adds to a request what the target alone decides, such as its credential.
pub type Finish<'a> = dyn Fn(&mut Request<Bytes>) -> Result<(), RequestError> + 'a;

/// The same, finished, to a path in two parts. The head of one with JSON is that of an earlier one, where nothing but the id of the
/// request tells them apart.
///
/// # Errors
/// As [`post`], and those of `finish`.
pub fn post_alike(
    target: &Target,
    context: &Context<'_>,
    path: [&str; 2],
    content_type: &str,
    accept: &'static str,
    body: Bytes,
    finish: &Finish<'_>,
) -> Result<Outgoing, RequestError> {
    let is_alike = target.template.is_kept
        && content_type == JSON
        && !overrides::has_headers(&target.provider_key);
    if is_alike && let Some(common) = target.template.find(path, accept) {
        let own = (REQUEST_ID, context.request_id.clone());
        let body = overrides::body(&target.provider_key, body);
        return Ok(Outgoing::Alike { common, own, body });
    }
    let mut request = post_to(target, context, path, content_type, accept, body)?;
    finish(&mut request)?;
    if is_alike {
        let id = request.headers_mut().remove(REQUEST_ID);
        target.template.keep(path, accept, Outgoing::common(&request));
        request.headers_mut().extend(id.map(|id| (REQUEST_ID, id)));
    }
    Ok(request.into())
}

fn post_to(
    target: &Target,
    context: &Context<'_>,
    path: [&str; 2],
    content_type: &str,
    accept: &'static str,
    body: Bytes,
) -> Result<Request<Bytes>, RequestError> {
    let body =
        if content_type == JSON { overrides::body(&target.provider_key, body) } else { body };
    let (uri, mut headers) = head(target, context, path, content_type, accept)?;
    headers.insert(REQUEST_ID, context.request_id.clone());
    overrides::headers(&mut headers, target, context);
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Where the request goes, and its headers as far as all requests to that target have them.
fn head(
    target: &Target,
    context: &Context<'_>,
    path: [&str; 2],
    content_type: &str,
    accept: &'static str,
) -> Result<(Uri, HeaderMap), RequestError> {
    let unusable = |why: &dyn Display| {
        RequestError::Unusable(format!("the provider key's api_base is not usable: {why}"))
    };
    let path = PathAndQuery::try_from(path.concat()).map_err(|error| unusable(&error))?;
    let host = target.place.host.clone();
    let host = host.ok_or_else(|| unusable(&"no header can carry its host"))?;
    let content_type = HeaderValue::try_from(content_type).map_err(|error| unusable(&error))?;
    // Room for what follows, a credential and what the connection adds.
    let mut headers = HeaderMap::with_capacity(HEADERS_EXPECTED);
    headers.insert(HOST, host);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    // What comes back is read here, and relayed as it came.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, context.proxy.server_name.clone());
    Ok((Uri::from(path), headers))
}

/// What requests to one target have in common: as one was written, so is the next to the same path.
#[derive(Default)]
pub struct Template {
    /// The target is there for more than one request.
    is_kept: bool,
    written: RefCell<Vec<Written>>,
}

struct Written {
    path: String,
    accept: &'static str,
    common: Common,
}

/// Most requests to a target go to one path, with streams to two.
const WRITTEN_MAX: usize = 4;

impl Template {
    /// Of a target that is kept for the requests that follow.
    pub fn kept() -> Self {
        Self { is_kept: true, ..Self::default() }
    }

    fn find(&self, [begin, end]: [&str; 2], accept: &'static str) -> Option<Common> {
        let written = self.written.borrow();
        let mut written = written.iter();
        let same =
            written.find(|it| it.path.strip_prefix(begin) == Some(end) && it.accept == accept)?;
        Some(same.common.clone())
    }

    fn keep(&self, path: [&str; 2], accept: &'static str, common: Common) {
        let mut written = self.written.borrow_mut();
        if written.len() >= WRITTEN_MAX {
            written.clear();
        }
        written.push(Written { path: path.concat(), accept, common });
    }
}

/// It holds a secret.
impl fmt::Debug for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").finish_non_exhaustive()
    }
}

/// A copy of a target is there to be changed.
impl Clone for Template {
    fn clone(&self) -> Self {
        Self::default()
    }
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

/// Adds `Authorization: Bearer` with the secret of the target's provider key; nothing if it is empty: a server of one's own often
/// asks for no key.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if no header can carry it.
pub fn bearer(request: &mut Request<Bytes>, target: &Target) -> Result<(), RequestError> {
    let secret = target.provider_key.secret.expose();
    if secret.is_empty() {
        return Ok(());
    }
    request.headers_mut().insert(AUTHORIZATION, bearer_value(secret)?);
    Ok(())
}

/// The same with a token; nothing if it is empty.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if no header can carry it.
pub fn bearer_token(
    request: &mut Request<Bytes>,
    token: &Secret<String>,
) -> Result<(), RequestError> {
    if !token.expose().is_empty() {
        request.headers_mut().insert(AUTHORIZATION, bearer_value(token.expose())?);
    }
    Ok(())
}

fn bearer_value(token: &str) -> Result<HeaderValue, RequestError> {
    secret_value(&Secret::new(format!("Bearer {token}")))
}

/// Adds a header that holds a secret.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if no header can carry it.
pub fn set_secret(
    request: &mut Request<Bytes>,
    name: HeaderName,
    secret: &Secret<String>,
) -> Result<(), RequestError> {
    request.headers_mut().insert(name, secret_value(secret)?);
    Ok(())
}

fn secret_value(secret: &Secret<String>) -> Result<HeaderValue, RequestError> {
    let mut value = HeaderValue::try_from(secret.expose().as_str())
        .map_err(|_| RequestError::UnusableCredential)?;
    value.set_sensitive(true);
    Ok(value)
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
