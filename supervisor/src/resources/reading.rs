//! From the text of a resources file to documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};
use shared::secret::Secret;

use super::Resources;
use super::kind::{FileKind, KINDS, id};
use super::reference::{self, Place};
use super::variables;
use crate::projection::{document, key};

/// The format that is understood.
const VERSION: &str = "1";

/// Finds the value of a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One document of the file.
#[derive(Debug)]
pub struct Document {
    /// Its kind.
    pub kind: &'static str,
    /// Its id, made of its name.
    pub id: String,
    /// Its canonical form.
    pub json: Secret<Vec<u8>>,
}

/// An entry on its way.
struct Entry {
    kind: &'static FileKind,
    /// For errors: `models[2] ("large")`.
    place: String,
    name: String,
    document: Value,
}

/// Ids by kind and name.
type Ids = BTreeMap<&'static str, BTreeMap<String, String>>;

pub(super) fn read(text: &str, lookup: Lookup<'_>) -> Result<Resources, Vec<String>> {
    let mut problems = Vec::new();
    let root = parse(text).map_err(|problem| vec![problem])?;
    head(&root, &mut problems);
    let entries = entries(root, lookup, &mut problems);
    let mut ids = Ids::new();
    for entry in &entries {
        let of_kind = ids.entry(entry.kind.name).or_default();
        of_kind.insert(entry.name.clone(), id(entry.kind.name, &entry.name));
    }
    let mut resources = Resources { documents: Vec::new(), notes: Vec::new() };
    let mut hashes = BTreeMap::new();
    for entry in entries {
        let place = entry.place.clone();
        let told = |problem: String| format!("{place}: {problem}");
        match document_of(entry, &ids, &mut hashes, lookup) {
            Ok((document, unhonoured)) => {
                resources.notes.extend(unhonoured.into_iter().map(|field| {
                    // In brackets is what concerns the document as a whole.
                    let whole = field.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
                    told(whole.map_or_else(|| format!("{field} is not honoured"), str::to_owned))
                }));
                resources.documents.push(document);
            }
            Err(reasons) => problems.extend(reasons.into_iter().map(told)),
        }
    }
    if problems.is_empty() { Ok(resources) } else { Err(problems) }
}

fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let mut options = serde_saphyr::Options::default();
    // An excerpt could show a secret.
    options.with_snippet = false;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err("the file is empty".to_owned());
    }
    match serde_saphyr::from_str_with_options(text, options) {
        Ok(Value::Object(root)) => Ok(root),
        Ok(_) => Err("the file must hold _format_version and lists of resources".to_owned()),
        Err(error) => {
            let words = error.to_string();
            let line: Vec<_> = words.split_whitespace().collect();
            Err(format!("not a single YAML document: {}", line.join(" ")))
        }
    }
}

fn head(root: &Map<String, Value>, problems: &mut Vec<String>) {
    match root.get("_format_version") {
        Some(Value::String(version)) if version == VERSION => {}
        Some(Value::String(_)) => problems.push(format!("_format_version must be {VERSION:?}")),
        Some(_) => problems.push(format!("_format_version must be the text {VERSION:?}: quote it")),
        None => problems.push(format!("_format_version is missing: it must be {VERSION:?}")),
    }
    for key in root.keys().filter(|key| *key != "_format_version") {
        if FileKind::find(key).is_none() {
            let near = KINDS
                .iter()
                .map(|kind| (strsim::damerau_levenshtein(key, kind.name), kind.name))
                .min_by_key(|(distance, _)| *distance)
                .filter(|(distance, name)| *distance <= name.len() / 3);
            let hint = near.map(|(_, name)| format!("; did you mean {name}?")).unwrap_or_default();
            let key: String = key.escape_debug().take(100).collect();
            problems.push(format!("unknown key {key}{hint}"));
        }
    }
}

/// Every entry with a name of its own, its variables filled in.
fn entries(
    mut root: Map<String, Value>,
    lookup: Lookup<'_>,
    problems: &mut Vec<String>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for kind in &KINDS {
        let items = match root.remove(kind.name) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(_) => {
                problems.push(format!("{}: must be a list", kind.name));
                continue;
            }
        };
        let mut names = BTreeSet::new();
        for (index, document) in items.into_iter().enumerate() {
            match entry(kind, index, document, lookup) {
                Ok(entry) if names.insert(entry.name.clone()) => entries.push(entry),
                Ok(entry) => problems.push(format!("{}: another entry has this name", entry.place)),
                Err(reason) => problems.push(format!("{}[{index}]: {reason}", kind.name)),
            }
        }
    }
    entries
}

fn entry(
    kind: &'static FileKind,
    index: usize,
    mut document: Value,
    lookup: Lookup<'_>,
) -> Result<Entry, String> {
    if !document.is_object() {
        return Err("must be a mapping".to_owned());
    }
    variables::fill(&mut document, lookup)?;
    let name = kind.identity.of(&document).ok_or_else(|| {
        format!("needs {}: that is what the entry is known by", kind.identity.needed())
    })?;
    let place = format!("{}[{index}] ({name:?})", kind.name);
    Ok(Entry { kind, place, name, document })
}

