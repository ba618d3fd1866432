//! `GET /v1/models`: the models that the caller may use.

use serde::Serialize;
use shared::resource::{ApiKey, ModelKind};

use crate::tables::Tables;

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'a str,
}

/// The list as JSON: names the caller's key allows, sorted, without wildcard names.
pub fn list(tables: &Tables, caller: &ApiKey, now_unix_seconds: i64) -> Vec<u8> {
    let is_listed = |name: &str| !name.contains('*') && caller.allows_model(name);
    let mut models: Vec<_> =
        tables.named_models().filter(|model| is_listed(&model.display_name)).collect();
    models.sort_by(|one, other| one.display_name.cmp(&other.display_name));
    let data = models.iter().map(|model| Entry {
        id: &model.display_name,
        object: "model",
        created: now_unix_seconds,
        owned_by: match &model.kind {
            ModelKind::Direct(direct) if !direct.provider.is_empty() => &direct.provider,
            _ => "aisix",
        },
    });
    let list = List { object: "list", data: data.collect() };
    // Nothing in the list can fail to be written as JSON.
    serde_json::to_vec(&list).unwrap_or_default()
}
