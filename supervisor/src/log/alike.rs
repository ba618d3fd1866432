//! Lines that differ from one before in nothing but the values of their fields, as nearly all of a busy worker do: what stands between the
//! values is made once, and then copied.
//!
//! Of such a line only this has to be known: that between the values there is what was there before, and that nothing in a value has to be
//! escaped. Any other line is written as every line can be (`render`), and it is the same that is written.

use shared::log_line::{self, Level, Reader, Text, Value};
use shared::simple::copy_simple;

use super::render::{Head, Shape, begun};

/// Kinds of lines that are known of one speaker. A request leaves two.
const KINDS_MAX: usize = 4;
/// What is between two values, in bytes, at most. No field of ours has such a long name.
const BETWEEN_BYTES_MAX: usize = 32;

/// The kinds of lines that one speaker writes, in one shape.
#[derive(Debug, Default)]
pub struct Alike {
    kinds: Vec<Kind>,
    /// Which one the next goes in the place of.
    next: usize,
}

#[derive(Debug, PartialEq)]
struct Kind {
    /// How a line begins in the pipe.
    begins: Vec<u8>,
    /// What is written for that, behind the moment.
    head: Vec<u8>,
    fields: Vec<Field>,
    end: &'static [u8],
    /// What a line takes when it is written, beside what it takes in the pipe.
    bytes: usize,
}

#[derive(Debug, PartialEq)]
struct Field {
    /// What is before the value in the pipe, and where in that there is something.
    before: [u8; BETWEEN_BYTES_MAX],
    mask: [u8; BETWEEN_BYTES_MAX],
    before_bytes: usize,
    /// What is written for that.
    written: [u8; BETWEEN_BYTES_MAX],
    written_bytes: usize,
    is_plain: bool,
}

impl Alike {
    /// Appends a line as it lies in its pipe, without its end, to what is written already. False if it is of no kind that is known; then
    /// nothing is appended.
    pub fn write(&self, out: &mut Vec<u8>, shape: Shape, head: &Head, line: &[u8]) -> bool {
        let Some(start) = head.start(shape) else { return false };
        self.kinds.iter().any(|kind| kind.write(out, start.as_bytes(), line).is_some())
    }

    /// Gets to know the kind of a line, which is one of that speaker, and in that shape.
    pub fn learn(&mut self, shape: Shape, head: &Head, line: &str) {
        let Some(start) = head.start(shape) else { return };
        let mut learning = Learning { line, shape, head, start, kind: None, is_quoted: false };
        let is_line = log_line::read(line, &mut learning);
        // One that is known may have come with a value that has to be escaped.
        let kind = learning.finish().filter(|kind| is_line && !self.kinds.contains(kind));
        let Some(kind) = kind else { return };
        match self.kinds.get_mut(self.next) {
            Some(place) => *place = kind,
            None => self.kinds.push(kind),
        }
        self.next = (self.next + 1) % KINDS_MAX;
    }
}

impl Kind {
    fn write(&self, out: &mut Vec<u8>, start: &[u8], line: &[u8]) -> Option<()> {
        let values = line.strip_prefix(&self.begins[..])?;
        let before = out.len();
        out.extend_from_slice(start);
        out.extend_from_slice(&self.head);
        let begin = out.len();
        out.resize(begin + self.bytes + line.len(), 0);
        let written = out.get_mut(begin..).and_then(|room| self.write_fields(room, values));
        out.truncate(written.map_or(before, |written| begin + written));
        written?;
        out.extend_from_slice(self.end);
        Some(())
    }

    /// Returns how many bytes were written.
    fn write_fields(&self, out: &mut [u8], mut line: &[u8]) -> Option<usize> {
        let mut at = 0;
        for field in &self.fields {
            line = field.behind(line)?;
            *out.get_mut(at..)?.first_chunk_mut()? = field.written;
            at += field.written_bytes;
            let length = copy_simple(line, out.get_mut(at..)?)?;
            let (value, rest) = line.split_at_checked(length)?;
            if field.is_plain && !is_whole(value) {
                return None;
            }
            (line, at) = (rest, at + length);
        }
        line.is_empty().then_some(at)
    }
}

