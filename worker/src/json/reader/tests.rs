//! What the reader takes is what serde_json takes, to the byte.

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::texts::{mutated, object, value};
use super::*;

/// What `read` makes of a text that is nothing else.
fn whole<'a, T>(text: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<T> {
    let mut reader = Reader::new(text)?;
    let value = read(&mut reader)?;
    reader.end()?;
    Some(value)
}

fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn agree(text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    assert_eq!(whole(text, Reader::skip).is_some(), is_json(text), "{shown:?}");
    if let Some(value) = whole(text, Reader::value) {
        assert_eq!(value, text.trim_ascii(), "{shown:?}");
    }
    let count = serde_json::from_slice::<u64>(text).ok();
    assert_eq!(whole(text, Reader::count), count, "{shown:?}");
    // serde_json lends a text only if it has no escapes.
    let string = serde_json::from_slice::<&str>(text).ok();
    assert_eq!(whole(text, Reader::plain_string), string, "{shown:?}");
}

#[test]
fn strings_of_every_length_end_where_they_end() {
    for length in 0..40 {
        for behind in 0..12 {
            for byte in 0..=0xff {
                let mut text = vec![b' '; length + behind + 3];
                text[0] = b'"';
                text[length + 2] = b'"';
                text[length + 1] = byte;
                agree(&text);
            }
        }
    }
}

#[test]
fn what_is_no_text_is_no_json() {
    for length in [1, 8, 63, 64, 65, 127, 128, 129, 200] {
        for at in 0..length {
            for bytes in [&b"\xff"[..], b"\x80", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80"] {
                let mut text = vec![b'a'; length];
                text.splice(at..at, bytes.iter().copied());
                agree(&[b"\"", &text[..], b"\""].concat());
            }
        }
    }
}

#[test]
fn every_escape_is_taken_that_there_is() {
    for byte in 0..=0x7f_u8 {
        let byte = char::from(byte);
        for text in [format!("\"\\{byte}\""), format!("\"ab\\{byte}cdefghijkl\"")] {
            agree(text.as_bytes());
        }
        for digits in [format!("{byte}000"), format!("0{byte}00"), format!("000{byte}")] {
            agree(format!("\"\\u{digits}\"").as_bytes());
        }
    }
    for text in ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud83d\\ude00", "\\u12", "\\u", "\\"] {
        agree(format!("\"{text}\"").as_bytes());
        agree(format!("\"{text}").as_bytes());
        agree(format!("{{\"{text}\":1}}").as_bytes());
    }
}

#[test]
fn numbers_have_the_form_of_json() {
    for text in [
        "0",
        "-0",
        "00",
        "01",
        "-01",
        "-",
        "+1",
        "1.",
        ".1",
        "1.5",
        "1e5",
        "1E+5",
        "1e-5",
        "1e",
        "1e+",
        "1.e5",
        "1.5e5",
        "1e999",
        "-1",
        "0x1",
        "1a",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
        "NaN",
        "Infinity",
        "nul",
        "nulll",
        "null",
        "tru",
        "True",
        "false",
        "1 2",
        "[1 2]",
        "[1,]",
        "[,1]",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "[}",
        "{]",
        "\u{feff}1",
        "/**/1",
        "1//",
    ] {
        agree(text.as_bytes());
        agree(format!(" {text}\n").as_bytes());
        agree(format!("[{text}]").as_bytes());
        agree(format!("{{\"a\":{text},\"b\":{text}}}").as_bytes());
    }
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = |depth: usize| open.repeat(depth) + "1" + &close.repeat(depth);
        let is_taken = |depth| whole(text(depth).as_bytes(), Reader::skip).is_some();
        assert!(is_taken(usize::from(DEPTH_MAX)));
        assert!(!is_taken(usize::from(DEPTH_MAX) + 1));
        assert!(!is_taken(100_000));
        // What is beside each other is not nested.
        let text = format!("[{}]", vec![text(60); 20].join(","));
        assert!(whole(text.as_bytes(), Reader::skip).is_some());
    }
}

proptest! {
    #[test]
    fn it_takes_what_serde_json_takes(
        value in value(),
        object in object(),
        like in r#"[\[\]{}",:0-9eE+.a-fnrtul\\ \n-]{0,24}"#,
        bytes: Vec<u8>,
    ) {
        for text in [value.as_bytes(), &object, like.as_bytes(), &bytes] {
            agree(text);
        }
        prop_assert!(whole(value.as_bytes(), Reader::skip).is_some());
        prop_assert!(whole(&object, Reader::skip).is_some());
    }

    #[test]
    fn it_refuses_what_serde_json_refuses(text in mutated(object())) {
        agree(&text);
    }
}
