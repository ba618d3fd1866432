//! Azure OpenAI: OpenAI's dialect behind paths, a credential and a version of its own.
//!
//! The model's name is the name of the deployment. As documented at
//! <https://learn.microsoft.com/azure/ai-foundry/openai/reference>.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, Request, Uri};

use crate::call::{Call, Operation};
use crate::provider::{Context, Exchange, openai, outgoing};
use crate::request::{RequestError, Target};

const API_KEY: HeaderName = HeaderName::from_static("api-key");
/// The latest version of the API of deployments that is settled; the API at `/openai/v1` needs none.
const API_VERSION: &str = "2024-10-21";

/// The exchange with the provider.
///
/// # Errors
/// As [`crate::provider::exchange`].
pub fn exchange(
    call: &Call,
    target: &Target,
    context: &Context<'_>,
) -> Result<Exchange, RequestError> {
    let (path, is_versioned) = base(&target.endpoint.path, &target.upstream_model, call.operation)?;
    let finish = |request: &mut Request<Bytes>| {
        if is_versioned {
            let uri = format!("{}?api-version={API_VERSION}", request.uri());
            *request.uri_mut() = uri.parse::<Uri>().map_err(|error| {
                let reason = "the provider key's api_base is not usable";
                RequestError::Unusable(format!("{reason}: {error}"))
            })?;
        }
        if target.provider_key.secret.expose().is_empty() {
            return Ok(());
        }
        outgoing::set_secret(request, API_KEY, &target.provider_key.secret)
    };
    openai::exchange_at(call, target, context, &path, &finish)
}

/// The path below which OpenAI's own paths are, and whether the version must be named.
fn base(
    configured: &str,
    deployment: &str,
    operation: Operation,
) -> Result<(String, bool), RequestError> {
    if configured.ends_with("/v1") {
        return Ok((configured.to_owned(), false));
    }
    if configured.contains("/deployments/") {
        return Ok((configured.to_owned(), true));
    }
    let root = configured.strip_suffix("/openai").unwrap_or(configured);
    if operation == Operation::Responses {
        // It is not among those of a deployment.
        return Ok((format!("{root}/openai/v1"), false));
    }
    if deployment.is_empty() || deployment.bytes().all(|byte| byte == b'.') {
        return Err(RequestError::Unusable(format!(
            "'{deployment}' cannot be the name of a deployment"
        )));
    }
    Ok((format!("{root}/openai/deployments/{}", encoded(deployment)), true))
}

/// The name as one segment of a path: it may be a caller's.
fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(configured: &str, deployment: &str) -> Result<(String, bool), String> {
        base(configured, deployment, Operation::ChatCompletions).map_err(|error| error.to_string())
    }

    #[test]
    fn the_path_names_the_deployment_however_much_of_it_is_configured() {
        let there = Ok(("/openai/deployments/gpt-4o".to_owned(), true));
        assert_eq!(chat("", "gpt-4o"), there);
        assert_eq!(chat("/openai", "gpt-4o"), there);
        assert_eq!(chat("/openai/deployments/gpt-4o", "another"), there);
        assert_eq!(chat("/openai/v1", "gpt-4o"), Ok(("/openai/v1".to_owned(), false)));
        let responses = base("", "gpt-4o", Operation::Responses).unwrap();
        assert_eq!(responses, ("/openai/v1".to_owned(), false));
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(chat("", "a/../b?c").unwrap().0, "/openai/deployments/a%2F..%2Fb%3Fc");
        for name in ["", ".", ".."] {
            assert!(chat("", name).is_err(), "{name}");
        }
    }
}
