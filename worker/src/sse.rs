//! Server-sent events: cuts a byte stream into events and keeps every byte of it.
//!
//! Invariants, each with a test of that name:
//! 1. the raw bytes of all events, in order, are the bytes that were pushed;
//! 2. what an event means does not depend on how the bytes were split;
//! 3. an event is told as soon as the line that ends it has come: nothing waits for more.
//!
//! A block without data (a comment, a lone line end) is an event without data, so that it can be relayed like any other.

use bytes::{Bytes, BytesMut};

/// The largest event taken from an upstream, line ends included. A whole image in base64 fits.
pub const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// UTF-8 byte order mark; a stream may begin with one.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event, or a block that carries none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The bytes of the event as they came, with the empty line that ends it.
    pub raw: Bytes,
    /// Its `event` field; empty if there is none.
    pub name: Bytes,
    /// Its `data` lines joined by line feeds; `None` if there are none.
    pub data: Option<Bytes>,
}

/// An event is larger than [`EVENT_BYTES_MAX`]. The decoder must not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream sent an event of more than {EVENT_BYTES_MAX} bytes")]
pub struct EventTooLong;

/// Takes bytes in any portions and tells the events in them.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is not told yet; begins where an event begins.
    buffer: BytesMut,
    /// How much of the buffer has been searched for line ends.
    searched: usize,
    /// Where the line begins in which the search goes on.
    line_start: usize,
    /// The byte before the search was a carriage return: a line feed now still belongs to its line end.
    after_return: bool,
    /// Anything was told before: no byte order mark can come any more.
    begun: bool,
}

impl Decoder {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the next byte to be pushed begins an event, and not the first one.
    pub fn is_between_events(&self) -> bool {
        self.begun && self.buffer.is_empty() && !self.after_return
    }

    /// The next whole event, or `None` until more bytes have come.
    pub fn next_event(&mut self) -> Result<Option<Event>, EventTooLong> {
        loop {
            if self.after_return
                && let Some(byte) = self.buffer.get(self.searched)
            {
                self.after_return = false;
                if *byte == b'\n' {
                    self.searched += 1;
                    self.line_start = self.searched;
                    if self.searched == 1 {
                        // The event was told at the carriage return; its line feed came later.
                        return Ok(Some(self.take(1)));
                    }
                }
            }
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr::memchr2(b'\r', b'\n', rest) else {
                self.searched = self.buffer.len();
                return if self.searched > EVENT_BYTES_MAX { Err(EventTooLong) } else { Ok(None) };
            };
            let line_end = self.searched + found;
            let mut next = line_end + 1;
            if self.buffer.get(line_end) == Some(&b'\r') {
                match self.buffer.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_return = true,
                }
            }
            let line = self.buffer.get(self.line_start..line_end).unwrap_or_default();
            // A mark before an empty line is all there is of that line.
            let is_empty = line.is_empty() || (!self.begun && self.line_start == 0 && line == BOM);
            self.searched = next;
            self.line_start = next;
            if next > EVENT_BYTES_MAX {
                return Err(EventTooLong);
            }
            if is_empty {
                return Ok(Some(self.take(next)));
            }
        }
    }

    /// What is left when the stream has ended: an event whose last line end is missing, if anything.
    pub fn finish(&mut self) -> Option<Event> {
        let length = self.buffer.len();
        (length > 0).then(|| self.take(length))
    }

    /// Cuts the first bytes off as an event.
    fn take(&mut self, length: usize) -> Event {
        let raw = self.buffer.split_to(length).freeze();
        self.searched = 0;
        self.line_start = 0;
        let text = match raw.strip_prefix(BOM) {
            Some(text) if !self.begun => text,
            _ => &raw,
        };
        self.begun = true;
        let (mut name, mut data) = (Bytes::new(), None);
        for line in lines(text) {
            match field(line) {
                (b"event", value) => name = raw.slice_ref(value),
                (b"data", value) => data = Some(joined(data, raw.slice_ref(value))),
                _ => {}
            }
        }
        Event { raw, name, data }
    }
}

/// The lines of a block, without their ends.
fn lines(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let end = memchr::memchr2(b'\r', b'\n', text).unwrap_or(text.len());
        let (line, rest) = text.split_at_checked(end)?;
        text = match rest {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => rest,
        };
        Some(line)
    })
}

