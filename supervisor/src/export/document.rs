//! From documents of an etcd to entries of a resources file.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::projection::{document, key};
use crate::resources::kind::{FileKind, KINDS};
use crate::resources::reference::{self, Place};

/// Fields that are secrets wherever they stand, and fields whose texts are all taken for secrets. Of no other field do the
/// published schemas say so.
const SECRETS: [&str; 6] =
    ["api_key", "secret", "access_key_secret", "secret_access_key", "session_token", "hmac_secret"];
const SECRET_TEXTS: [&str; 3] = ["headers", "default_headers", "default_body_fields"];
/// Variables begin so: never with the prefix of the configuration. As published.
const VARIABLE_PREFIX: &str = "AISIXSECRET";

/// What is to be written, and what there is to say about it.
#[derive(Debug, Default)]
pub struct Exported {
    /// Entries by kind, in the order of the file.
    pub lists: Vec<(&'static str, Vec<Value>)>,
    /// Variables that take the place of secrets, and what each is.
    pub variables: BTreeMap<String, String>,
    /// What is in the etcd and not in the file.
    pub problems: Vec<String>,
}

/// One document: its kind, its id in the etcd and its name in the file.
struct Row {
    kind: &'static FileKind,
    id: String,
    name: String,
    document: Value,
}

/// Names by kind and id.
type Names = BTreeMap<(&'static str, String), String>;

/// The entries below `prefix`, which ends with a slash.
pub fn export(prefix: &str, entries: Vec<(Vec<u8>, Vec<u8>)>, reveal_secrets: bool) -> Exported {
    let mut exported = Exported::default();
    let mut rows = Vec::new();
    for (key, value) in entries {
        match row(prefix, &key, &value) {
            Ok(row) => rows.push(row),
            Err(reason) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                exported.problems.push(format!("{key:?} is left out: {reason}"));
            }
        }
    }
    let names: Names =
        rows.iter().map(|row| ((row.kind.name, row.id.clone()), row.name.clone())).collect();
    for kind in &KINDS {
        let (of_kind, others) = rows.into_iter().partition(|row| row.kind == kind);
        rows = others;
        let list: Vec<_> =
            of_kind.into_iter().map(|row| exported.entry(row, &names, reveal_secrets)).collect();
        if !list.is_empty() {
            exported.lists.push((kind.name, list));
        }
    }
    exported
}

fn row(prefix: &str, key: &[u8], value: &[u8]) -> Result<Row, String> {
    let (known, id) = key::parse(prefix.as_bytes(), key).map_err(|error| error.to_string())?;
    let kind = FileKind::find(known.name)
        .ok_or_else(|| format!("a resources file has no place for {}", known.name))?;
    let mut document: Value = serde_json::from_slice(value).map_err(|_| "not JSON".to_owned())?;
    document::read(known, id, document.clone()).map_err(|refusal| refusal.error)?;
    let fields = document.as_object_mut().ok_or("not an object")?;
    fields.remove("id");
    if kind.name == "api_keys" && !fields.get("display_name").is_some_and(Value::is_string) {
        let hash = fields.get("key_hash").and_then(Value::as_str).unwrap_or_default();
        let name = format!("apikey-{}", hash.get(..12).unwrap_or(hash));
        fields.insert("display_name".to_owned(), Value::String(name));
    }
    let name = kind.identity.of(&document).unwrap_or_else(|| id.to_owned());
    Ok(Row { kind, id: id.to_owned(), name, document })
}

impl Exported {
    fn entry(&mut self, row: Row, names: &Names, reveal_secrets: bool) -> Value {
        let Row { kind, name, mut document, .. } = row;
        let problems = &mut self.problems;
        let place = format!("{} {name:?}", kind.name);
        let visited = reference::visit(kind.name, &mut document, &mut |target, at, what| {
            if let Err(id) = rename(at, &|id| names.get(&(target, id.to_owned())).cloned()) {
                problems
                    .push(format!("{place}: {what} refers to {id:?}, which is not in {target}"));
            }
            Ok(())
        });
        problems.extend(visited.err());
        for field in ["allowed_model_ids", "pricing_key"] {
            if document.get(field).is_some() {
                problems.push(format!("{place}: {field} has no meaning in a file"));
            }
        }
        if !reveal_secrets {
            let token = format!("{VARIABLE_PREFIX}_{}_{}", kind.token, capitals(&name));
            self.hide(&mut document, &token, &place);
        }
        if holds_reference(&document) && reveal_secrets {
            self.problems
                .push(format!("{place}: a text holds ${{, which a file takes for a variable"));
        }
        document
    }

    /// Puts variables in the place of secrets.
    fn hide(&mut self, value: &mut Value, token: &str, place: &str) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    if SECRETS.contains(&name.as_str()) && is_text(field) {
                        self.replace(field, format!("{token}_{}", capitals(name)), place, name);
                    } else if SECRET_TEXTS.contains(&name.as_str()) {
                        let group = match name.as_str() {
                            "headers" => "HEADER".to_owned(),
                            name => capitals(name),
                        };
                        self.hide_texts(field, &format!("{token}_{group}"), place);
                    } else {
                        self.hide(field, token, place);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide(item, token, place)),
            _ => {}
        }
    }

    fn hide_texts(&mut self, value: &mut Value, token: &str, place: &str) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    self.hide_texts(field, &format!("{token}_{}", capitals(name)), place);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.hide_texts(item, &format!("{token}_{index}"), place);
                }
            }
            text if is_text(text) => self.replace(text, token.to_owned(), place, "a default"),
            _ => {}
        }
    }

    fn replace(&mut self, value: &mut Value, variable: String, place: &str, what: &str) {
        *value = Value::String(format!("${{{variable}}}"));
        let told = format!("{place}: {what}");
        if let Some(other) = self.variables.insert(variable.clone(), told.clone()) {
            self.problems
                .push(format!("{variable} would stand for two secrets: {other}, and {told}"));
        }
    }
}

