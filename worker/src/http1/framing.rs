//! Where the body of an HTTP/1.1 message ends, and what of the bytes that come is in it (RFC 9112, 6 and 7.1). Pure.

use bytes::{Bytes, BytesMut};

/// The body is not in chunks as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its body is not cut into chunks as it says: {0}")]
pub struct NotChunked(&'static str);

/// The longest line of a chunk's size with its extensions, in bytes.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// The longest trailers, in bytes.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// A body on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Pieces, each with its length.
    Chunked(Chunks),
    /// Whatever comes until the connection ends.
    UntilClose,
}

/// What of a chunked body comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// The line with the size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of its line.
    DataEnd,
    /// Lines after the last chunk, so many bytes of them before.
    Trailers(usize),
    /// Nothing.
    Done,
}

/// What was taken of the bytes that had come.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Bytes of the body.
    Data(Bytes),
    /// Nothing: more have to come.
    Nothing,
    /// Nothing: the body has ended.
    End,
}

impl Framing {
    /// In chunks.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks::Size)
    }

    /// Whether the body has ended, without looking at what has come.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::Done))
    }

    /// Whether the body may end with the connection.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// Takes the next bytes of the body out of those that have come.
    pub fn take(&mut self, inbox: &mut BytesMut) -> Result<Taken, NotChunked> {
        match self {
            Self::Length(0) => Ok(Taken::End),
            Self::Length(left) => Ok(data(inbox, left)),
            Self::UntilClose => Ok(data(inbox, &mut { u64::MAX })),
            Self::Chunked(chunks) => chunks.take(inbox),
        }
    }
}

impl Chunks {
    fn take(&mut self, inbox: &mut BytesMut) -> Result<Taken, NotChunked> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = line(inbox, LINE_BYTES_MAX)? else {
                        return Ok(Taken::Nothing);
                    };
                    *self = match size(&line)? {
                        0 => Self::Trailers(0),
                        size => Self::Data(size),
                    };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(left) => return Ok(data(inbox, left)),
                Self::DataEnd => match line(inbox, 2)? {
                    Some(line) if line.is_empty() => *self = Self::Size,
                    Some(_) => return Err(NotChunked("one is longer than it says")),
                    None => return Ok(Taken::Nothing),
                },
                Self::Trailers(before) => {
                    let room = TRAILER_BYTES_MAX.saturating_sub(*before);
                    match line(inbox, room)? {
                        Some(line) if line.is_empty() => *self = Self::Done,
                        Some(line) if !is_header(&line) => {
                            return Err(NotChunked("a trailer is no header"));
                        }
                        Some(line) => *before = before.saturating_add(line.len().saturating_add(2)),
                        None => return Ok(Taken::Nothing),
                    }
                }
                Self::Done => return Ok(Taken::End),
            }
        }
    }
}

/// All that has come of so many bytes.
fn data(inbox: &mut BytesMut, left: &mut u64) -> Taken {
    if inbox.is_empty() {
        return Taken::Nothing;
    }
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(inbox.len());
    *left = left.saturating_sub(taken as u64);
    Taken::Data(inbox.split_to(taken).freeze())
}

