//! A line as text and as JSON, appended to what is written already: at its busiest a log has two lines a request.

use std::fmt::Write;
use std::time::SystemTime;

use shared::log_line::{Level, Line, Value};
use time::OffsetDateTime;

use super::{Said, Speaker};

/// Target of words that are no line.
const RAW: &str = "raw";

/// What stands before every line that is told together: who says it, and when.
#[derive(Debug)]
pub struct Head {
    speaker: Speaker,
    prefix: String,
    moment: String,
}

impl Head {
    /// For that speaker at that time.
    pub fn new(speaker: Speaker, time: SystemTime) -> Self {
        Self { speaker, prefix: speaker.prefix(), moment: moment(time) }
    }
}

/// As text, in colour or without.
pub fn text<S: AsRef<str>>(out: &mut String, head: &Head, said: &Said<S>, is_coloured: bool) {
    let Head { prefix, moment, .. } = head;
    let line = match said {
        Said::Raw(words) => {
            out.push_str(prefix);
            push_harmless(out, words);
            return out.push('\n');
        }
        Said::Line(line) => line,
    };
    let (level, target) = (line.level.name(), line.target.as_ref());
    if is_coloured {
        let colour = match line.level {
            Level::Error => 31,
            Level::Warn => 33,
            Level::Info => 32,
            Level::Debug => 34,
            Level::Trace => 35,
        };
        let _ = write!(
            out,
            "\x1b[1m{prefix}\x1b[0m\x1b[2m{moment}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m \x1b[2m{target}:\x1b[0m "
        );
    } else {
        let _ = write!(out, "{prefix}{moment} {level:>5} {target}: ");
    }
    push_words(out, line);
    out.push('\n');
}

/// What a line says, with its fields: without control characters, in one line.
pub fn push_words<S: AsRef<str>>(out: &mut String, line: &Line<S>) {
    push_harmless(out, line.message.as_ref());
    for (name, value) in &line.fields {
        out.push(' ');
        out.push_str(name.as_ref());
        out.push('=');
        match value {
            Value::Text(text) => push_quoted(out, text.as_ref()),
            value => push_harmless(out, value.text()),
        }
    }
}

/// Quoted, and escaped by that.
fn push_quoted(out: &mut String, text: &str) {
    if all(text, |byte| matches!(byte, b' '..=b'~') & !matches!(byte, b'"' | b'\\')) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        push_harmless(out, &format!("{text:?}"));
    }
}

/// As a JSON object.
pub fn json<S: AsRef<str>>(out: &mut String, head: &Head, said: &Said<S>) {
    match said {
        Said::Line(line) => push_json_line(out, head, line),
        Said::Raw(words) => push_json_line(out, head, &Line::new(Level::Warn, RAW, words)),
    }
}

fn push_json_line<S: AsRef<str>>(out: &mut String, head: &Head, line: &Line<S>) {
    let Head { speaker, moment, .. } = head;
    let (level, role) = (line.level.name(), speaker.role());
    let _ = write!(out, "{{\"timestamp\":\"{moment}\",\"level\":\"{level}\",\"role\":\"{role}\"");
    if let Some((_, worker)) = speaker.worker {
        let _ = write!(out, ",\"worker\":{}", worker.0);
    }
    let _ = write!(out, ",\"pid\":{},\"target\":", speaker.pid);
    push_json_text(out, line.target.as_ref());
    out.push_str(",\"message\":");
    push_json_text(out, line.message.as_ref());
    out.push_str(",\"fields\":{");
    for (place, (name, value)) in line.fields.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        push_json_text(out, name.as_ref());
        out.push(':');
        match value {
            // It is one that JSON has.
            Value::Plain(number) => out.push_str(number.as_ref()),
            value => push_json_text(out, value.text()),
        }
    }
    out.push_str("}}\n");
}

fn push_json_text(out: &mut String, text: &str) {
    if all(text, |byte| (byte >= b' ') & !matches!(byte, b'"' | b'\\')) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // A text: there is nothing that cannot be written.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// Without characters that end a line, move a terminal or turn the direction of what is read.
pub fn push_harmless(out: &mut String, text: &str) {
    if all(text, |byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return out.push_str(text);
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
        super::text(&mut out, &Head::new(*speaker, time), said, is_coloured);
        out
    }

    fn json(speaker: &Speaker, said: &Said, time: SystemTime) -> String {
        let mut out = String::new();
        super::json(&mut out, &Head::new(*speaker, time), said);
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

    proptest! {
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
