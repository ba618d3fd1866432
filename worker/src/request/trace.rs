//! The trace a request belongs to, by the W3C `traceparent` header.

use http::{HeaderMap, HeaderName};
use shared::export::Parent;

/// The trace of a caller, and its span there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The trace id, 32 lower-case hex digits.
    pub id: String,
    /// The same in bytes.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub parent: Parent,
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace that a valid header names.
pub fn incoming(headers: &HeaderMap) -> Option<Incoming> {
    // Several are none: nobody knows which one is meant.
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let mut parts = value.trim().split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let is_whole = version != "00" || parts.next().is_none();
    let [_] = bytes::<1>(version)?;
    let (trace_id, span_id, [flags]) = (bytes(trace)?, bytes(span)?, bytes::<1>(flags)?);
    let is_valid = is_whole && version != "ff" && trace_id != [0; 16] && span_id != [0; 8];
    let parent = Parent { span_id, is_sampled: flags & 1 == 1 };
    is_valid.then(|| Incoming { id: trace.to_owned(), trace_id, parent })
}

/// So many bytes in lower-case hex digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trace(value: &str) -> Option<Incoming> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", http::HeaderValue::from_str(value).ok()?);
        incoming(&headers)
    }

    #[test]
    fn a_valid_header_names_the_trace_and_any_other_none() {
        let known = "4bf92f3577b34da6a3ce929d0e0e4736";
        let found = trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(found.id, known);
        assert_eq!(found.trace_id[..3], [0x4b, 0xf9, 0x2f]);
        let span_id = [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];
        assert_eq!(found.parent, Parent { span_id, is_sampled: true });
        let later = trace("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe-more").unwrap();
        assert_eq!((later.id.as_str(), later.parent.is_sampled), (known, false));
        for value in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(trace(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_for_a_trace_is_one(value in "[0-9a-f-]{50,60}") {
            if let Some(found) = trace(&value) {
                prop_assert_eq!(found.id.len(), 32);
                prop_assert!(value.contains(&found.id));
            }
        }

        #[test]
        fn every_trace_and_span_is_read_as_it_is_written(
            trace_id in 1..u128::MAX,
            span_id in 1..u64::MAX,
            flags: u8,
        ) {
            let found = trace(&format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}")).unwrap();
            prop_assert_eq!(found.trace_id, trace_id.to_be_bytes());
            prop_assert_eq!(found.parent.span_id, span_id.to_be_bytes());
            prop_assert_eq!(found.parent.is_sampled, flags % 2 == 1);
        }
    }
}
