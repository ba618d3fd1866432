//! What is told of every model: `/status/models`, and the state of deployments among the metrics. From the models in force
//! and from what the workers have found out together.

use std::time::SystemTime;

use serde::Serialize;
use shared::counters::Counters;
use shared::deployment::{Deployment, Failure, State};
use shared::resource::{Model, ModelKind};

use crate::metrics::{OwnFamily, table};

/// `aisix_deployment_state` of a model that is not to be asked; 1 is reserved.
const DOWN: f64 = 2.0;

/// One model on `/status/models`.
#[derive(Debug, PartialEq, Serialize)]
pub struct Row<'a> {
    id: &'a str,
    display_name: &'a str,
    kind: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cooldown_until: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_checked_at: Option<Moment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_check_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
}

/// A moment, as the page tells it.
#[derive(Debug, PartialEq, Serialize)]
struct Moment {
    secs_since_epoch: u64,
    nanos_since_epoch: u32,
}

impl Moment {
    fn of_ms(ms: u64) -> Self {
        let nanos = u32::try_from(ms % 1000).unwrap_or_default() * 1_000_000;
        Self { secs_since_epoch: ms / 1000, nanos_since_epoch: nanos }
    }
}

/// What is told of each model.
pub fn rows(models: &[Model], counters: Counters, now: SystemTime) -> Vec<Row<'_>> {
    let now_ms = since_epoch_ms(now);
    models.iter().map(|model| row(model, counters, now_ms)).collect()
}

fn row(model: &Model, counters: Counters, now_ms: u64) -> Row<'_> {
    let kind = match model.kind {
        ModelKind::Direct(_) => "direct",
        ModelKind::Routing(_) => "routing",
        ModelKind::Ensemble => "ensemble",
        ModelKind::Semantic => "semantic",
    };
    let mut row = Row {
        id: &model.id,
        display_name: &model.display_name,
        kind,
        status: "not_applicable",
        cooldown_until: None,
        last_checked_at: None,
        last_check_status: None,
        status_reason: None,
    };
    let ModelKind::Direct(direct) = &model.kind else { return row };
    let deployment = Deployment::new(counters, &model.id);
    if direct.background_check.is_some()
        && let Some(check) = deployment.last_check()
    {
        row.last_checked_at = Some(Moment::of_ms(check.at_seconds * 1000));
        row.last_check_status = match check.outcome {
            Failure::Status(status) => Some(status),
            Failure::Timeout | Failure::Transport => None,
        };
    }
    match deployment.state(model, now_ms) {
        State::Healthy => row.status = "healthy",
        State::Cooldown(cooling) => {
            row.status = "cooldown";
            row.cooldown_until = Some(Moment::of_ms(cooling.until_ms));
            row.status_reason = Some(cooling.failure.text());
        }
        State::Unhealthy(check) => {
            row.status = "unhealthy";
            row.status_reason = Some(format!("background check: {}", check.outcome.text()));
        }
    }
    row
}

/// The state of every direct model of which anything was found out.
pub fn family(models: &[Model], counters: Counters, now: SystemTime) -> Option<OwnFamily> {
    let now_ms = since_epoch_ms(now);
    let samples = models.iter().filter_map(|model| {
        let ModelKind::Direct(direct) = &model.kind else { return None };
        let deployment = Deployment::new(counters, &model.id);
        if !deployment.is_known() {
            return None;
        }
        let is_healthy = deployment.state(model, now_ms) == State::Healthy;
        let labels =
            [&direct.provider, &model.display_name, &direct.model_name, &direct.provider_key_id];
        Some((labels.map(Clone::clone).to_vec(), if is_healthy { 0.0 } else { DOWN }))
    });
    let family = table::DEPLOYMENT_STATE.each(samples);
    (!family.samples.is_empty()).then_some(family)
}

fn since_epoch_ms(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use shared::resource::{BackgroundCheck, DirectModel};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_250;

    fn models() -> Vec<Model> {
        let check = BackgroundCheck { stale_after_seconds: 60, ..BackgroundCheck::default() };
        let direct = |id: &str, background_check| Model {
            id: id.to_owned(),
            display_name: format!("name of {id}"),
            kind: ModelKind::Direct(Box::new(DirectModel {
                provider: "openai".to_owned(),
                background_check,
                ..DirectModel::default()
            })),
            ..Model::default()
        };
        let group = Model {
            id: "g".to_owned(),
            kind: ModelKind::Routing(Box::default()),
            ..Model::default()
        };
        vec![direct("a", None), direct("b", Some(check)), direct("c", None), group]
    }

    #[test]
    fn every_model_is_told_with_what_was_found_out_about_it() {
        let (models, counters) = (models(), Counters::private());
        Deployment::new(counters, "a").cool_down(NOW_MS + 30_000, Failure::Status(503), NOW_MS);
        Deployment::new(counters, "b").checked(Some(false), Failure::Status(500), NOW_MS / 1000);
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS);
        assert_eq!(
            serde_json::to_value(rows(&models, counters, now)).unwrap(),
            json!([
                {"id": "a", "display_name": "name of a", "kind": "direct", "status": "cooldown",
                 "cooldown_until": {"secs_since_epoch": 1_800_000_030, "nanos_since_epoch": 250_000_000},
                 "status_reason": "upstream returned 503"},
                {"id": "b", "display_name": "name of b", "kind": "direct", "status": "unhealthy",
                 "last_checked_at": {"secs_since_epoch": 1_800_000_000, "nanos_since_epoch": 0},
                 "last_check_status": 500, "status_reason": "background check: upstream returned 500"},
                {"id": "c", "display_name": "name of c", "kind": "direct", "status": "healthy"},
                {"id": "g", "display_name": "", "kind": "routing", "status": "not_applicable"},
            ])
        );
        let samples = family(&models, counters, now).unwrap().samples;
        let values: Vec<_> = samples.iter().map(|it| (it.labels[1].1.as_str(), it.value)).collect();
        assert_eq!(values, [("name of a", 2.0), ("name of b", 2.0)]);
        let later = now + Duration::from_secs(31);
        assert_eq!(rows(&models, counters, later)[0].status, "healthy");
        assert_eq!(family(&models, counters, later).unwrap().samples[0].value, 0.0);
    }
}
