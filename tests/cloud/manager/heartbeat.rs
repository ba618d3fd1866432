//! `POST /dp/heartbeat`: a gateway is alive, and this is its configuration state.

use super::{
    fields::{
        Field,
        Shape::{Count, Integer, List, OneOf, Text, TextMax, Texts, Visible},
        check, optional, required,
    },
    not_kept,
};
use crate::{
    cloud::{Cloud, timestamp},
    identity::Identity,
    ledger::Object,
    reply::{self, Refusal, Reply},
};
use http::StatusCode;
use hyper::body::Incoming;
use serde_json::json;
use time::OffsetDateTime;

/// 256 rejected resources with long errors, and room.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

const HEARTBEAT: &[Field] = &[
    required("dp_id", Text),
    required("instance_id", Visible(256)),
    required("hostname", Text),
    required("uptime_seconds", Integer),
    required("version", Text),
    required("supported_guardrail_kinds", Texts),
    required("applied_revision", Integer),
    optional("config_hash", TextMax(128)),
    required(
        "exporter_health",
        List(&[
            required("name", Text),
            required("delivered_batches", Count(u64::MAX)),
            required("failed_batches", Count(u64::MAX)),
            optional("last_error", TextMax(256)),
            optional("last_failure_unix", Integer),
            optional("last_success_unix", Integer),
        ]),
    ),
    optional(
        "rejected_resources",
        List(&[
            required("key", Text),
            required(
                "kind",
                OneOf(&["bad_key", "non_json", "schema_failed", "parse_failed", "unknown_kind"]),
            ),
            required("error", Text),
            required("timestamp_unix_secs", Count(u64::MAX)),
            optional("stale_serving_since_unix_secs", Count(u64::MAX)),
        ]),
    ),
    optional(
        "partially_compatible_resources",
        List(&[
            required("kind", Text),
            required("field", Text),
            required("count", Count(u64::MAX)),
        ]),
    ),
];

/// Takes a heartbeat of the data plane that the certificate names.
pub async fn receive(cloud: &Cloud, client: &Identity, body: Incoming) -> Result<Reply, Refusal> {
    let beat: Object = reply::read_json(body, BODY_BYTES_MAX).await?;
    check(&beat, HEARTBEAT).map_err(Refusal::invalid)?;
    if beat.get("dp_id").and_then(|id| id.as_str()) != Some(&client.dp_id) {
        let message = format!("the certificate is that of dp_id {}", client.dp_id);
        return Err(Refusal::forbidden("DP_MISMATCH", message));
    }
    let revision =
        beat.get("applied_revision").and_then(|revision| revision.as_i64()).unwrap_or_default();
    let received_at = timestamp(OffsetDateTime::now_utc());
    let count = cloud.ledger().add_heartbeat(client, &received_at, beat).map_err(not_kept)?;
    if count == 1 {
        tracing::info!(
            "first heartbeat of an instance of {} in environment {}",
            client.dp_id,
            client.env_id
        );
    }
    tracing::debug!("heartbeat {count} of {}, revision {revision} applied", client.dp_id);
    let mut answer = json!({"ok": true});
    if cloud.renewals_asked().contains(&client.dp_id)
        && let Some(answer) = answer.as_object_mut()
    {
        answer.insert("rotate_cert".into(), true.into());
    }
    Ok(reply::json(StatusCode::OK, &answer))
}
