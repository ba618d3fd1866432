//! A line as text and as JSON, appended to what is written already: at its busiest a log has two lines a request. So a worker's line
//! is made from what lies in its pipe, and most of that is copied as it is.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use shared::log_line::{self, Level, Line, Reader, Value};
use time::OffsetDateTime;

use super::{Said, Speaker};

/// Target of words that are no line.
const RAW: &str = "raw";

/// What stands before every line that is told together: who says it, and when.
#[derive(Debug)]
pub struct Head {
    prefix: String,
    moment: String,
    /// Who says it, as JSON.
    speaker: String,
    /// How a line begins up to the moment, as text and as JSON.
    starts: [String; 2],
}

impl Head {
    /// For that speaker at that time.
    pub fn new(speaker: Speaker, time: SystemTime) -> Self {
        let worker = speaker.worker.map(|(_, worker)| format!(",\"worker\":{}", worker.0));
        let (role, worker, pid) = (speaker.role(), worker.unwrap_or_default(), speaker.pid);
        let about = format!("\"role\":\"{role}\"{worker},\"pid\":{pid}");
        let (prefix, moment) = (speaker.prefix(), moment(time));
        let starts = [format!("{prefix}{moment}"), format!("{{\"timestamp\":\"{moment}")];
        Self { prefix, moment, speaker: about, starts }
    }

    /// How a line begins, up to the moment, if that is its beginning.
    pub fn start(&self, shape: Shape) -> Option<&str> {
        let [text, json] = &self.starts;
        match shape {
            Shape::Text => Some(text),
            Shape::Json => Some(json),
            Shape::Coloured => None,
        }
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    Text,
    /// Text in colour.
    Coloured,
    /// A JSON object.
    Json,
}

/// Appends what is said.
pub fn said<S: AsRef<str>>(out: &mut String, shape: Shape, head: &Head, said: &Said<S>) {
    let mut writing = Writing { out, shape, head, is_first: true };
    match said {
        Said::Line(line) => {
            writing.begin(line.level, line.target.as_ref(), &line.message.as_ref());
            line.fields.iter().for_each(|(name, value)| writing.add(name.as_ref(), &words(value)));
            writing.end();
        }
        Said::Raw(words) if shape == Shape::Json => {
            writing.begin(Level::Warn, RAW, &words.as_str());
            writing.end();
        }
        Said::Raw(words) => {
            out.push_str(&head.prefix);
            push_harmless(out, &words.as_str());
            out.push('\n');
        }
    }
}

/// Appends a worker's line, as it lies in its pipe, without its end. False if it is no line, and then nothing is appended.
pub fn written(out: &mut String, shape: Shape, head: &Head, line: &str) -> bool {
    let before = out.len();
    let mut writing = Writing { out, shape, head, is_first: true };
    let is_line = log_line::read(line, &mut writing);
    writing.end();
    if !is_line {
        out.truncate(before);
    }
    is_line
}

/// A line up to its first field.
pub fn begun(shape: Shape, head: &Head, level: Level, target: &str, message: &str) -> String {
    let mut out = String::new();
    let mut writing = Writing { out: &mut out, shape, head, is_first: true };
    writing.begin(level, target, &message);
    out
}

/// A line on its way.
struct Writing<'o> {
    out: &'o mut String,
    shape: Shape,
    head: &'o Head,
    /// No field has been written.
    is_first: bool,
}

impl Writing<'_> {
    fn begin(&mut self, level: Level, target: &str, message: &impl Words) {
        let Self { out, head: Head { prefix, moment, speaker, .. }, .. } = self;
        match self.shape {
            Shape::Json => {
                push_all(out, &["{\"timestamp\":\"", moment, "\",\"level\":\"", level.name()]);
                push_all(out, &["\",", speaker, ",\"target\":"]);
                push_json_text(out, &target);
                out.push_str(",\"message\":");
                push_json_text(out, message);
                return out.push_str(",\"fields\":{");
            }
            Shape::Text => {
                push_all(out, &[prefix, moment, " ", of_five(level), " ", target, ": "]);
            }
            Shape::Coloured => {
                let (level, colour) = (of_five(level), colour(level));
                let _ = write!(
                    out,
                    "\x1b[1m{prefix}\x1b[0m\x1b[2m{moment}\x1b[0m \x1b[{colour}m{level}\x1b[0m \x1b[2m{target}:\x1b[0m "
                );
            }
        }
        push_harmless(out, message);
    }

    fn add(&mut self, name: &str, value: &Value<impl Words>) {
        let Self { out, shape, .. } = self;
        if *shape != Shape::Json {
            return push_field(out, name, value);
        }
        out.push_str(if std::mem::take(&mut self.is_first) { "\"" } else { ",\"" });
        // Nothing in a name needs to be escaped.
        push_all(out, &[name, "\":"]);
        match value {
            // It is one that JSON has.
            Value::Plain(number) => out.push_str(&number.whole()),
            Value::Text(text) | Value::Shown(text) => push_json_text(out, text),
        }
    }

    fn end(self) {
        self.out.push_str(if self.shape == Shape::Json { "}}\n" } else { "\n" });
    }
}

