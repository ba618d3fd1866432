//! The HTTP request to an OpenAI-compatible provider.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use shared::resource::{Endpoint, ProviderKey};
use shared::version::VERSION;

use crate::request::REQUEST_ID;

/// Why no request can be made for a provider key.
#[derive(Debug, thiserror::Error)]
pub enum RequestBuildError {
    /// The secret has characters that no header has.
    #[error("the provider key's secret cannot be sent in a header")]
    Secret,
    /// The base URL gives no valid target.
    #[error("the provider key's api_base is not usable: {0}")]
    Target(#[from] http::Error),
}

/// `POST <api_base>/chat/completions`. Nothing of the caller's headers is in it.
pub fn chat(
    provider_key: &ProviderKey,
    endpoint: &Endpoint,
    request_id: &HeaderValue,
    is_stream: bool,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, RequestBuildError> {
    let accept = if is_stream { "text/event-stream" } else { "application/json" };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/chat/completions", endpoint.path))
        .header(HOST, endpoint.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, accept)
        // What comes back is read here, and relayed as it came.
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, format!("AISIX/{VERSION}"))
        .header(REQUEST_ID, request_id)
        .body(Full::new(body))?;
    let secret = provider_key.secret.expose();
    // A server of one's own often asks for no key.
    if !secret.is_empty() {
        let mut bearer = HeaderValue::try_from(format!("Bearer {secret}"))
            .map_err(|_| RequestBuildError::Secret)?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    Ok(request)
}