/// Takes a line out, without its end, if all of it has come.
fn line(inbox: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, NotChunked> {
    let within = inbox.get(..bytes_max).unwrap_or(inbox);
    let Some(end) = memchr::memchr(b'\n', within) else {
        let is_long = inbox.len() >= bytes_max;
        return if is_long { Err(NotChunked("a line is too long")) } else { Ok(None) };
    };
    let mut line = inbox.split_to(end.saturating_add(1));
    line.truncate(end);
    match line.split_last() {
        Some((b'\r', rest)) if !rest.contains(&b'\r') => line.truncate(end.saturating_sub(1)),
        _ => return Err(NotChunked("a line does not end as lines do")),
    }
    Ok(Some(line))
}

/// Whether a line is a header. Nobody asks which one.
fn is_header(line: &[u8]) -> bool {
    let (line, mut headers) = ([line, b"\r\n\r\n"].concat(), [httparse::EMPTY_HEADER; 1]);
    let read = httparse::parse_headers(&line, &mut headers);
    matches!(read, Ok(httparse::Status::Complete((_, [_]))))
}

/// The size of a chunk. What may follow it is of no interest.
fn size(line: &[u8]) -> Result<u64, NotChunked> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let is_size =
        (1..=16).contains(&digits.len()) && matches!(rest.trim_ascii_start(), [] | [b';', ..]);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_size);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(NotChunked("a size is no number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What of the bytes is in the body, if they come in these pieces, and what is left of them behind it.
    fn read(
        mut framing: Framing,
        pieces: &[&[u8]],
    ) -> Result<(Vec<u8>, bool, Vec<u8>), NotChunked> {
        let (mut inbox, mut body) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            inbox.extend_from_slice(piece);
            while let Taken::Data(bytes) = framing.take(&mut inbox)? {
                body.extend_from_slice(&bytes);
            }
        }
        Ok((body, framing.is_end(), inbox.to_vec()))
    }

    fn chunked(text: &str) -> Result<(Vec<u8>, bool, Vec<u8>), NotChunked> {
        read(Framing::chunked(), &[text.as_bytes()])
    }

    #[test]
    fn a_body_has_as_many_bytes_as_its_head_says_and_what_follows_is_none_of_it() {
        let length =
            |length, text: &str| read(Framing::Length(length), &[text.as_bytes()]).unwrap();
        assert_eq!(length(3, "abcd"), (b"abc".to_vec(), true, b"d".to_vec()));
        assert_eq!(length(3, "ab"), (b"ab".to_vec(), false, Vec::new()));
        assert_eq!(length(0, ""), (Vec::new(), true, Vec::new()));
        let endless = read(Framing::UntilClose, &[b"ab", b"c"]).unwrap();
        assert_eq!(endless, (b"abc".to_vec(), false, Vec::new()));
    }

    #[test]
    fn extensions_and_trailers_are_passed_over() {
        let text = "3;a=b\r\nabc\r\nA \t;x\r\n0123456789\r\n0\r\nx: y\r\nz: \r\n\r\nHTTP";
        assert_eq!(chunked(text).unwrap(), (b"abc0123456789".to_vec(), true, b"HTTP".to_vec()));
    }

    #[test]
    fn what_is_not_cut_into_chunks_is_refused() {
        for wrong in [
            "\r\n",
            "x\r\n",
            "1x\r\n",
            "-1\r\n",
            " 1\r\n",
            "10000000000000000\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1;\r\r\na",
            "0\r\n\n",
            "0\r\nx\n\r\n",
            "0\r\nx\r\n\r\n",
            "0\r\nx : y\r\n\r\n",
        ] {
            assert!(matches!(chunked(wrong), Err(NotChunked(_))), "{wrong:?}");
        }
        assert!(chunked(&format!("1;{}", "x".repeat(LINE_BYTES_MAX))).is_err());
        assert!(
            chunked(&format!("0\r\n{}", "x: y\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1))).is_err()
        );
    }

    proptest! {
        #[test]
        fn a_chunked_body_is_read_however_it_comes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            size in 1..50_usize,
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let expected = (chunks.concat(), true, Vec::new());
            prop_assert_eq!(read(Framing::chunked(), &pieces), Ok(expected));
        }

        #[test]
        fn no_bytes_are_read_otherwise_when_they_come_in_pieces(
            bytes in prop::collection::vec(prop::sample::select(&b"01aF;\r\n x"[..]), 0..60),
            size in 1..10_usize,
        ) {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let (whole, cut) = (read(Framing::chunked(), &[&bytes]), read(Framing::chunked(), &pieces));
            prop_assert_eq!(whole.ok(), cut.ok());
        }
    }
}
