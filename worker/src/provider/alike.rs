//! Events that differ from an earlier one in nothing but their text: nearly all of a stream. What was learnt of that one is
//! known of them too, without parsing them.
//!
//! A mould is an event with holes, where it had strings or whole numbers. An event fits if it has the same bytes around
//! them, and in them strings and numbers that no reader could take for anything else. All other events are read.

use std::ops::Range;

use crate::sse::{BOM, EVENT_BYTES_MAX, Event};

/// So many moulds in a row that no event has fitted: the stream has something new in every event.
const USELESS_MAX: u8 = 8;
/// A count in JSON may have so many digits, and is exact in whatever it is read into.
const DIGITS_MAX: usize = 15;

/// What is in a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// A string that is generated text.
    Text,
    /// A string that says nothing.
    Filler,
    /// A whole number that says nothing.
    Number,
}

/// The mould of the events of one stream.
#[derive(Debug, Default)]
pub struct Alike {
    mould: Option<Box<Mould>>,
    /// How many moulds in a row have been of no use.
    useless: u8,
    has_fitted: bool,
}

#[derive(Debug)]
struct Mould {
    /// What comes before each hole. Quotes belong to it.
    pieces: Vec<(Box<[u8]>, Hole)>,
    last: Box<[u8]>,
}

/// Events that are alike, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Their bytes.
    pub length: usize,
    /// How many they are.
    pub events: usize,
    /// Bytes of their texts, as they are written in JSON.
    pub written: usize,
    /// Bytes of their texts.
    pub text: usize,
}

impl Alike {
    /// The events at the beginning of `bytes`, which is where an event begins, that are like the one that was learnt last.
    pub fn run(&mut self, bytes: &[u8]) -> Run {
        let mut run = Run::default();
        let Some(mould) = &self.mould else { return run };
        if bytes.len() > EVENT_BYTES_MAX {
            return run;
        }
        while let Some(next) = bytes.get(run.length..).and_then(|rest| mould.fit(rest)) {
            run.length += next.length;
            run.events += 1;
            run.written += next.written;
            run.text += next.text;
        }
        self.has_fitted |= run.events > 0;
        run
    }

    /// Whether it is worth while to learn another event.
    pub fn is_learning(&self) -> bool {
        self.has_fitted || self.useless < USELESS_MAX
    }

    /// Learns an event. `holes` are values of its JSON, each as it is written there. Without holes nothing is like it.
    pub fn learn<'a>(&mut self, event: &Event, holes: impl IntoIterator<Item = (&'a str, Hole)>) {
        self.useless = if self.has_fitted { 0 } else { self.useless.saturating_add(1) };
        self.has_fitted = false;
        let found =
            holes.into_iter().map(|(value, hole)| Some((inner(&event.raw, value, hole)?, hole)));
        let found: Option<Vec<_>> = found.collect();
        self.mould = found.and_then(|found| Mould::new(&event.raw, found)).map(Box::new);
    }
}

impl Mould {
    fn new(raw: &[u8], mut holes: Vec<(Range<usize>, Hole)>) -> Option<Self> {
        // A mark, or a carriage return whose line feed may still come, means something else elsewhere.
        if holes.is_empty() || raw.starts_with(BOM) || !raw.ends_with(b"\n") {
            return None;
        }
        holes.sort_by_key(|(at, _)| at.start);
        let (mut pieces, mut from) = (Vec::with_capacity(holes.len()), 0);
        for (at, hole) in holes {
            pieces.push((raw.get(from..at.start)?.into(), hole));
            from = at.end;
        }
        Some(Self { pieces, last: raw.get(from..)?.into() })
    }

