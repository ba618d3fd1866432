//! JSON Schema as the subset that Gemini knows (an OpenAPI 3.0 schema). What it does not know it answers with an error; so
//! that is left out, or said in other words where there are some.

use serde_json::{Map, Value, json};

/// What is taken over as it is.
const KNOWN: [&str; 15] = [
    "title",
    "description",
    "nullable",
    "maxItems",
    "minItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "default",
    "propertyOrdering",
    "example",
];
const FORMATS: [&str; 6] = ["enum", "date-time", "int32", "int64", "float", "double"];
/// References are put in place; of a schema that has grown so far, or refers to itself, the rest is left open.
const NODES_MAX: usize = 5000;
const DEPTH_MAX: usize = 32;

/// The schema in Gemini's words.
pub fn cleaned(schema: &Value) -> Value {
    Cleaner { root: schema, nodes: 0 }.clean(schema, 0)
}

struct Cleaner<'a> {
    root: &'a Value,
    nodes: usize,
}

impl Cleaner<'_> {
    fn clean(&mut self, schema: &Value, depth: usize) -> Value {
        self.nodes += 1;
        let Some(fields) = schema.as_object() else { return json!({}) };
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            return json!({"type": "object"});
        }
        if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
            let root = self.root;
            let found = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
            return found.map_or(json!({"type": "object"}), |found| self.clean(found, depth + 1));
        }
        let mut told = Map::new();
        for part in fields.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            if let Value::Object(part) = self.clean(part, depth + 1) {
                merge(&mut told, part);
            }
        }
        for name in KNOWN {
            if let Some(value) = fields.get(name) {
                told.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(format) = fields.get("format").filter(|format| is_format(format)) {
            told.insert("format".to_owned(), format.clone());
        }
        self.types(fields, &mut told);
        self.choices(fields, &mut told, depth);
        self.alternatives(fields, &mut told, depth);
        told.into()
    }

    /// Properties and items.
    fn choices(
        &mut self,
        fields: &Map<String, Value>,
        told: &mut Map<String, Value>,
        depth: usize,
    ) {
        if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
            let clean =
                |(name, schema): (&String, &Value)| (name.clone(), self.clean(schema, depth + 1));
            let properties: Map<_, _> = properties.iter().map(clean).collect();
            let mut all = Map::new();
            all.insert("properties".to_owned(), properties.into());
            merge(told, all);
            told.entry("type").or_insert_with(|| "object".into());
        }
        if let Some(required) = fields.get("required").and_then(Value::as_array) {
            // A name without a property is an error there.
            let properties = told.get("properties");
            let is_there = |name: &&Value| {
                name.as_str()
                    .is_some_and(|name| properties.is_some_and(|all| all.get(name).is_some()))
            };
            let required: Vec<_> = required.iter().filter(is_there).cloned().collect();
            if !required.is_empty() {
                let mut all = Map::new();
                all.insert("required".to_owned(), required.into());
                merge(told, all);
            }
        }
        if let Some(items) = fields.get("items") {
            told.insert("items".to_owned(), self.clean(items, depth + 1));
        } else if told.get("type").is_some_and(|kind| kind == "array") {
            // Without a word of its items a list is an error.
            told.entry("items").or_insert_with(|| json!({"type": "string"}));
        }
    }

    fn types(&self, fields: &Map<String, Value>, told: &mut Map<String, Value>) {
        match fields.get("type") {
            Some(Value::Array(types)) => {
                let mut kinds: Vec<_> = types.iter().filter(|kind| *kind != "null").collect();
                if kinds.len() < types.len() {
                    told.insert("nullable".to_owned(), true.into());
                }
                match (kinds.pop(), kinds.is_empty()) {
                    (Some(kind), true) => drop(told.insert("type".to_owned(), kind.clone())),
                    (Some(last), false) => {
                        kinds.push(last);
                        let any = kinds.iter().map(|kind| json!({"type": kind})).collect();
                        told.insert("anyOf".to_owned(), any);
                    }
                    (None, _) => {}
                }
            }
            Some(kind) => drop(told.insert("type".to_owned(), kind.clone())),
            None => {}
        }
        let one = fields.get("const").map(|value| vec![value.clone()]);
        let values = one.or_else(|| fields.get("enum").and_then(Value::as_array).cloned());
        // Only texts can be listed.
        let texts = values.into_iter().flatten().filter(Value::is_string).collect::<Vec<_>>();
        if !texts.is_empty() {
            told.insert("enum".to_owned(), texts.into());
            told.entry("type").or_insert_with(|| "string".into());
        }
    }

    fn alternatives(
        &mut self,
        fields: &Map<String, Value>,
        told: &mut Map<String, Value>,
        depth: usize,
    ) {
        let any = fields.get("anyOf").or_else(|| fields.get("oneOf")).and_then(Value::as_array);
        let Some(any) = any else { return };
        let is_null = |schema: &&Value| schema.get("type").is_some_and(|kind| kind == "null");
        if any.iter().any(|schema| is_null(&schema)) {
            told.insert("nullable".to_owned(), true.into());
        }
        let rest: Vec<_> = any.iter().filter(|schema| !is_null(schema)).collect();
        let mut rest: Vec<_> = rest.into_iter().map(|it| self.clean(it, depth + 1)).collect();
        match rest.pop() {
            Some(Value::Object(only)) if rest.is_empty() => {
                let own = std::mem::take(told);
                merge(told, only);
                merge(told, own);
            }
            Some(last) => {
                rest.push(last);
                told.insert("anyOf".to_owned(), rest.into());
            }
            None => {}
        }
    }
}

