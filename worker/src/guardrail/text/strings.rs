//! The texts in a piece of JSON, and where they stand. The JSON must be valid; of anything else less is found, and nothing
//! worse happens.

use std::ops::Range;

/// Deepest nesting that is looked into; what is deeper makes the whole unreadable.
const DEPTH_MAX: usize = 200;

/// A piece of JSON with its values.
#[derive(Debug)]
pub struct Strings<'a> {
    json: &'a str,
    values: Vec<Value>,
}

/// A value, by its number.
pub type Id = usize;

#[derive(Debug)]
struct Value {
    parent: Option<Id>,
    /// Its name in an object; empty in a list.
    name: String,
    /// Its place in a list.
    place: usize,
    kind: Kind,
    at: Range<usize>,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A number, a boolean, or null.
    Scalar,
    /// An object.
    Object,
    /// A list.
    List,
}

impl<'a> Strings<'a> {
    /// Finds all values. `None` if this is not JSON, or nested too deeply.
    pub fn find(json: &'a str) -> Option<Self> {
        serde_json::from_str::<serde::de::IgnoredAny>(json).ok()?;
        let mut strings = Self { json, values: Vec::new() };
        strings.scan()?;
        Some(strings)
    }

    /// All texts, in order.
    pub fn texts(&self) -> impl Iterator<Item = Id> {
        self.of_kind(Kind::Text)
    }

    /// All values of a kind, in order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = Id> {
        let is = move |(_, value): &(usize, &Value)| value.kind == kind;
        self.values.iter().enumerate().filter(is).map(|(id, _)| id)
    }

    /// What it is in.
    pub fn parent(&self, id: Id) -> Option<Id> {
        self.values.get(id)?.parent
    }

    /// Its name in an object; empty in a list.
    pub fn name(&self, id: Id) -> &str {
        self.values.get(id).map_or("", |value| &value.name)
    }

    /// Its place in a list.
    pub fn place(&self, id: Id) -> usize {
        self.values.get(id).map_or(0, |value| value.place)
    }

    /// What it is.
    pub fn kind(&self, id: Id) -> Kind {
        self.values.get(id).map_or(Kind::Scalar, |value| value.kind)
    }

    /// Where it stands.
    pub fn at(&self, id: Id) -> Range<usize> {
        self.values.get(id).map_or(0..0, |value| value.at.clone())
    }

    /// It as it is written.
    pub fn raw(&self, id: Id) -> &'a str {
        self.json.get(self.at(id)).unwrap_or_default()
    }

    /// A text.
    pub fn text(&self, id: Id) -> String {
        decoded(self.raw(id))
    }

    /// The member of an object.
    pub fn member(&self, parent: Id, name: &str) -> Option<Id> {
        // Members come after what they are in.
        let rest = self.values.get(parent + 1..)?;
        let at = self.at(parent);
        let mut inside = rest.iter().enumerate().take_while(|(_, value)| value.at.start < at.end);
        let is = |value: &Value| value.parent == Some(parent) && value.name == name;
        inside.find(|(_, value)| is(value)).map(|(offset, _)| parent + 1 + offset)
    }

    /// The names on the way from the outermost object, each with the place in a list that follows it; outermost first.
    pub fn path(&self, id: Id) -> Vec<Id> {
        let mut path: Vec<Id> = std::iter::successors(Some(id), |id| self.parent(*id)).collect();
        path.reverse();
        path
    }

    fn scan(&mut self) -> Option<()> {
        let bytes = self.json.as_bytes();
        let (mut at, mut open): (usize, Vec<Id>) = (0, Vec::new());
        let (mut name, mut is_name) = (String::new(), false);
        let mut places: Vec<usize> = Vec::new();
        while let Some(byte) = bytes.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'"' => {
                    at = end_of_text(bytes, at);
                    if is_name {
                        name = decoded(self.json.get(start..at)?);
                        is_name = false;
                    } else {
                        self.add(&open, &mut places, &mut name, Kind::Text, start..at);
                    }
                }
                b'{' | b'[' => {
                    let kind = if *byte == b'{' { Kind::Object } else { Kind::List };
                    let id = self.add(&open, &mut places, &mut name, kind, start..at);
                    if open.len() >= DEPTH_MAX {
                        return None;
                    }
                    open.push(id);
                    places.push(0);
                    is_name = kind == Kind::Object;
                }
                b'}' | b']' => {
                    let id = open.pop()?;
                    places.pop();
                    self.values.get_mut(id)?.at.end = at;
                    is_name = false;
                }
                b',' => {
                    is_name = open.last().is_some_and(|id| self.kind(*id) == Kind::Object);
                }
                b':' | b' ' | b'\n' | b'\r' | b'\t' => {}
                _ => {
                    while bytes.get(at).is_some_and(|byte| !b",]} \n\r\t".contains(byte)) {
                        at += 1;
                    }
                    self.add(&open, &mut places, &mut name, Kind::Scalar, start..at);
                }
            }
        }
        Some(())
    }

    fn add(
        &mut self,
        open: &[Id],
        places: &mut [usize],
        name: &mut String,
        kind: Kind,
        at: Range<usize>,
    ) -> Id {
        let place = places.last_mut().map_or(0, |place| {
            *place += 1;
            *place - 1
        });
        let (parent, name) = (open.last().copied(), std::mem::take(name));
        self.values.push(Value { parent, name, place, kind, at });
        self.values.len() - 1
    }
}

