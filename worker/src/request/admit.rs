//! Limits: whether there is room for the request.

use shared::resource::Model;

use super::RequestError;
use super::account::{Account, unix_now};
use crate::limits::{Asked, Permit, What, buckets};

/// Takes what the request needs; `model` is the one that was asked for, where there are models.
pub async fn admit(account: &mut Account, model: Option<&Model>) -> Result<(), RequestError> {
    let Some(permit) = permitted(account, model, None).await? else { return Ok(()) };
    let labels = [account.key_id(), model.map_or("", |model| model.display_name.as_str())];
    account.proxy.metrics.limits_left(labels, permit.shown());
    account.permit = Some(permit);
    Ok(())
}

/// Takes what the model needs that a group has chosen, beside what the request for the group has taken already. To be
/// called before each attempt at another model than the one that was asked for; a refusal concerns that model alone.
pub async fn target(
    account: &mut Account,
    requested: &Model,
    target: &Model,
) -> Result<(), RequestError> {
    if requested.id == target.id {
        return Ok(());
    }
    let Some(more) = permitted(account, Some(requested), Some(target)).await? else {
        return Ok(());
    };
    account.target_permit = Some(more);
    Ok(())
}

async fn permitted(
    account: &Account,
    requested: Option<&Model>,
    target: Option<&Model>,
) -> Result<Option<Permit>, RequestError> {
    let Some(caller) = account.caller.clone() else { return Ok(None) };
    let proxy = account.proxy.clone();
    let now = unix_now();
    let asked = Asked { caller: &caller, requested, target };
    let buckets = {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        buckets(proxy.tables.borrow().policies(), asked, now)
    };
    if buckets.is_empty() {
        return Ok(None);
    }
    let permit = proxy.limits.admit(buckets, now).await;
    permit.map(Some).map_err(|exceeded| {
        let scope = match exceeded.what {
            What::Requests | What::Concurrency => "requests",
            What::Tokens => "tokens",
        };
        let (layer, policy_id) = exceeded.layer.labels();
        proxy.metrics.limited(scope, layer, policy_id);
        RequestError::RateLimited(Box::new(exceeded))
    })
}
