//! A failure that is repeated: told once, then counted, and summarised every minute for as long as it goes on.
//!
//! Two failures are the same if level, target, message and fields are, but for what is of one case only: [`CASE`], and in
//! the message and in reasons ([`REASONS`]) long numbers, durations and ids of requests. So another model, another host or another reason is another failure, and is told at
//! once. Lines of other levels are never held back. Pure: the time is given.
//!
//! Bound: [`KNOWN_MAX`] failures are known at a time; beyond, further ones are told each time.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use shared::log_line::{Line, Value};

/// How long a failure is counted before it is summarised.
const WINDOW: Duration = Duration::from_secs(60);
/// Failures known at a time.
const KNOWN_MAX: usize = 256;
/// Fields that say which case it was, not what has failed.
const CASE: [&str; 11] = [
    "attempt",
    "connections",
    "event_id",
    "gap",
    "latency_ms",
    "millis",
    "next_attempt_ms",
    "pid",
    "provider_request_id",
    "request_id",
    "trace_id",
];
/// Fields that hold a text rather than a name: of what is named, every letter counts.
const REASONS: [&str; 3] = ["error", "error_kind", "reason"];
/// What an amount is of.
const UNITS: [&str; 9] = ["s", "ms", "us", "µs", "ns", "seconds", "bytes", "times", "events"];
/// A number from so many digits on is no status.
const NUMBER_DIGITS: usize = 4;
/// A word of so many bytes is the id of a request, if it begins like one or is nothing but hexadecimal digits. Names of models and
/// of resources are neither.
const ID_BYTES: usize = 16;
const ID_BEGINNINGS: [&str; 6] = ["call_", "chatcmpl-", "cmpl-", "msg_", "req_", "resp_"];

/// The failures that are known.
#[derive(Debug, Default)]
pub struct Repeats(HashMap<u64, Known>);

#[derive(Debug)]
struct Known {
    line: Line,
    since: Instant,
    again: u64,
}

impl Repeats {
    /// Takes note of a line. Whether it is to be told now.
    pub fn hear<S: AsRef<str>>(&mut self, line: &Line<S>, now: Instant) -> bool {
        if !line.level.is_failure() {
            return true;
        }
        let name = identity(line);
        if let Some(known) = self.0.get_mut(&name) {
            known.again = known.again.saturating_add(1);
            return false;
        }
        if self.0.len() < KNOWN_MAX {
            let mut line = line.to_owned();
            line.fields.retain(|(name, _)| !CASE.contains(&name.as_str()));
            self.0.insert(name, Known { line, since: now, again: 0 });
        }
        true
    }

    /// The summaries that are due. A failure that has not come again is forgotten.
    pub fn due(&mut self, now: Instant) -> Vec<Line> {
        let mut due = Vec::new();
        self.0.retain(|_, known| {
            let took = now.saturating_duration_since(known.since);
            if took < WINDOW {
                return true;
            }
            due.extend(known.summary(took));
            let goes_on = known.again > 0;
            (known.since, known.again) = (now, 0);
            goes_on
        });
        due
    }

    /// When [`Repeats::due`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|known| known.since + WINDOW).min()
    }

    /// All summaries: nothing more will be heard.
    pub fn finish(&mut self) -> Vec<Line> {
        let now = Instant::now();
        let known = self.0.drain().map(|(_, known)| known);
        known.filter_map(|it| it.summary(now.saturating_duration_since(it.since))).collect()
    }
}

impl Known {
    fn summary(&self, took: Duration) -> Option<Line> {
        if self.again == 0 {
            return None;
        }
        let mut line = self.line.clone();
        let (again, seconds) = (self.again, took.as_secs().max(1));
        let times = if again == 1 { "time" } else { "times" };
        line.message = format!("{} … {again} more {times} in {seconds} s", line.message);
        Some(line.with("repeated", again))
    }
}

