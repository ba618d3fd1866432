//! A body is found and changed as its parsed object would be.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::reader::texts::{mutated, object};
use super::*;

fn parse(text: &str) -> Result<JsonBody, String> {
    JsonBody::parse(Bytes::copy_from_slice(text.as_bytes()))
}

fn edited(text: &str, edit: impl FnOnce(&mut Edit<'_>)) -> String {
    let body = parse(text).unwrap();
    let mut changes = body.edit();
    edit(&mut changes);
    String::from_utf8(changes.finish().to_vec()).unwrap()
}

/// Where the members are, and their names.
fn told(text: &[u8], (inside, members): &(usize, Vec<Member>)) -> String {
    let members = members.iter().map(|member| {
        let written = || String::from_utf8(text[member.inside_quotes()].to_vec()).unwrap();
        let name = member.spelled.as_deref().map_or_else(written, str::to_owned);
        format!("{name} {:?} {:?}", member.name_at, member.value_at)
    });
    format!("{inside} {:?}", members.collect::<Vec<_>>())
}

#[test]
fn what_is_not_changed_stays_as_it_was() {
    let text = " { \"a\" : 1e2 , \"b\" : [ {} ] }\n";
    assert_eq!(edited(text, |_| {}), text);
    assert_eq!(edited(text, |edit| edit.set("b", "2")), " { \"a\" : 1e2 , \"b\" : 2 }\n");
    assert_eq!(
        edited(text, |edit| edit.set("c", "2")),
        " {\"c\":2, \"a\" : 1e2 , \"b\" : [ {} ] }\n"
    );
    assert_eq!(edited("{}", |edit| edit.set("c", "2")), "{\"c\":2}");
    assert_eq!(edited(text, |edit| edit.rename("a", "x")), text.replace("\"a\"", "\"x\""));
}

#[test]
fn members_can_go() {
    let text = "{\"a\":1, \"b\":2,\"c\": 3}";
    assert_eq!(edited(text, |edit| edit.remove("a")), "{\"b\":2,\"c\": 3}");
    assert_eq!(
        edited(text, |edit| ["b", "c"].map(|name| edit.remove(name)).into_iter().collect()),
        "{\"a\":1}"
    );
    let all = |edit: &mut Edit<'_>| ["a", "b", "c"].iter().for_each(|name| edit.remove(name));
    assert_eq!(edited(text, all), "{}");
    assert_eq!(edited(text, |edit| edit.rename("a", "b")), "{\"b\":1,\"c\": 3}");
}

#[test]
fn members_may_be_many_and_nested_deep() {
    let text = |twice: usize| {
        let names = (0..40).chain([twice]).map(|index| format!("\"n{index}\":{index}"));
        format!("{{{}}}", names.collect::<Vec<_>>().join(","))
    };
    assert_eq!(parse(&text(40)).unwrap().get("n40"), Some("40"));
    for twice in [0, 20, 39] {
        assert!(
            parse(&text(twice)).unwrap_err().contains("a field comes twice at line 1"),
            "{twice}"
        );
    }
    for depth in [63, 64, 65, 127, 128, 129, 1000] {
        let value = "[".repeat(depth) + &"]".repeat(depth);
        let body = parse(&format!("{{\"a\":{value}}}")).unwrap();
        assert_eq!(body.get("a"), Some(&*value));
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, reason) in [
        ("{\"a\":1,}", "invalid request body: trailing comma at line 1 column 8"),
        (
            "{\n\"a\":\"\n\"}",
            "invalid request body: control character (\\u0000-\\u001F) found while parsing a string at line 2 column 5",
        ),
        (
            "{\"a\":\"\\ud800\"",
            "invalid request body: EOF while parsing an object at line 1 column 13",
        ),
        (
            "{\"\\ud800\":1}",
            "invalid request body: unexpected end of hex escape at line 1 column 9",
        ),
        ("{\"a\":1} {", "invalid request body: trailing characters at line 1 column 9"),
    ] {
        assert_eq!(parse(text).unwrap_err(), reason);
    }
    assert!(
        parse("{\"a\":\"\\ud800\"}").is_ok(),
        "which half of a character it is concerns who reads it"
    );
    let error = JsonBody::parse(Bytes::from_static(b"{\"\xff\":1}")).unwrap_err();
    assert_eq!(error, "the request body is not valid UTF-8");
}

#[test]
fn an_escaped_name_is_the_name_and_a_second_one_of_it_is_refused() {
    let body = parse("{\"mod\\u0065l\":\"x\"}").unwrap();
    assert_eq!(body.get("model"), Some("\"x\""));
    assert!(parse("{\"mod\\u0065l\":1,\"model\":2}").unwrap_err().contains("twice"));
    for text in ["", "[]", "[[\"a\",1]]", "{", "nul", "{\"a\":1}x"] {
        assert!(parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn a_quoted_text_is_as_serde_json_writes_it(text in any::<String>(), simple in "[ -~é]{0,40}") {
        for text in [text, simple, "\u{7f}\u{2028}".to_owned()] {
            prop_assert_eq!(quoted(&text), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn an_edit_is_what_it_would_be_of_the_parsed_object(
        names in prop::collection::hash_set("[a-f\"\\\\é]{1,3}", 0..24),
        edits in prop::collection::vec(("[a-f\"\\\\é]{1,3}", 0..3u8), 0..4),
    ) {
        let mut map = Map::new();
        for (index, name) in names.iter().enumerate() {
            map.insert(name.clone(), Value::from(index));
        }
        let text = Value::Object(map.clone()).to_string();
        let body = parse(&text).unwrap();
        let mut edit = body.edit();
        let mut done = HashSet::new();
        for (name, what) in &edits {
            // Each member once.
            if !done.insert(name.clone()) {
                continue;
            }
            match what {
                0 => { edit.set(name, "\"new\""); map.insert(name.clone(), "new".into()); }
                1 => { edit.remove(name); map.remove(name); }
                _ if done.insert("to".to_owned()) => {
                    edit.rename(name, "to");
                    if let Some(value) = map.remove(name) { map.insert("to".to_owned(), value); }
                }
                _ => {}
            }
        }
        let read: Value = serde_json::from_slice(&edit.finish()).unwrap();
        prop_assert_eq!(read, Value::Object(map));
    }

    #[test]
    fn what_is_usual_is_found_as_serde_json_finds_it(text in prop_oneof![object(), mutated(object())]) {
        let any = members::any(&text);
        let usual = members::usual(&text);
        // Nothing in these texts is unusual but names that are escaped or come twice.
        if let Some(usual) = &usual {
            prop_assert_eq!(told(&text, usual), told(&text, any.as_ref().unwrap()));
        }
        if let Ok(any) = any {
            let is_plain = any.1.iter().all(|member| !text[member.inside_quotes()].contains(&b'\\'));
            prop_assert_eq!(usual.is_some(), is_plain);
        }
    }

    #[test]
    fn no_bytes_can_panic_it(bytes: Vec<u8>, text in "[\\[\\]{}\",:a-c0-9\\\\ ]{0,40}") {
        for body in [&bytes[..], text.as_bytes()] {
            let _ = JsonBody::parse(Bytes::copy_from_slice(body));
        }
    }
}
