//! A line is read where it lies, in one pass: a log has two of them a request, and most of what they tell needs no change.

use std::borrow::Cow;

use super::{
    BEGIN, FIELDS_MAX, Level, Line, NAME_BYTES_MAX, Value, is_plain, is_target, unescaped,
};
use crate::simple::simple_bytes;

/// Between the parts of a line, as a byte.
const SEPARATOR: u8 = super::SEPARATOR as u8;

/// Takes what is read of a line, in its order. All of it is void where the line turns out not to be of the form.
pub trait Reader<'a> {
    /// Takes how it begins.
    fn head(&mut self, level: Level, target: &'a str, message: Text<'a>);
    /// Takes a field. A plain value is one that JSON has.
    fn field(&mut self, name: &'a str, value: Value<Text<'a>>);
}

/// A text as it is written in a line.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    written: &'a str,
    is_simple: bool,
}

impl<'a> Text<'a> {
    /// The text, if there is nothing in it but printable ASCII without quotes and backslashes: nobody has to escape any of it.
    pub fn simple(self) -> Option<&'a str> {
        self.is_simple.then_some(self.written)
    }

    /// The text.
    pub fn text(self) -> Cow<'a, str> {
        if self.is_simple { self.written.into() } else { unescaped(self.written) }
    }
}

/// Reads a line, without its end. False if it is not of the form.
pub fn read<'a>(line: &'a str, reader: &mut impl Reader<'a>) -> bool {
    read_parts(line, reader).is_some()
}

fn read_parts<'a>(line: &'a str, reader: &mut impl Reader<'a>) -> Option<()> {
    let mut parts = Parts(Some(line.strip_prefix(BEGIN)?));
    let letter = parts.text()?.written;
    let level = Level::ALL.into_iter().find(|level| level.letter() == letter)?;
    let target = parts.text()?.written;
    if !is_target(target) {
        return None;
    }
    reader.head(level, target, parts.text()?);
    let mut names = Names::default();
    while let Some((name, kind)) = parts.name()? {
        names.add(name)?;
        let value = parts.text()?;
        let value = match kind {
            b'"' => Value::Text(value),
            b'#' if is_plain(value.written) => Value::Plain(value),
            b'=' => Value::Shown(value),
            _ => return None,
        };
        reader.field(name, value);
    }
    Some(())
}

/// What is left of a line, behind a separator; `None` behind its end.
struct Parts<'a>(Option<&'a str>);

impl<'a> Parts<'a> {
    /// The text up to the next separator.
    fn text(&mut self) -> Option<Text<'a>> {
        let rest = self.0?;
        let mut end = simple_bytes(rest.as_bytes());
        let is_simple = rest.as_bytes().get(end).is_none_or(|next| *next == SEPARATOR);
        if !is_simple {
            let more = rest.as_bytes().iter().skip(end).position(|byte| *byte == SEPARATOR);
            end = more.map_or(rest.len(), |more| end.saturating_add(more));
        }
        let (written, after) = rest.split_at_checked(end)?;
        self.0 = after.get(1..);
        Some(Text { written, is_simple })
    }

    /// The name of the next field, and its kind, if there is a further one; `None` if what is there is none.
    fn name(&mut self) -> Option<Option<(&'a str, u8)>> {
        let Some(rest) = self.0 else { return Some(None) };
        let is_of_name = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
        let end = rest.as_bytes().iter().position(|byte| !is_of_name(byte))?;
        let (name, after) = rest.split_at_checked(end)?;
        if !name.as_bytes().first()?.is_ascii_lowercase() || end > NAME_BYTES_MAX {
            return None;
        }
        self.0 = Some(after.get(1..)?);
        Some(Some((name, *after.as_bytes().first()?)))
    }
}

/// Names that were there. Most are new, which a few bits tell without a look at the others.
struct Names<'a> {
    seen: u64,
    names: [&'a str; FIELDS_MAX],
    count: usize,
}

impl Default for Names<'_> {
    fn default() -> Self {
        Self { seen: 0, names: [""; FIELDS_MAX], count: 0 }
    }
}

impl<'a> Names<'a> {
    /// Takes a name; `None` if it was there, or if there are too many.
    fn add(&mut self, name: &'a str) -> Option<()> {
        let bytes = name.as_bytes();
        let ends = [bytes.first(), bytes.get(bytes.len() / 2), bytes.last()];
        let mix = |sum: u32, byte: &u8| sum.wrapping_mul(31) ^ u32::from(*byte);
        let bit = 1_u64.rotate_left(ends.into_iter().flatten().fold(0, mix));
        let known = self.names.get(..self.count)?;
        if self.seen & bit != 0 && known.contains(&name) {
            return None;
        }
        self.seen |= bit;
        *self.names.get_mut(self.count)? = name;
        self.count = self.count.saturating_add(1);
        Some(())
    }
}

/// Whether there is nothing in a text that anybody has to escape.
pub(super) fn is_simple(text: &str) -> bool {
    simple_bytes(text.as_bytes()) == text.len()
}

/// Makes a line of what is read.
pub(super) struct Gather<'a>(pub Option<Line<Cow<'a, str>>>);

impl<'a> Reader<'a> for Gather<'a> {
    fn head(&mut self, level: Level, target: &'a str, message: Text<'a>) {
        let (target, message) = (target.into(), message.text());
        self.0 = Some(Line { level, target, message, fields: Vec::with_capacity(FIELDS_MAX) });
    }

    fn field(&mut self, name: &'a str, value: Value<Text<'a>>) {
        let value = match value {
            Value::Text(text) => Value::Text(text.text()),
            Value::Shown(text) => Value::Shown(text.text()),
            Value::Plain(text) => Value::Plain(text.text()),
        };
        if let Some(line) = &mut self.0 {
            line.fields.push((name.into(), value));
        }
    }
}
