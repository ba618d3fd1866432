//! The head of a request as its bytes came, for what the parser has already decided when it hands a request over.
//!
//! A request that tells two lengths of its body may be cut in two places: by us, and by whoever forwarded it. RFC 9112 (6.3)
//! lets a server choose one; here it is refused. Only the first request after a pause is seen whole: of one that was sent
//! before the answer to another the parser takes the chunked length, and closes the connection behind it.

/// What is kept of a head; one that is longer is refused by the parser.
const BYTES_MAX: usize = 64 * 1024;

/// A head on its way.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    is_complete: bool,
}

impl Head {
    /// Another head begins.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.is_complete = false;
    }

    /// Bytes have come; those of the body are passed over.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.bytes.is_empty() {
            // Empty lines before a request are none of it.
            let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
            bytes = bytes.get(begin.unwrap_or(bytes.len())..).unwrap_or_default();
        }
        while !self.is_complete && !bytes.is_empty() {
            let line = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
            let (line, rest) = bytes.split_at(line.min(BYTES_MAX - self.bytes.len()));
            if line.is_empty() {
                return;
            }
            self.bytes.extend_from_slice(line);
            self.is_complete = self.bytes.ends_with(b"\n\r\n") || self.bytes.ends_with(b"\n\n");
            bytes = rest;
        }
    }

    /// Whether it tells the length of its body more than once.
    pub fn is_ambiguous(&self) -> bool {
        let (mut lengths, mut encodings) = (0, 0);
        let mut rest = self.bytes.as_slice();
        while let Some(end) = memchr::memchr(b'\n', rest) {
            rest = rest.get(end + 1..).unwrap_or_default();
            // Both names begin with one of two letters, whatever blanks stand before.
            if !matches!(
                rest.first(),
                Some(b'c' | b'C' | b't' | b'T' | b' ' | b'\t' | b'\r' | b'\x0c')
            ) {
                continue;
            }
            let line =
                memchr::memchr(b'\n', rest).map_or(rest, |end| rest.get(..end).unwrap_or_default());
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let name = line.get(..colon).unwrap_or_default().trim_ascii();
            lengths += usize::from(name.eq_ignore_ascii_case(b"content-length"));
            encodings += usize::from(name.eq_ignore_ascii_case(b"transfer-encoding"));
        }
        lengths + encodings > 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_ambiguous(text: &str, portion: usize) -> bool {
        let mut head = Head::default();
        text.as_bytes().chunks(portion).for_each(|bytes| head.push(bytes));
        head.is_ambiguous()
    }

    #[test]
    fn a_head_with_two_lengths_is_told_apart_from_a_body_that_speaks_of_them() {
        for portion in [1, 5, 1000] {
            let told = |lines: &str, body: &str| {
                is_ambiguous(
                    &format!("\r\nPOST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}"),
                    portion,
                )
            };
            assert!(told("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ""));
            assert!(told("transfer-encoding: chunked\r\ncontent-LENGTH: 5\r\n", ""));
            assert!(told("Content-Length: 5\r\nContent-Length: 5\r\n", ""));
            assert!(!told("Content-Length: 5\r\n", "\r\nTransfer-Encoding: chunked\r\n"));
            assert!(!told("Transfer-Encoding: chunked\r\n", "5\r\nContent-Length: 5\r\n\r\n"));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_it_and_portions_do_not_matter(text in "[A:\r\n]{0,40}|.*", portion in 1..9usize) {
            prop_assert_eq!(is_ambiguous(&text, portion), is_ambiguous(&text, usize::MAX));
        }
    }
}
