//! The body of a request as the JSON object that it is: its members are found, and changed by splicing.
//!
//! What is not changed stays as the caller wrote it, to the byte. Nothing is copied before something is changed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// So many members are compared with each other by their names themselves.
const COMPARED_MAX: usize = 16;

/// A JSON object, and where its members are.
#[derive(Clone, Debug)]
pub struct JsonBody {
    bytes: Bytes,
    members: Vec<Member>,
    /// Behind the brace that opens it.
    inside: usize,
}

#[derive(Clone, Debug)]
struct Member {
    name: Box<str>,
    /// The name as it is written, quotes included.
    name_at: Range<usize>,
    value_at: Range<usize>,
}

/// Changes of a body.
#[derive(Debug)]
pub struct Edit<'a> {
    body: &'a JsonBody,
    /// What takes the place of a part; parts do not overlap.
    replaced: Vec<(Range<usize>, String)>,
    added: Vec<(String, String)>,
    removed: Vec<usize>,
}

impl JsonBody {
    /// Finds the members of an object.
    ///
    /// # Errors
    /// What is wrong, in words for the caller: no UTF-8, no JSON object, or a member that comes twice (who reads which of
    /// them is anybody's guess).
    pub fn parse(bytes: Bytes) -> Result<Self, String> {
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| "the request body is not valid UTF-8".to_owned())?;
        // serde alone would also take the members from a list.
        let inside = text.find(|c: char| !c.is_ascii_whitespace()).unwrap_or_default();
        if !text.get(inside..).is_some_and(|rest| rest.starts_with('{')) {
            return Err("invalid request body: not a JSON object".to_owned());
        }
        let found: Found<'_> =
            serde_json::from_str(text).map_err(|error| format!("invalid request body: {error}"))?;
        let mut end = inside + 1;
        let mut members = Vec::with_capacity(found.0.len());
        for (name, value) in found.0 {
            let value_at = place(text, value.get());
            let gap = text.get(end..value_at.start).unwrap_or_default();
            let open = gap.find('"').unwrap_or_default();
            let close = gap.rfind('"').unwrap_or_default();
            members.push(Member {
                name: name.into(),
                name_at: end + open..end + close + 1,
                value_at: value_at.clone(),
            });
            end = value_at.end;
        }
        Ok(Self { inside: inside + 1, members, bytes })
    }

    /// The body as the caller sent it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The value of a member as JSON text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|member| self.text(member.value_at.clone()))
    }

    /// The value of a member, if it is there, not null, and of that type.
    ///
    /// # Errors
    /// What is wrong, in words for the caller.
    pub fn read<'a, T: Deserialize<'a>>(
        &'a self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, String> {
        match self.get(name) {
            None | Some("null") => Ok(None),
            Some(value) => serde_json::from_str(value)
                .map(Some)
                .map_err(|_| format!("invalid request body: `{name}` must be {expected}")),
        }
    }

    /// The names of the members, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| &*member.name)
    }

    /// Begins to change it.
    pub fn edit(&self) -> Edit<'_> {
        Edit { body: self, replaced: Vec::new(), added: Vec::new(), removed: Vec::new() }
    }

    fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| &*member.name == name)
    }

    fn text(&self, range: Range<usize>) -> &str {
        self.bytes.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Edit<'_> {
    /// Gives a member the value `json`, which is JSON text; adds it in front of the others if there is none.
    pub fn set(&mut self, name: &str, json: impl Into<String>) {
        match self.body.find(name) {
            Some(member) => self.replaced.push((member.value_at.clone(), json.into())),
            None => self.added.push((quoted(name), json.into())),
        }
    }

    /// Puts `json` in place of `part`, which [`JsonBody::get`] has told or which is a part of that. No text makes it an
    /// insertion in front of it.
    pub fn splice(&mut self, part: &str, json: impl Into<String>) {
        let at = self.at(part);
        self.replaced.push((at, json.into()));
    }

    /// Puts `json` behind the character that opens `part`, a list or an object.
    pub fn insert_into(&mut self, part: &str, json: impl Into<String>) {
        let start = self.at(part).start + 1;
        self.replaced.push((start..start, json.into()));
    }

    /// Gives a member another name. One that has that name already is taken away.
    pub fn rename(&mut self, from: &str, to: &str) {
        let Some(member) = self.body.find(from) else { return };
        if from == to {
            return;
        }
        self.replaced.push((member.name_at.clone(), quoted(to)));
        self.remove(to);
    }

    /// Takes a member away.
    pub fn remove(&mut self, name: &str) {
        let place = self.body.members.iter().position(|member| &*member.name == name);
        self.removed.extend(place);
    }

    /// The changed body.
    pub fn finish(mut self) -> Bytes {
        let body = self.body;
        if self.replaced.is_empty() && self.added.is_empty() && self.removed.is_empty() {
            return body.bytes.clone();
        }
        self.replaced.sort_by_key(|(range, _)| range.start);
        let grown: usize = self.replaced.iter().map(|(_, text)| text.len()).sum();
        let added: usize = self.added.iter().map(|(name, json)| name.len() + json.len() + 2).sum();
        let mut out = Vec::with_capacity(body.bytes.len() + grown + added);
        if self.removed.is_empty() {
            self.copy(0..body.inside, &mut out);
            for (index, (name, json)) in self.added.iter().enumerate() {
                write_member(&mut out, name.as_bytes(), json.as_bytes());
                if index + 1 < self.added.len() || !body.members.is_empty() {
                    out.push(b',');
                }
            }
            self.copy(body.inside..body.bytes.len(), &mut out);
        } else {
            // What is between members goes with them.
            out.push(b'{');
            let mut is_first = true;
            let mut comma = |out: &mut Vec<u8>| {
                if !std::mem::take(&mut is_first) {
                    out.push(b',');
                }
            };
            for (name, json) in &self.added {
                comma(&mut out);
                write_member(&mut out, name.as_bytes(), json.as_bytes());
            }
            for (index, member) in body.members.iter().enumerate() {
                if !self.removed.contains(&index) {
                    comma(&mut out);
                    self.copy(member.name_at.start..member.value_at.end, &mut out);
                }
            }
            out.push(b'}');
        }
        out.into()
    }

    /// Copies a part of the body with what is changed in it.
    fn copy(&self, range: Range<usize>, out: &mut Vec<u8>) {
        let mut copied = range.start;
        for (at, text) in &self.replaced {
            if at.start < copied || at.end > range.end {
                continue;
            }
            out.extend_from_slice(self.body.bytes.get(copied..at.start).unwrap_or_default());
            out.extend_from_slice(text.as_bytes());
            copied = at.end;
        }
        out.extend_from_slice(self.body.bytes.get(copied..range.end).unwrap_or_default());
    }

    fn at(&self, part: &str) -> Range<usize> {
        let start = part.as_ptr().addr().saturating_sub(self.body.bytes.as_ptr().addr());
        start..start + part.len()
    }
}