/// Adds what `more` says; of two lists or objects, both.
fn merge(told: &mut Map<String, Value>, more: Map<String, Value>) {
    for (name, value) in more {
        match (told.get_mut(&name), value) {
            (Some(Value::Object(there)), Value::Object(value)) => there.extend(value),
            (Some(Value::Array(there)), Value::Array(value)) if name == "required" => {
                there.extend(value);
            }
            (_, value) => drop(told.insert(name, value)),
        }
    }
}

fn is_format(format: &Value) -> bool {
    format.as_str().is_some_and(|format| FORMATS.contains(&format))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_gemini_does_not_know_is_left_out_or_said_in_other_words() {
        let schema = json!({
            "$schema": "x", "type": "object", "additionalProperties": false,
            "$defs": {"color": {"type": "string", "enum": ["red", "blue"]}},
            "required": ["a", "missing"],
            "properties": {
                "a": {"type": ["string", "null"], "format": "uri"},
                "b": {"$ref": "#/$defs/color"},
                "c": {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]},
                "d": {"const": "x"},
                "e": {"type": "array"},
                "f": {"oneOf": [{"type": "string"}, {"type": "number"}]},
            },
        });
        assert_eq!(
            cleaned(&schema),
            json!({
                "type": "object",
                "required": ["a"],
                "properties": {
                    "a": {"type": "string", "nullable": true},
                    "b": {"type": "string", "enum": ["red", "blue"]},
                    "c": {"type": "integer", "nullable": true},
                    "d": {"type": "string", "enum": ["x"]},
                    "e": {"type": "array", "items": {"type": "string"}},
                    "f": {"anyOf": [{"type": "string"}, {"type": "number"}]},
                },
            })
        );
    }

    #[test]
    fn a_schema_that_refers_to_itself_has_an_end() {
        let schema = json!({
            "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
        });
        let text = cleaned(&schema).to_string();
        assert!(text.len() < 1_000_000);
    }

    proptest! {
        #[test]
        fn no_schema_can_panic_it(
            text in r#"(\{|\}|\[|\]|,|:|"(type|anyOf|allOf|\$ref|items|properties|enum|required|#|null)"){0,30}"#,
        ) {
            if let Ok(schema) = serde_json::from_str::<Value>(&text) {
                cleaned(&schema);
            }
        }
    }
}
