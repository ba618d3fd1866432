//! A value as written, read with its type in view: text stays what it was, `0123` and `TRUE` included.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::secret::Secret;

use super::key::Kind;

/// The fields of one entry in a list of objects.
pub type Object = BTreeMap<String, String>;

/// A value of one of the kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Written as empty, which counts as not written.
    Absent,
    /// For `Bool`.
    Bool(bool),
    /// For `Integer`.
    Integer(u64),
    /// For `Number`.
    Number(f64),
    /// For `Text` and `Choice`.
    Text(String),
    /// For `Secret`.
    Secret(Secret<String>),
    /// For both kinds of lists of texts.
    Texts(Vec<String>),
    /// For `Numbers`.
    Numbers(Vec<f64>),
    /// For `Objects`.
    Objects(Vec<Object>),
}

impl Value {
    /// Reads the value of a variable. An empty one means the empty list where a list is wanted, else nothing at all. The
    /// error says what was expected, and shows the text only where it cannot be secret.
    pub fn from_variable(kind: Kind, text: &str) -> Result<Self, String> {
        let items = || text.split(',').map(str::trim).filter(|_| !text.trim().is_empty());
        match kind {
            Kind::Texts => Ok(Self::Texts(items().map(str::to_owned).collect())),
            Kind::Numbers => items().map(number).collect::<Result<_, _>>().map(Self::Numbers),
            Kind::TextsInFile if text.is_empty() => Ok(Self::Texts(Vec::new())),
            Kind::TextsInFile => {
                Err("has no form as a variable: write it in the configuration file".to_owned())
            }
            Kind::Objects(_) if text.trim().is_empty() => Ok(Self::Objects(Vec::new())),
            Kind::Objects(fields) => {
                let objects: Vec<RawObject> = serde_json::from_str(text)
                    .map_err(|error| format!("expected a JSON array of objects: {error}"))?;
                Self::objects(fields, objects)
            }
            scalar => Self::scalar(scalar, text),
        }
    }

    /// Reads one value that is no list.
    pub fn scalar(kind: Kind, text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Absent);
        }
        match kind {
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(Self::Bool(true)),
                "false" | "no" | "off" | "0" => Ok(Self::Bool(false)),
                _ => Err(format!("expected true or false, found {text:?}")),
            },
            Kind::Integer => match text.trim().parse() {
                Ok(integer) => Ok(Self::Integer(integer)),
                Err(_) => Err(format!("expected a whole number from 0, found {text:?}")),
            },
            Kind::Number => number(text).map(Self::Number),
            Kind::Secret => Ok(Self::Secret(Secret::new(text.to_owned()))),
            Kind::Choice(words) if !words.contains(&text) => {
                Err(format!("expected one of {}, found {text:?}", words.join(", ")))
            }
            _ => Ok(Self::Text(text.to_owned())),
        }
    }

    /// Reads a list of objects, none of which may have a field beside `fields`. A field that is null counts as absent.
    pub fn objects(fields: &[&str], objects: Vec<RawObject>) -> Result<Self, String> {
        let unknown = objects.iter().enumerate().find_map(|(index, object)| {
            let name = object.keys().find(|name| !fields.contains(&name.as_str()))?;
            Some(format!(
                "entry {index} has the unknown field {name}, known are {}",
                fields.join(", ")
            ))
        });
        match unknown {
            Some(reason) => Err(reason),
            None => Ok(Self::Objects(objects.into_iter().map(present).collect())),
        }
    }
}

/// An object as written: its fields may be null.
pub type RawObject = BTreeMap<String, Option<String>>;

fn present(object: RawObject) -> Object {
    object.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("expected a number, found {text:?}")),
    }
}

/// The text of a boolean or a number, however the format writes it.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A boolean.
    Bool(bool),
    /// A whole number from 0.
    Unsigned(u64),
    /// A whole number below 0.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
}

impl Scalar {
    /// As a variable would carry it.
    pub fn into_text(self) -> String {
        match self {
            Self::Bool(bool) => bool.to_string(),
            Self::Unsigned(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_what_looks_like_a_number_or_a_boolean() {
        for text in ["0123", "1e5", "TRUE", "1.10", "null", " padded "] {
            assert_eq!(Value::from_variable(Kind::Text, text), Ok(Value::Text(text.to_owned())));
            let secret = Value::Secret(Secret::new(text.to_owned()));
            assert_eq!(Value::from_variable(Kind::Secret, text), Ok(secret));
        }
    }

    #[test]
    fn an_empty_variable_is_the_empty_list_or_nothing() {
        assert_eq!(Value::from_variable(Kind::Texts, ""), Ok(Value::Texts(vec![])));
        assert_eq!(Value::from_variable(Kind::Numbers, " "), Ok(Value::Numbers(vec![])));
        assert_eq!(Value::from_variable(Kind::Objects(&[]), " "), Ok(Value::Objects(vec![])));
        for kind in [Kind::Text, Kind::Secret, Kind::Bool, Kind::Integer, Kind::Choice(&["a"])] {
            assert_eq!(Value::from_variable(kind, ""), Ok(Value::Absent));
        }
    }

    #[test]
    fn a_list_may_hold_a_single_number() {
        assert_eq!(Value::from_variable(Kind::Texts, "7"), Ok(Value::Texts(vec!["7".to_owned()])));
        assert_eq!(Value::from_variable(Kind::Numbers, "7"), Ok(Value::Numbers(vec![7.0])));
        assert_eq!(
            Value::from_variable(Kind::Numbers, "0.5, 1"),
            Ok(Value::Numbers(vec![0.5, 1.0]))
        );
    }

    #[test]
    fn objects_are_json_with_known_fields() {
        let kind = Kind::Objects(&["pattern", "client"]);
        let object = Object::from([("pattern".to_owned(), "x".to_owned())]);
        let read = Value::from_variable(kind, r#"[{"pattern": "x", "client": null}]"#);
        assert_eq!(read, Ok(Value::Objects(vec![object])));
        let unknown = Value::from_variable(kind, r#"[{"patern": "x"}]"#).unwrap_err();
        assert!(unknown.contains("patern") && unknown.contains("pattern, client"), "{unknown}");
        assert!(Value::from_variable(kind, "x").unwrap_err().contains("JSON array"));
    }

    #[test]
    fn what_does_not_fit_its_kind_is_refused_with_the_text() {
        for (kind, text) in [
            (Kind::Bool, "maybe"),
            (Kind::Integer, "-1"),
            (Kind::Integer, "1.5"),
            (Kind::Number, "inf"),
            (Kind::Numbers, "1,,2"),
            (Kind::Choice(&["auto", "off"]), "on"),
        ] {
            assert!(Value::from_variable(kind, text).is_err(), "{kind:?} {text}");
        }
    }
}