/// Puts a name in the place of an id. The error is the id that has none.
fn rename(place: Place<'_>, name_of: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    match place {
        Place::Fields { object, name, id } => {
            let Some(written) = object.get(id).and_then(Value::as_str) else { return Ok(()) };
            let found = name_of(written).ok_or_else(|| written.to_owned())?;
            replace_field(object, id, name, found);
        }
        Place::Text(value) => {
            let written = value.as_str().unwrap_or_default();
            let found = name_of(written).ok_or_else(|| written.to_owned())?;
            *value = Value::String(found);
        }
    }
    Ok(())
}

fn replace_field(object: &mut Map<String, Value>, id: &str, name: &str, text: String) {
    object.remove(id);
    object.insert(name.to_owned(), Value::String(text));
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn holds_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(holds_reference),
        Value::Object(fields) => fields.values().any(holds_reference),
        _ => false,
    }
}

/// As a part of a variable's name.
fn capitals(text: &str) -> String {
    let one = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::export::yaml;
    use crate::resources;

    const HASH: &str = "91ed2dbc407561556f3e7be98ba0bd2a57986d6a868c482d867d19c6d40d201c";

    fn documents() -> Vec<(&'static str, Value)> {
        vec![
            (
                "provider_keys/pk-1",
                json!({"display_name": "open-ai", "provider": "openai", "api_key": "sk-swordfish",
                    "request": {"default_headers": {"x-token": "swordfish"}}}),
            ),
            (
                "models/m-1",
                json!({"id": "m-1", "display_name": "large", "provider": "openai", "model_name": "l: #1",
                    "provider_key_id": "pk-1"}),
            ),
            ("api_keys/k-1", json!({"key_hash": HASH, "allowed_models": ["large", "*"]})),
            (
                "rate_limit_policies/r-1",
                json!({"name": "cap", "scope": "api_key", "scope_ref": "k-1", "window": "minute",
                    "max_requests": 3}),
            ),
        ]
    }

    fn exported(documents: &[(&str, Value)], reveal: bool) -> Exported {
        let entries = documents.iter().map(|(key, document)| {
            (format!("/aisix/{key}").into_bytes(), document.to_string().into_bytes())
        });
        export("/aisix/", entries.collect(), reveal)
    }

    #[test]
    fn what_is_exported_is_a_resources_file_without_a_secret() {
        let exported = exported(&documents(), false);
        assert!(exported.problems.is_empty(), "{:?}", exported.problems);
        let text = yaml::file(&exported.lists);
        assert!(!text.contains("swordfish"), "{text}");
        for expected in [
            "provider_key: \"open-ai\"",
            "scope_ref: \"apikey-91ed2dbc4075\"",
            "${AISIXSECRET_PROVIDER_KEY_OPEN_AI_API_KEY}",
            "${AISIXSECRET_PROVIDER_KEY_OPEN_AI_DEFAULT_HEADERS_X_TOKEN}",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert_eq!(exported.variables.len(), 2);
        let read = resources::read(&text, &|_| Some("value".to_owned())).unwrap();
        assert_eq!(read.documents.len(), 4);
    }

    #[test]
    fn secrets_are_revealed_only_where_that_is_asked_for() {
        let exported = exported(&documents(), true);
        assert!(exported.problems.is_empty() && exported.variables.is_empty());
        let text = yaml::file(&exported.lists);
        assert!(text.contains("\"sk-swordfish\""), "{text}");
        assert!(resources::read(&text, &|_| None).is_ok());
    }

    #[test]
    fn what_a_file_cannot_say_is_told_with_its_place_and_without_its_content() {
        let mut documents = documents();
        documents.extend([
            (
                "models/m-2",
                json!({"display_name": "lost", "provider": "openai", "model_name": "x",
                "provider_key_id": "pk-gone"}),
            ),
            ("models/m-3", json!({"display_name": "swordfish", "provider": 7})),
            ("widgets/w", json!({})),
            ("mcp_policies/p", json!({})),
        ]);
        let told = exported(&documents, false).problems.join("\n");
        for expected in [
            "models \"lost\": provider_key refers to \"pk-gone\", which is not in provider_keys",
            "\"/aisix/models/m-3\" is left out: schema validation failed",
            "\"/aisix/widgets/w\" is left out",
            "\"/aisix/mcp_policies/p\" is left out",
        ] {
            assert!(told.contains(expected), "{expected}\n{told}");
        }
        assert!(!told.contains("swordfish"), "{told}");
    }

    #[test]
    fn two_secrets_never_share_a_variable() {
        let key = |name: &str| json!({"display_name": name, "provider": "openai", "api_key": "s"});
        let documents = [("provider_keys/a", key("a-b")), ("provider_keys/b", key("a.b"))];
        let told = exported(&documents, false).problems.join("\n");
        assert!(
            told.contains("AISIXSECRET_PROVIDER_KEY_A_B_API_KEY would stand for two"),
            "{told}"
        );
    }
}
