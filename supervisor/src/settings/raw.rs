//! The configuration as written: for each key the value that counts, and where it came from.
//!
//! A later source replaces the value of an earlier one key by key. The readers below turn a value into what the program
//! uses; a problem they find names the key and the place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use shared::secret::Secret;

use super::error::{Origin, Problem};
use super::key::{Effect, KEYS, Key, Kind};
use super::text;
use super::value::{Object, Value};

/// As good as for ever, and no moment so long from now is beyond what a clock can say.
const LONGEST: Duration = Duration::from_secs(1_000 * 366 * 86_400);

/// Every key that has a value.
#[derive(Clone, Debug)]
pub struct Raw(BTreeMap<&'static str, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    value: Value,
    origin: Origin,
}

impl Raw {
    /// Nothing but the defaults.
    pub fn defaults() -> Self {
        let default = |key: &'static Key| Some((key.name, Entry::default_of(key)?));
        Self(KEYS.iter().filter_map(default).collect())
    }

    /// Takes in a value from a later source. An empty text brings the default back: it counts as not written.
    pub fn set(&mut self, key: &'static Key, value: Value, origin: Origin) {
        let entry = match value {
            // Empty means something here: keep no snapshot.
            Value::Absent if key.name == "managed.snapshot_cache_path" => {
                Some(Entry { value: Value::Text(String::new()), origin })
            }
            Value::Absent => Entry::default_of(key),
            value => Some(Entry { value, origin }),
        };
        match entry {
            Some(entry) => self.0.insert(key.name, entry),
            None => self.0.remove(key.name),
        };
    }

    /// Keys that were written and that there is nothing here to act on for, with the reason.
    pub fn without_effect(&self) -> Vec<(&'static str, &'static str)> {
        let written = KEYS.iter().filter(|key| self.is_written(key.name));
        written
            .filter_map(|key| match key.effect {
                Effect::ByDesign(reason) => Some((key.name, reason)),
                Effect::InEffect => None,
            })
            .collect()
    }

    /// Every value that there is, with where it was written, in the order of the table.
    pub fn values(&self) -> impl Iterator<Item = (&'static Key, &Value, &Origin)> {
        KEYS.iter().filter_map(|key| {
            let entry = self.0.get(key.name)?;
            Some((key, &entry.value, &entry.origin))
        })
    }

    /// Variables that values come from, by name.
    pub fn variables(&self) -> Vec<String> {
        let origins = self.0.values().map(|entry| &entry.origin);
        origins
            .filter_map(|origin| match origin {
                Origin::Variable(name) => Some(name.clone()),
                Origin::Default | Origin::File { .. } => None,
            })
            .collect()
    }

