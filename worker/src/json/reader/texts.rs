//! Texts for tests: JSON in all its forms, and JSON that something happened to.

use proptest::collection::vec;
use proptest::prelude::*;

const STRING: &str =
    r#""([a-z0-9 /:{}é😀]|\\[\\"/bfnrt]|\\u[0-9a-fA-F]{4}|\\ud83d\\ude00|[a-z]{9,30}){0,6}""#;
const NAME: &str = r#""([a-z0-9 é😀]{0,3}|[a-z]{9,30}|\\[\\"/bfnrt]|\\u00[0-7][0-9a-f])""#;
const NUMBER: &str = r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?";
const BLANKS: &str = "[ \t\n\r]{0,2}";

/// A value.
pub(crate) fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![STRING, NUMBER, "null|true|false"];
    leaf.prop_recursive(4, 24, 5, |value| {
        let list = (vec((BLANKS, value.clone(), BLANKS), 0..5), BLANKS);
        let list = list.prop_map(|(items, blanks)| {
            let items: Vec<_> = items.iter().map(|(a, item, b)| format!("{a}{item}{b}")).collect();
            format!("[{blanks}{}]", items.join(","))
        });
        prop_oneof![list, object_of(value)]
    })
}

/// An object, with blanks around it.
pub(crate) fn object() -> impl Strategy<Value = Vec<u8>> {
    (BLANKS, object_of(value()), BLANKS).prop_map(|(a, object, b)| format!("{a}{object}{b}").into())
}

/// A text in which bytes are changed, taken out and put in.
pub(crate) fn mutated(text: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    const BYTES: &[u8] = b"\"\\{}[]:,0123456789.eE+-ntfu \n\t\r\0\x0b\x0c\x1f\x7f\x80\xc3\xffd8";
    let change = (any::<prop::sample::Index>(), 0..4_u8, prop::sample::select(BYTES));
    (text, vec(change, 1..4)).prop_map(|(mut text, changes)| {
        for (place, kind, byte) in changes {
            let at = place.index(text.len() + 1);
            match kind {
                0 => text.insert(at, byte),
                1 => text.truncate(at),
                _ if at == text.len() => text.push(byte),
                2 => text[at] = byte,
                _ => drop(text.remove(at)),
            }
        }
        text
    })
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (BLANKS, NAME, BLANKS, BLANKS, value, BLANKS);
    let member = member.prop_map(|(a, name, b, c, value, d)| format!("{a}{name}{b}:{c}{value}{d}"));
    (vec(member, 0..5), BLANKS)
        .prop_map(|(members, blanks)| format!("{{{blanks}{}}}", members.join(",")))
}
