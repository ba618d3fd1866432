//! The one form of a request's body: two bodies have the same if, and only if, they say the same, whatever the order of their
//! members, the spaces between them and the way in which texts and numbers are written (as RFC 8785 has it: a number is
//! what a double of IEEE 754 makes of it, unless it is a whole number of 64 bits).
//!
//! What may be read in two ways has none: a member that comes twice, at any depth, is read by one as the first and by another as
//! the last.

use std::io::Write;
use std::ops::Range;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, Serialize};

/// The one form of JSON text; `None` if it has none, or is no JSON.
pub fn canonical(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len());
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Form { out: &mut out }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(out)
}

/// Writes the value that comes next.
struct Form<'a> {
    out: &'a mut Vec<u8>,
}

impl Form<'_> {
    fn write<E: Error>(self, value: &impl Serialize) -> Result<(), E> {
        serde_json::to_writer(self.out, value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Form<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Form<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.write(&())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.write(&value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.out.push(b'[');
        let mut is_first = true;
        loop {
            let start = self.out.len();
            if !std::mem::take(&mut is_first) {
                self.out.push(b',');
            }
            if items.next_element_seed(Form { out: self.out })?.is_none() {
                self.out.truncate(start);
                break;
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inside = self.out.len();
        let mut members: Vec<(String, Range<usize>)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let start = self.out.len();
            map.next_value_seed(Form { out: self.out })?;
            members.push((name, start..self.out.len()));
        }
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        if members.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            return Err(A::Error::custom("a member comes twice"));
        }
        let values = self.out.split_off(inside);
        self.out.push(b'{');
        for (index, (name, value)) in members.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            Form { out: self.out }.write(name)?;
            self.out.push(b':');
            let value = values.get(value.start - inside..value.end - inside);
            self.out.write_all(value.unwrap_or_default()).map_err(A::Error::custom)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn form(json: &str) -> Option<String> {
        canonical(json.as_bytes()).map(|form| String::from_utf8(form).unwrap())
    }

    #[test]
    fn what_says_the_same_has_one_form() {
        let expected = Some(r#"{"a":[1,2.5,{"x":null,"y":true}],"b":"é\n"}"#.to_owned());
        assert_eq!(form(r#"{"b":"\u00e9\n","a":[1,2.50,{"y":true,"x":null}]}"#), expected);
        assert_eq!(
            form("{ \"a\" : [1 , 25e-1, {\"x\":null,\"y\":true} ],\n\"\\u0062\":\"é\\u000a\"}"),
            expected
        );
        assert_eq!(form("[]"), Some("[]".to_owned()));
        assert_eq!(form("{}"), Some("{}".to_owned()));
    }

    #[test]
    fn what_says_something_else_has_another() {
        let mut forms = std::collections::BTreeSet::new();
        let all = [
            r#"{"a":1}"#,
            r#"{"a":"1"}"#,
            r#"{"a":[1]}"#,
            r#"{"a":null}"#,
            r#"{}"#,
            r#"{"a":-1}"#,
            r#"{"a":1.5}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":18446744073709551615}"#,
            r#"{"a":18446744073709551614}"#,
            r#"{"a":[1,2]}"#,
            r#"{"a":[2,1]}"#,
            r#"{"a":" 1"}"#,
        ];
        for json in all {
            assert!(forms.insert(form(json).unwrap()), "{json}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_has_none() {
        for json in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":1,"b":2,"\u0061":3}]}"#,
            "{} {}",
            "{",
            "",
            "[1,]",
            r#"{"a":1e999}"#,
        ] {
            assert_eq!(form(json), None, "{json}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(form(&deep), None, "nor what is too deep to be read");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // Those that decimals write exactly: others are read as one of their neighbours.
            any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_form_says_what_the_text_says_and_is_its_own_form(value in json()) {
            let text = serde_json::to_string_pretty(&value).unwrap();
            let once = canonical(text.as_bytes()).unwrap();
            // Members in order and no spaces: what a map that is sorted is written as.
            prop_assert_eq!(&once, &serde_json::to_vec(&value).unwrap());
            prop_assert_eq!(canonical(&once), Some(once.clone()));
        }

        #[test]
        fn no_bytes_can_panic_it(bytes: Vec<u8>) {
            let _ = canonical(&bytes);
        }
    }
}
