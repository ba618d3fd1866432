//! The resources file: what is projected into which environment.
//!
//! ```yaml
//! environments:
//!   11111111-2222-3333-4444-555555555555:
//!     models: {m-1: {display_name: gpt-demo, provider: openai, model_name: small-1, provider_key_id: openai-main}}
//!     api_keys: {k-1: {key: sk-demo, allowed_models: ["*"]}}
//!     budgets: {k-1: {allow: true}}
//! ```
//!
//! Every kind is projected as it is written, unknown ones and nonsense too, so that a gateway's refusals can be tried.
//! Two things are the Cloud's own: `key` of a caller key becomes `key_hash`, and `budgets` stay here.

use crate::{
    environment::{self, NotUuid},
    etcd::store::Entries,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

const API_KEYS: &str = "api_keys";
const BUDGETS: &str = "budgets";
const MODELS: &str = "models";
/// Room for a projection of 64 MiB in many small resources: the file is the operator's own.
const NODES_MAX: usize = 20_000_000;
const BYTES_MAX: usize = 512 * 1024 * 1024;

/// What `/dp/budget_check` answers from.
#[derive(Debug, Default)]
pub struct Budgets {
    /// Answers, or limits that usage counts against, by environment and caller key.
    pub by_key: HashMap<(String, String), Value>,
    /// Dollars per thousand tokens of prompt and answer, by environment and model.
    pub costs: HashMap<(String, String), [f64; 2]>,
}

/// The content of a resources file.
#[derive(Debug, Default)]
pub struct Resources {
    /// etcd key to JSON.
    pub entries: Entries,
    /// What is answered about budgets; a key without one is allowed.
    pub budgets: Budgets,
}

/// Why a resources file was not taken. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    /// Not YAML of the expected shape.
    #[error("{0}")]
    Yaml(String),
    /// An environment that gateways would refuse.
    #[error("environments: {0}")]
    Environment(#[from] NotUuid),
    /// A kind or an id that cannot be part of a key.
    #[error(
        "{env_id}: {kind:?}/{id:?} cannot be a key: kind and id must not be empty, nor a kind hold a slash"
    )]
    Key {
        /// Where it is.
        env_id: String,
        /// The kind.
        kind: String,
        /// The id.
        id: String,
    },
    /// A caller key with both forms, or a `key` that is not a text.
    #[error("{env_id}: api_keys/{id}: give either key, a text, or key_hash")]
    CallerKey {
        /// Where it is.
        env_id: String,
        /// The caller key's id.
        id: String,
    },
    /// A budget that no gateway could use.
    #[error("{env_id}: budgets/{id}: give allow, true or false, or limit_usd, a number")]
    Budget {
        /// Where it is.
        env_id: String,
        /// The caller key's id.
        id: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    environments: Option<BTreeMap<String, Option<Kinds>>>,
}

/// Kind, id, document. A kind may stand there with nothing in it.
type Kinds = BTreeMap<String, Option<BTreeMap<String, Value>>>;

impl Resources {
    /// Reads a resources file for keys under `prefix`.
    pub fn parse(yaml: &str, prefix: &str) -> Result<Self, ResourcesError> {
        let options = serde_saphyr::options! {
            // The file holds secrets, and the error goes to a log.
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_events: NODES_MAX,
                max_nodes: NODES_MAX,
                max_total_scalar_bytes: BYTES_MAX,
            },
        };
        let document: Document = serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| ResourcesError::Yaml(error.to_string()))?;
        let mut resources = Self::default();
        for (env_id, kinds) in document.environments.unwrap_or_default() {
            let env_id = environment::uuid(&env_id)?;
            for (kind, documents) in kinds.unwrap_or_default() {
                for (id, document) in documents.unwrap_or_default() {
                    resources.add(prefix, &env_id, &kind, id, document)?;
                }
            }
        }
        Ok(resources)
    }

    fn add(
        &mut self,
        prefix: &str,
        env_id: &str,
        kind: &str,
        id: String,
        mut document: Value,
    ) -> Result<(), ResourcesError> {
        let env_id = env_id.to_owned();
        if kind.is_empty() || kind.contains('/') || id.is_empty() {
            return Err(ResourcesError::Key { env_id, kind: kind.to_owned(), id });
        }
        if kind == BUDGETS {
            let limit = document.get("limit_usd").and_then(Value::as_f64);
            if document.get("allow").and_then(Value::as_bool).is_none() && limit.is_none() {
                return Err(ResourcesError::Budget { env_id, id });
            }
            self.budgets.by_key.insert((env_id, id), document);
            return Ok(());
        }
        if kind == MODELS
            && let Some(cost) = document.get("cost")
        {
            let price = |name| cost.get(name).and_then(Value::as_f64).unwrap_or_default();
            let prices = ["input_per_1k", "output_per_1k"].map(price);
            self.budgets.costs.insert((env_id.clone(), id.clone()), prices);
        }
        if kind == API_KEYS
            && let Value::Object(fields) = &mut document
            && !hash_caller_key(fields)
        {
            return Err(ResourcesError::CallerKey { env_id, id });
        }
        let key = format!("{}{kind}/{id}", environment::key_prefix(prefix, &env_id));
        self.entries.insert(key.into(), document.to_string().into());
        Ok(())
    }
}