fn identity<S: AsRef<str>>(line: &Line<S>) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.level.name().hash(&mut hasher);
    line.target.as_ref().hash(&mut hasher);
    hash_text(line.message.as_ref(), &mut hasher);
    for (name, value) in &line.fields {
        let name = name.as_ref();
        if CASE.contains(&name) {
            continue;
        }
        name.hash(&mut hasher);
        let is_reason = REASONS.contains(&name) && !matches!(value, Value::Plain(_));
        if is_reason {
            hash_text(value.text(), &mut hasher);
        } else {
            value.text().hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The words of a text, without those that are of one case only.
fn hash_text(text: &str, hasher: &mut impl Hasher) {
    // Host names, addresses and paths are one word, and stay.
    let parts = |c: char| c.is_whitespace() || "\"'`()[]{}<>,;=|".contains(c);
    let words = text.split(parts).map(|word| word.trim_end_matches([':', '.']));
    let mut words = words.filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let is_amount = words.peek().is_some_and(|next| UNITS.contains(next)) && is_number(word);
        if is_amount || is_case(word) { "#".hash(hasher) } else { word.hash(hasher) }
    }
}

/// Whether a word is a long number, a duration or an id.
fn is_case(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let is_duration = digits > 0 && UNITS.contains(&unit);
    let begins = ID_BEGINNINGS.iter().any(|beginning| word.starts_with(beginning));
    let is_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_id = word.len() >= ID_BYTES && (begins || is_hex);
    (is_number(word) && digits >= NUMBER_DIGITS) || is_duration || is_id
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use shared::log_line::Level;

    use super::*;

    fn failed(model: &str, error: &str, request: u64) -> Line {
        let mut line = Line::new(Level::Warn, "worker::request", "an attempt has failed");
        let text = |text: &str| Value::Text(text.to_owned());
        line.fields.push(("request_id".to_owned(), text(&format!("r-{request}"))));
        line.fields.push(("model".to_owned(), text(model)));
        line.fields.push(("error".to_owned(), text(error)));
        line.with("attempt", request % 3)
    }

    #[test]
    fn a_flood_of_one_failure_is_one_line_and_a_summary_a_minute() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut told = 0;
        for number in 0..10_000 {
            let error = format!("answered 500 after {number} ms, req_{number:020}");
            told += u32::from(repeats.hear(&failed("m", &error, number), start));
        }
        assert_eq!(told, 1);
        assert!(repeats.due(start + WINDOW / 2).is_empty());
        assert_eq!(repeats.next(), Some(start + WINDOW));
        let due = repeats.due(start + WINDOW);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].message, "an attempt has failed … 9999 more times in 60 s");
        assert_eq!(due[0].field("repeated"), Some(&Value::Plain("9999".to_owned())));
        assert_eq!(due[0].field("request_id"), None);
        assert!(due[0].field("model").is_some());
        // It goes on, and ends.
        assert!(
            !repeats.hear(
                &failed("m", "answered 500 after 1 ms, req_1234567890123", 1),
                start + WINDOW
            )
        );
        let due = repeats.due(start + WINDOW * 2);
        assert!(due[0].message.ends_with("1 more time in 60 s"), "{due:?}");
        assert!(repeats.due(start + WINDOW * 3).is_empty());
        assert!(repeats.hear(
            &failed("m", "answered 500 after 1 ms, req_1234567890123", 1),
            start + WINDOW * 3
        ));
    }

    #[test]
    fn another_failure_is_told_at_once() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for (model, error) in [
            ("a", "answered 500"),
            ("b", "answered 500"),
            ("a", "answered 503"),
            ("a", "cannot connect to 10.0.0.1:8443"),
            ("a", "cannot connect to 10.0.0.2:8443"),
            ("claude-opus-4-20250514", "answered 500"),
            ("claude-3-5-sonnet-20241022", "answered 500"),
            ("a", "the key 6f1c2d3e-0000-4000-8000-000000000001 is refused"),
            ("a", "the key 6f1c2d3e-0000-4000-8000-000000000002 is refused"),
            ("a", "cannot connect to backend-server-12345-1.example.com"),
            ("a", "cannot connect to backend-server-12345-2.example.com"),
        ] {
            assert!(repeats.hear(&failed(model, error, 1), now), "{model} {error}");
            assert!(!repeats.hear(&failed(model, error, 2), now), "{model} {error}");
        }
        let error = Line { level: Level::Error, ..failed("a", "answered 500", 1) };
        assert!(repeats.hear(&error, now));
    }

    #[test]
    fn what_is_no_failure_is_always_told() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for level in [Level::Info, Level::Debug, Level::Trace] {
            let line = Line::new(level, "t", "proxy request completed");
            assert!((0..10).all(|_| repeats.hear(&line, now)));
        }
        assert_eq!(repeats.next(), None);
    }

    #[test]
    fn more_failures_than_are_known_are_told_and_none_is_hidden() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        for round in 0..2 {
            let told = (0..KNOWN_MAX + 10)
                .filter(|model| repeats.hear(&failed(&format!("m{model}"), "x", 1), now));
            assert_eq!(told.count(), if round == 0 { KNOWN_MAX + 10 } else { 10 });
        }
        assert_eq!(repeats.finish().len(), KNOWN_MAX);
        assert_eq!(repeats.next(), None);
    }
}
