//! Where an identity provider publishes the keys that it signs with.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

use super::provider_key::{Endpoint, EndpointError};

/// Where the keys of an identity provider are.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum KeySource {
    /// Here.
    Given(WebUrl),
    /// Where the discovery document, which is here, says; on the same host and port.
    Discovered(WebUrl),
    /// Nowhere: why the provider's document leads to no place, in words.
    Nowhere(String),
}

impl Default for KeySource {
    fn default() -> Self {
        Self::Nowhere(String::new())
    }
}

impl KeySource {
    /// The source that a provider's document describes.
    pub fn of(issuer: &str, jwks_uri: Option<&str>) -> Self {
        let nowhere = |field: &str, error: EndpointError| Self::Nowhere(format!("{field} {error}"));
        if let Some(uri) = jwks_uri {
            return uri.parse().map_or_else(|error| nowhere("jwks_uri", error), Self::Given);
        }
        // OpenID Connect Discovery 1.0, section 4.
        let document = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let found = document.parse::<WebUrl>();
        found.map_or_else(|error| nowhere("issuer", error), Self::Discovered)
    }

    /// The place that has to be reached.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Given(url) | Self::Discovered(url) => Some(&url.endpoint),
            Self::Nowhere(_) => None,
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(url) | Self::Discovered(url) => url.fmt(formatter),
            Self::Nowhere(reason) => formatter.write_str(reason),
        }
    }
}

/// An address of the web: a place, and what is asked for there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WebUrl {
    /// Where; without a path.
    pub endpoint: Endpoint,
    /// Path and query, as a request line has them.
    pub target: String,
}

impl FromStr for WebUrl {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let base = url.split('?').next().unwrap_or_default();
        let mut endpoint: Endpoint = base.parse()?;
        endpoint.path.clear();
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let target = rest.find(['/', '?']).and_then(|at| rest.get(at..)).unwrap_or_default();
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(EndpointError::Path);
        }
        if target.contains('#') {
            return Err(EndpointError::Extra);
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { endpoint, target: format!("{slash}{target}") })
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.endpoint, self.target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_keeps_its_path_and_query_as_they_are_written() {
        for (url, target) in [
            ("https://id.example.com", "/"),
            ("https://id.example.com:8443/keys/", "/keys/"),
            ("https://id.example.com/discovery/keys?p=B2C_1", "/discovery/keys?p=B2C_1"),
            ("http://127.0.0.1:9?x", "/?x"),
        ] {
            let parsed: WebUrl = url.parse().unwrap();
            assert_eq!(parsed.target, target);
            assert_eq!(parsed.endpoint.path, "");
        }
        for url in ["id.example.com", "https://", "https://u@h/", "https://h/#a", "https://h/?a b"]
        {
            assert!(url.parse::<WebUrl>().is_err(), "{url}");
        }
    }

    #[test]
    fn keys_are_where_the_document_says_or_else_where_the_issuers_discovery_document_says() {
        let source = |issuer, uri| KeySource::of(issuer, uri).to_string();
        let discovered = "https://id.example.com/realms/a/.well-known/openid-configuration";
        assert_eq!(source("https://id.example.com/realms/a", None), discovered);
        assert_eq!(source("https://id.example.com/realms/a/", None), discovered);
        assert_eq!(
            source("corp", Some("https://k.example.com/jwks")),
            "https://k.example.com/jwks"
        );
    }

    #[test]
    fn an_address_that_cannot_be_used_is_never_replaced_by_a_guess() {
        for (issuer, uri) in [("corp", None), ("https://id.example.com", Some("ftp://x"))] {
            let source = KeySource::of(issuer, uri);
            assert!(matches!(source, KeySource::Nowhere(_)), "{source:?}");
            assert_eq!(source.endpoint(), None);
        }
    }

    proptest! {
        #[test]
        fn no_text_can_panic_the_parser(issuer: String, uri: Option<String>) {
            let _ = KeySource::of(&issuer, uri.as_deref());
            let _ = KeySource::of(&issuer, Some(&format!("https://h{issuer}")));
        }
    }
}
