//! YAML as it is written here: a block for every list and object, and every text in double quotes, which is YAML and JSON
//! at once and never taken for something else.

use std::fmt::Write;

use serde_json::Value;

/// The resources file with these lists.
pub fn file(lists: &[(&str, Vec<Value>)]) -> String {
    let mut text = "_format_version: \"1\"\n".to_owned();
    for (name, entries) in lists {
        // Writing to a text cannot fail.
        let _ = write!(text, "\n{name}:\n");
        for entry in entries {
            item(&mut text, entry, 1);
        }
    }
    text
}

fn item(text: &mut String, value: &Value, depth: usize) {
    text.push_str(&"  ".repeat(depth));
    text.push('-');
    block(text, value, depth + 1, true);
}

/// The value, behind what introduces it. The first field of an object in a list stands beside the dash.
fn block(text: &mut String, value: &Value, depth: usize, mut beside: bool) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            if !beside {
                text.push('\n');
            }
            for (name, field) in fields {
                text.push_str(&if beside { " ".to_owned() } else { "  ".repeat(depth) });
                beside = false;
                text.push_str(&key(name));
                text.push(':');
                block(text, field, depth + 1, false);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            for value in items {
                item(text, value, depth);
            }
        }
        Value::String(value) => {
            let _ = writeln!(text, " {}", quoted(value));
        }
        // Numbers, and what is empty: as JSON writes it.
        value => {
            let _ = writeln!(text, " {value}");
        }
    }
}

fn key(name: &str) -> String {
    const WORDS: [&str; 9] = ["null", "true", "false", "y", "n", "yes", "no", "on", "off"];
    let plain = |byte: u8| byte == b'_' || byte.is_ascii_lowercase();
    let is_plain = !name.is_empty() && name.bytes().all(plain) && !WORDS.contains(&name);
    if is_plain { name.to_owned() } else { quoted(name) }
}

/// As JSON writes it, and what only YAML does not print escaped too.
fn quoted(text: &str) -> String {
    let mut escaped = String::new();
    for c in Value::from(text).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn back(value: &Value) -> Value {
        let text = file(&[("list", vec![value.clone()])]);
        let read: Value =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        read["list"][0].clone()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({"a": "0123", "b": [1, "x: #", [], [[true, null]], {}, {"c": {"on": "\"\\\n\u{7f}é"}}],
            "x-token": "${A}", "d": 1.5, "e": "yes"});
        assert_eq!(back(&value), value);
        let text = file(&[("models", vec![json!({"a": 1, "b": {"c": ["d"]}})])]);
        assert_eq!(
            text,
            "_format_version: \"1\"\n\nmodels:\n  - a: 1\n    b:\n      c:\n        - \"d\"\n"
        );
    }

    proptest! {
        #[test]
        fn any_text_survives(text: String, name: String) {
            let value = json!({name: [text]});
            prop_assert_eq!(back(&value), value);
        }
    }
}
