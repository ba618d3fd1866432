use proptest::prelude::*;
use serde_json::Value;

use super::*;

const FILE: &str = r#"
_format_version: "1"
provider_keys:
  - display_name: main
    provider: openai
    api_key: ${UPSTREAM_KEY}
    api_base: https://${HOST}/v1
models:
  - {display_name: large, provider: openai, model_name: gpt-l, provider_key: main}
  - display_name: any
    routing: {strategy: round_robin, targets: [{model: large}]}
api_keys:
  - {display_name: ci, key_env: CI_KEY, allowed_models: [large, "x-*"]}
  - {display_name: ops, key_hash: 91ed2dbc407561556f3e7be98ba0bd2a57986d6a868c482d867d19c6d40d201c, allowed_models: ["*"]}
rate_limit_policies:
  - {name: cap, scope: model, scope_ref: large, window: minute, max_requests: 3}
"#;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "UPSTREAM_KEY" => "sk-swordfish",
        "HOST" => "api.test",
        "CI_KEY" => "sk-caller-swordfish",
        _ => return None,
    };
    Some(value.to_owned())
}

fn problems(text: &str) -> Vec<String> {
    read(text, &lookup).unwrap_err()
}

fn document(resources: &Resources, kind: &str, name: &str) -> Value {
    let id = kind::id(kind, name);
    let found = resources.documents.iter().find(|document| document.id == id).unwrap();
    serde_json::from_slice(found.json.expose()).unwrap()
}

#[test]
fn names_become_ids_variables_become_values_and_keys_become_hashes() {
    let resources = read(FILE, &lookup).unwrap();
    assert_eq!(resources.documents.len(), 6);
    let key = document(&resources, "provider_keys", "main");
    assert_eq!(
        (&key["api_key"], &key["api_base"]),
        (&"sk-swordfish".into(), &"https://api.test/v1".into())
    );
    let model = document(&resources, "models", "large");
    assert_eq!(model["provider_key_id"], kind::id("provider_keys", "main"));
    assert!(model.get("provider_key").is_none());
    let caller = document(&resources, "api_keys", "ci");
    assert_eq!(caller["key_hash"].as_str().unwrap().len(), 64);
    assert!(caller.get("key_env").is_none());
    let policy = document(&resources, "rate_limit_policies", "cap");
    assert_eq!(policy["scope_ref"], kind::id("models", "large"));
    assert!(!format!("{resources:?}").contains("swordfish"));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_its_place() {
    let text = FILE
        .replace("\"1\"", "1")
        .replace("models:\n", "modles: []\nmodels:\n  - {display_name: m, id: x}\n")
        .replace("key_env: CI_KEY", "key_env: NOPE")
        .replace("provider_key: main", "provider_key: mian")
        .replace("{model: large}", "{model: lorge}")
        .replace("${HOST}", "${NOPE}");
    let told = problems(&text).join("\n");
    for expected in [
        "_format_version must be the text \"1\": quote it",
        "unknown key modles; did you mean models?",
        "provider_keys[0]: api_base: the variable NOPE is not set",
        "models[0] (\"m\"): id has no meaning in a file",
        "models[1] (\"large\"): provider_key: there is no entry \"mian\" in provider_keys",
        "models[2] (\"any\"): routing.targets: there is no model \"lorge\"",
        "api_keys[0] (\"ci\"): key_env: the variable \"NOPE\" is not set or empty",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    assert!(!told.contains("swordfish"), "{told}");
}

#[test]
fn a_file_that_is_no_resources_file_is_told_so() {
    for (text, expected) in [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("- a\n", "must hold _format_version"),
        ("models: []\n", "_format_version is missing"),
        ("_format_version: \"2\"\n", "must be \"1\""),
        ("_format_version: \"1\"\n---\n_format_version: \"1\"\n", "single YAML document"),
        ("_format_version: \"1\"\nmodels: {}\n", "models: must be a list"),
        ("_format_version: \"1\"\nmodels: [7]\n", "models[0]: must be a mapping"),
        ("_format_version: \"1\"\nmodels: [{}]\n", "models[0]: needs display_name"),
        ("_format_version: \"1\"\nmodels: [swordfish\n", "single YAML document"),
    ] {
        let told = problems(text).join("; ");
        assert!(told.contains(expected) && !told.contains('\n'), "{text}: {told}");
        assert!(!told.contains("swordfish"), "{told}");
    }
}

#[test]
fn two_entries_must_not_share_a_name_or_a_key() {
    let model =
        "  - {display_name: large, provider: openai, model_name: gpt-l, provider_key: main}\n";
    let told = problems(&FILE.replace(model, &model.repeat(2))).join("; ");
    assert!(told.contains("models[1] (\"large\"): another entry has this name"), "{told}");
    let again = "api_keys:\n  - {display_name: again, key_env: CI_KEY, allowed_models: []}\n";
    let told = problems(&FILE.replace("api_keys:\n", again)).join("; ");
    assert!(told.contains("has the same key as api_keys[0] (\"again\")"), "{told}");
}

#[test]
fn a_document_is_checked_as_one_of_etcd_would_be() {
    let told = problems(&FILE.replace("strategy: round_robin", "strategy: swordfish")).join("; ");
    assert!(told.starts_with("models[1] (\"any\"): schema validation failed"), "{told}");
    assert!(!told.contains("swordfish"), "{told}");
    let notes =
        read(&FILE.replace("provider_key: main", "provider_key: main, colour: red"), &lookup);
    assert!(notes.unwrap().notes.iter().any(|note| note.contains("colour is not honoured")));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let told = load(Path::new("/nowhere/r.yaml"), &lookup).unwrap_err();
    assert!(told.to_string().contains("/nowhere/r.yaml"), "{told}");
    assert_eq!(told.report().lines().count(), 2);
}

proptest! {
    #[test]
    fn no_text_makes_the_reading_panic(text: String) {
        let _ = read(&text, &lookup);
        let _ = read(&format!("_format_version: \"1\"\nmodels:\n  - {text}\n"), &lookup);
    }
}
