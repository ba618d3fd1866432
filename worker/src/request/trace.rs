//! The trace a request belongs to, by the W3C `traceparent` header.

use http::HeaderMap;

/// The trace id, 32 lower-case hex digits; `None` without a valid header.
pub fn id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = value.trim().split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let is_whole = version != "00" || parts.next().is_none();
    let is_valid = is_whole
        && version != "ff"
        && is_hex(version, 2)
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && trace.bytes().any(|digit| digit != b'0')
        && span.bytes().any(|digit| digit != b'0');
    is_valid.then(|| trace.to_owned())
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", http::HeaderValue::from_static(value));
        id(&headers)
    }

    #[test]
    fn a_valid_header_names_the_trace_and_any_other_none() {
        let known = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").as_deref(),
            Some(known)
        );
        for value in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(trace(value), None, "{value}");
        }
    }
}
