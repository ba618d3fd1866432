//! Asks an identity provider for its keys: over a connection that egress makes, to the one place that the destination table
//! has for the provider. Size and time are limited, and redirects are not followed.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderValue, Request};
use serde::Deserialize;
use shared::egress::Key;
use shared::key_set::KEY_SET_BYTES_MAX;
use shared::resource::{KeySource, OidcProvider, UpstreamTls, WebUrl};
use tokio::time::timeout;

use super::jwks::{self, JwksError};
use crate::upstream::{Place, SendError, TransportError, Upstreams};

/// For everything together, discovery included.
const LIMIT: Duration = Duration::from_secs(5);
/// The largest document. Those of large providers, certificates included, have a tenth of it.
const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The provider's document leads nowhere.
    #[error("its document cannot be used: {0}; correct the field")]
    Nowhere(String),
    /// No answer.
    #[error("{url} does not answer: {source}")]
    Send {
        /// What was asked for.
        url: String,
        /// Why.
        source: SendError,
    },
    /// The answer is cut off.
    #[error("{url} stopped in the middle of its answer: {source}")]
    Cut {
        /// What was asked for.
        url: String,
        /// Why.
        source: TransportError,
    },
    /// Not the document itself.
    #[error(
        "{url} answers with status {status}; redirects are not followed, name the final address as jwks_uri"
    )]
    Status {
        /// What was asked for.
        url: String,
        /// The answer's status.
        status: u16,
    },
    /// More than is read.
    #[error(
        "{url} answers with more than {DOCUMENT_BYTES_MAX} bytes, or keys of more than {KEY_SET_BYTES_MAX}"
    )]
    TooLarge {
        /// What was asked for.
        url: String,
    },
    /// It took too long.
    #[error("{0} took longer than {LIMIT:?}")]
    Timeout(String),
    /// What came from there is not a set of keys.
    #[error("{url}: {source}")]
    Keys {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        source: JwksError,
    },
    /// The discovery document cannot be used.
    #[error("{url} {reason}; name the address of the keys as jwks_uri")]
    Discovery {
        /// What was asked for.
        url: String,
        /// Why not.
        reason: &'static str,
    },
}

/// What a discovery document has to say (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Fetches the keys of a provider, reduced to what verifies signatures.
pub async fn keys(
    upstreams: &Rc<Upstreams>,
    provider: &OidcProvider,
) -> Result<Vec<u8>, FetchError> {
    let fetching = unlimited(upstreams, provider);
    let timed_out = |_| FetchError::Timeout(provider.keys.to_string());
    timeout(LIMIT, fetching).await.map_err(timed_out)?
}

async fn unlimited(
    upstreams: &Rc<Upstreams>,
    provider: &OidcProvider,
) -> Result<Vec<u8>, FetchError> {
    let url = match &provider.keys {
        KeySource::Given(url) => url.clone(),
        KeySource::Discovered(url) => {
            let document = get(upstreams, provider, url).await?;
            discovered(provider, url, &document)?
        }
        KeySource::Nowhere(reason) => return Err(FetchError::Nowhere(reason.clone())),
    };
    let document = get(upstreams, provider, &url).await?;
    let failed = |source| FetchError::Keys { url: url.to_string(), source };
    let keys = jwks::reduce(&document).map_err(failed)?;
    if keys.len() > KEY_SET_BYTES_MAX {
        return Err(FetchError::TooLarge { url: url.to_string() });
    }
    Ok(keys)
}

/// Where the keys are. Only on the issuer's own scheme, host and port: it is what the destination table knows, and a document
/// must not lead the gateway anywhere else.
fn discovered(
    provider: &OidcProvider,
    url: &WebUrl,
    document: &[u8],
) -> Result<WebUrl, FetchError> {
    let failed = |reason| FetchError::Discovery { url: url.to_string(), reason };
    let found: Discovery = serde_json::from_slice(document)
        .map_err(|_| failed("is no discovery document with issuer and jwks_uri"))?;
    if found.issuer != provider.issuer {
        return Err(failed("is of another issuer"));
    }
    let keys: WebUrl = found.jwks_uri.parse().map_err(|_| failed("has no usable jwks_uri"))?;
    if keys.endpoint == url.endpoint {
        Ok(keys)
    } else {
        Err(failed("has a jwks_uri on another host than the issuer's, which is not followed"))
    }
}

async fn get(
    upstreams: &Rc<Upstreams>,
    provider: &OidcProvider,
    url: &WebUrl,
) -> Result<Bytes, FetchError> {
    let place = Place::new(Key::keys(&provider.id), url.endpoint.clone(), UpstreamTls::default());
    let mut request = Request::new(Bytes::new());
    // Both were looked at when the address was read.
    *request.uri_mut() = url.target.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.extend(place.host.clone().map(|host| (HOST, host)));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static("aisix"));
    let answer = upstreams.send(&Rc::new(place), &mut request.into()).await;
    let mut answer = answer.map_err(|source| FetchError::Send { url: url.to_string(), source })?;
    if answer.head.status != 200 {
        let status = answer.head.status.as_u16();
        return Err(FetchError::Status { url: url.to_string(), status });
    }
    let too_large = || FetchError::TooLarge { url: url.to_string() };
    let headers = answer.head.headers();
    let length = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    if length.and_then(|it| it.parse::<usize>().ok()).is_some_and(|it| it > DOCUMENT_BYTES_MAX) {
        return Err(too_large());
    }
    let mut document = BytesMut::new();
    while let Some(chunk) = answer.body.chunk().await {
        let chunk = chunk.map_err(|source| FetchError::Cut { url: url.to_string(), source })?;
        if document.len() + chunk.len() > DOCUMENT_BYTES_MAX {
            return Err(too_large());
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document.freeze())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn discovery_leads_only_to_the_issuers_own_place_and_only_from_its_own_document() {
        let issuer = "https://id.example.com/realm";
        let keys = KeySource::of(issuer, None);
        let KeySource::Discovered(url) = keys.clone() else { panic!("{keys}") };
        let provider = OidcProvider { issuer: issuer.to_owned(), keys, ..Default::default() };
        let found = |issuer: &str, uri: &str| {
            let document = json!({"issuer": issuer, "jwks_uri": uri, "scopes_supported": []});
            discovered(&provider, &url, document.to_string().as_bytes())
                .map(|url| url.to_string())
                .map_err(|error| error.to_string())
        };
        let keys = "https://id.example.com/realm/keys?v=2";
        assert_eq!(found(issuer, keys).unwrap(), keys);
        assert!(
            found("https://id.example.com/realm/", keys).unwrap_err().contains("another issuer")
        );
        for elsewhere in [
            "https://keys.example.com/keys",
            "http://id.example.com/keys",
            "https://id.example.com:8443/keys",
            "https://169.254.169.254/keys",
        ] {
            assert!(found(issuer, elsewhere).unwrap_err().contains("another host"), "{elsewhere}");
        }
        assert!(found(issuer, "/keys").unwrap_err().contains("no usable jwks_uri"));
        assert!(discovered(&provider, &url, b"<html>").is_err());
    }
}