impl<'a> Reader<'a> for Writing<'_> {
    fn head(&mut self, level: Level, target: &'a str, message: log_line::Text<'a>) {
        self.begin(level, target, &message);
    }

    fn field(&mut self, name: &'a str, value: Value<log_line::Text<'a>>) {
        self.add(name, &value);
    }
}

/// A text that is to be written.
pub trait Words {
    /// The text, if it is known that nothing in it has to be escaped in any form.
    fn simple(&self) -> Option<&str>;
    /// The text.
    fn whole(&self) -> Cow<'_, str>;
}

impl Words for log_line::Text<'_> {
    fn simple(&self) -> Option<&str> {
        log_line::Text::simple(*self)
    }

    fn whole(&self) -> Cow<'_, str> {
        self.text()
    }
}

impl Words for &str {
    fn simple(&self) -> Option<&str> {
        all(self, |byte| matches!(byte, b' '..=b'~') & !matches!(byte, b'"' | b'\\'))
            .then_some(*self)
    }

    fn whole(&self) -> Cow<'_, str> {
        Cow::Borrowed(self)
    }
}

fn words<S: AsRef<str>>(value: &Value<S>) -> Value<&str> {
    match value {
        Value::Text(text) => Value::Text(text.as_ref()),
        Value::Shown(text) => Value::Shown(text.as_ref()),
        Value::Plain(text) => Value::Plain(text.as_ref()),
    }
}

fn push_all(out: &mut String, texts: &[&str]) {
    texts.iter().for_each(|text| out.push_str(text));
}

/// The level, as wide as every other.
const fn of_five(level: Level) -> &'static str {
    match level {
        Level::Info => " INFO",
        Level::Warn => " WARN",
        level => level.name(),
    }
}

const fn colour(level: Level) -> u8 {
    match level {
        Level::Error => 31,
        Level::Warn => 33,
        Level::Info => 32,
        Level::Debug => 34,
        Level::Trace => 35,
    }
}

/// What a line says, with its fields: without control characters, in one line.
pub fn push_words<S: AsRef<str>>(out: &mut String, line: &Line<S>) {
    push_harmless(out, &line.message.as_ref());
    line.fields.iter().for_each(|(name, value)| push_field(out, name.as_ref(), &words(value)));
}

fn push_field(out: &mut String, name: &str, value: &Value<impl Words>) {
    push_all(out, &[" ", name, "="]);
    match value {
        Value::Text(text) => push_quoted(out, text),
        Value::Shown(text) | Value::Plain(text) => push_harmless(out, text),
    }
}

/// Quoted, and escaped by that.
fn push_quoted(out: &mut String, text: &impl Words) {
    match text.simple() {
        Some(simple) => push_all(out, &["\"", simple, "\""]),
        None => push_harmless(out, &format!("{:?}", text.whole()).as_str()),
    }
}

fn push_json_text(out: &mut String, text: &impl Words) {
    if let Some(simple) = text.simple() {
        return push_all(out, &["\"", simple, "\""]);
    }
    let text = text.whole();
    if all(&text, |byte| (byte >= b' ') & !matches!(byte, b'"' | b'\\')) {
        push_all(out, &["\"", &text, "\""]);
    } else {
        // A text: there is nothing that cannot be written.
        out.push_str(&serde_json::to_string(&text).unwrap_or_default());
    }
}

