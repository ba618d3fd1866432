//! Canonical JSON: object keys sorted, the last of equal keys, no white space, strings and numbers as an ordinary compact
//! writer prints them after reading them as `i64`, `u64` or `f64`.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// `document`, which was read from `text`, in canonical form.
pub fn canonical(document: &Value, text: &[u8]) -> Vec<u8> {
    // The reader is fast and in a few cases one digit off where a number has a fraction or an exponent: such numbers are
    // read again, to the nearest `f64`, as everybody else reads them.
    if has_float(document)
        && let Ok(text) = str::from_utf8(text)
        && let Some(exact) = (Exact { text, at: 0 }).value()
    {
        return exact.to_string().into_bytes();
    }
    // Keys are kept sorted, and no white space is written.
    document.to_string().into_bytes()
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(members) => members.values().any(has_float),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// Reads JSON that is known to be good, with exact numbers. Its depth is that which the ordinary reader allows.
struct Exact<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Exact<'a> {
    fn value(&mut self) -> Option<Value> {
        match self.peek()? {
            b'{' => {
                self.at += 1;
                let mut members = BTreeMap::new();
                while self.peek()? != b'}' {
                    let name = self.string()?;
                    self.skip(b':')?;
                    members.insert(name, self.value()?);
                    if self.peek()? == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Some(Value::Object(members.into_iter().collect::<Map<_, _>>()))
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.peek()? != b']' {
                    items.push(self.value()?);
                    if self.peek()? == b',' {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Some(Value::Array(items))
            }
            b'"' => self.string().map(Value::String),
            _ => {
                let rest = self.text.get(self.at..)?;
                let end = rest.find(|c: char| matches!(c, ',' | ']' | '}') || c.is_whitespace());
                let word = end.map_or(Some(rest), |end| rest.get(..end))?;
                self.at += word.len();
                let value: Value = serde_json::from_str(word).ok()?;
                if value.is_f64() {
                    return Number::from_f64(word.parse().ok()?).map(Value::Number);
                }
                Some(value)
            }
        }
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let space = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        self.at += space;
        rest.get(space).copied()
    }

    fn skip(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<String> {
        self.peek()?;
        let rest = self.text.get(self.at..)?;
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        let string = rest.get(..end + 2)?;
        self.at += string.len();
        serde_json::from_str(string).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let value = serde_json::from_str(text).unwrap();
        String::from_utf8(canonical(&value, text.as_bytes())).unwrap()
    }

    #[test]
    fn documents_are_written_as_an_ordinary_writer_writes_them() {
        for (text, expected) in [
            (r#"{"b":1, "a":"x"}"#, r#"{"a":"x","b":1}"#),
            (
                r#"{"z":{"b":[1.0,2],"a":-3},"a":1,"a":"é"}"#,
                r#"{"a":"é","z":{"a":-3,"b":[1.0,2]}}"#,
            ),
            ("[1e5, 1E-7, -0.0, -0, 0.0, 1.10]", "[100000.0,1e-7,-0.0,-0.0,0.0,1.1]"),
            (
                "[18446744073709551615, 18446744073709551616]",
                "[18446744073709551615,1.8446744073709552e+19]",
            ),
            (
                "[-9223372036854775808, -9223372036854775809]",
                "[-9223372036854775808,-9.223372036854776e+18]",
            ),
            (
                r#"{"a":"\u00e9\ud83d\ude00\/\t\u0001","b":[[],[{}],[[0.5]]]}"#,
                "{\"a\":\"é😀/\\t\\u0001\",\"b\":[[],[{}],[[0.5]]]}",
            ),
            (r#"{"x":1.5,"x":{"y":2.5,"y":3.5},"\u0061":1}"#, r#"{"a":1,"x":{"y":3.5}}"#),
            (r#"{"b\"\\":0.1,"a":"\\"}"#, r#"{"a":"\\","b\"\\":0.1}"#),
            ("1e16", "1e+16"),
            ("123456789012345680.0", "1.2345678901234568e+17"),
        ] {
            assert_eq!(written(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_number_is_read_as_the_nearest_and_written_as_the_shortest(
            digits in "[1-9][0-9]{0,24}", fraction in "[0-9]{1,24}", exponent in -300..280_i32
        ) {
            let text = format!("{digits}.{fraction}e{exponent}");
            let nearest: f64 = text.parse().unwrap();
            prop_assert_eq!(written(&text).parse::<f64>().unwrap(), nearest);
            prop_assert_eq!(written(&format!("{{\"a\": [{text} ]}}")), format!("{{\"a\":[{}]}}", written(&text)));
        }

        #[test]
        fn the_order_of_keys_and_white_space_do_not_matter(
            fields in proptest::collection::btree_map("[a-z]{1,4}", any::<f64>().prop_filter("finite", |n| n.is_finite()), 0..8)
        ) {
            let print = |fields: Vec<(&String, &f64)>| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!(" {name:?} : {value:e}")).collect();
                written(&format!("{{{}}}", fields.join(" ,")))
            };
            let forwards = print(fields.iter().collect());
            prop_assert_eq!(forwards, print(fields.iter().rev().collect()));
        }
    }
}
