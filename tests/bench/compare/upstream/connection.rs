//! One connection to the upstream: what is asked over it, and what waits to be sent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use memchr::memmem;

use super::KEY;
use crate::wire::{Part, Reader, Side};

/// What of a body is looked at. A longer one is a prompt of megabytes, and gets the fixed answer.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A connection of a gateway.
pub struct Connection {
    stream: TcpStream,
    reader: Reader,
    /// Of the request that is coming.
    known: bool,
    body: Vec<u8>,
    /// Events that are still to be sent.
    pub left: u64,
    /// What the other side has not taken yet.
    unsent: Vec<u8>,
}

/// What a complete request wants.
pub enum Wish {
    Refusal,
    Answer,
    Events(u64),
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            reader: Reader::new(Side::Requests),
            known: false,
            body: Vec::new(),
            left: 0,
            unsent: Vec::new(),
        }
    }

    /// Reads what has come into the buffer.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }

    /// Takes bytes of requests. Who asks again before it has its answer gets no more than one.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Wish>, crate::wire::Malformed> {
        let mut wish = None;
        let (known, body) = (&mut self.known, &mut self.body);
        self.reader.feed(bytes, |part| match part {
            Part::Head(head) => {
                body.clear();
                let credential = head.header("authorization").unwrap_or_default();
                *known = credential.strip_prefix(b"Bearer ") == Some(KEY.as_bytes());
            }
            Part::Body(piece) => {
                let room = BODY_BYTES_MAX.saturating_sub(body.len()).min(piece.len());
                body.extend_from_slice(&piece[..room]);
            }
            Part::End => wish = Some(if *known { understand(body) } else { Wish::Refusal }),
        })?;
        Ok(wish)
    }

    /// Sends, now or when there is room.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        match self.stream.write(bytes) {
            Ok(sent) => {
                self.unsent.extend_from_slice(&bytes[sent..]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.unsent.extend_from_slice(bytes);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends of what waits as much as there is room for.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn understand(body: &[u8]) -> Wish {
    let has = |text: &[u8]| memmem::find(body, text).is_some();
    if !has(b"\"stream\":true") && !has(b"\"stream\": true") {
        return Wish::Answer;
    }
    let name = b"\"max_tokens\":";
    let behind = memmem::find(body, name).and_then(|at| body.get(at + name.len()..));
    let digits = behind.unwrap_or_default().trim_ascii_start();
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    Wish::Events(digits.fold(0, |number: u64, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_understood_however_its_members_are_spaced() {
        let events = |body: &str| match understand(body.as_bytes()) {
            Wish::Events(count) => Some(count),
            Wish::Answer | Wish::Refusal => None,
        };
        assert_eq!(events(r#"{"stream":true,"max_tokens":17}"#), Some(17));
        assert_eq!(events(r#"{"max_tokens": 5, "stream": true}"#), Some(5));
        assert_eq!(events(r#"{"stream":false,"max_tokens":17}"#), None);
        assert_eq!(events(r#"{"stream":true}"#), Some(0));
    }
}
