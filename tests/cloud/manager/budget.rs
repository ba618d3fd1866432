//! `GET /dp/budget_check?api_key_id=K`: may this caller key spend more?

use crate::{
    cloud::Cloud,
    environment,
    etcd::RangeRequest,
    identity::Identity,
    query,
    reply::{self, Refusal, Reply},
    resources::Budgets,
};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

/// What was asked about budgets, by environment and caller key.
#[derive(Debug, Default)]
pub struct Checks(BTreeMap<[String; 2], Check>);

/// What was asked about one caller key.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    env_id: String,
    api_key_id: String,
    /// Questions so far.
    calls: u64,
    /// Questions that are not answered yet.
    open: u64,
    /// The most that ever were open at a time.
    open_max: u64,
}

impl Checks {
    /// All of them.
    pub fn list(&self) -> Vec<&Check> {
        self.0.values().collect()
    }
}

/// A question that is open while this lives.
pub struct OpenCheck<'a> {
    cloud: &'a Cloud,
    key: [String; 2],
}

impl<'a> OpenCheck<'a> {
    /// Notes a question.
    pub fn begin(cloud: &'a Cloud, client: &Identity, query: Option<&str>) -> Self {
        let key_id = query::parameter(query, "api_key_id").unwrap_or_default();
        let key = [client.env_id.clone(), key_id];
        let mut checks = lock(cloud);
        let check = checks.0.entry(key.clone()).or_default();
        [check.env_id, check.api_key_id] = key.clone();
        check.calls += 1;
        check.open += 1;
        check.open_max = check.open_max.max(check.open);
        drop(checks);
        Self { cloud, key }
    }
}

impl Drop for OpenCheck<'_> {
    fn drop(&mut self) {
        if let Some(check) = lock(self.cloud).0.get_mut(&self.key) {
            check.open -= 1;
        }
    }
}

fn lock(cloud: &Cloud) -> MutexGuard<'_, Checks> {
    cloud.budget_checks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers with the decision of the resources file; a key that it does not mention may.
pub async fn answer(
    cloud: &Cloud,
    client: &Identity,
    query: Option<&str>,
) -> Result<Reply, Refusal> {
    let key_id = query::parameter(query, "api_key_id")
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Refusal::invalid("api_key_id is missing"))?;
    let key =
        format!("{}api_keys/{key_id}", environment::key_prefix(&cloud.prefix, &client.env_id));
    let request = RangeRequest { key: key.into(), count_only: true, ..RangeRequest::default() };
    let found = cloud.projection.range(request).await.map_err(|status| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", status.message())
    })?;
    if found.count == 0 {
        let message = format!("environment {} has no api key {key_id}", client.env_id);
        return Err(Refusal::forbidden("API_KEY_NOT_FOUND", message));
    }
    let budgets = cloud.budgets.read().unwrap_or_else(PoisonError::into_inner);
    let decision = match budgets.by_key.get(&(client.env_id.clone(), key_id.clone())) {
        None => json!({"allow": true}),
        Some(decision) if decision.get("allow").is_some() => decision.clone(),
        Some(budget) => counted(cloud, &budgets, client, &key_id, budget),
    };
    Ok(reply::json(StatusCode::OK, &decision))
}

/// The decision that follows from what the ledger says was used, at the prices of the models.
fn counted(
    cloud: &Cloud,
    budgets: &Budgets,
    client: &Identity,
    key_id: &str,
    budget: &Value,
) -> Value {
    let limit = budget.get("limit_usd").and_then(Value::as_f64).unwrap_or_default();
    let spent = cloud.ledger().spent(&client.env_id, key_id, |model_id| {
        let model = (client.env_id.clone(), model_id.to_owned());
        budgets.costs.get(&model).copied().unwrap_or_default()
    });
    let amounts = json!({"limit_usd": limit, "spent_usd": spent, "remaining_usd": limit - spent});
    let fail_mode = budget.get("fail_mode").cloned().unwrap_or_else(|| "sticky".into());
    if spent < limit {
        return json!({"allow": true, "fail_mode": fail_mode, "budget": amounts});
    }
    let mut reason = amounts.clone();
    reason["type"] = "billing_error".into();
    reason["code"] = "budget_exceeded".into();
    reason["message"] = format!("api_key budget '{key_id}' exceeded (${limit:.2}).").into();
    reason["scope"] = "api_key".into();
    reason["scope_ref"] = key_id.into();
    json!({"allow": false, "fail_mode": fail_mode, "reason": reason, "budget": amounts})
}
