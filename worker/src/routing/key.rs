//! What decides where a request stays under consistent hashing.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;
use shared::resource::HashOn;

/// The header that holds the key unless the group says otherwise.
const HEADER: &str = "x-aisix-routing-key";

/// What of a request a key can be taken from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The caller's headers.
    pub headers: &'a HeaderMap,
    /// The id of the caller key.
    pub api_key_id: &'a str,
    /// The caller's address.
    pub client_ip: IpAddr,
}

/// The key of a request: the first source that has a value. `None` where none has.
pub fn find(chain: &[HashOn], sources: &Sources<'_>) -> Option<String> {
    let value = |source: &HashOn| match source {
        HashOn::Header(name) => header(sources.headers, name),
        HashOn::Cookie(name) => cookie(sources.headers, name),
        HashOn::ApiKey => Some(sources.api_key_id.to_owned()),
        HashOn::ClientIp => Some(sources.client_ip.to_string()),
    };
    let filled = |value: &String| !value.is_empty();
    if chain.is_empty() {
        let default = header(sources.headers, HEADER).filter(filled);
        return default.or_else(|| value(&HashOn::ApiKey)).filter(filled);
    }
    chain.iter().find_map(|source| value(source).filter(filled))
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        (found.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(chain: &[HashOn], headers: &[(&'static str, &str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), value.parse::<http::HeaderValue>().unwrap())
        });
        let headers = headers.collect();
        let client_ip = "10.0.0.7".parse().unwrap();
        find(chain, &Sources { headers: &headers, api_key_id: "k-1", client_ip })
    }

    #[test]
    fn the_first_source_with_a_value_counts() {
        let chain = [
            HashOn::Header("X-User".to_owned()),
            HashOn::Cookie("sid".to_owned()),
            HashOn::ClientIp,
        ];
        let both = [("x-user", " u1 "), ("cookie", "a=b; sid=s1")];
        assert_eq!(found(&chain, &both).unwrap(), "u1");
        assert_eq!(found(&chain, &[("x-user", ""), both[1]]).unwrap(), "s1");
        assert_eq!(found(&chain, &[("cookie", "sid=")]).unwrap(), "10.0.0.7");
        assert_eq!(found(&chain[..1], &[]), None);
        assert_eq!(found(&[HashOn::Header("not a name".to_owned())], &[]), None);
    }

    #[test]
    fn without_a_chain_it_is_the_routing_key_and_else_the_caller_key() {
        assert_eq!(found(&[], &[("x-aisix-routing-key", "r")]).unwrap(), "r");
        assert_eq!(found(&[], &[]).unwrap(), "k-1");
    }
}
