//! The hashes by which the Cloud and the gateway compare configurations.
//!
//! Lower-case hex SHA-256 over, for each entry in ascending order of its full key: key, `0x00`, value, `0x0A`. A value is
//! in canonical JSON (object keys sorted, no white space), or as it is where it is not JSON.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;

/// `value` as canonical JSON: `serde_json` keeps object keys sorted and writes no white space.
pub fn canonical(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The hash of `entries`, which come in ascending order of their keys.
pub fn hash<'a>(entries: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut context = Context::new(&SHA256);
    for (key, value) in entries {
        context.update(key);
        context.update(&[0]);
        context.update(value);
        context.update(b"\n");
    }
    let mut text = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_published_vectors_hold() {
        let value = canonical(&serde_json::from_str(r#"{"b":1, "a":"x"}"#).unwrap());
        assert_eq!(value, br#"{"a":"x","b":1}"#);
        assert_eq!(
            hash([(&b"/aisix/e/models/a"[..], value.as_slice())].into_iter()),
            "6d95e04309c81add1088443128c1bd4c5ff1042b4222976e91b0beedfb68087c"
        );
        assert_eq!(
            hash(std::iter::empty()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn the_last_of_duplicate_keys_counts_and_numbers_are_printed_plainly() {
        let value = serde_json::from_str(r#"{"z":{"b":[1.0,2],"a":-3},"a":1,"a":"é"}"#).unwrap();
        assert_eq!(canonical(&value), r#"{"a":"é","z":{"a":-3,"b":[1.0,2]}}"#.as_bytes());
    }

    proptest! {
        #[test]
        fn the_order_of_keys_and_white_space_do_not_matter(
            fields in proptest::collection::btree_map("[a-z]{1,4}", any::<i64>(), 0..8)
        ) {
            let print = |fields: Vec<(&String, &i64)>| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!(" {name:?} : {value}")).collect();
                canonical(&serde_json::from_str(&format!("{{{}}}", fields.join(" ,"))).unwrap())
            };
            let forwards = print(fields.iter().collect());
            prop_assert_eq!(forwards, print(fields.iter().rev().collect()));
        }
    }
}