impl Field {
    /// The value and what follows it, if what is before it begins the line.
    fn behind<'l>(&self, line: &'l [u8]) -> Option<&'l [u8]> {
        let behind = line.get(self.before_bytes..)?;
        let Some(begins) = line.first_chunk::<BETWEEN_BYTES_MAX>() else {
            return self.before.starts_with(line.get(..self.before_bytes)?).then_some(behind);
        };
        // All of it at a time: to compare so few bytes takes less than to ask somebody to.
        let differ = begins.iter().zip(&self.before).zip(&self.mask);
        let differ = differ.fold(0, |all, ((is, was), mask)| all | (is & mask) ^ was);
        (differ == 0).then_some(behind)
    }
}

/// Whether it is a number as most are. JSON has others, which are looked at as a whole.
fn is_whole(value: &[u8]) -> bool {
    let begins = matches!(value, [b'0'] | [b'1'..=b'9', ..]);
    begins && value.len() <= 20 && value.iter().all(u8::is_ascii_digit)
}

/// Makes a kind of a line.
struct Learning<'a> {
    line: &'a str,
    shape: Shape,
    head: &'a Head,
    start: &'a str,
    /// What is known so far; `None` if nothing can be made of it.
    kind: Option<Kind>,
    /// The value before is quoted.
    is_quoted: bool,
}

impl Learning<'_> {
    fn finish(self) -> Option<Kind> {
        let mut kind = self.kind?;
        kind.end = match (self.shape, self.is_quoted) {
            (Shape::Json, true) => b"\"}}\n",
            (Shape::Json, false) => b"}}\n",
            (_, true) => b"\"\n",
            (_, false) => b"\n",
        };
        // The last copies of a value and of what is between two may reach beyond themselves.
        let fields = kind.fields.iter().map(|field| field.written_bytes).sum::<usize>();
        kind.bytes = fields + 2 * BETWEEN_BYTES_MAX;
        Some(kind)
    }
}