    fn fit(&self, bytes: &[u8]) -> Option<Run> {
        let (mut rest, mut run) = (bytes, Run { events: 1, ..Run::default() });
        for (before, hole) in &self.pieces {
            rest = rest.strip_prefix(&before[..])?;
            let length = match hole {
                Hole::Number => number(rest)?,
                Hole::Filler => string(rest)?.0,
                Hole::Text => {
                    let (length, escapes) = string(rest)?;
                    run.written += length;
                    run.text += length - escapes;
                    length
                }
            };
            rest = rest.get(length..)?;
        }
        rest = rest.strip_prefix(&self.last[..])?;
        run.length = bytes.len() - rest.len();
        Some(run)
    }
}

/// Where the value is, which is a part of `raw`; of a string what is between the quotes.
fn inner(raw: &[u8], value: &str, hole: Hole) -> Option<Range<usize>> {
    let value = match hole {
        Hole::Number if number(value.as_bytes()) == Some(value.len()) => value,
        Hole::Number => return None,
        Hole::Text | Hole::Filler => value.strip_prefix('"')?.strip_suffix('"')?,
    };
    let start = (value.as_ptr() as usize).checked_sub(raw.as_ptr() as usize)?;
    let end = start.checked_add(value.len()).filter(|end| *end <= raw.len())?;
    Some(start..end)
}

/// The length of the string before its quote, and how many bytes of it are there only to escape others. `None` where that is
/// not seen at once.
fn string(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut escapes) = (0, 0);
    loop {
        match bytes.get(at)? {
            b'"' => break,
            b'\\' => match bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                    at += 2;
                    escapes += 1;
                }
                _ => return None,
            },
            0..=0x1f => return None,
            _ => at += 1,
        }
    }
    str::from_utf8(bytes.get(..at)?).ok()?;
    Some((at, escapes))
}

/// The length of a whole number.
fn number(bytes: &[u8]) -> Option<usize> {
    let length = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let is_plain = length == 1 || (length <= DIGITS_MAX && bytes.first() != Some(&b'0'));
    (length > 0 && is_plain).then_some(length)
}

