//! A provider key: where a provider is reached, and the secret it asks for.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

use crate::secret::Secret;

/// How to reach one provider.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct ProviderKey {
    /// Resource id; also the name under which a worker asks for a connection.
    pub id: String,
    /// Label of the key.
    pub display_name: String,
    /// Vendor, such as `openai` or `deepseek`; may be empty.
    pub provider: String,
    /// Protocol family, where the vendor does not tell.
    pub adapter: Option<Adapter>,
    /// What the provider asks for.
    pub secret: Secret<String>,
    /// Where the provider is; `None` if the document names none and the vendor's own is not known.
    pub endpoint: Option<Endpoint>,
    /// Where tokens for it are handed out, if its secret is the key of an account that asks for them.
    pub token_endpoint: Option<Endpoint>,
    /// Trust of this endpoint beyond the gateway's own.
    pub tls: UpstreamTls,
    /// How usage of this key is labelled.
    pub telemetry_tags: TelemetryTags,
    /// How requests are changed on their way out.
    pub request: RequestOverrides,
    /// What is unusual about its answers.
    pub response: ResponseOverrides,
    /// Headers of the caller that a passthrough route does not pass on, in lower case.
    pub strip_headers: Vec<String>,
}

/// How requests are changed on their way to one provider. Values of JSON are written as text.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct RequestOverrides {
    /// Members of the body that are added where the caller has none of that name: name, value as JSON.
    pub default_body_fields: Vec<(String, String)>,
    /// Headers that are added where the caller has sent none of that name; `${…}` stands for a fact of the request.
    pub default_headers: Vec<(String, String)>,
    /// Globs of the caller's headers that are passed on, in lower case.
    pub forward_client_headers: Vec<String>,
    /// Members of the body that get another name: from, to.
    pub param_renames: Vec<(String, String)>,
    /// Least and greatest temperature.
    pub temperature: (Option<f64>, Option<f64>),
}

/// What is unusual about the requests and answers of one provider.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct ResponseOverrides {
    /// Lists of texts in messages are sent as one text.
    pub content_list_to_string: bool,
    /// Where the reasoning is in an answer, such as `delta.reasoning`.
    pub reasoning_field: Option<String>,
    /// `[DONE]` must end a stream.
    pub requires_done: bool,
}

/// Protocol family of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Adapter {
    /// OpenAI, and what is compatible with it.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// AWS Bedrock.
    Bedrock,
    /// Google Vertex AI.
    Vertex,
    /// Azure OpenAI.
    AzureOpenAi,
}

/// Trust settings of one endpoint.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct UpstreamTls {
    /// PEM certificates trusted as issuers beside the gateway's own.
    pub ca_pem: Option<String>,
    /// `false` accepts any certificate.
    pub verify: bool,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { ca_pem: None, verify: true }
    }
}

/// Labels that usage of a key carries to the Cloud.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct TelemetryTags {
    /// `catalog` or `byo`.
    pub kind: Option<String>,
    /// Shown in the featured list.
    pub featured: bool,
    /// Vendor slug of a catalog entry.
    pub branded_provider: Option<String>,
    /// The operator's label of the key.
    pub pk_label: Option<String>,
    /// The operator's label of a provider of their own.
    pub byo_label: Option<String>,
}

/// Base URL of a provider, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Endpoint {
    /// Whether the connection is TLS (`https`).
    pub tls: bool,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path below which the provider's routes are: empty, or with a leading and without a trailing slash.
    pub path: String,
}

/// The text is not a base URL of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `http://` nor `https://`.
    #[error("must begin with http:// or https://")]
    Scheme,
    /// No host, or one with characters that no host has.
    #[error("has no valid host")]
    Host,
    /// Not a port number.
    #[error("has an invalid port")]
    Port,
    /// Credentials, a query or a fragment.
    #[error("must not hold credentials, a query or a fragment")]
    Extra,
    /// White space or a control character in the path.
    #[error("has an invalid character in its path")]
    Path,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(EndpointError::Scheme),
        };
        if rest.contains(['?', '#', '@']) {
            return Err(EndpointError::Extra);
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if path.chars().any(|c| c.is_ascii_control() || c.is_whitespace() || !c.is_ascii()) {
            return Err(EndpointError::Path);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(port) => port.parse().map_err(|_| EndpointError::Port)?,
            None if tls => 443,
            None => 80,
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(EndpointError::Host);
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { tls, host: host.to_owned(), port, path })
    }
}

/// Host without brackets, and the port if there is one.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), EndpointError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(EndpointError::Host)?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err(EndpointError::Host),
        };
        return match host.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok((host, port)),
            Err(_) => Err(EndpointError::Host),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(EndpointError::Host),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

impl Endpoint {
    /// `host:port` as a `Host` header carries it: brackets around IPv6, no port where it is the scheme's own.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(url: &str) -> String {
        url.parse::<Endpoint>().unwrap().to_string()
    }

    #[test]
    fn a_base_url_is_taken_apart() {
        let endpoint: Endpoint = "https://api.openai.com/v1/".parse().unwrap();
        assert_eq!((endpoint.tls, endpoint.port), (true, 443));
        assert_eq!((endpoint.host.as_str(), endpoint.path.as_str()), ("api.openai.com", "/v1"));
        assert_eq!(parsed("http://127.0.0.1:8080"), "http://127.0.0.1:8080");
        assert_eq!(parsed("HTTP://host:80/"), "http://host");
        assert_eq!(parsed("https://[2001:db8::1]:8443/a/b"), "https://[2001:db8::1]:8443/a/b");
    }

    #[test]
    fn what_is_not_a_base_url_is_refused_with_the_reason() {
        let error = |url: &str| url.parse::<Endpoint>().unwrap_err();
        assert_eq!(error("api.openai.com"), EndpointError::Scheme);
        assert_eq!(error("ftp://host"), EndpointError::Scheme);
        assert_eq!(error("https://"), EndpointError::Host);
        assert_eq!(error("https://ho st/"), EndpointError::Host);
        assert_eq!(error("https://host:99999"), EndpointError::Port);
        assert_eq!(error("https://user@host"), EndpointError::Extra);
        assert_eq!(error("https://host/v1?x=1"), EndpointError::Extra);
        assert_eq!(error("https://[::1"), EndpointError::Host);
        assert_eq!(error("https://host/a\nb"), EndpointError::Path);
    }

    proptest! {
        #[test]
        fn no_text_can_panic_the_parser(text: String) {
            let _ = text.parse::<Endpoint>();
            let _ = format!("https://{text}").parse::<Endpoint>();
        }
    }
}
