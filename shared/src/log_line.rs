//! A line of a log, and how a worker writes it into its pipe.
//!
//! ```text
//! 0x1e LEVEL 0x1f TARGET 0x1f MESSAGE { 0x1f NAME KIND VALUE } 0x0a
//! ```
//! LEVEL is one of `E W I D T`; KIND is `"` for a text, `=` for anything else that was written out, `#` for a number or a
//! boolean. Control characters and backslashes within are written as `\x1f`, so that a line is a line whatever it tells.
//!
//! Bounds: a line has at most [`LINE_BYTES_MAX`] bytes, which a pipe takes in one piece; the longest texts in it are cut first.
//! At most [`FIELDS_MAX`] fields, each with a name of `[a-z][a-z0-9_.]*` and at most [`NAME_BYTES_MAX`] bytes, each name once.
//!
//! What is read is hostile: a worker that was taken over writes what it likes. [`decode`] takes nothing that is not of this
//! form; who a line is of, and when it was written, is never in it.

mod append;
mod read;

use std::borrow::Cow;
use std::fmt::Write;

pub use self::append::{Fields, append, name};
use self::read::Gather;
pub use self::read::{Reader, Text, read};

/// What a pipe takes in one piece (`PIPE_BUF`), in bytes.
pub const LINE_BYTES_MAX: usize = 4096;
/// Most fields of a line.
pub const FIELDS_MAX: usize = 32;
/// Longest name of a field, in bytes.
pub const NAME_BYTES_MAX: usize = 60;
/// Longest target, in bytes.
const TARGET_BYTES_MAX: usize = 128;

/// Begins a line.
const BEGIN: char = '\x1e';
/// Between its parts.
const SEPARATOR: char = '\x1f';
/// Bytes of an escaped character.
const ESCAPE_BYTES: usize = 4;
/// Ends what was cut.
const CUT: &str = "…";

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }

    /// Whether it tells of a failure.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Error | Self::Warn)
    }

    fn letter(self) -> &'static str {
        self.name().get(..1).unwrap_or_default()
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<S = String> {
    /// A text.
    Text(S),
    /// Anything else that was written out.
    Shown(S),
    /// A number or a boolean, as JSON has it.
    Plain(S),
}

impl<S: AsRef<str>> Value<S> {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Shown(text) | Self::Plain(text) => text.as_ref(),
        }
    }

    const fn kind(&self) -> char {
        match self {
            Self::Text(_) => '"',
            Self::Shown(_) => '=',
            Self::Plain(_) => '#',
        }
    }

    fn to_owned(&self) -> Value {
        let text = self.text().to_owned();
        match self {
            Self::Text(_) => Value::Text(text),
            Self::Shown(_) => Value::Shown(text),
            Self::Plain(_) => Value::Plain(text),
        }
    }
}

/// A line of a log. Its texts are its own, or those of the bytes that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<S = String> {
    /// How much it matters.
    pub level: Level,
    /// Where in the program it was written.
    pub target: S,
    /// What it says.
    pub message: S,
    /// What it says it of, in order.
    pub fields: Vec<(S, Value<S>)>,
}

impl Line {
    /// A line without fields.
    pub fn new(level: Level, target: &str, message: impl Into<String>) -> Self {
        Self { level, target: target.to_owned(), message: message.into(), fields: Vec::new() }
    }

    /// With a field that is a number.
    #[must_use]
    pub fn with(mut self, name: &str, number: u64) -> Self {
        self.fields.push((name.to_owned(), Value::Plain(number.to_string())));
        self
    }
}

impl<S: AsRef<str>> Line<S> {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Value<S>> {
        self.fields.iter().find(|(known, _)| known.as_ref() == name).map(|(_, value)| value)
    }

    /// The same line with texts of its own.
    pub fn to_owned(&self) -> Line {
        let fields = self.fields.iter();
        Line {
            level: self.level,
            target: self.target.as_ref().to_owned(),
            message: self.message.as_ref().to_owned(),
            fields: fields.map(|(name, it)| (name.as_ref().to_owned(), it.to_owned())).collect(),
        }
    }
}

