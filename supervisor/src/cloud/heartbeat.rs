//! The heartbeat: that this gateway lives, and which configuration it serves.
//!
//! The first beat goes out at once, then one every interval (± 10 %, so that replicas spread), and one as soon as there
//! is something to tell, at most one a second. Each names the data plane that is in force when it goes out. A failed beat changes nothing but what the status says; it is logged when
//! it begins to fail and when it works again.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use shared::version::VERSION;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};
use uuid::Uuid;

use super::manager::{ManagerError, Session};
use super::renewal::Hints;
use crate::backoff::chance;
use crate::exporters::ExporterHealth;

/// Where beats go.
pub const PATH: &str = "/dp/heartbeat";
/// Shortest time between two beats.
const SPACING: Duration = Duration::from_secs(1);

/// Who sends the beats: fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Minted per process, so that the Cloud can tell replicas apart.
    pub instance_id: Uuid,
    /// Display only.
    pub hostname: String,
    /// When the process started.
    pub started: Instant,
}

/// What changes from beat to beat.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Store revision that every worker serves; 0 before the first.
    pub applied_revision: i64,
    /// Hash of the configuration at that revision.
    pub config_hash: Option<String>,
    /// Documents that could not be taken, newest kept, at most 256.
    pub rejected_resources: Vec<RejectedResource>,
    /// Fields that are not honoured, sorted by kind and field.
    pub partially_compatible_resources: Vec<PartiallyCompatible>,
    /// How exporters are doing, sorted by name.
    pub exporter_health: Vec<ExporterHealth>,
}

/// The body of a beat, field by field as the Cloud reads it.
#[derive(Debug, Serialize)]
pub struct Heartbeat<'a> {
    dp_id: &'a str,
    instance_id: String,
    hostname: &'a str,
    uptime_seconds: i64,
    version: &'a str,
    supported_guardrail_kinds: &'a [&'a str],
    applied_revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_hash: Option<String>,
    exporter_health: Vec<ExporterHealth>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rejected_resources: Vec<RejectedResource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partially_compatible_resources: Vec<PartiallyCompatible>,
}

/// A document that could not be taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RejectedResource {
    /// Full key in the store.
    pub key: String,
    /// `bad_key`, `non_json`, `schema_failed`, `parse_failed` or `unknown_kind`.
    pub kind: &'static str,
    /// Where and what was expected; nothing of the document's values.
    pub error: String,
    /// When it was last seen.
    pub timestamp_unix_secs: i64,
    /// Since when an older good document is served in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_serving_since_unix_secs: Option<i64>,
}

/// A field that documents carry and this gateway does not honour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartiallyCompatible {
    /// Kind as in the store: `models`.
    pub kind: String,
    /// Dotted path, array indexes as `[]`.
    pub field: String,
    /// How many documents carry it.
    pub count: u64,
}

/// What became of the beats.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// When the Cloud last answered well.
    pub last_success: Option<SystemTime>,
    /// Why the latest beat failed; `None` while they succeed, and before the first.
    pub error: Option<String>,
    /// Beats that failed so far.
    pub failures: u64,
}

/// What became of the beats, for whoever shows it.
#[derive(Clone, Debug, Default)]
pub struct OutcomeCell(Arc<Mutex<Outcome>>);

impl OutcomeCell {
    /// The present state.
    pub fn get(&self) -> Outcome {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a beat's result and logs where it differs from the one before.
    fn note(&self, result: Result<(), &ManagerError>, now: SystemTime) {
        let mut outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                if outcome.last_success.is_none() || outcome.error.is_some() {
                    info!("heartbeat accepted by the Cloud");
                }
                outcome.last_success = Some(now);
                outcome.error = None;
            }
            Err(error) => {
                let text = error.to_string();
                if outcome.error.as_deref() != Some(text.as_str()) {
                    warn!("heartbeat: {text}; trying again at every interval");
                }
                outcome.error = Some(text);
                outcome.failures = outcome.failures.saturating_add(1);
            }
        }
    }
}

impl Sender {
    /// The beat of the data plane `dp_id` that tells `facts`.
    pub fn beat<'a>(&'a self, dp_id: &'a str, facts: Facts, now: Instant) -> Heartbeat<'a> {
        let uptime = now.saturating_duration_since(self.started).as_secs();
        Heartbeat {
            dp_id,
            instance_id: self.instance_id.to_string(),
            hostname: &self.hostname,
            uptime_seconds: i64::try_from(uptime).unwrap_or(i64::MAX),
            version: VERSION,
            // What this build enforces: no guardrail yet.
            supported_guardrail_kinds: &["keyword", "pii"],
            applied_revision: facts.applied_revision,
            config_hash: facts.config_hash,
            exporter_health: facts.exporter_health,
            rejected_resources: facts.rejected_resources,
            partially_compatible_resources: facts.partially_compatible_resources,
        }
    }
}

/// What changes from beat to beat, once it is known.
pub type FactsToCome = Pin<Box<dyn Future<Output = Facts>>>;

/// Writes beats for whoever sends them: the heartbeat itself, and the proof of a new identity.
pub struct Author {
    sender: Sender,
    facts: Box<dyn Fn() -> FactsToCome>,
    latest: Cell<Option<Instant>>,
}

