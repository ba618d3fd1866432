//! Reading what a provider says in JSON: a field that is missing or of another type is as if it were empty.

use serde_json::Value;

/// The text of a field; empty if there is none.
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The list of a field; empty if there is none.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The count in a field; 0 if there is none.
pub fn count(value: &Value, name: &str) -> u32 {
    let number = value.get(name).and_then(Value::as_u64).unwrap_or(0);
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A field that is there and not null.
pub fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| !value.is_null())
}

/// A field as JSON text; what is text already is taken as it is.
pub fn as_json(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

/// The text as a JSON object; an empty one if it is none.
pub fn object(json: &str) -> Value {
    match serde_json::from_str(json) {
        Ok(value @ Value::Object(_)) => value,
        _ => Value::Object(serde_json::Map::new()),
    }
}
