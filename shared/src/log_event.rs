//! A [`tracing`] event as a line of a log.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level as Severity};

use crate::log_line::{Level, Line, Value};

/// The line that an event is.
pub fn line(event: &Event<'_>) -> Line {
    let metadata = event.metadata();
    let level = match *metadata.level() {
        Severity::ERROR => Level::Error,
        Severity::WARN => Level::Warn,
        Severity::INFO => Level::Info,
        Severity::DEBUG => Level::Debug,
        Severity::TRACE => Level::Trace,
    };
    let mut fields = Fields(Line::new(level, metadata.target(), ""));
    event.record(&mut fields);
    fields.0
}

struct Fields(Line);

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.0.message = value.text().to_owned(),
            name => {
                let name = name.strip_prefix("r#").unwrap_or(name).to_owned();
                self.0.fields.push((name, value));
            }
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
