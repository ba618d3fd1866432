//! The name of a request: the caller's own where it is acceptable, else a new one.

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::random::random_uuid;

/// Carries the id, in the answer and to the upstream.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-aisix-request-id");

/// The longest id taken from a caller, in bytes.
const ID_BYTES_MAX: usize = 256;

/// The first acceptable value of the headers in which a caller may name its request: 1-256 visible ASCII characters. A
/// UUID where there is none.
pub fn choose(accepted_headers: &[HeaderName], headers: &HeaderMap) -> HeaderValue {
    let mut named = accepted_headers.iter().filter_map(|name| headers.get(name));
    let acceptable = |value: &&HeaderValue| {
        (1..=ID_BYTES_MAX).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match named.find(acceptable) {
        Some(value) => value.clone(),
        None => mint(),
    }
}

fn mint() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    let text = random_uuid().hyphenated().encode_lower(&mut text);
    // A UUID is always a valid header value; the other arm is not reachable.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accepted: &[&str], headers: &[(&'static str, &str)]) -> String {
        let accepted: Vec<_> =
            accepted.iter().map(|name| HeaderName::try_from(*name).unwrap()).collect();
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        choose(&accepted, &headers.collect()).to_str().unwrap().to_owned()
    }

    #[test]
    fn the_first_acceptable_header_names_the_request() {
        let long = "x".repeat(257);
        let headers = [("a", "has space"), ("b", long.as_str()), ("c", "id-1"), ("d", "id-2")];
        assert_eq!(chosen(&["a", "b", "missing", "c", "d"], &headers), "id-1");
    }

    #[test]
    fn an_id_is_minted_where_none_is_acceptable_or_accepted() {
        for accepted in [&["a"][..], &[]] {
            let id = chosen(accepted, &[("a", "")]);
            assert_eq!(Uuid::parse_str(&id).unwrap().get_version_num(), 4);
        }
    }
}