/// Behind the quote that ends the text which begins before `at`.
fn end_of_text(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => return at,
            b'\\' => at += 1,
            _ => {}
        }
    }
    bytes.len()
}

/// What a JSON text says. Halves of a pair of surrogates that stand alone become U+FFFD.
fn decoded(raw: &str) -> String {
    if let Ok(text) = serde_json::from_str(raw) {
        return text;
    }
    let inside = raw.strip_prefix('"').unwrap_or(raw);
    let inside = inside.strip_suffix('"').unwrap_or(inside);
    let mut units: Vec<u16> = Vec::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        let meant = match character {
            '\\' => match characters.next() {
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd));
                    continue;
                }
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('b') => '\u{8}',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => '\\',
            },
            character => character,
        };
        units.extend_from_slice(meant.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16_lossy(&units)
}

/// The JSON with other text at some places, which do not overlap.
pub fn spliced(json: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut edits: Vec<_> = edits.iter().collect();
    edits.sort_by_key(|(at, _)| at.start);
    let mut out = String::with_capacity(json.len());
    let mut copied = 0;
    for (at, text) in edits {
        if at.start < copied {
            continue;
        }
        out.push_str(json.get(copied..at.start).unwrap_or_default());
        out.push_str(text);
        copied = at.end;
    }
    out.push_str(json.get(copied..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_found_with_the_names_that_lead_to_them() {
        let json = r#" {"a" : "x", "b":[{"c\u0064":"y\n"}, 1, "z"], "n":null } "#;
        let strings = Strings::find(json).unwrap();
        let found: Vec<_> = strings
            .texts()
            .map(|id| {
                let path: Vec<_> =
                    strings.path(id).iter().map(|id| strings.name(*id).to_owned()).collect();
                (path.join("/"), strings.text(id), strings.raw(id))
            })
            .collect();
        assert_eq!(
            found,
            [
                ("/a".to_owned(), "x".to_owned(), "\"x\""),
                ("/b//cd".to_owned(), "y\n".to_owned(), "\"y\\n\""),
                ("/b/".to_owned(), "z".to_owned(), "\"z\""),
            ]
        );
        let list = strings.member(0, "b").unwrap();
        assert_eq!(strings.raw(list), r#"[{"c\u0064":"y\n"}, 1, "z"]"#);
        assert_eq!(strings.member(0, "cd"), None);
        assert_eq!(strings.of_kind(Kind::Scalar).count(), 2);
    }

    #[test]
    fn half_a_pair_of_surrogates_hides_nothing_beside_it() {
        let strings = Strings::find(r#"["\ud83d secret", "\ud83d\ude00"]"#).unwrap();
        let texts: Vec<_> = strings.texts().map(|id| strings.text(id)).collect();
        assert_eq!(texts, ["\u{fffd} secret", "😀"]);
    }

    #[test]
    fn nesting_without_end_is_unreadable() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Strings::find(&deep).is_none());
    }

    proptest! {
        #[test]
        fn no_text_can_panic_the_scanner(text: String) {
            let _ = Strings::find(&text);
            let mut strings = Strings { json: &text, values: Vec::new() };
            let _ = strings.scan();
        }
    }
}