/// Name and value of a line; one space after the colon is not part of the value. A comment has an empty name.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(colon).unwrap_or((line, &[]));
    let value = rest.strip_prefix(b":").unwrap_or(rest);
    (name, value.strip_prefix(b" ").unwrap_or(value))
}

fn joined(before: Option<Bytes>, line: Bytes) -> Bytes {
    match before {
        None => line,
        Some(before) => [&before[..], b"\n", &line[..]].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every event of `stream`, read in portions of the given sizes, over and over.
    fn decode(stream: &[u8], portions: &[usize]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        let (mut events, mut rest, mut sizes) = (Vec::new(), stream, portions.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().unwrap()).clamp(1, rest.len());
            decoder.push(&rest[..size]);
            rest = &rest[size..];
            while let Some(event) = decoder.next_event().unwrap() {
                events.push(event);
            }
        }
        events.extend(decoder.finish());
        events
    }

    fn meaning(events: &[Event]) -> Vec<(Bytes, Bytes)> {
        let with_data = events.iter().filter(|event| event.data.is_some());
        with_data.map(|event| (event.name.clone(), event.data.clone().unwrap())).collect()
    }

    fn data(stream: &str) -> Vec<String> {
        let events = decode(stream.as_bytes(), &[usize::MAX]);
        let text = |(_, data): (Bytes, Bytes)| String::from_utf8(data.to_vec()).unwrap();
        meaning(&events).into_iter().map(text).collect()
    }

    #[test]
    fn lines_end_with_any_of_the_three_line_ends() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = "data: a#data:b##: comment##event: x#data#data:  c##".replace('#', end);
            assert_eq!(data(&stream), ["a\nb", "\n c"], "{end:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_kept_in_the_raw_bytes_only() {
        assert_eq!(data("\u{feff}data: a\n\ndata: b\n\n"), ["a", "b"]);
        assert_eq!(data("\u{feff}\ndata: a\n\n"), ["a"]);
    }

    #[test]
    fn an_event_is_told_as_soon_as_the_line_that_ends_it_has_come() {
        let mut decoder = Decoder::default();
        decoder.push(b"data: a\r\n\r");
        assert_eq!(&decoder.next_event().unwrap().unwrap().raw[..], b"data: a\r\n\r");
        decoder.push(b"\n");
        let line_feed = decoder.next_event().unwrap().unwrap();
        assert_eq!((&line_feed.raw[..], line_feed.data), (&b"\n"[..], None));
        assert_eq!(decoder.next_event(), Ok(None));
    }

    #[test]
    fn an_event_without_its_last_line_end_is_told_at_the_end_of_the_stream() {
        assert_eq!(data("data: a\n\ndata: [DONE]"), ["a", "[DONE]"]);
    }

    #[test]
    fn an_event_above_the_limit_is_refused_whether_it_ends_or_not() {
        for end in ["", "\n\n"] {
            let mut decoder = Decoder::default();
            decoder.push(format!("data: {}{end}", "x".repeat(EVENT_BYTES_MAX)).as_bytes());
            assert_eq!(decoder.next_event(), Err(EventTooLong));
        }
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("data: "),
            Just("data"),
            Just("event:"),
            Just(":"),
            Just("\u{feff}"),
            Just("x"),
            Just("é"),
        ];
        prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn the_raw_bytes_of_all_events_are_the_bytes_that_were_pushed(
            stream in stream(),
            portions in prop::collection::vec(1..9usize, 1..6),
        ) {
            let events = decode(&stream, &portions);
            let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).collect();
            prop_assert_eq!(raw, stream);
        }

        #[test]
        fn what_an_event_means_does_not_depend_on_how_the_bytes_were_split(
            stream in stream(),
            portions in prop::collection::vec(1..9usize, 1..6),
        ) {
            let whole = decode(&stream, &[usize::MAX]);
            prop_assert_eq!(meaning(&decode(&stream, &portions)), meaning(&whole));
        }

        #[test]
        fn no_bytes_can_panic_the_decoder(bytes: Vec<u8>, portions in prop::collection::vec(1..9usize, 1..6)) {
            decode(&bytes, &portions);
        }
    }
}
