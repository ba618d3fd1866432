//! Query strings: `name=value` pairs, percent-encoded, `+` for a space.

/// The value of the first parameter called `name`; a malformed escape stands for itself.
pub fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        assert_eq!(parameter(Some("a=1&b=2&a=3"), "a").as_deref(), Some("1"));
        assert_eq!(parameter(Some("ab=1"), "a"), None);
        assert_eq!(parameter(Some("a"), "a").as_deref(), Some(""));
        assert_eq!(parameter(None, "a"), None);
    }

    #[test]
    fn malformed_escapes_stand_for_themselves() {
        assert_eq!(parameter(Some("a=100%&b"), "a").as_deref(), Some("100%"));
        assert_eq!(parameter(Some("a=%zz%4"), "a").as_deref(), Some("%zz%4"));
    }

    proptest! {
        #[test]
        fn any_text_survives_its_encoding(text: String) {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(parameter(Some(&format!("id={encoded}")), "id"), Some(text));
        }

        #[test]
        fn any_query_is_read_without_a_panic(query: String) {
            let _ = parameter(Some(&query), "id");
        }
    }
}
