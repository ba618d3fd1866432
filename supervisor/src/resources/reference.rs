//! Where one entry refers to another: by its name in a resources file, by its id in a document. Reading and writing a file
//! go through the same places.

use serde_json::{Map, Value};

/// Conditions within conditions; deeper ones stay as they are.
const DEPTH_MAX: usize = 16;

/// A place that refers to another entry.
pub enum Place<'a> {
    /// Name and id stand in fields of different names.
    Fields {
        /// What holds them.
        object: &'a mut Map<String, Value>,
        /// The field of the name.
        name: &'static str,
        /// The field of the id.
        id: &'static str,
    },
    /// Name and id stand in the same place.
    Text(&'a mut Value),
}

/// What is done at a place: the kind that is referred to, the place, and what it is called.
pub type Visit<'a> = dyn FnMut(&'static str, Place<'_>, &str) -> Result<(), String> + 'a;

/// Visits every place of a document of `kind`, until one is refused.
pub fn visit(kind: &str, document: &mut Value, visit: &mut Visit<'_>) -> Result<(), String> {
    match kind {
        "models" => {
            fields(document, "", "provider_key", "provider_key_id", "provider_keys", visit)?;
            let classifier = "/semantic/classifier";
            fields(document, classifier, "provider_key", "provider_key_id", "provider_keys", visit)
        }
        "passthrough_routes" => {
            fields(document, "", "provider_key", "provider_key_id", "provider_keys", visit)?;
            fields(document, "", "anonymous_key", "anonymous_key_id", "api_keys", visit)
        }
        "claim_mappings" => {
            fields(document, "/resolve", "api_key", "api_key_id", "api_keys", visit)
        }
        "guardrail_attachments" => {
            text(document, "guardrail_id", Some("guardrails"), visit)?;
            let scope = scope(document, "scope_type");
            text(document, "scope_id", scope, visit)
        }
        "rate_limit_policies" => {
            let scope = scope(document, "scope");
            text(document, "scope_ref", scope, visit)?;
            document.get_mut("conditions").map_or(Ok(()), |nodes| conditions(nodes, 0, visit))
        }
        _ => Ok(()),
    }
}

fn fields(
    document: &mut Value,
    at: &str,
    name: &'static str,
    id: &'static str,
    target: &'static str,
    visit: &mut Visit<'_>,
) -> Result<(), String> {
    match document.pointer_mut(at) {
        Some(Value::Object(object)) => visit(target, Place::Fields { object, name, id }, name),
        _ => Ok(()),
    }
}

fn text(
    document: &mut Value,
    field: &str,
    target: Option<&'static str>,
    visit: &mut Visit<'_>,
) -> Result<(), String> {
    match (document.get_mut(field), target) {
        (Some(value), Some(target)) if value.is_string() => {
            visit(target, Place::Text(value), field)
        }
        _ => Ok(()),
    }
}

/// The kind that a scope or a dimension is about; teams, members and the like are no resources.
fn scope(object: &Value, field: &str) -> Option<&'static str> {
    match object.get(field)?.as_str()? {
        "api_key" => Some("api_keys"),
        "model" => Some("models"),
        _ => None,
    }
}

fn conditions(nodes: &mut Value, depth: usize, visit: &mut Visit<'_>) -> Result<(), String> {
    let Some(nodes) = nodes.as_array_mut().filter(|_| depth < DEPTH_MAX) else { return Ok(()) };
    for node in nodes {
        let target = scope(node, "dimension");
        match (node.get_mut("value"), target) {
            (Some(Value::Array(values)), Some(target)) => {
                for value in values.iter_mut().filter(|value| value.is_string()) {
                    visit(target, Place::Text(value), "conditions")?;
                }
            }
            (Some(value @ Value::String(_)), Some(target)) => {
                visit(target, Place::Text(value), "conditions")?;
            }
            _ => {}
        }
        if let Some(children) = node.get_mut("children") {
            conditions(children, depth + 1, visit)?;
        }
    }
    Ok(())
}
