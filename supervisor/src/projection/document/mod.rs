//! Documents of the projection: JSON in, typed resource out.
//!
//! Reading is lenient: an unknown field is passed over and reported, and so is a field that is known but that this build
//! does not honour yet. Everything else that the published schemas ask for still decides. An error names the place and
//! what was expected there, never what was found: documents hold secrets.

mod api_key;
mod field;
mod group;
mod guardrail;
mod identity;
mod model;
mod observe;
mod other;
mod policy;
mod provider_key;
mod shape;
mod surface;
mod vendor;

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use shared::resource::{Kind, Resource};

use super::key::DocumentKind;

/// At most so many unhonoured fields of one document are named.
const FIELDS_MAX: usize = 64;

/// Reported in a field's place for a kind that no worker serves.
pub const NOT_ENFORCED: &str = "(not enforced)";

/// A document that was taken.
#[derive(Debug, Default)]
pub struct Document {
    /// What the workers get; `None` if there is nothing in it for them, as in what is switched off.
    pub resource: Option<Resource>,
    /// By what callers or other documents know it, beside its id: should be unique within the kind.
    pub name: Option<String>,
    /// Fields that are not honoured.
    pub fields: Vec<String>,
}

/// Why a document was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// Which step it failed.
    pub kind: RefusalKind,
    /// Where, and what was expected there.
    pub error: String,
}

/// Which step a document failed; the names are the Cloud's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalKind {
    /// The key names no document.
    BadKey,
    /// Not JSON.
    NonJson,
    /// Against the published schema.
    SchemaFailed,
    /// Beyond the schema.
    ParseFailed,
    /// A kind that nobody knows.
    UnknownKind,
}

impl RefusalKind {
    /// The Cloud's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadKey => "bad_key",
            Self::NonJson => "non_json",
            Self::SchemaFailed => "schema_failed",
            Self::ParseFailed => "parse_failed",
            Self::UnknownKind => "unknown_kind",
        }
    }

    /// The kind of that name; one that this build does not know counts as against the schema.
    pub fn of_name(name: &str) -> Self {
        let all =
            [Self::BadKey, Self::NonJson, Self::SchemaFailed, Self::ParseFailed, Self::UnknownKind];
        all.into_iter().find(|kind| kind.name() == name).unwrap_or(Self::SchemaFailed)
    }

    /// The `reason` label under which reload failures are counted.
    pub fn reason(self) -> &'static str {
        if self == Self::NonJson { "parse" } else { "validate" }
    }
}

/// The document `value` of `kind` at `id`.
pub fn read(kind: DocumentKind, id: &str, value: Value) -> Result<Document, Refusal> {
    if !value.is_object() {
        return Err(schema_failed("", "expected an object"));
    }
    match kind.served {
        Some(Kind::ProviderKey) => provider_key::read(id, value),
        Some(Kind::Model) => model::read(id, value),
        Some(Kind::ApiKey) => api_key::read(id, value),
        _ => other::read(kind.name, id, &value),
    }
}

/// What a document that was not taken, because it is newer than this build, asks to be guarded all the same.
pub fn guard(kind: DocumentKind, id: &str, value: &Value) -> Option<Resource> {
    match kind.served {
        Some(Kind::Guardrail) => guardrail::newer(id, value),
        Some(Kind::RateLimitPolicy) => policy::newer(id, value),
        _ => None,
    }
}

/// `value` as a `T`, and the fields that `T` does not know.
fn read_as<T: DeserializeOwned>(value: Value) -> Result<(T, Vec<String>), Refusal> {
    let mut unknown = BTreeSet::new();
    let mut note = |path: serde_ignored::Path<'_>| {
        if unknown.len() <= FIELDS_MAX {
            unknown.insert(dotted(&path));
        }
    };
    let tracked = serde_ignored::Deserializer::new(value, &mut note);
    let read: T = serde_path_to_error::deserialize(tracked).map_err(|error| {
        schema_failed(&pointer(error.path()), &expectation(&error.inner().to_string()))
    })?;
    let cut = unknown.len() > FIELDS_MAX;
    let mut fields: Vec<_> = unknown.into_iter().take(FIELDS_MAX).collect();
    if cut {
        fields.push("...truncated".to_owned());
    }
    Ok((read, fields))
}

fn schema_failed(pointer: &str, expectation: &str) -> Refusal {
    let error = format!("schema validation failed at `{pointer}`: {expectation}");
    Refusal { kind: RefusalKind::SchemaFailed, error }
}

fn parse_failed(pointer: &str, expectation: &str) -> Refusal {
    let error = format!("cannot be read at `{pointer}`: {expectation}");
    Refusal { kind: RefusalKind::ParseFailed, error }
}

/// The part of a message that holds nothing of the document: serde puts what it found first, what it expected last.
fn expectation(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    if let Some(at) = message.rfind(EXPECTED) {
        let expected = message.get(at + EXPECTED.len()..).unwrap_or_default();
        return format!("expected {expected}");
    }
    // Ours (see `field`) and serde's own about our field names.
    let safe = message.starts_with("expected ") || message.starts_with("missing field ");
    if safe { message.to_owned() } else { "does not fit".to_owned() }
}

/// JSON pointer of a place.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Unknown => pointer.push('?'),
        }
    }
    pointer
}

/// A field's path as it is reported: dotted, array indexes as `[]`.
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let below = |parent: &Path<'_>, name: &str| match dotted(parent) {
        parent if parent.is_empty() => name.to_owned(),
        parent => format!("{parent}.{name}"),
    };
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, .. } => below(parent, "[]"),
        Path::Map { parent, key } => below(parent, key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => dotted(parent),
    }
}

#[cfg(test)]
mod tests;
