//! The configuration file: YAML, TOML or JSON by its name, walked along the table of keys, so that each value is read as
//! what its key wants and every unknown key is found at every level.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_saphyr::Spanned;

use super::error::{Origin, Problem, SettingsError};
use super::key::{Key, Kind};
use super::raw::Raw;
use super::text;
use super::value::{RawObject, Scalar, Value};

/// The text of the file at `path`.
pub fn text(path: &Path) -> Result<String, SettingsError> {
    text::read(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })
}

/// Reads the text of the file at `path` into `raw` and returns what is wrong with its keys and values.
pub fn read(path: &Path, text: &str, raw: &mut Raw) -> Result<Vec<Problem>, SettingsError> {
    let parse = match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => yaml,
        Some("json") => json,
        Some("toml") => toml,
        _ => return Err(SettingsError::Extension(path.to_owned())),
    };
    let mut reading = Reading { path, raw, problems: Vec::new(), at: String::new() };
    match parse(text, Level { reading: &mut reading, prefix: "" }) {
        Ok(()) => Ok(reading.problems),
        Err(reason) => Err(SettingsError::parse(path, reading.at, reason)),
    }
}

fn yaml(text: &str, level: Level<'_, '_>) -> Result<(), String> {
    // A file of nothing but comments is no document at all.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(());
    }
    let mut options = serde_saphyr::Options::default();
    // An excerpt could show a secret.
    options.with_snippet = false;
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        level.deserialize(yaml)
    })
    .map_err(|error| error.to_string())
}

fn json(text: &str, level: Level<'_, '_>) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_str(text);
    level.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| error.to_string())
}

fn toml(text: &str, level: Level<'_, '_>) -> Result<(), String> {
    // Its full text would show an excerpt.
    let words = |error: toml::de::Error| match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or_default();
            format!("line {}: {}", before.matches('\n').count() + 1, error.message())
        }
        None => error.message().to_owned(),
    };
    level.deserialize(toml::Deserializer::parse(text).map_err(words)?).map_err(words)
}

/// What is known while a file is being read.
struct Reading<'a> {
    path: &'a Path,
    raw: &'a mut Raw,
    problems: Vec<Problem>,
    /// The key that was read last, for the errors of the format's own parser.
    at: String,
}

impl Reading<'_> {
    fn take(&mut self, key: &'static Key, value: Result<Value, String>, origin: Origin) {
        match value {
            Ok(value) => self.raw.set(key, value, origin),
            Err(reason) => {
                self.problems.push(Problem::Kind { key: key.name.to_owned(), origin, reason });
            }
        }
    }
}

/// One group of keys: all whose names begin with `prefix`.
struct Level<'a, 'b> {
    reading: &'a mut Reading<'b>,
    prefix: &'a str,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("keys with values")
    }

    /// Not a group. The text is not shown: it may be a secret in the wrong place.
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom("expected keys with values, found a text"))
    }

    /// A group of which nothing is written.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(written) = map.next_key::<Spanned<String>>()? {
            let name = format!("{}{}", self.prefix, written.value);
            let line = Some(written.referenced.line()).filter(|line| *line > 0);
            let origin = Origin::File { path: self.reading.path.to_owned(), line };
            self.reading.at.clone_from(&name);
            if let Some(key) = Key::find(&name) {
                if let Some(value) = map.next_value_seed(Leaf(key.kind))? {
                    self.reading.take(key, value, origin);
                }
            } else if Key::is_group(&name) {
                let prefix = format!("{name}.");
                map.next_value_seed(Level { reading: self.reading, prefix: &prefix })?;
            } else {
                self.reading.problems.push(Problem::UnknownKey { name, origin });
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The value of one key; `None` = null, which counts as not written.
struct Leaf(Kind);

impl<'de> DeserializeSeed<'de> for Leaf {
    type Value = Option<Result<Value, String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let kind = self.0;
        // The format's own words would show what was written, which may be a secret in the wrong place.
        let expected = |what| move |_| D::Error::custom(format_args!("expected {what}"));
        Ok(match kind {
            // Asked for as text, so that no format takes it for a number first.
            Kind::Text | Kind::Secret | Kind::Choice(_) => {
                Option::<String>::deserialize(deserializer)
                    .map_err(expected("a text"))?
                    .map(|text| Value::scalar(kind, &text))
            }
            Kind::Bool | Kind::Integer | Kind::Number => {
                Option::<Scalar>::deserialize(deserializer)
                    .map_err(expected("a single value"))?
                    .map(|scalar| Value::scalar(kind, &scalar.into_text()))
            }
            Kind::Texts | Kind::TextsInFile => Option::<Vec<String>>::deserialize(deserializer)
                .map_err(expected("a list of texts"))?
                .map(|texts| Ok(Value::Texts(texts))),
            Kind::Numbers => Option::<Vec<f64>>::deserialize(deserializer)
                .map_err(expected("a list of numbers"))?
                .map(|numbers| Ok(Value::Numbers(numbers))),
            Kind::Objects(fields) => Option::<Vec<RawObject>>::deserialize(deserializer)
                .map_err(expected("a list of objects with text fields"))?
                .map(|objects| Value::objects(fields, objects)),
        })
    }
}
