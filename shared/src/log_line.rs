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

use std::fmt::Write;

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
pub enum Value {
    /// A text.
    Text(String),
    /// Anything else that was written out.
    Shown(String),
    /// A number or a boolean, as JSON has it.
    Plain(String),
}

impl Value {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Shown(text) | Self::Plain(text) => text,
        }
    }

    const fn kind(&self) -> char {
        match self {
            Self::Text(_) => '"',
            Self::Shown(_) => '=',
            Self::Plain(_) => '#',
        }
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// Where in the program it was written.
    pub target: String,
    /// What it says.
    pub message: String,
    /// What it says it of, in order.
    pub fields: Vec<(String, Value)>,
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

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// Whether a field may be called that.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= NAME_BYTES_MAX
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.'))
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
pub fn decode(bytes: &[u8]) -> Option<Line> {
    let text = String::from_utf8_lossy(bytes.get(..LINE_BYTES_MAX).unwrap_or(bytes));
    let mut parts = text.strip_prefix(BEGIN)?.split(SEPARATOR);
    let letter = parts.next()?;
    let level = Level::ALL.into_iter().find(|level| level.letter() == letter)?;
    let target = parts.next().filter(|target| is_target(target))?.to_owned();
    let message = unescaped(parts.next()?);
    let mut fields: Vec<(String, Value)> = Vec::new();
    for part in parts {
        let (place, kind) = part.char_indices().find(|(_, c)| matches!(c, '"' | '=' | '#'))?;
        let (name, value) = part.split_at_checked(place)?;
        let value = unescaped(value.get(kind.len_utf8()..)?);
        if !is_name(name) || fields.len() >= FIELDS_MAX {
            return None;
        }
        if fields.iter().any(|(known, _)| known == name) {
            return None;
        }
        let value = match kind {
            '"' => Value::Text(value),
            '#' if is_plain(&value) => Value::Plain(value),
            '=' => Value::Shown(value),
            _ => return None,
        };
        fields.push((name.to_owned(), value));
    }
    Some(Line { level, target, message, fields })
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
    for character in text.chars() {
        if character.is_ascii_control() || character == '\\' {
            let _ = write!(escaped, "\\x{:02x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// What is no escape stays as it is.
fn unescaped(text: &str) -> String {
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
    unescaped
}

#[cfg(test)]
mod tests;
