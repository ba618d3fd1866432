//! The head of a request as its bytes came, for what the parser has already decided when it hands a request over.
//!
//! A request that tells two lengths of its body may be cut in two places: by us, and by whoever forwarded it. RFC 9112 (6.3)
//! lets a server choose one; here it is refused. Only the first request after a pause is seen whole: of one that was sent
//! before the answer to another the parser takes the chunked length, and closes the connection behind it.

/// What is kept of a head; one that is longer is refused, by the parser or as ambiguous.
const BYTES_MAX: usize = 64 * 1024;

/// A head on its way.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// As far as it has come; nothing of one that came in one piece.
    bytes: Vec<u8>,
    is_complete: bool,
    /// How often it tells the length of its body.
    lengths: usize,
}

impl Head {
    /// Another head begins.
    pub fn begin(&mut self) {
        self.bytes.clear();
        (self.is_complete, self.lengths) = (false, 0);
    }

    /// Bytes have come; those of the body are passed over.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.is_complete {
            return;
        }
        if self.bytes.is_empty() {
            // Empty lines before a request are none of it.
            let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
            bytes = bytes.get(begin.unwrap_or(bytes.len())..).unwrap_or_default();
            let seen = look_at(bytes);
            if seen.is_complete {
                (self.is_complete, self.lengths) = (true, seen.lengths);
                return;
            }
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
        if self.is_complete {
            self.lengths = look_at(&self.bytes).lengths;
        }
    }

    /// Whether it tells the length of its body more than once, or may do so where nobody has looked.
    pub fn is_ambiguous(&self) -> bool {
        let is_cut = !self.is_complete && self.bytes.len() >= BYTES_MAX;
        is_cut || self.lengths > 1 || (!self.is_complete && look_at(&self.bytes).lengths > 1)
    }
}

/// What a head tells as far as it has come.
struct Seen {
    is_complete: bool,
    lengths: usize,
}

fn look_at(head: &[u8]) -> Seen {
    let mut lengths = 0;
    for end in memchr::memchr_iter(b'\n', head) {
        let rest = head.get(end + 1..).unwrap_or_default();
        match rest {
            [b'\n', ..] | [b'\r', b'\n', ..] => return Seen { is_complete: true, lengths },
            // Both names begin with one of two letters, whatever blanks stand before.
            [b'c' | b'C' | b't' | b'T' | b' ' | b'\t' | b'\r' | b'\x0c', ..] => {
                lengths += usize::from(is_length(rest));
            }
            _ => {}
        }
    }
    Seen { is_complete: false, lengths }
}

/// Whether a line tells the length of the body.
fn is_length(line: &[u8]) -> bool {
    let Some(end) = memchr::memchr2(b':', b'\n', line) else { return false };
    let Some((name, [b':', ..])) = line.split_at_checked(end) else { return false };
    let name = name.trim_ascii();
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
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

    #[test]
    fn a_head_that_is_longer_than_what_is_kept_is_ambiguous() {
        let told = |filler: usize| {
            let lines = "X: y\r\n".repeat(filler);
            is_ambiguous(&format!("POST / HTTP/1.1\r\n{lines}Content-Length: 5\r\n\r\n"), 1_000)
        };
        assert!(!told(BYTES_MAX / 6 - 10));
        assert!(told(BYTES_MAX / 6 + 10));
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_it_and_portions_do_not_matter(text in "[A:\r\n]{0,40}|.*", portion in 1..9usize) {
            prop_assert_eq!(is_ambiguous(&text, portion), is_ambiguous(&text, usize::MAX));
        }
    }
}