impl Author {
    /// `facts` is asked before each beat.
    pub fn new(sender: Sender, facts: impl Fn() -> FactsToCome + 'static) -> Self {
        Self { sender, facts: Box::new(facts), latest: Cell::new(None) }
    }

    /// What the next beat tells, once it may go out: no two do within a second, whoever sends them.
    pub async fn turn(&self) -> Facts {
        while let Some(latest) = self.latest.get()
            && latest.elapsed() < SPACING
        {
            sleep_until(latest + SPACING).await;
        }
        self.latest.set(Some(Instant::now()));
        (self.facts)().await
    }

    /// The body of the beat.
    pub fn write(&self, dp_id: &str, facts: Facts) -> Bytes {
        // Nothing in a beat can fail to serialize.
        serde_json::to_vec(&self.sender.beat(dp_id, facts, Instant::now()))
            .unwrap_or_default()
            .into()
    }
}

/// Beats until it is dropped. `nudge` asks for one now; what the Cloud asks for in its answers goes to `hints`.
pub async fn run(
    author: Rc<Author>,
    mut session: Session,
    interval: Duration,
    nudge: Arc<Notify>,
    outcome: OutcomeCell,
    hints: watch::Sender<Hints>,
) {
    let mut is_told = false;
    loop {
        let facts = author.turn().await;
        let started = Instant::now();
        // Name and certificate are those of one moment: nothing is awaited between here and the sending.
        let identity = session.in_force();
        if let Some(dp_id) = identity.dp_id() {
            let result = session.post(PATH, author.write(dp_id, facts)).await;
            outcome.note(result.as_ref().map(|_| ()), SystemTime::now());
            if let Ok(answer) = result {
                let told = Hints::of(&answer);
                hints.send_if_modified(|hints| {
                    let is_asked = told.rotate_now;
                    let is_new = *hints != told;
                    *hints = told;
                    is_asked || is_new
                });
            }
        } else if !is_told {
            is_told = true;
            warn!(
                "no heartbeat is sent: the persisted identity has no data plane id; supply the bundle again"
            );
        }
        let rest = interval.mul_f64(0.9 + 0.2 * chance()).saturating_sub(started.elapsed());
        tokio::select! {
            () = sleep(rest) => {}
            () = nudge.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender() -> Sender {
        Sender { instance_id: Uuid::nil(), hostname: "edge".to_owned(), started: Instant::now() }
    }

    #[test]
    fn before_the_first_configuration_a_beat_has_only_the_fields_that_are_always_there() {
        let sender = sender();
        let now = sender.started + Duration::from_secs(45);
        let beat = serde_json::to_value(sender.beat("dp-1", Facts::default(), now)).unwrap();
        let expected = serde_json::json!({
            "dp_id": "dp-1",
            "instance_id": "00000000-0000-0000-0000-000000000000",
            "hostname": "edge",
            "uptime_seconds": 45,
            "version": VERSION,
            "supported_guardrail_kinds": ["keyword", "pii"],
            "applied_revision": 0,
            "exporter_health": [],
        });
        assert_eq!(beat, expected);
    }

    #[test]
    fn what_is_rejected_or_not_honoured_is_told() {
        let facts = Facts {
            applied_revision: 7,
            config_hash: Some("ab".to_owned()),
            rejected_resources: vec![RejectedResource {
                key: "/aisix/e/models/m".to_owned(),
                kind: "schema_failed",
                error: "…".to_owned(),
                timestamp_unix_secs: 5,
                stale_serving_since_unix_secs: None,
            }],
            partially_compatible_resources: vec![PartiallyCompatible {
                kind: "models".to_owned(),
                field: "cooldown".to_owned(),
                count: 2,
            }],
            exporter_health: vec![ExporterHealth {
                name: "otel".to_owned(),
                delivered_batches: 3,
                failed_batches: 1,
                last_error: Some("refused".to_owned()),
                last_failure_unix: Some(5),
                last_success_unix: None,
            }],
        };
        let sender = sender();
        let beat = serde_json::to_value(sender.beat("dp-1", facts, sender.started)).unwrap();
        assert_eq!(beat["config_hash"], "ab");
        assert_eq!(
            beat["rejected_resources"],
            serde_json::json!([{"key": "/aisix/e/models/m", "kind": "schema_failed",
                "error": "…", "timestamp_unix_secs": 5}])
        );
        assert_eq!(beat["partially_compatible_resources"][0]["count"], 2);
        assert_eq!(
            beat["exporter_health"],
            serde_json::json!([{"name": "otel", "delivered_batches": 3, "failed_batches": 1,
                "last_error": "refused", "last_failure_unix": 5, "last_success_unix": null}])
        );
    }

    #[tokio::test]
    async fn no_two_beats_go_out_within_a_second_whoever_sends_them() {
        let author = Author::new(sender(), || Box::pin(async { Facts::default() }));
        let (one, other) = tokio::join!(async { (author.turn().await, Instant::now()).1 }, async {
            (author.turn().await, Instant::now()).1
        });
        assert!(one.max(other) - one.min(other) >= SPACING);
    }
}