/// Whether a field may be called that.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= NAME_BYTES_MAX
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.'))
}

/// Writes a line piece by piece, without a copy of it: its message first, then its fields.
///
/// One that becomes too long, or whose pieces come in another order, is given up; [`encode`] writes it then.
#[derive(Debug)]
pub struct Pieces<'a> {
    written: &'a mut String,
    start: usize,
    has_message: bool,
    is_in_order: bool,
    fields: usize,
}

impl<'a> Pieces<'a> {
    /// Begins a line behind what is `written`.
    pub fn begin(written: &'a mut String, level: Level, target: &str) -> Self {
        let start = written.len();
        written.push(BEGIN);
        written.push_str(level.letter());
        written.push(SEPARATOR);
        push_escaped(written, head_of(target, TARGET_BYTES_MAX));
        Self { written, start, has_message: false, is_in_order: true, fields: 0 }
    }

    /// Takes the message, which `write` writes.
    pub fn message(&mut self, write: impl FnOnce(&mut Escaping<'_>)) {
        self.is_in_order &= !self.has_message && self.fields == 0;
        self.has_message = true;
        self.written.push(SEPARATOR);
        write(&mut Escaping(self.written));
    }

    /// Takes a field, whose value `write` writes. `kind` makes a value of that kind.
    pub fn field<'b>(
        &mut self,
        name: &str,
        kind: fn(&'b str) -> Value<&'b str>,
        write: impl FnOnce(&mut Escaping<'_>),
    ) {
        self.is_in_order &= self.has_message;
        if self.fields >= FIELDS_MAX || !is_name(name) {
            return;
        }
        self.fields = self.fields.saturating_add(1);
        self.written.push(SEPARATOR);
        self.written.push_str(name);
        self.written.push(kind("").kind());
        write(&mut Escaping(self.written));
    }

    /// Ends the line. False if it was given up, and nothing of it is written.
    pub fn end(self) -> bool {
        self.written.push('\n');
        let length = self.written.len().saturating_sub(self.start);
        let is_whole = self.has_message && self.is_in_order && length <= LINE_BYTES_MAX;
        if !is_whole {
            self.written.truncate(self.start);
        }
        is_whole
    }
}

/// Writes a text of a line as it is written there.
#[derive(Debug)]
pub struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        push_escaped(self.0, text);
        Ok(())
    }
}

/// Whether what is written tells of a failure, if it is a line.
pub fn tells_failure(written: &[u8]) -> bool {
    let letter = written.get(1).map(|letter| [*letter]);
    let mut failures = Level::ALL.into_iter().filter(|level| level.is_failure());
    failures.any(|level| letter.is_some_and(|it| it == level.letter().as_bytes()))
}

/// The line as it is written, its end included.
pub fn encode(line: &Line) -> Vec<u8> {
    let target = head_of(&line.target, TARGET_BYTES_MAX);
    let head = format!("{BEGIN}{}{SEPARATOR}{}", line.level.letter(), escaped(target));
    let mut parts = vec![(SEPARATOR.to_string(), escaped(&line.message))];
    let named = line.fields.iter().filter(|(name, _)| is_name(name));
    parts.extend(named.take(FIELDS_MAX).map(|(name, value)| {
        (format!("{SEPARATOR}{name}{}", value.kind()), escaped(value.text()))
    }));
    // At most 32 × 62 bytes of names, 512 of an escaped target: there is always room for something.
    let fixed = parts.iter().map(|(name, _)| name.len()).sum::<usize>();
    let room = LINE_BYTES_MAX.saturating_sub(fixed).saturating_sub(head.len()).saturating_sub(1);
    let longest = share(parts.iter().map(|(_, text)| text.len()).collect(), room);
    let mut written = head;
    for (name, text) in &parts {
        written.push_str(name);
        push_cut(&mut written, text, longest);
    }
    written.push('\n');
    written.into_bytes()
}

