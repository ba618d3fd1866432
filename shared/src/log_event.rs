//! A [`tracing`] event as a line of a log.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level as Severity};

use crate::log_line::{self, Level, Line, Pieces, Value};

/// The line that an event is.
pub fn line(event: &Event<'_>) -> Line {
    let metadata = event.metadata();
    let mut fields = Fields(Line::new(level(event), metadata.target(), ""));
    event.record(&mut fields);
    fields.0
}

/// Appends the line that an event is, as it is written.
pub fn write(event: &Event<'_>, written: &mut String) {
    let mut written_at_once =
        Written(Pieces::begin(written, level(event), event.metadata().target()));
    event.record(&mut written_at_once);
    if !written_at_once.0.end() {
        written.push_str(&String::from_utf8_lossy(&log_line::encode(&line(event))));
    }
}

/// How much an event matters.
pub fn level(event: &Event<'_>) -> Level {
    match *event.metadata().level() {
        Severity::ERROR => Level::Error,
        Severity::WARN => Level::Warn,
        Severity::INFO => Level::Info,
        Severity::DEBUG => Level::Debug,
        Severity::TRACE => Level::Trace,
    }
}

/// What a field is called in a line.
fn name(field: &Field) -> &'static str {
    let name = field.name();
    name.strip_prefix("r#").unwrap_or(name)
}

struct Fields(Line);

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.0.message = value.text().to_owned(),
            _ => self.0.fields.push((name(field).to_owned(), value)),
        }
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.add(field, Value::Plain(value.to_string()));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Shown(format!("{value:?}")));
    }
}

/// The same, written as it comes.
struct Written<'a>(Pieces<'a>);

impl Written<'_> {
    fn add<'b>(
        &mut self,
        field: &Field,
        kind: fn(&'b str) -> Value<&'b str>,
        value: fmt::Arguments<'_>,
    ) {
        // Writing into memory does not fail; a value that cannot be shown is as far as it came.
        let write = |to: &mut log_line::Escaping<'_>| {
            let _ = to.write_fmt(value);
        };
        match field.name() {
            "message" => self.0.message(write),
            _ => self.0.field(name(field), kind, write),
        }
    }
}

impl Visit for Written<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let write = |to: &mut log_line::Escaping<'_>| {
            let _ = to.write_str(value);
        };
        match field.name() {
            "message" => self.0.message(write),
            _ => self.0.field(name(field), Value::Text, write),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Plain, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Plain, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Plain, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Shown, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Subscriber;
    use tracing::subscriber::with_default;
    use tracing::{Id, Metadata, span};

    use super::*;

    /// Writes every event in both ways.
    #[derive(Clone, Default)]
    struct Both(Arc<Mutex<Vec<(String, String)>>>);

    impl Subscriber for Both {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            let mut at_once = "before".to_owned();
            write(event, &mut at_once);
            let line = log_line::encode(&line(event));
            let line = format!("before{}", String::from_utf8(line).unwrap());
            self.0.lock().unwrap().push((at_once, line));
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn an_event_written_at_once_is_the_line_that_it_is() {
        let both = Both::default();
        with_default(both.clone(), || {
            let (text, shown) = ("a\\b\n".to_owned(), std::net::Ipv4Addr::LOCALHOST);
            tracing::info!(text, %shown, r#type = "r", number = 7, less = -7_i64, yes = true, "it is\r");
            tracing::warn!("nothing but {words}", words = "words");
            tracing::debug!(only = "fields");
            tracing::error!(debug = ?Some("x"), long = "ä".repeat(5_000), last = 1, "too long");
            tracing::info!(message = "named", Upper = 1, "a b" = 2, fine = 3);
        });
        let written = both.0.lock().unwrap();
        assert_eq!(written.len(), 5);
        for (at_once, line) in written.iter() {
            assert_eq!(at_once, line);
        }
    }
}
