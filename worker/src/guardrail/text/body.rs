//! The texts of whole bodies.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::labels;
use super::strings::{Id, Kind, Strings, spliced};
use crate::call::Operation;
use crate::guardrail::{Record, Rule, whole};
use crate::json::quoted;

/// Why a request does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A guardrail refuses it: which one.
    Refused(usize),
    /// It cannot be looked at.
    Unreadable(&'static str),
}

/// The members of a request that are looked at. In those of the second list only descriptions are.
fn members(operation: Operation) -> (&'static [&'static str], &'static [&'static str]) {
    const TOOLS: &[&str] = &["tools", "functions"];
    match operation {
        Operation::ChatCompletions => (&["messages", "prediction"], TOOLS),
        Operation::Messages | Operation::CountTokens => (&["messages", "system"], TOOLS),
        Operation::Responses => (&["input", "instructions", "prompt"], TOOLS),
        Operation::Completions => (&["prompt", "suffix"], &[]),
        Operation::Embeddings => (&["input"], &[]),
        Operation::Rerank => (&["query", "documents"], &[]),
        Operation::Speech => (&["input", "instructions"], &[]),
        Operation::ImageGenerations
        | Operation::ImageEdits
        | Operation::Transcriptions
        | Operation::Translations => (&["prompt"], &[]),
    }
}

/// A request, past the guardrails. Returns the body as it may go on, if it is changed.
///
/// # Errors
/// It must not, or cannot be looked at.
pub fn request(
    operation: Operation,
    body: &Bytes,
    rules: &[Rc<Rule>],
    records: &mut [Record],
) -> Result<Option<Bytes>, Stop> {
    let json = std::str::from_utf8(body).unwrap_or_default();
    let Some(strings) = Strings::find(json) else {
        return Err(Stop::Unreadable("it is nested too deeply"));
    };
    let (all, described) = members(operation);
    let takes_tokens = matches!(operation, Operation::Completions | Operation::Embeddings);
    if takes_tokens && rules.iter().any(|rule| !rule.is_monitor) {
        let is_token = |id: Id| {
            let list = strings.parent(id).filter(|id| strings.kind(*id) == Kind::List);
            list.is_some() && all.contains(&member_of(&strings, id))
        };
        if strings.of_kind(Kind::Scalar).any(is_token) {
            return Err(Stop::Unreadable("it holds token ids in place of text"));
        }
    }
    let is_looked_at = |id: Id| {
        let member = member_of(&strings, id);
        (all.contains(&member) && labels::is_content(&strings, id))
            || (described.contains(&member) && strings.name(id) == "description")
    };
    let edits = look(&strings, is_looked_at, rules, records).map_err(Stop::Refused)?;
    Ok((!edits.is_empty()).then(|| spliced(json, &edits).into()))
}

/// An answer, past the guardrails. Returns the body as it may go on, if it is changed.
///
/// # Errors
/// It must not: which guardrail says so.
pub fn answer(
    operation: Operation,
    body: &Bytes,
    rules: &[Rc<Rule>],
    records: &mut [Record],
) -> Result<Option<Bytes>, usize> {
    let members: &[&str] = match operation {
        Operation::ChatCompletions | Operation::Completions => &["choices"],
        Operation::Messages => &["content"],
        Operation::Responses => &["output", "output_text"],
        // All of it.
        Operation::Transcriptions | Operation::Translations => &[],
        // No text comes of these.
        Operation::CountTokens
        | Operation::Embeddings
        | Operation::Rerank
        | Operation::ImageGenerations
        | Operation::ImageEdits
        | Operation::Speech => return Ok(None),
    };
    let json = String::from_utf8_lossy(body);
    let Some(strings) = Strings::find(&json) else {
        return plain(&json, rules, records);
    };
    let is_looked_at = |id: Id| {
        (members.is_empty() || members.contains(&member_of(&strings, id)))
            && labels::is_content(&strings, id)
    };
    let mut edits = look(&strings, is_looked_at, rules, records)?;
    if edits.is_empty() {
        return Ok(None);
    }
    edits.extend(without_logprobs(&strings));
    Ok(Some(spliced(&json, &edits).into()))
}

/// A text that is no JSON, past the guardrails.
///
/// # Errors
/// As with [`answer`].
pub fn plain(
    text: &str,
    rules: &[Rc<Rule>],
    records: &mut [Record],
) -> Result<Option<Bytes>, usize> {
    Ok(whole(rules, text, false, records)?.map(Bytes::from))
}

/// Probabilities of tokens repeat the text.
pub fn without_logprobs(strings: &Strings<'_>) -> Vec<(Range<usize>, String)> {
    let lists = strings.of_kind(Kind::Object).chain(strings.of_kind(Kind::List));
    let found = lists.filter(|id| strings.name(*id) == "logprobs");
    found.map(|id| (strings.at(id), "null".to_owned())).collect()
}

/// Looks at the texts for which `is_looked_at` holds, and tells what takes their places.
fn look(
    strings: &Strings<'_>,
    is_looked_at: impl Fn(Id) -> bool,
    rules: &[Rc<Rule>],
    records: &mut [Record],
) -> Result<Vec<(Range<usize>, String)>, usize> {
    let mut edits = Vec::new();
    for id in strings.texts().filter(|id| is_looked_at(*id)) {
        let (text, is_json) = (strings.text(id), labels::is_json(strings, id));
        let changed = whole(rules, &text, is_json, records)?;
        if let Some(changed) = changed.filter(|changed| *changed != text) {
            edits.push((strings.at(id), quoted(&changed)));
        }
    }
    Ok(edits)
}

/// The member of the outermost object in which it is.
fn member_of<'a>(strings: &'a Strings<'_>, id: Id) -> &'a str {
    strings.path(id).get(1).map_or("", |member| strings.name(*member))
}
