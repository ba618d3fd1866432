//! HTTP/1.1 messages, read with as little work as can be: where a head ends, how long its body is, and the body's bytes.
//!
//! For requests and for answers over connections that are kept: a body has a length or comes in chunks. An answer with neither
//! would end with its connection, and is an error here.

use std::str;

use memchr::memmem;

/// Longest head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Which messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A server reads them.
    Requests,
    /// A client reads them.
    Answers,
}

/// The head of a message, without the empty line.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a>(&'a [u8]);

/// A part of a message.
#[derive(Debug)]
pub enum Part<'a> {
    /// Its head.
    Head(Head<'a>),
    /// A piece of its body.
    Body(&'a [u8]),
    /// It is complete.
    End,
}

/// Why what came is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A head without end.
    #[error("a head of more than {HEAD_BYTES_MAX} bytes")]
    LongHead,
    /// An answer that ends with its connection.
    #[error("an answer has neither a length nor chunks: {0}")]
    NoLength(String),
    /// A length that is no number.
    #[error("a length is no number: {0}")]
    Length(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    /// The line with the size of the next chunk.
    Size,
    Chunk(u64),
    /// The line break behind a chunk.
    ChunkEnd,
    /// Lines behind the last chunk, up to an empty one.
    Trailer,
}

/// Reads one message after another.
#[derive(Debug)]
pub struct Reader {
    side: Side,
    state: State,
    /// A head or a line that has come in part.
    begun: Vec<u8>,
}

impl Reader {
    /// A reader of a new connection.
    pub fn new(side: Side) -> Self {
        Self { side, state: State::Head, begun: Vec::new() }
    }

    /// Whether nothing of a message has come yet.
    #[cfg(test)]
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.begun.is_empty()
    }

    /// Takes bytes as they come, and hands over the parts they make.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Part)) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            match self.state {
                State::Head => {
                    let head = if self.begun.is_empty() {
                        take_until(&mut bytes, b"\r\n\r\n", &mut self.begun)
                            .map(|head| begin(self.side, Head(head), &mut on))
                    } else {
                        complete(&mut bytes, b"\r\n\r\n", &mut self.begun)
                            .map(|head| begin(self.side, Head(&head), &mut on))
                    };
                    match head {
                        Some(state) => self.state = state?,
                        None if self.begun.len() > HEAD_BYTES_MAX => {
                            return Err(Malformed::LongHead);
                        }
                        None => {}
                    }
                }
                State::Length(left) => match take(&mut bytes, left, &mut on) {
                    0 => self.end(&mut on),
                    left => self.state = State::Length(left),
                },
                State::Chunk(left) => match take(&mut bytes, left, &mut on) {
                    0 => self.state = State::ChunkEnd,
                    left => self.state = State::Chunk(left),
                },
                State::Size | State::ChunkEnd | State::Trailer => {
                    let Some(line) = complete(&mut bytes, b"\r\n", &mut self.begun) else {
                        if self.begun.len() > HEAD_BYTES_MAX {
                            return Err(Malformed::LongHead);
                        }
                        continue;
                    };
                    match (self.state, line.is_empty()) {
                        (State::Size, _) => {
                            self.state = match size(&line)? {
                                0 => State::Trailer,
                                size => State::Chunk(size),
                            };
                        }
                        (State::Trailer, true) => self.end(&mut on),
                        (State::Trailer, false) => {}
                        _ => self.state = State::Size,
                    }
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, on: &mut impl FnMut(Part)) {
        self.state = State::Head;
        on(Part::End);
    }
}

impl<'a> Head<'a> {
    /// The status of an answer; 0 if there is none.
    pub fn status(&self) -> u16 {
        let status = self.0.get(9..12).and_then(|digits| str::from_utf8(digits).ok());
        status.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// The value of a header, named in lower case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            rest = rest.get(end + 1..)?;
            let Some(named) = rest.get(..name.len()) else { continue };
            if named.eq_ignore_ascii_case(name.as_bytes()) && rest.get(name.len()) == Some(&b':') {
                let value = rest.get(name.len() + 1..)?;
                let end = memchr::memchr(b'\r', value).unwrap_or(value.len());
                return Some(value.get(..end)?.trim_ascii());
            }
        }
        None
    }

    /// Its first line.
    pub fn first_line(&self) -> String {
        let end = memchr::memchr(b'\r', self.0).unwrap_or(self.0.len());
        String::from_utf8_lossy(self.0.get(..end).unwrap_or_default()).into_owned()
    }
}

/// What comes behind a head. A message without a body is over at once.
fn begin(side: Side, head: Head, on: &mut impl FnMut(Part)) -> Result<State, Malformed> {
    on(Part::Head(head));
    if let Some(text) = head.header("content-length") {
        let length = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        return match length.ok_or_else(|| lossy(text))? {
            0 => {
                on(Part::End);
                Ok(State::Head)
            }
            length => Ok(State::Length(length)),
        };
    }
    if head.header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case(b"chunked")) {
        return Ok(State::Size);
    }
    match side {
        Side::Requests => {
            on(Part::End);
            Ok(State::Head)
        }
        Side::Answers => Err(Malformed::NoLength(head.first_line())),
    }
}

fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let digits = str::from_utf8(digits).map_err(|_| lossy(line))?;
    u64::from_str_radix(digits, 16).map_err(|_| lossy(line))
}

fn lossy(text: &[u8]) -> Malformed {
    Malformed::Length(String::from_utf8_lossy(text).into_owned())
}

/// Hands over as much of a body as is there, and returns what is still missing.
fn take(bytes: &mut &[u8], left: u64, on: &mut impl FnMut(Part)) -> u64 {
    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    let (piece, rest) = bytes.split_at(now);
    *bytes = rest;
    on(Part::Body(piece));
    left - now as u64
}

/// What stands before `end`, if `end` is there; else all of it is kept for later.
fn take_until<'a>(bytes: &mut &'a [u8], end: &[u8], begun: &mut Vec<u8>) -> Option<&'a [u8]> {
    match memmem::find(bytes, end) {
        Some(at) => {
            let (found, rest) = bytes.split_at(at);
            *bytes = rest.get(end.len()..).unwrap_or_default();
            Some(found)
        }
        None => {
            begun.extend_from_slice(bytes);
            *bytes = &[];
            None
        }
    }
}

/// The same with what was kept before, in which `end` may have begun.
fn complete(bytes: &mut &[u8], end: &[u8], begun: &mut Vec<u8>) -> Option<Vec<u8>> {
    let before = begun.len();
    begun.extend_from_slice(bytes);
    let from = before.saturating_sub(end.len() - 1);
    let found = memmem::find(begun.get(from..)?, end).map(|at| from + at);
    let consumed = found.map_or(bytes.len(), |at| at + end.len() - before);
    *bytes = bytes.get(consumed..).unwrap_or_default();
    let mut line = std::mem::take(begun);
    match found {
        Some(at) => {
            line.truncate(at);
            Some(line)
        }
        None => {
            *begun = line;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader makes of bytes that come in pieces: a line for each part.
    fn read(side: Side, pieces: &[&[u8]]) -> Result<Vec<String>, Malformed> {
        let mut reader = Reader::new(side);
        let mut messages = Vec::new();
        let mut body = String::new();
        for piece in pieces {
            reader.feed(piece, |part| match part {
                Part::Head(head) => messages.push(head.first_line()),
                Part::Body(bytes) => body.push_str(str::from_utf8(bytes).unwrap()),
                Part::End => messages.push(std::mem::take(&mut body)),
            })?;
        }
        assert!(reader.is_between());
        Ok(messages)
    }

    const ANSWERS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
        HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nt: 1\r\n\r\n\
        HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n";

    #[test]
    fn answers_are_the_same_however_their_bytes_come() {
        let expected = [
            "HTTP/1.1 200 OK",
            "hello",
            "HTTP/1.1 200 OK",
            "abc0123456789",
            "HTTP/1.1 404 Not Found",
            "",
        ];
        assert_eq!(read(Side::Answers, &[ANSWERS]).unwrap(), expected);
        for at in 1..ANSWERS.len() {
            let (one, two) = ANSWERS.split_at(at);
            assert_eq!(read(Side::Answers, &[one, two]).unwrap(), expected, "{at}");
        }
        let bytes: Vec<&[u8]> = ANSWERS.chunks(1).collect();
        assert_eq!(read(Side::Answers, &bytes).unwrap(), expected);
    }

    #[test]
    fn a_request_without_length_has_no_body_and_such_an_answer_is_refused() {
        let request: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(read(Side::Requests, &[request]).unwrap(), ["GET / HTTP/1.1", ""]);
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\nhost: a\r\n\r\n";
        let refused = Malformed::NoLength("HTTP/1.1 200 OK".into());
        assert_eq!(read(Side::Answers, &[answer]).unwrap_err(), refused);
    }

    #[test]
    fn a_length_that_is_none_is_refused() {
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\n";
        assert_eq!(read(Side::Answers, &[answer]).unwrap_err(), Malformed::Length("5x".into()));
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n";
        assert_eq!(read(Side::Answers, &[answer]).unwrap_err(), Malformed::Length("xyz".into()));
    }

    #[test]
    fn headers_are_found_whatever_their_case_and_only_as_a_whole() {
        let head = Head(b"HTTP/1.1 503 Busy\r\nX-Retry-After: 1\r\nRetry-After:  2 \r\nlast: x");
        assert_eq!(head.status(), 503);
        assert_eq!(head.header("retry-after"), Some(&b"2"[..]));
        assert_eq!(head.header("last"), Some(&b"x"[..]));
        assert_eq!(head.header("after"), None);
    }
}