    /// Keys whose value here is another than there, in the order of the table.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static str> + 'a {
        let value = |raw: &'a Self, name: &str| raw.0.get(name).map(|entry| &entry.value);
        let differs = move |name: &&'static str| value(self, name) != value(other, name);
        KEYS.iter().map(|key| key.name).filter(differs)
    }

    /// Whether the key was written, rather than left at its default.
    pub fn is_written(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|entry| entry.origin != Origin::Default)
    }

    /// A problem with the value of `key`.
    pub fn problem(&self, key: &'static str, reason: impl ToString) -> Problem {
        Problem::Value { key: key.to_owned(), origin: self.origin(key), reason: reason.to_string() }
    }

    /// Where the value of `key` was written.
    pub fn origin(&self, key: &str) -> Origin {
        self.0.get(key).map_or(Origin::Default, |entry| entry.origin.clone())
    }

    fn value(&self, key: &'static str) -> Option<&Value> {
        debug_assert!(Key::find(key).is_some(), "{key} is not in the table");
        self.0.get(key).map(|entry| &entry.value)
    }

    /// A text; `None` = absent.
    pub fn text(&self, key: &'static str) -> Option<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A text that is never shown; `None` = absent.
    pub fn secret(&self, key: &'static str) -> Option<&Secret<String>> {
        match self.value(key) {
            Some(Value::Secret(secret)) => Some(secret),
            _ => None,
        }
    }

    /// A path; `None` = absent.
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// The content of the file that the key names; `None` = absent.
    pub fn file(&self, key: &'static str) -> Result<Option<String>, Problem> {
        let read = |path: &str| {
            text::read(Path::new(path)).map_err(|error| Problem::File {
                key,
                origin: self.origin(key),
                path: path.into(),
                reason: error.to_string(),
                kind: error.kind(),
            })
        };
        self.text(key).map(read).transpose()
    }

    /// A text of some form of its own; `None` = absent.
    pub fn parsed<T: FromStr<Err: ToString>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, Problem> {
        self.text(key).map(|text| self.parse(key, text)).transpose()
    }

    /// One element of the value of `key`, in a form of its own.
    pub fn parse<T: FromStr<Err: ToString>>(
        &self,
        key: &'static str,
        text: &str,
    ) -> Result<T, Problem> {
        text.parse()
            .map_err(|error: T::Err| self.problem(key, format!("{text:?}: {}", error.to_string())))
    }

    /// An address to listen on; `None` = absent.
    pub fn address(&self, key: &'static str) -> Result<Option<SocketAddr>, Problem> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                self.problem(key, format!("expected IP:PORT such as 0.0.0.0:3000, found {text:?}"))
            })
        };
        self.text(key).map(parse).transpose()
    }

    /// A yes or no; absent = no.
    pub fn flag(&self, key: &'static str) -> bool {
        matches!(self.value(key), Some(Value::Bool(true)))
    }

    /// A whole number; `None` = absent.
    pub fn integer(&self, key: &'static str) -> Option<u64> {
        match self.value(key) {
            Some(Value::Integer(integer)) => Some(*integer),
            _ => None,
        }
    }

    /// A whole number that fits `T`; absent = 0.
    pub fn bounded<T: TryFrom<u64>>(&self, key: &'static str) -> Result<T, Problem> {
        let integer = self.integer(key).unwrap_or_default();
        T::try_from(integer).map_err(|_| self.problem(key, format!("{integer} is too large")))
    }

    /// A number; `None` = absent.
    pub fn number(&self, key: &'static str) -> Option<f64> {
        match self.value(key) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A time in seconds; absent = 0, and at most [`LONGEST`].
    pub fn seconds(&self, key: &'static str) -> Duration {
        Duration::from_secs(self.integer(key).unwrap_or_default()).min(LONGEST)
    }

    /// A time limit in seconds; 0 = `None`.
    pub fn limit_secs(&self, key: &'static str) -> Option<Duration> {
        Some(self.seconds(key)).filter(|limit| !limit.is_zero())
    }

    /// A time limit in milliseconds; 0 = `None`.
    pub fn limit_ms(&self, key: &'static str) -> Option<Duration> {
        self.integer(key).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// A list of texts; absent = empty.
    pub fn texts(&self, key: &'static str) -> &[String] {
        match self.value(key) {
            Some(Value::Texts(texts)) => texts,
            _ => &[],
        }
    }

    /// A list of numbers; absent = empty.
    pub fn numbers(&self, key: &'static str) -> &[f64] {
        match self.value(key) {
            Some(Value::Numbers(numbers)) => numbers,
            _ => &[],
        }
    }

    /// A list of objects; absent = empty.
    pub fn objects(&self, key: &'static str) -> &[Object] {
        match self.value(key) {
            Some(Value::Objects(objects)) => objects,
            _ => &[],
        }
    }
}

impl Entry {
    fn default_of(key: &Key) -> Option<Self> {
        let value = match (key.default?, key.kind) {
            // Comma lists in the table, though not in a variable.
            (text, Kind::TextsInFile) => Value::from_variable(Kind::Texts, text),
            (text, kind) => Value::from_variable(kind, text),
        };
        value.ok().map(|value| Self { value, origin: Origin::Default })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_fits_its_kind() {
        let raw = Raw::defaults();
        for key in KEYS.iter().filter(|key| key.default.is_some()) {
            assert!(raw.0.contains_key(key.name), "{}", key.name);
            assert!(!raw.is_written(key.name));
        }
    }

    #[test]
    fn an_empty_text_brings_the_default_back_except_where_it_means_something() {
        let mut raw = Raw::defaults();
        let set = |raw: &mut Raw, name, value| {
            raw.set(Key::find(name).unwrap(), value, Origin::Variable("V".to_owned()));
        };
        set(&mut raw, "managed.mtls_dir", Value::Text("/elsewhere".to_owned()));
        set(&mut raw, "managed.cp_base_url", Value::Text("https://cloud".to_owned()));
        for name in ["managed.mtls_dir", "managed.cp_base_url", "managed.snapshot_cache_path"] {
            set(&mut raw, name, Value::Absent);
        }
        assert_eq!(raw.text("managed.mtls_dir"), Some("/var/lib/aisix/mtls"));
        assert_eq!(raw.text("managed.cp_base_url"), None);
        assert_eq!(raw.text("managed.snapshot_cache_path"), Some(""));
    }
}