/// Puts `key_hash` (lower-case hex SHA-256) in the place of `key`. False if `key` cannot be taken.
fn hash_caller_key(fields: &mut Map<String, Value>) -> bool {
    let Some(key) = fields.remove("key") else { return true };
    let Value::String(key) = key else { return false };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    fields.insert("key_hash".into(), hex.into()).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENV: &str = "11111111-2222-3333-4444-555555555555";

    fn parse(kinds: &str) -> Result<Resources, ResourcesError> {
        Resources::parse(&format!("environments:\n  {ENV}:\n{kinds}"), "/aisix/")
    }

    fn projected(resources: &Resources, key: &str) -> Value {
        let value = resources.entries.get(format!("/aisix/{ENV}/{key}").as_bytes()).unwrap();
        serde_json::from_slice(value).unwrap()
    }

    #[test]
    fn a_resource_of_any_kind_is_projected_as_json_under_its_environment() {
        let resources = parse(
            "    models: {m-1: {display_name: gpt, timeout: 5}}\n    novelties: {a/b: [1, x]}",
        )
        .unwrap();
        assert_eq!(
            projected(&resources, "models/m-1"),
            serde_json::json!({"display_name": "gpt", "timeout": 5})
        );
        assert_eq!(projected(&resources, "novelties/a/b"), serde_json::json!([1, "x"]));
    }

    #[test]
    fn a_caller_key_leaves_only_its_hash() {
        let resources = parse("    api_keys: {k-1: {key: abc, allowed_models: ['*']}}").unwrap();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected = serde_json::json!({"key_hash": hash, "allowed_models": ["*"]});
        assert_eq!(projected(&resources, "api_keys/k-1"), expected);
        assert!(parse("    api_keys: {k-1: {key: abc, key_hash: x}}").is_err());
        assert!(parse("    api_keys: {k-1: {key: 12}}").is_err());
    }

    #[test]
    fn budgets_stay_here() {
        let resources = parse("    budgets: {k-1: {allow: false, fail_mode: closed}}").unwrap();
        assert!(resources.entries.is_empty());
        assert_eq!(resources.budgets.by_key[&(ENV.into(), "k-1".into())]["fail_mode"], "closed");
        assert!(parse("    budgets: {k-1: {limit_usd: 5}}").is_ok());
        assert!(parse("    budgets: {k-1: {allow: perhaps}}").is_err());
    }

    #[test]
    fn empty_sections_are_nothing_and_wrong_ones_are_errors() {
        assert!(parse("    models:\n").unwrap().entries.is_empty());
        assert!(Resources::parse("environments:", "/aisix").unwrap().entries.is_empty());
        assert!(Resources::parse("environments: {prod: {models: {m: {}}}}", "/aisix").is_err());
        assert!(Resources::parse("models: {m: {}}", "/aisix").is_err());
        assert!(parse("    models: {m: {}, m: {}}").is_err(), "a key that is there twice");
        assert!(parse("    a/b: {m: {}}").is_err());
    }

    #[test]
    fn an_error_does_not_quote_the_file() {
        for wrong in [
            "    provider_keys: {p: {api_key: sk-secret",
            "    provider_keys: sk-secret",
            "    provider_keys: [sk-secret]",
            "    provider_keys: {p: {api_key: *sk-other}}\n    # sk-secret",
            "    api_keys: {k: {key: [sk-secret]}}",
            "    budgets: {k: sk-secret}",
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.to_string().contains("sk-secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(yaml: String) {
            let _ = Resources::parse(&yaml, "/aisix");
        }
    }
}