/// Without characters that end a line, move a terminal or turn the direction of what is read.
pub fn push_harmless(out: &mut String, text: &impl Words) {
    if let Some(simple) = text.simple() {
        return out.push_str(simple);
    }
    let text = text.whole();
    if all(&text, |byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return out.push_str(&text);
    }
    for character in text.chars() {
        let turns = matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (character.is_control() && character != '\t') || turns {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}

/// Whether all bytes are so. Without a way out, so that many are looked at at a time.
fn all(text: &str, is: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & is(byte))
}

/// A moment as RFC 3339 has it, to the microsecond.
pub fn moment(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use shared::id::{Role, WorkerId};

    use super::*;

    const WORKER: Speaker = Speaker { worker: Some((Role::Proxy, WorkerId(3))), pid: 77 };

    fn time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(1_772_166_891_000_042)
    }

    fn line() -> Line {
        let mut line = Line::new(Level::Info, "worker::request", "it is\ndone");
        line.fields.push(("path".to_owned(), Value::Text("/v1\" \x1b[2J".to_owned())));
        line.fields.push(("error".to_owned(), Value::Shown("none, so far".to_owned())));
        line.fields.push(("role".to_owned(), Value::Text("supervisor".to_owned())));
        line.with("status", 200)
    }

    fn text(speaker: &Speaker, said: &Said, time: SystemTime, is_coloured: bool) -> String {
        let mut out = String::new();
        let shape = if is_coloured { Shape::Coloured } else { Shape::Text };
        super::said(&mut out, shape, &Head::new(*speaker, time), said);
        out
    }

    fn json(speaker: &Speaker, said: &Said, time: SystemTime) -> String {
        let mut out = String::new();
        super::said(&mut out, Shape::Json, &Head::new(*speaker, time), said);
        out
    }

    #[test]
    fn text_is_one_line_under_the_name_of_its_speaker() {
        assert_eq!(
            text(&WORKER, &Said::Line(line()), time(), false),
            "proxy[3] 2026-02-27T04:34:51.000042Z  INFO worker::request: it is\\ndone \
             path=\"/v1\\\" \\u{1b}[2J\" error=none, so far role=\"supervisor\" status=200\n"
        );
        let own = text(&Speaker::own(), &Said::Line(line()), time(), false);
        assert!(own.starts_with("2026-02-27T"), "{own}");
        let raw = Said::Raw("panicked\rsupervisor says".to_owned());
        assert_eq!(text(&WORKER, &raw, time(), true), "proxy[3] panicked\\rsupervisor says\n");
    }

    #[test]
    fn json_keeps_who_speaks_apart_from_what_is_said() {
        let object: serde_json::Value =
            serde_json::from_str(&json(&WORKER, &Said::Line(line()), time())).unwrap();
        assert_eq!(
            object,
            serde_json::json!({
                "timestamp": "2026-02-27T04:34:51.000042Z", "level": "INFO", "role": "proxy",
                "worker": 3, "pid": 77, "target": "worker::request", "message": "it is\ndone",
                "fields": {
                    "path": "/v1\" \u{1b}[2J", "error": "none, so far", "role": "supervisor",
                    "status": 200,
                },
            })
        );
        let raw = json(&WORKER, &Said::Raw("panicked".to_owned()), time());
        assert!(
            raw.contains(r#""level":"WARN""#) && raw.contains(r#""message":"panicked""#),
            "{raw}"
        );
    }

    /// As it was before a worker's line was made from what lies in its pipe.
    fn taken_apart(shape: Shape, head: &Head, written: &[u8]) -> String {
        let mut out = String::new();
        said(&mut out, shape, head, &Said::Line(log_line::decode(written).unwrap()));
        out
    }

    #[test]
    fn what_is_no_line_leaves_nothing_behind() {
        let head = Head::new(WORKER, time());
        for wrong in ["panicked", "\x1eI\x1ft\x1fm\x1fa=1\x1fa=2", "\x1eI\x1ft\x1fm\x1fn#1,\"x\":2"]
        {
            for shape in [Shape::Text, Shape::Coloured, Shape::Json] {
                let mut out = "before".to_owned();
                assert!(!written(&mut out, shape, &head, wrong), "{wrong:?}");
                assert_eq!(out, "before");
            }
        }
    }

    proptest! {
        #[test]
        fn a_workers_line_is_the_same_from_the_pipe_as_taken_apart(
            texts in prop::collection::vec("[ -~]{0,20}|\\PC{0,6}|[\\x00-\\x7f]{0,9}", 1..9),
            number: u64,
        ) {
            let mut line = Line::new(Level::Info, "a::b", texts.concat());
            for (place, text) in texts.into_iter().enumerate() {
                let value = if place % 2 == 0 { Value::Text(text) } else { Value::Shown(text) };
                line.fields.push((format!("f{place}"), value));
            }
            let bytes = log_line::encode(&line.with("n", number));
            let head = Head::new(WORKER, time());
            for shape in [Shape::Text, Shape::Coloured, Shape::Json] {
                let pipe = std::str::from_utf8(&bytes[..bytes.len() - 1]).unwrap();
                let mut out = String::new();
                prop_assert!(written(&mut out, shape, &head, pipe));
                prop_assert_eq!(out, taken_apart(shape, &head, pipe.as_bytes()));
            }
        }

        #[test]
        fn whatever_is_said_is_one_line_of_text_and_of_json(message: String, value: String) {
            let mut line = Line::new(Level::Error, "t", message);
            line.fields.push(("a".to_owned(), Value::Text(value.clone())));
            line.fields.push(("b".to_owned(), Value::Shown(value)));
            for said in [Said::Raw(line.message.clone()), Said::Line(line)] {
                for written in [text(&WORKER, &said, time(), false), json(&WORKER, &said, time())] {
                    prop_assert_eq!(written.matches('\n').count(), 1);
                    let moves = |c: char| c.is_ascii_control() && c != '\t' && c != '\u{7f}';
                    prop_assert!(!written.trim_end_matches('\n').contains(moves));
                }
            }
        }
    }
}