impl<'a> Reader<'a> for Learning<'a> {
    fn head(&mut self, level: Level, target: &'a str, message: Text<'a>) {
        // A failure is told by way of those that were told before (`repeats`).
        let Some(words) = message.simple().filter(|_| !level.is_failure()) else { return };
        let written = begun(self.shape, self.head, level, target, words);
        // A letter for the level, and a byte before each part.
        let begins = self.line.get(..4 + target.len() + words.len());
        self.kind = begins.zip(written.strip_prefix(self.start)).map(|(begins, head)| Kind {
            begins: begins.as_bytes().to_vec(),
            head: head.as_bytes().to_vec(),
            fields: Vec::new(),
            end: b"",
            bytes: 0,
        });
    }

    fn field(&mut self, name: &'a str, value: Value<Text<'a>>) {
        let is_json = self.shape == Shape::Json;
        let (sign, is_quoted) = match value {
            Value::Text(_) => ('"', true),
            Value::Shown(_) => ('=', is_json),
            Value::Plain(_) => ('#', false),
        };
        let is_first = self.kind.as_ref().is_some_and(|kind| kind.fields.is_empty());
        let closing = if std::mem::replace(&mut self.is_quoted, is_quoted) { "\"" } else { "" };
        let opening = if is_quoted { "\"" } else { "" };
        let between = match (is_json, is_first) {
            (true, true) => format!("\"{name}\":{opening}"),
            (true, false) => format!("{closing},\"{name}\":{opening}"),
            (false, _) => format!("{closing} {name}={opening}"),
        };
        let [mut before, mut mask, mut written] = [[0; BETWEEN_BYTES_MAX]; 3];
        let in_pipe = format!("\x1f{name}{sign}");
        self.kind = self.kind.take().and_then(|mut kind| {
            before.get_mut(..in_pipe.len())?.copy_from_slice(in_pipe.as_bytes());
            mask.get_mut(..in_pipe.len())?.fill(u8::MAX);
            written.get_mut(..between.len())?.copy_from_slice(between.as_bytes());
            kind.fields.push(Field {
                before,
                mask,
                before_bytes: in_pipe.len(),
                written,
                written_bytes: between.len(),
                is_plain: matches!(value, Value::Plain(_)),
            });
            Some(kind)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;
    use shared::id::{Role, WorkerId};
    use shared::log_line::Line;

    use super::*;
    use crate::log::Speaker;
    use crate::log::render::written;

    fn head(micros: u64) -> Head {
        let speaker = Speaker { worker: Some((Role::Proxy, WorkerId(3))), pid: 77 };
        Head::new(speaker, SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
    }

    fn line(fields: &[(String, Value)]) -> String {
        let mut line = Line::new(Level::Info, "worker::a", "it is done");
        line.fields = fields.to_vec();
        let bytes = log_line::encode(&line);
        String::from_utf8(bytes[..bytes.len() - 1].to_vec()).unwrap()
    }

    /// As it is written without anything that is known. Nothing if it is no line.
    fn expected(shape: Shape, line: &str) -> String {
        let mut out = String::new();
        written(&mut out, shape, &head(1_772_166_891_000_042), line);
        out
    }

    fn found(alike: &Alike, shape: Shape, line: &str) -> Option<String> {
        let mut out = b"before ".to_vec();
        let is_known = alike.write(&mut out, shape, &head(1_772_166_891_000_042), line.as_bytes());
        let out = String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned();
        assert!(is_known || out.is_empty(), "{out}");
        is_known.then_some(out)
    }

    fn fields(values: &[&str]) -> Vec<(String, Value)> {
        let kinds = [Value::Text, Value::Shown, |text| Value::Plain(text)];
        let field = |(place, text): (usize, &&str)| {
            (format!("f{place}"), kinds[place % kinds.len()]((*text).to_owned()))
        };
        values.iter().enumerate().map(field).collect()
    }

    #[test]
    fn a_line_is_known_by_one_of_other_values() {
        for shape in [Shape::Text, Shape::Json] {
            for count in 0..8 {
                let values = ["a", "b c", "1", "", "d", "20", "long enough for a few words", ""];
                let mut alike = Alike::default();
                alike.learn(
                    shape,
                    &head(7),
                    &line(&fields(&["x", "y", "3", "x", "y", "3", "x", "y"][..count])),
                );
                let line = line(&fields(&values[..count]));
                assert_eq!(found(&alike, shape, &line), Some(expected(shape, &line)));
            }
        }
        let mut alike = Alike::default();
        let line = line(&fields(&["a"]));
        alike.learn(Shape::Coloured, &head(7), &line);
        assert_eq!(found(&alike, Shape::Coloured, &line), None);
    }

    #[test]
    fn what_differs_in_more_than_simple_values_is_not_known() {
        for shape in [Shape::Text, Shape::Json] {
            // What is behind a name is compared at a time with it, or is too short for that.
            for last in ["c", "c of more bytes than what is before a value has"] {
                let mut alike = Alike::default();
                let known = line(&fields(&["a", "b", "1", last]));
                alike.learn(shape, &head(7), &known);
                assert!(found(&alike, shape, &known).is_some());
                let without_last = known.split_at(known.rfind('\x1f').unwrap()).0;
                assert_eq!(found(&alike, shape, without_last), None);
                for (from, to) in [
                    ("\x1eI", "\x1eW"),
                    ("worker::a", "worker::b"),
                    ("is done", "was done"),
                    ("f0", "f1"),
                    ("f3\"", "f3="),
                    ("\"a", "\"\\x41"),
                    ("\"a", "\"ä"),
                    ("=b", "=\""),
                    ("=b", "=\x07"),
                    ("#1", "#01"),
                    ("#1", "#1,\"x\":2"),
                    ("#1", "#"),
                    ("#1", "#1e5"),
                    ("\"c", "\"c\x1fg\"x"),
                    ("\"c", "\"c\n"),
                ] {
                    let other = known.replacen(from, to, 1);
                    assert_ne!(other, known);
                    assert_eq!(found(&alike, shape, &other), None, "{other:?}");
                }
            }
        }
    }

    #[test]
    fn of_many_kinds_the_latest_are_known() {
        let mut alike = Alike::default();
        let of = |n: usize| line(&[(format!("n{n}"), Value::Text("v".to_owned()))]);
        (0..KINDS_MAX + 1).for_each(|n| alike.learn(Shape::Text, &head(7), &of(n)));
        assert_eq!(found(&alike, Shape::Text, &of(0)), None);
        (1..KINDS_MAX + 1).for_each(|n| assert!(found(&alike, Shape::Text, &of(n)).is_some()));
        let mut alike = Alike::default();
        alike.learn(Shape::Text, &head(7), &of(0));
        (0..KINDS_MAX).for_each(|_| alike.learn(Shape::Text, &head(7), &of(1)));
        assert!(found(&alike, Shape::Text, &of(0)).is_some(), "the same kind takes one place");
        let long = line(&[("n".repeat(40), Value::Text("v".to_owned()))]);
        alike.learn(Shape::Text, &head(7), &long);
        assert_eq!(found(&alike, Shape::Text, &long), None);
    }

    #[test]
    fn a_failure_is_never_known() {
        let line = line(&fields(&["a"])).replacen("\x1eI", "\x1eW", 1);
        let mut alike = Alike::default();
        alike.learn(Shape::Text, &head(7), &line);
        assert_eq!(found(&alike, Shape::Text, &line), None);
    }

    proptest! {
        #[test]
        fn whatever_bytes_are_known_are_written_as_any_line_is(
            at in any::<prop::sample::Index>(),
            byte: u8,
            more in prop::collection::vec(any::<u8>(), 0..5),
            last in prop_oneof!["c", "[a-z]{40}"],
        ) {
            let known = line(&fields(&["a", "b", "1", &last]));
            let bytes = known.as_bytes();
            let at = at.index(bytes.len());
            let changed = [&bytes[..at], &[byte], &bytes[at + 1..]].concat();
            let longer = [&bytes[..at], &more[..], &bytes[at..]].concat();
            for shape in [Shape::Text, Shape::Json] {
                let mut alike = Alike::default();
                alike.learn(shape, &head(7), &known);
                for bytes in [&changed, &longer] {
                    let mut out = Vec::new();
                    if alike.write(&mut out, shape, &head(1_772_166_891_000_042), bytes) {
                        let line = std::str::from_utf8(bytes).unwrap();
                        prop_assert_eq!(String::from_utf8(out).unwrap(), expected(shape, line));
                    } else {
                        prop_assert!(out.is_empty());
                    }
                }
            }
        }

        #[test]
        fn whatever_is_known_is_written_as_any_line_is(
            first in prop::collection::vec(("[ -~]{0,12}", 0..3usize), 0..6),
            values in prop::collection::vec("[ -~]{0,40}|[0-9]{0,22}|\\PC{0,4}|[\\x00-\\x7f]{0,9}", 6),
        ) {
            let field = |(place, (text, kind)): (usize, &(String, usize))| {
                let value = match kind {
                    0 => Value::Text(text.clone()),
                    1 => Value::Shown(text.clone()),
                    _ => Value::Plain("7".to_owned()),
                };
                (format!("f{place}"), value)
            };
            let known: Vec<_> = first.iter().enumerate().map(field).collect();
            let mut other = known.clone();
            for ((_, value), text) in other.iter_mut().zip(&values) {
                *value = match value {
                    Value::Text(_) => Value::Text(text.clone()),
                    Value::Shown(_) => Value::Shown(text.clone()),
                    Value::Plain(_) => Value::Plain(text.clone()),
                };
            }
            for shape in [Shape::Text, Shape::Json] {
                let mut alike = Alike::default();
                alike.learn(shape, &head(7), &line(&known));
                let line = line(&other);
                if let Some(found) = found(&alike, shape, &line) {
                    prop_assert_eq!(found, expected(shape, &line));
                }
            }
        }
    }
}