#[cfg(test)]
pub mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::provider::{Progress, Reading, Seen};

    /// Sizes of the portions in which a stream comes, over and over; often all at once.
    pub fn any_portions() -> impl Strategy<Value = Vec<usize>> {
        prop_oneof![
            prop::collection::vec(1..300usize, 1..6),
            prop::collection::vec(1..9usize, 1..6),
            Just(vec![usize::MAX]),
        ]
    }

    /// A stream comes to the same whether events that are alike are read or not.
    pub fn is_taken_the_same_way<R: Reading>(
        events: &[String],
        portions: &[usize],
        reading: impl Fn() -> R,
    ) -> Result<(), TestCaseError> {
        let stream = events.concat();
        // A portion for each event is what there mostly is.
        let whole: Vec<_> = events.iter().map(String::len).chain([1]).collect();
        for portions in [portions, &whole] {
            let read = taken(reading(), stream.as_bytes(), portions, false);
            prop_assert_eq!(taken(reading(), stream.as_bytes(), portions, true), read);
        }
        Ok(())
    }

    fn taken(
        mut reading: impl Reading,
        mut stream: &[u8],
        portions: &[usize],
        looks: bool,
    ) -> (String, Seen, String) {
        let (mut seen, mut out) = (Seen::default(), BytesMut::new());
        let mut sizes = portions.iter().cycle();
        let mut progress = Ok(Progress::More);
        while !stream.is_empty() && matches!(progress, Ok(Progress::More)) {
            let size = (*sizes.next().unwrap()).clamp(1, stream.len());
            let (portion, rest) = stream.split_at(size);
            stream = rest;
            let alike = if looks { reading.alike(portion, &mut seen) } else { 0 };
            out.extend_from_slice(&portion[..alike]);
            progress = reading.portion(&portion[alike..], &mut seen, &mut out);
        }
        let end = match progress {
            Ok(Progress::More) => reading.end(&mut seen, &mut out).map(|()| Progress::Done),
            progress => progress,
        };
        (String::from_utf8_lossy(&out).into_owned(), seen, format!("{end:?}"))
    }

    fn learnt(raw: &'static str, holes: &[(&str, Hole)]) -> Alike {
        let raw = Bytes::from_static(raw.as_bytes());
        let event = Event { raw: raw.clone(), name: Bytes::new(), data: None };
        let text = str::from_utf8(&raw).unwrap();
        let holes = holes.iter().map(|(value, hole)| {
            let at = text.find(value).unwrap();
            (&text[at..at + value.len()], *hole)
        });
        let mut alike = Alike::default();
        alike.learn(&event, holes.collect::<Vec<_>>());
        alike
    }

    #[test]
    fn events_that_differ_in_their_holes_are_alike_and_no_others_are() {
        let raw = "data: {\"n\":7,\"text\":\"one\",\"fill\":\"xyz\"}\n\n";
        let holes = [("\"one\"", Hole::Text), ("7", Hole::Number), ("\"xyz\"", Hole::Filler)];
        let mut alike = learnt(raw, &holes);
        let next = "data: {\"n\":18,\"text\":\"t\\\"w\\\\o\",\"fill\":\"\"}\n\n";
        let run = alike.run([next, raw, "data: {"].concat().as_bytes());
        let length = next.len() + raw.len();
        assert_eq!(run, Run { length, events: 2, written: 7 + 3, text: 5 + 3 });
        for other in [
            "data: {\"n\":07,\"text\":\"one\",\"fill\":\"xyz\"}\n\n",
            "data: {\"n\":7.5,\"text\":\"one\",\"fill\":\"xyz\"}\n\n",
            "data: {\"n\":,\"text\":\"one\",\"fill\":\"xyz\"}\n\n",
            "data: {\"n\":7,\"text\":\"o\\u0041e\",\"fill\":\"xyz\"}\n\n",
            "data: {\"n\":7,\"text\":\"o\\xe\",\"fill\":\"xyz\"}\n\n",
            "data: {\"n\":7,\"text\":\"o\ne\",\"fill\":\"xyz\"}\n\n",
            "data: {\"n\":7,\"text\":\"one\",\"fill\":\"xyz\",\"more\":1}\n\n",
            "data: {\"n\":7,\"text\":\"one\",\"fill\":\"xyz\"}\n",
            "data: {\"n\":7,\"text\":\"one",
            " data: {\"n\":7,\"text\":\"one\",\"fill\":\"xyz\"}\n\n",
        ] {
            assert_eq!(alike.run(other.as_bytes()), Run::default(), "{other}");
        }
        let broken = [&raw.as_bytes()[..21], b"\xff", &raw.as_bytes()[21..]].concat();
        assert_eq!(alike.run(&broken), Run::default());
    }

    #[test]
    fn nothing_is_like_an_event_that_means_something_else_elsewhere() {
        for raw in ["\u{feff}data: \"a\"\n\n", "data: \"a\"\r\r", "data: \"a\"\n\r"] {
            assert_eq!(learnt(raw, &[("\"a\"", Hole::Text)]).run(raw.as_bytes()), Run::default());
        }
        let raw = "data: \"a\"\n\n";
        assert_eq!(learnt(raw, &[]).run(raw.as_bytes()), Run::default());
        let event = Event { raw: raw.into(), name: Bytes::new(), data: None };
        let mut alike = Alike::default();
        alike.learn(&event, [("\"a\"", Hole::Text)]);
        assert_eq!(alike.run(raw.as_bytes()), Run::default(), "a value from somewhere else");
    }

    #[test]
    fn a_stream_with_something_new_in_every_event_is_given_up() {
        let raw = "data: \"a\"\n\n";
        let mut alike = learnt(raw, &[("\"a\"", Hole::Text)]);
        assert_eq!(alike.run(raw.as_bytes()).events, 1);
        let event = Event { raw: raw.into(), name: Bytes::new(), data: None };
        for _ in 0..=USELESS_MAX {
            assert!(alike.is_learning());
            alike.learn(&event, []);
        }
        assert!(!alike.is_learning());
    }
}
