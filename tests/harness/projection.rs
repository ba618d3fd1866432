//! The resources of one environment, as a control plane would project them.

use std::collections::BTreeMap;
use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use crate::provider::{KEY, Upstream};

/// Resources by kind and id.
#[derive(Clone, Debug, Default)]
pub struct Projection(BTreeMap<(String, String), Value>);

/// The caller key that [`Projection::of`] knows.
pub const CALLER_KEY: &str = "sk-demo";

impl Projection {
    /// What most tests need: the upstream behind provider key `pk-1`, its scripts as models of the same names, and the
    /// caller `k-1` with the key `sk-demo`, who may use them all.
    pub fn of(upstream: &Upstream) -> Self {
        let mut projection = Self::default()
            .with("provider_keys", "pk-1", provider_key(&upstream.api_base(), KEY))
            .with("api_keys", "k-1", api_key(CALLER_KEY, &["*"]));
        let slow = ["slow-50", "slow-250", "slow-1000"];
        let statuses = ["status-400", "status-404", "status-429", "status-500", "status-503"];
        let scripts = ["small-1", "cut", "stall", "split", "big", "garbage", "hold"];
        for name in scripts.iter().chain(&slow).chain(&statuses) {
            projection = projection.with("models", &format!("m-{name}"), model(name, "pk-1"));
        }
        projection
    }

    /// With one more document, or another in its place.
    #[must_use]
    pub fn with(mut self, kind: &str, id: &str, document: Value) -> Self {
        self.0.insert((kind.to_owned(), id.to_owned()), document);
        self
    }

    /// Without that document.
    #[must_use]
    pub fn without(mut self, kind: &str, id: &str) -> Self {
        self.0.remove(&(kind.to_owned(), id.to_owned()));
        self
    }

    /// The documents by their key below `/aisix/<environment>/`.
    pub fn documents(&self) -> impl Iterator<Item = (String, &Value)> {
        self.0.iter().map(|((kind, id), document)| (format!("{kind}/{id}"), document))
    }

    /// The resources file of `aisix-cloud`: JSON, which is YAML.
    pub fn to_file(&self, environment: &str) -> String {
        let mut kinds = Map::new();
        for ((kind, id), document) in &self.0 {
            let kind = kinds.entry(kind.clone()).or_insert_with(|| json!({}));
            kind[id] = document.clone();
        }
        json!({"environments": {environment: kinds}}).to_string()
    }
}

/// The document of a provider key.
pub fn provider_key(api_base: &str, secret: &str) -> Value {
    json!({
        "display_name": "upstream",
        "provider": "openai",
        "adapter": "openai",
        "api_base": api_base,
        "api_key": secret,
    })
}

/// The document of a provider key of Anthropic's protocol.
pub fn anthropic_key(api_base: &str, secret: &str) -> Value {
    let mut key = provider_key(api_base, secret);
    key["display_name"] = json!("claude");
    key["provider"] = json!("anthropic");
    key["adapter"] = json!("anthropic");
    key
}

/// The document of a model that has the same name at the upstream.
pub fn model(name: &str, provider_key_id: &str) -> Value {
    json!({
        "display_name": name,
        "provider": "openai",
        "model_name": name,
        "provider_key_id": provider_key_id,
    })
}

/// The document of a caller key.
pub fn api_key(key: &str, allowed_models: &[&str]) -> Value {
    json!({"key_hash": key_hash(key), "allowed_models": allowed_models})
}

/// How a caller key is stored: SHA-256 in lower-case hexadecimal.
pub fn key_hash(key: &str) -> String {
    digest(&SHA256, key.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