/// A text as JSON.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether valid JSON that begins with `open` has nothing before its `close`.
pub fn is_empty_after(json: &str, open: char, close: char) -> bool {
    json.strip_prefix(open).is_some_and(|rest| rest.trim_start().starts_with(close))
}

fn write_member(out: &mut Vec<u8>, name: &[u8], json: &[u8]) {
    out.extend_from_slice(name);
    out.push(b':');
    out.extend_from_slice(json);
}

/// Where `part` stands in `text`, of which it is a part.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start + part.len()
}

/// Names and values of an object, in order, each name once.
struct Found<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Found<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Found<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut found: Vec<(Cow<'de, str>, &RawValue)> = Vec::with_capacity(8);
        let mut names = HashSet::new();
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &RawValue>()? {
            // Few names are compared faster than they are hashed.
            let is_known = if found.len() < COMPARED_MAX {
                found.iter().any(|(known, _)| *known == name)
            } else {
                if names.is_empty() {
                    names.extend(found.iter().map(|(known, _)| known.clone()));
                }
                !names.insert(name.clone())
            };
            if is_known {
                return Err(A::Error::custom("a field comes twice"));
            }
            found.push((name, value));
        }
        Ok(Found(found))
    }
}

/// A name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Cow<'de, str>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

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
        fn no_bytes_can_panic_it(bytes: Vec<u8>, text in "[\\[\\]{}\",:a-c0-9\\\\ ]{0,40}") {
            for body in [&bytes[..], text.as_bytes()] {
                let _ = JsonBody::parse(Bytes::copy_from_slice(body));
            }
        }
    }
}
