//! The body of a request as the JSON object that it is: its members are found, and changed by splicing.
//!
//! What is not changed stays as the caller wrote it, to the byte. Nothing is copied before something is changed.

mod members;
pub mod reader;

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;

use members::Member;

/// A JSON object, and where its members are.
#[derive(Clone, Debug)]
pub struct JsonBody {
    bytes: Bytes,
    members: Vec<Member>,
    /// Behind the brace that opens it.
    inside: usize,
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
        // What is refused at first is looked at again for the reason, which may turn out to be none.
        let (inside, members) = match members::usual(&bytes) {
            Some(found) => found,
            None => members::any(&bytes)?,
        };
        Ok(Self { inside, members, bytes })
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

    /// The same for a text, which is seldom more than what stands between its quotes.
    ///
    /// # Errors
    /// What is wrong, in words for the caller.
    pub fn read_text(&self, name: &str, expected: &str) -> Result<Option<String>, String> {
        match self.get(name).and_then(plain_text) {
            Some(text) => Ok(Some(text.to_owned())),
            None => self.read(name, expected),
        }
    }

    /// The names of the members, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| match &member.spelled {
            Some(name) => name,
            None => self.text(member.inside_quotes()),
        })
    }

    /// Begins to change it.
    pub fn edit(&self) -> Edit<'_> {
        Edit { body: self, replaced: Vec::new(), added: Vec::new(), removed: Vec::new() }
    }

    fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| self.has_name(member, name))
    }

    fn has_name(&self, member: &Member, name: &str) -> bool {
        match &member.spelled {
            Some(spelled) => **spelled == *name,
            // Most names differ in length.
            None => {
                member.name_at.len() == name.len() + 2
                    && self.bytes.get(member.inside_quotes()) == Some(name.as_bytes())
            }
        }
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
        let mut members = self.body.members.iter();
        let place = members.position(|member| self.body.has_name(member, name));
        self.removed.extend(place);
    }

    /// The changed body.
    pub fn finish(mut self) -> Bytes {
        let body = self.body;
        if self.added.is_empty() && self.removed.is_empty() {
            match self.replaced.as_slice() {
                [] => return body.bytes.clone(),
                // Mostly it is the model, and nothing else.
                [(at, text)] => {
                    let before = body.bytes.get(..at.start).unwrap_or_default();
                    let behind = body.bytes.get(at.end..).unwrap_or_default();
                    return [before, text.as_bytes(), behind].concat().into();
                }
                _ => {}
            }
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
    let is_escaped = |byte: u8| byte < b' ' || matches!(byte, b'"' | b'\\');
    // Over all bytes, without a way out: many are looked at at a time.
    if text.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
        return serde_json::Value::from(text).to_string();
    }
    ["\"", text, "\""].concat()
}

/// The text that JSON is, if it is one without escapes.
pub fn plain_text(json: &str) -> Option<&str> {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inside.filter(|text| memchr::memchr(b'\\', text.as_bytes()).is_none())
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

#[cfg(test)]
mod tests;