/// The line that was written so, without its end; `None` if it was not.
pub fn decode(bytes: &[u8]) -> Option<Line<Cow<'_, str>>> {
    let bytes = bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        return parse(text);
    }
    let line = parse(&String::from_utf8_lossy(bytes))?.to_owned();
    let value = |value: Value| match value {
        Value::Text(text) => Value::Text(text.into()),
        Value::Shown(text) => Value::Shown(text.into()),
        Value::Plain(text) => Value::Plain(text.into()),
    };
    let fields = line.fields.into_iter();
    Some(Line {
        level: line.level,
        target: line.target.into(),
        message: line.message.into(),
        fields: fields.map(|(name, it)| (name.into(), value(it))).collect(),
    })
}

fn parse(text: &str) -> Option<Line<Cow<'_, str>>> {
    let mut line = Gather(None);
    if read(text, &mut line) { line.0 } else { None }
}

fn is_target(target: &str) -> bool {
    let permitted = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'.' | b'-');
    !target.is_empty() && target.len() <= TARGET_BYTES_MAX && target.bytes().all(permitted)
}

/// Whether JSON has a number or a boolean that is written so.
fn is_plain(text: &str) -> bool {
    if matches!(text, "true" | "false") {
        return true;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_digits =
        |text: &str| (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_digits(whole) && is_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

/// The longest that each of these may be, so that together they have room.
fn share(mut lengths: Vec<usize>, mut room: usize) -> usize {
    lengths.sort_unstable();
    let mut left = lengths.len();
    for length in lengths {
        let equal = room.checked_div(left).unwrap_or(room);
        if length > equal {
            return equal;
        }
        room = room.saturating_sub(length);
        left = left.saturating_sub(1);
    }
    usize::MAX
}

/// Appends an escaped text, cut to that many bytes and never within a character.
fn push_cut(written: &mut String, text: &str, longest: usize) {
    if text.len() <= longest {
        return written.push_str(text);
    }
    let kept = head_of(text, longest.saturating_sub(CUT.len()));
    // A backslash always begins an escape.
    let whole = match kept.rfind('\\') {
        Some(begun) if kept.len().saturating_sub(begun) < ESCAPE_BYTES => kept.get(..begun),
        _ => Some(kept),
    };
    written.push_str(whole.unwrap_or_default());
    if longest >= CUT.len() {
        written.push_str(CUT);
    }
}

fn head_of(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    push_escaped(&mut escaped, text);
    escaped
}

fn push_escaped(escaped: &mut String, text: &str) {
    if read::is_simple(text) {
        return escaped.push_str(text);
    }
    // Over all bytes, without a way out: many are looked at at a time.
    if !text.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
        return escaped.push_str(text);
    }
    for character in text.chars() {
        if character.is_ascii_control() || character == '\\' {
            let _ = write!(escaped, "\\x{:02x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
}

/// Whether a byte of a text is written as an escape.
const fn is_escaped(byte: u8) -> bool {
    byte.is_ascii_control() || byte == b'\\'
}

/// What is no escape stays as it is.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.bytes().fold(false, |any, byte| any | (byte == b'\\')) {
        return text.into();
    }
    let mut unescaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.find('\\').and_then(|at| rest.split_at_checked(at)) {
        unescaped.push_str(before);
        let digits = from.get(2..ESCAPE_BYTES).filter(|_| from.starts_with("\\x"));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte.is_ascii() => {
                unescaped.push(char::from(byte));
                rest = from.get(ESCAPE_BYTES..).unwrap_or_default();
            }
            _ => {
                unescaped.push('\\');
                rest = from.get(1..).unwrap_or_default();
            }
        }
    }
    unescaped.push_str(rest);
    unescaped.into()
}

#[cfg(test)]
mod tests;
