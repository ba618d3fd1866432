//! A line as text and as JSON.

use std::fmt::Write;
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use shared::log_line::{Level, Line, Value};
use time::OffsetDateTime;

use super::{Said, Speaker};

/// Target of words that are no line.
const RAW: &str = "raw";

/// As text, in colour or without.
pub fn text(speaker: &Speaker, said: &Said, time: SystemTime, is_coloured: bool) -> String {
    let prefix = speaker.prefix();
    let line = match said {
        Said::Raw(words) => return format!("{prefix}{}\n", harmless(words)),
        Said::Line(line) => line,
    };
    let (time, level, words) = (moment(time), line.level.name(), words(line));
    let target = &line.target;
    if is_coloured {
        let colour = match line.level {
            Level::Error => 31,
            Level::Warn => 33,
            Level::Info => 32,
            Level::Debug => 34,
            Level::Trace => 35,
        };
        format!(
            "\x1b[1m{prefix}\x1b[0m\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m \x1b[2m{target}:\x1b[0m {words}\n"
        )
    } else {
        format!("{prefix}{time} {level:>5} {target}: {words}\n")
    }
}

/// What a line says, with its fields: without control characters, in one line.
pub fn words(line: &Line) -> String {
    let mut words = harmless(&line.message);
    for (name, value) in &line.fields {
        let _ = match value {
            // Quoted, and escaped by that.
            Value::Text(text) => write!(words, " {name}={}", harmless(&format!("{text:?}"))),
            value => write!(words, " {name}={}", harmless(value.text())),
        };
    }
    words
}

/// As a JSON object.
pub fn json(speaker: &Speaker, said: &Said, time: SystemTime) -> String {
    let raw;
    let line = match said {
        Said::Line(line) => line,
        Said::Raw(words) => {
            raw = Line::new(Level::Warn, RAW, words);
            &raw
        }
    };
    let object = Object {
        timestamp: moment(time),
        level: line.level.name(),
        role: speaker.role(),
        worker: speaker.worker.map(|(_, id)| id.0),
        pid: speaker.pid,
        target: &line.target,
        message: &line.message,
        fields: Fields(&line.fields),
    };
    // Texts and numbers: there is nothing that cannot be written.
    serde_json::to_string(&object).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
struct Object<'a> {
    timestamp: String,
    level: &'static str,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<u32>,
    pid: i32,
    target: &'a str,
    message: &'a str,
    fields: Fields<'a>,
}

struct Fields<'a>(&'a [(String, Value)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |value: &Value| match value {
            Value::Plain(text) => {
                serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())
            }
            value => serde_json::Value::from(value.text()),
        };
        serializer.collect_map(self.0.iter().map(|(name, it)| (name, value(it))))
    }
}

/// Without characters that end a line, move a terminal or turn the direction of what is read.
pub fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (character.is_control() && character != '\t') || turns {
            harmless.extend(character.escape_default());
        } else {
            harmless.push(character);
        }
    }
    harmless
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
