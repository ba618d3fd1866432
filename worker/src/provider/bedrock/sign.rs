//! AWS's signature of a request (version 4), by AWS's own crate.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign as signed};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, Request};
use shared::resource::Endpoint;
use shared::secret::Secret;

use super::credential::Keys;
use crate::provider::outgoing;
use crate::request::RequestError;

/// What the service is called in signatures.
const SERVICE: &str = "bedrock";

/// Signs the request; `now` is part of the signature.
///
/// # Errors
/// [`RequestError::UnusableCredential`] if these keys cannot sign it.
pub fn sign(
    request: &mut Request<Bytes>,
    keys: &Keys,
    endpoint: &Endpoint,
    now: SystemTime,
) -> Result<(), RequestError> {
    let unusable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "a request to Bedrock cannot be signed");
        RequestError::UnusableCredential
    };
    let token = keys.session_token.as_ref().map(|token| token.expose().clone());
    let secret = keys.secret_access_key.expose().clone();
    let identity =
        Credentials::new(keys.access_key_id.clone(), secret, token, None, "provider key").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(keys.region(endpoint))
        .name(SERVICE)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| unusable(&error))?
        .into();
    let scheme = if endpoint.tls { "https" } else { "http" };
    let uri = format!("{scheme}://{}{}", endpoint.authority(), request.uri());
    // What a proxy on the way may change or add is not signed.
    let headers: Vec<_> = [HOST, CONTENT_TYPE]
        .into_iter()
        .filter_map(|name| {
            let value = request.headers().get(&name)?.to_str().ok()?.to_owned();
            Some((name, value))
        })
        .collect();
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = request.body().clone();
    let signable = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(&body))
        .map_err(|error| unusable(&error))?;
    let (instructions, _) =
        signed(signable, &parameters).map_err(|error| unusable(&error))?.into_parts();
    for (name, value) in instructions.headers() {
        let name = HeaderName::try_from(name).map_err(|error| unusable(&error))?;
        outgoing::set_secret(request, name, &Secret::new(value.to_owned()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::provider::bedrock::credential::Credential;

    fn signature(secret: &str, path: &str) -> (String, Request<Bytes>) {
        let endpoint =
            "https://bedrock-runtime.us-east-1.amazonaws.com".parse::<Endpoint>().unwrap();
        let mut request = Request::post(path)
            .header(HOST, endpoint.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from_static(b"{}"))
            .unwrap();
        let Ok(Credential::Keys(keys)) = Credential::read(&Secret::new(secret.to_owned())) else {
            panic!("not keys")
        };
        // 2015-08-30T12:36:00Z
        let now = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        sign(&mut request, &keys, &endpoint, now).unwrap();
        let value = request.headers()["authorization"].to_str().unwrap().to_owned();
        (value, request)
    }

    #[test]
    fn a_signature_names_key_day_region_and_headers_and_the_secret_is_nowhere() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let (value, request) =
            signature(&format!("AKIDEXAMPLE:{secret}:tok"), "/model/a%3A0/converse");
        let scope = "Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request";
        assert!(value.starts_with(&format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=")), "{value}");
        assert!(value.contains("content-type;host;x-amz-date;x-amz-security-token"), "{value}");
        assert_eq!(request.headers()["x-amz-date"], "20150830T123600Z");
        assert_eq!(request.headers()["x-amz-security-token"], "tok");
        assert!(request.headers()["authorization"].is_sensitive());
        assert!(!value.contains(secret));
        let (other, _) = signature(&format!("AKIDEXAMPLE:{secret}:tok"), "/model/b/converse");
        assert_ne!(value, other);
    }
}
