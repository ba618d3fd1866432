//! Checks of reports against a table of their fields. Fields that are not in the table are welcome: gateways may be
//! newer than their Cloud.

use crate::ledger::Object;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// One field of a report.
pub struct Field {
    name: &'static str,
    is_required: bool,
    shape: Shape,
}

/// What a value may be.
pub enum Shape {
    /// Any text.
    Text,
    /// A text of at most so many characters.
    TextMax(usize),
    /// 1 to so many bytes of visible ASCII.
    Visible(usize),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// So many lower-case hex digits.
    Hex(usize),
    /// RFC 3339 in UTC, whole seconds, `Z`.
    Time,
    /// True or false.
    Bool,
    /// A whole number from 0 to this.
    Count(u64),
    /// A whole number, negative too.
    Integer,
    /// Any number.
    Number,
    /// A name for each of some `u32`.
    Counts,
    /// A list of texts.
    Texts,
    /// A list of objects with these fields.
    List(&'static [Field]),
}

/// A field that is always present.
pub const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, is_required: true, shape }
}

/// A field that may be left out, or null.
pub const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, is_required: false, shape }
}

/// Checks an object; the error names the field and what it should be.
pub fn check(object: &Object, fields: &[Field]) -> Result<(), String> {
    for field in fields {
        match object.get(field.name) {
            None | Some(Value::Null) if field.is_required => {
                return Err(format!("{} is missing", field.name));
            }
            None | Some(Value::Null) => {}
            // An empty text counts as none, as the Cloud stores it.
            Some(Value::String(text)) if text.is_empty() && !field.is_required => {}
            Some(value) => {
                field.shape.check(value).map_err(|why| format!("{} {why}", field.name))?
            }
        }
    }
    Ok(())
}

impl Shape {
    fn check(&self, value: &Value) -> Result<(), String> {
        let (fits, expected) = match self {
            Self::Text => (value.is_string(), "must be a text".to_owned()),
            Self::TextMax(chars) => (
                value.as_str().is_some_and(|text| text.chars().count() <= *chars),
                format!("must be a text of at most {chars} characters"),
            ),
            Self::Visible(bytes) => (
                value.as_str().is_some_and(|text| {
                    (1..=*bytes).contains(&text.len())
                        && text.bytes().all(|byte| byte.is_ascii_graphic())
                }),
                format!("must be 1 to {bytes} bytes of visible ASCII"),
            ),
            Self::OneOf(choices) => (
                value.as_str().is_some_and(|text| choices.contains(&text)),
                format!("must be one of {}", choices.join(", ")),
            ),
            Self::Hex(digits) => (
                value.as_str().is_some_and(|text| {
                    text.len() == *digits
                        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                }),
                format!("must be {digits} lower-case hex digits"),
            ),
            Self::Time => (
                value.as_str().is_some_and(|text| {
                    text.len() == "2026-01-01T00:00:00Z".len()
                        && text.ends_with('Z')
                        && OffsetDateTime::parse(text, &Rfc3339).is_ok()
                }),
                "must be a time such as 2026-01-01T00:00:00Z".to_owned(),
            ),
            Self::Bool => (value.is_boolean(), "must be true or false".to_owned()),
            Self::Count(max) => (
                value.as_u64().is_some_and(|count| count <= *max),
                format!("must be a whole number from 0 to {max}"),
            ),
            Self::Integer => (value.is_i64(), "must be a whole number".to_owned()),
            Self::Number => (value.is_number(), "must be a number".to_owned()),
            Self::Counts => (
                value.as_object().is_some_and(|counts| {
                    counts.values().all(|count| {
                        count.as_u64().is_some_and(|count| u32::try_from(count).is_ok())
                    })
                }),
                "must map names to whole numbers".to_owned(),
            ),
            Self::Texts => (
                value.as_array().is_some_and(|texts| texts.iter().all(Value::is_string)),
                "must be a list of texts".to_owned(),
            ),
            Self::List(fields) => {
                let Some(items) = value.as_array() else { return Err("must be a list".to_owned()) };
                for (index, item) in items.iter().enumerate() {
                    let Some(item) = item.as_object() else {
                        return Err(format!("[{index}] must be an object"));
                    };
                    check(item, fields).map_err(|why| format!("[{index}]: {why}"))?;
                }
                return Ok(());
            }
        };
        if fits { Ok(()) } else { Err(expected) }
    }
}
