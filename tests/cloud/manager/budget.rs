//! `GET /dp/budget_check?api_key_id=K`: may this caller key spend more?

use crate::{
    cloud::Cloud,
    environment,
    etcd::RangeRequest,
    identity::Identity,
    query,
    reply::{self, Refusal, Reply},
};
use http::StatusCode;
use serde_json::json;
use std::sync::PoisonError;

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
    let decision =
        budgets.get(&(client.env_id.clone(), key_id)).cloned().unwrap_or(json!({"allow": true}));
    Ok(reply::json(StatusCode::OK, &decision))
}
