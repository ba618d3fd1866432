//! HTTP/1.1 as both sides of the gateway speak it: how a head ends, and what it tells of its body and the connection (RFC 9112).
//! Pure.

mod framing;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

pub use framing::{Framing, NotChunked, Taken};

/// Where a head ends whose bytes were looked at as far as `before` already: behind its first empty line.
pub fn end(bytes: &[u8], before: usize) -> Option<usize> {
    // An end may begin with what was the last of them.
    let from = before.saturating_sub(3);
    let new = bytes.get(from..)?;
    memchr::memchr_iter(b'\n', new).find_map(|line| {
        let empty = match new.get(line.saturating_add(1)..)? {
            [b'\n', ..] => 2,
            [b'\r', b'\n', ..] => 3,
            _ => return None,
        };
        Some(from.saturating_add(line).saturating_add(empty))
    })
}

/// A header as it stands in a head.
pub type Line<'b> = httparse::Header<'b>;

/// The value of a line, in the head's own memory.
///
/// # Errors
/// It has a byte that no value has.
pub fn value(head: &Bytes, line: &Line<'_>) -> Result<HeaderValue, httparse::Error> {
    HeaderValue::from_maybe_shared(head.slice_ref(line.value))
        .map_err(|_| httparse::Error::HeaderValue)
}

/// Adds a line.
pub fn write(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// What the headers tell of body and connection.
#[derive(Debug, Default)]
pub struct Told<'b> {
    /// How many bytes the body has, or why that cannot be told.
    pub length: Option<Result<u64, &'static str>>,
    /// The last line of codings.
    pub coding: Option<&'b [u8]>,
    /// The connection ends afterwards.
    pub closes: bool,
    /// The connection goes on afterwards.
    pub keeps_alive: bool,
}

impl Told<'_> {
    /// A line with the length. Told more than once, it has to be the same number each time.
    pub fn length(&mut self, value: &[u8]) {
        for text in value.split(|byte| *byte == b',') {
            let told = number(text).ok_or("content-length is no number");
            if *self.length.get_or_insert(told) != told {
                self.length = Some(Err("it tells several lengths"));
            }
        }
    }

    /// A line about the connection.
    pub fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.closes |= option.eq_ignore_ascii_case(b"close");
            self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the last coding of the body is its being cut into chunks, if it has codings.
    pub fn is_chunked(&self) -> Option<bool> {
        let codings = self.coding?;
        let last = codings.rsplit(|byte| *byte == b',').next().unwrap_or_default();
        // Of words that are none nothing is understood.
        let is_text = codings.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        Some(is_text && last.trim_ascii().eq_ignore_ascii_case(b"chunked"))
    }
}

/// A number of decimal digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_behind_its_first_empty_line_however_it_was_cut() {
        for (head, length) in [
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\r\n\r\n", 25),
            ("HTTP/1.1 200 OK\na: b\n\nbody", 22),
            ("HTTP/1.1 200 OK\r\na: b\r\n", usize::MAX),
        ] {
            let bytes = head.as_bytes();
            assert_eq!(end(bytes, 0).unwrap_or(usize::MAX), length, "{head}");
            for cut in 0..bytes.len().min(length) {
                assert_eq!(end(&bytes[..cut], 0), None);
                assert_eq!(end(bytes, cut).unwrap_or(usize::MAX), length, "{head} after {cut}");
            }
        }
    }
}