fn document_of(
    entry: Entry,
    ids: &Ids,
    hashes: &mut BTreeMap<String, String>,
    lookup: Lookup<'_>,
) -> Result<(Document, Vec<String>), Vec<String>> {
    let Entry { kind, place, name, mut document } = entry;
    let one = |problem: String| vec![problem];
    only_in_the_cloud(kind.name, &document).map_err(one)?;
    reference::visit(kind.name, &mut document, &mut |target, place, what| {
        resolve(ids, target, place, what)
    })
    .map_err(one)?;
    if kind.name == "api_keys" {
        hash_key(&mut document, lookup).map_err(one)?;
        let hash = document.get("key_hash").and_then(Value::as_str).unwrap_or_default();
        if let Some(other) = hashes.insert(hash.to_owned(), place) {
            return Err(one(format!("has the same key as {other}")));
        }
    }
    let dangling = dangling(kind.name, &document, ids);
    if !dangling.is_empty() {
        return Err(dangling);
    }
    let id = id(kind.name, &name);
    let canonical = serde_json::to_vec(&document).map_err(|error| one(error.to_string()))?;
    let path = format!("/{}/{id}", kind.name);
    let known = key::parse(b"/", path.as_bytes()).map(|(known, _)| known);
    let known = known.map_err(|error| one(error.to_string()))?;
    let read = document::read(known, &id, document).map_err(|refusal| one(refusal.error))?;
    Ok((Document { kind: kind.name, id, json: Secret::new(canonical) }, read.fields))
}

/// Fields that name what only the Cloud has.
fn only_in_the_cloud(kind: &str, document: &Value) -> Result<(), String> {
    for (of, field, remedy) in [
        (kind, "id", "ids are made of names"),
        ("models", "pricing_key", "give the price by cost"),
        ("api_keys", "allowed_model_ids", "name models by allowed_models"),
    ] {
        if of == kind && document.get(field).is_some() {
            return Err(format!("{field} has no meaning in a file: {remedy}"));
        }
    }
    Ok(())
}

fn resolve(ids: &Ids, target: &'static str, place: Place<'_>, what: &str) -> Result<(), String> {
    let find = |name: &str| {
        let of_kind = ids.get(target);
        of_kind
            .and_then(|of_kind| of_kind.get(name))
            .cloned()
            .ok_or_else(|| format!("{what}: there is no entry {name:?} in {target}"))
    };
    match place {
        Place::Fields { object, name, id } => {
            let Some(written) = object.remove(name) else { return Ok(()) };
            let text = written.as_str().ok_or_else(|| format!("{what}: must be a name"))?;
            if object.contains_key(id) {
                return Err(format!("{name} and {id} exclude each other"));
            }
            object.insert(id.to_owned(), Value::String(find(text)?));
        }
        Place::Text(value) => {
            let found = find(value.as_str().unwrap_or_default())?;
            *value = Value::String(found);
        }
    }
    Ok(())
}

/// `key_env` names the variable that holds the caller's key; only its hash goes on.
fn hash_key(document: &mut Value, lookup: Lookup<'_>) -> Result<(), String> {
    let Some(fields) = document.as_object_mut() else { return Ok(()) };
    let Some(variable) = fields.remove("key_env") else {
        return match fields.get("key_hash") {
            Some(_) => Ok(()),
            None => Err("needs key_env or key_hash".to_owned()),
        };
    };
    if fields.contains_key("key_hash") {
        return Err("key_env and key_hash exclude each other".to_owned());
    }
    let variable = variable.as_str().ok_or("key_env: must be the name of a variable")?;
    let key = lookup(variable).filter(|key| !key.is_empty()).map(Secret::new);
    let key =
        key.ok_or_else(|| format!("key_env: the variable {variable:?} is not set or empty"))?;
    if key.expose().contains("${") {
        return Err(format!("key_env: {variable} must hold the key itself, not a reference"));
    }
    let hash = digest(&SHA256, key.expose().as_bytes());
    let hex = hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    fields.insert("key_hash".to_owned(), Value::String(hex));
    Ok(())
}

/// Names of models that no entry has. Patterns with a star need none.
fn dangling(kind: &str, document: &Value, ids: &Ids) -> Vec<String> {
    let texts = |list: Option<&Value>| -> Vec<String> {
        let items = list.and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (field, names) = match kind {
        "api_keys" => ("allowed_models", texts(document.get("allowed_models"))),
        "models" => {
            let targets = document.pointer("/routing/targets").and_then(Value::as_array);
            let names = targets.into_iter().flatten().filter_map(|target| {
                target.get("model").and_then(Value::as_str).map(str::to_owned)
            });
            ("routing.targets", names.collect())
        }
        _ => return Vec::new(),
    };
    let models = ids.get("models");
    let is_known = |name: &String| {
        name.contains('*') || models.is_some_and(|models| models.contains_key(name))
    };
    names
        .iter()
        .filter(|name| !is_known(name))
        .map(|name| format!("{field}: there is no model {name:?}"))
        .collect()
}
