//! Where the members of an object are.
//!
//! Found by [`Reader`] where the object is as objects mostly are; what that refuses is read by serde_json, which may find it
//! unusual and no more, and else says what is wrong.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::reader::Reader;

/// So many members are compared with each other by their names themselves.
const COMPARED_MAX: usize = 16;

/// A member, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The name, where it is written in another way than it is spelled.
    pub spelled: Option<Box<str>>,
    /// The name as it is written, quotes included.
    pub name_at: Range<usize>,
    pub value_at: Range<usize>,
}

impl Member {
    /// The name as it is written, without its quotes.
    pub fn inside_quotes(&self) -> Range<usize> {
        self.name_at.start + 1..self.name_at.end.saturating_sub(1)
    }
}

/// Behind the brace that opens the object, and its members. `None` if it is none, if a name comes twice or has escapes, and
/// if anything in it is unusual.
pub(super) fn usual(text: &[u8]) -> Option<(usize, Vec<Member>)> {
    let mut reader = Reader::new(text)?;
    let inside = reader.at() + 1;
    let mut members: Vec<Member> = Vec::with_capacity(8);
    reader.object(|reader, name| {
        let written = name.plain()?;
        let is_known = |member: &Member| text.get(member.inside_quotes()) == Some(written);
        // Few names are compared faster than they are hashed.
        if members.len() < COMPARED_MAX && members.iter().any(is_known) {
            return None;
        }
        let start = reader.at();
        reader.skip()?;
        members.push(Member { spelled: None, name_at: name.at, value_at: start..reader.at() });
        Some(())
    })?;
    reader.end()?;
    if members.len() > COMPARED_MAX {
        let mut names = HashSet::new();
        members.iter().all(|member| names.insert(text.get(member.inside_quotes()))).then_some(())?;
    }
    Some((inside, members))
}

/// The same of every object.
pub(super) fn any(text: &[u8]) -> Result<(usize, Vec<Member>), String> {
    let text =
        std::str::from_utf8(text).map_err(|_| "the request body is not valid UTF-8".to_owned())?;
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
            spelled: Some(name.into()),
            name_at: end + open..end + close + 1,
            value_at: value_at.clone(),
        });
        end = value_at.end;
    }
    Ok((inside + 1, members))
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
