//! Looks after the health of direct models when no request does: each model that asks for it is asked its prompt, once in an
//! interval in the whole node. Whichever worker sees first that a check is due claims it and makes it; a worker that dies in
//! the middle leaves the next one to the others.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use shared::deployment::{Deployment, Failure};
use shared::resource::{BackgroundCheck, Model, ModelKind};
use uuid::Uuid;

use super::{now_ms, verdict};
use crate::call::{Call, Form, Operation};
use crate::json::JsonBody;
use crate::provider::Context;
use crate::request::{RequestError, ask_once, resolve_target};
use crate::server::Proxy;
use crate::tables::FoundModel;

/// How often is looked for checks that are due.
const LOOK: Duration = Duration::from_secs(1);

/// Makes the checks that are due, for ever.
pub async fn run(proxy: Rc<Proxy>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let checked: Vec<_> = proxy.tables.borrow().checked_models().cloned().collect();
        for model in checked {
            let ModelKind::Direct(direct) = &model.kind else { continue };
            let Some(check) = direct.background_check.clone() else { continue };
            let deployment = Deployment::new(proxy.counters, &model.id);
            if deployment.claim_check(check.interval_seconds.saturating_mul(1000), now_ms()) {
                tokio::task::spawn_local(look_at(proxy.clone(), model.clone(), check));
            }
        }
    }
}

async fn look_at(proxy: Rc<Proxy>, model: Rc<Model>, check: BackgroundCheck) {
    let limit = Duration::from_secs(check.timeout_seconds);
    let asked = tokio::time::timeout(limit, ask(&proxy, &model, &check)).await;
    let (is_healthy, outcome) = match asked {
        Ok(Ok(())) => (Some(true), Failure::Status(200)),
        Ok(Err(RequestError::Upstream(error))) => {
            let failure = verdict::failure(&error);
            let is_ignored = matches!(failure, Failure::Status(status) if check.ignore_statuses.contains(&status));
            ((!is_ignored).then_some(false), failure)
        }
        // It is configured in a way that nothing can be asked: requests are told so themselves.
        Ok(Err(error)) => {
            tracing::debug!(model = model.display_name, %error, "a background check could not be made");
            return;
        }
        Err(_) => (Some(false), Failure::Timeout),
    };
    if is_healthy == Some(false) {
        tracing::warn!(
            model = model.display_name,
            reason = outcome.text(),
            "a background check has failed"
        );
    }
    Deployment::new(proxy.counters, &model.id).checked(is_healthy, outcome, now_ms() / 1000);
}

async fn ask(
    proxy: &Rc<Proxy>,
    model: &Rc<Model>,
    check: &BackgroundCheck,
) -> Result<(), RequestError> {
    let found = FoundModel { model: model.clone(), captured: None };
    let target = resolve_target(&proxy.tables.borrow(), &found)?;
    let request_id = HeaderValue::try_from(format!("check-{}", Uuid::new_v4()));
    let context = Context {
        proxy,
        request_id: &request_id.unwrap_or(HeaderValue::from_static("check")),
        headers: &HeaderMap::new(),
        caller: None,
        client_ip: std::net::Ipv4Addr::LOCALHOST.into(),
    };
    ask_once(&call(model, check)?, &target, &context).await
}

fn call(model: &Model, check: &BackgroundCheck) -> Result<Call, RequestError> {
    let body = json!({
        "model": model.display_name,
        "messages": [{"role": "user", "content": check.prompt}],
        "max_tokens": check.max_tokens,
    });
    let body = JsonBody::parse(Bytes::from(body.to_string())).map_err(RequestError::Invalid)?;
    Ok(Call {
        operation: Operation::ChatCompletions,
        model: model.display_name.clone(),
        is_stream: false,
        wants_usage: false,
        prompt_bytes: check.prompt.len(),
        form: Form::Json(body),
    })
}
