//! What is told about the configuration: on `/status/config`, in the heartbeat, and as metrics.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::key::{self, KeyError};
use super::last_good::{LastGood, UnixSeconds};
use crate::changes::Quarantine;
use crate::cloud::heartbeat::{Facts, PartiallyCompatible, RejectedResource};

/// At most so many rejections go into a heartbeat. As published.
const REJECTED_MAX: usize = 256;
/// The kind of rejection of what workers died of, on our own page.
const QUARANTINED: &str = "quarantined";
/// The same in the heartbeat, of whose kinds it is the nearest: the Cloud takes no other than its own.
const QUARANTINED_TO_CLOUD: &str = "parse_failed";

/// Everything there is to tell, of one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// `/status/config`; its `applied` part is what a heartbeat tells too.
    pub status: ConfigStatus,
    /// For the heartbeat: the newest rejections.
    pub rejected_resources: Vec<RejectedResource>,
    /// For the heartbeat: fields that are not honoured.
    pub partially_compatible_resources: Vec<PartiallyCompatible>,
    /// For `/metrics`.
    pub gauges: Gauges,
}

impl Report {
    /// Adds what documents would say and workers died of: reported like a rejected document, with a reason of its own.
    pub fn add_quarantined(&mut self, quarantine: &Quarantine) {
        let rows = quarantine.rows();
        if rows.is_empty() {
            return;
        }
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for (key, (kind, id), held) in rows {
            let error = format!(
                "quarantined: workers died of the change that came with revision {}, and it is set aside",
                held.revision
            );
            let kind = key::name_of(kind);
            let stale = held.is_served.then_some(held.since);
            *self.gauges.rejected.entry(kind.to_owned()).or_default() += 1;
            if stale.is_some() {
                *self.gauges.stale.entry(kind.to_owned()).or_default() += 1;
            }
            self.status.rejected.push(RejectedStatus {
                resource_kind: kind.to_owned(),
                resource_id: id,
                last_error_kind: QUARANTINED,
                last_error: error.clone(),
                first_seen_at: rfc3339(held.since),
                last_seen_at: rfc3339(held.since),
                serving_stale_since: stale.map(rfc3339),
                serving_stale_age_seconds: stale.map(|since| now.saturating_sub(since).max(0)),
            });
            // First: nothing is more urgent to whoever changed it.
            self.rejected_resources.insert(
                0,
                RejectedResource {
                    key,
                    kind: QUARANTINED_TO_CLOUD,
                    error,
                    timestamp_unix_secs: held.since,
                    stale_serving_since_unix_secs: stale,
                },
            );
        }
        self.rejected_resources.truncate(REJECTED_MAX);
        if self.status.state == State::Synced {
            self.status.state = State::Degraded;
        }
    }

    /// The part of it that a heartbeat tells. Revision and hash are those of one moment, which may be a little older than
    /// what the workers have confirmed since.
    pub fn into_facts(self) -> Facts {
        let applied = self.status.applied;
        Facts {
            applied_revision: applied.as_ref().map_or(0, |applied| applied.applied_revision),
            config_hash: applied.map(|applied| applied.config_hash),
            rejected_resources: self.rejected_resources,
            partially_compatible_resources: self.partially_compatible_resources,
            // Not of the projection: whoever sends the beat knows.
            exporter_health: Vec::new(),
        }
    }
}

/// The `aisix_config_*` metrics.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// `last_reload_successful`; `None` before the first.
    pub last_reload_successful: Option<bool>,
    /// `last_reload_success_timestamp_seconds`.
    pub last_reload_success: Option<UnixSeconds>,
    /// `reloads_total`: full loads and failures to fetch.
    pub reloads: u64,
    /// `reload_failures_total` by reason: `fetch`, `parse`, `validate`.
    pub reload_failures: BTreeMap<&'static str, u64>,
    /// `rejected_resources` by kind.
    pub rejected: BTreeMap<String, u64>,
    /// `stale_served_resources` by kind.
    pub stale: BTreeMap<String, u64>,
    /// `partially_compatible_resources` by kind: fields that are not honoured.
    pub partially_compatible: BTreeMap<String, u64>,
    /// `observed_revision`.
    pub observed_revision: i64,
    /// `applied_revision`.
    pub applied_revision: i64,
    /// `hash_info`.
    pub config_hash: Option<String>,
    /// `source_connected`.
    pub source_connected: bool,
}

/// The body of `/status/config`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigStatus {
    /// In one word.
    pub state: State,
    /// Where documents come from.
    pub source: SourceStatus,
    /// What the workers serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
    /// The latest time that documents were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<LastReload>,
    /// The latest failure, kept after it is over.
    pub last_failure: Option<LastFailure>,
    /// Sorted by kind and id.
    pub rejected: Vec<RejectedStatus>,
    /// Sorted by kind and field.
    pub partially_compatible: Vec<PartialStatus>,
}

/// The state of the configuration in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was applied yet.
    NeverLoaded,
    /// Documents were rejected, and none is served.
    OutOfSync,
    /// Documents were rejected.
    Degraded,
    /// None is served.
    Empty,
    /// All are served.
    Synced,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NeverLoaded => "never_loaded",
            Self::OutOfSync => "out_of_sync",
            Self::Degraded => "degraded",
            Self::Empty => "empty",
            Self::Synced => "synced",
        }
    }

    /// The state, by the first rule that fits.
    pub fn of(applied: bool, rejected: bool, served: bool) -> Self {
        match (applied, rejected, served) {
            (false, _, _) => Self::NeverLoaded,
            (true, true, false) => Self::OutOfSync,
            (true, true, true) => Self::Degraded,
            (true, false, false) => Self::Empty,
            (true, false, true) => Self::Synced,
        }
    }
}

/// Where documents come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceStatus {
    /// `etcd` or `file`.
    pub r#type: &'static str,
    /// Whether the store is followed right now; a file is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// The latest revision seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_revision: Option<i64>,
    /// Hash over every document at that revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_hash: Option<String>,
    /// When it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<String>,
}

/// What the workers serve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Applied {
    /// The revision.
    pub applied_revision: i64,
    /// Hash over what is served at that revision.
    pub config_hash: String,
    /// Grows by one with every other hash that is told.
    pub apply_seq: u64,
    /// When the revision was handed out.
    pub applied_at: String,
    /// Documents by kind, without kinds that have none.
    pub resource_counts: BTreeMap<&'static str, u64>,
}

/// The latest time that documents were taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastReload {
    /// Nothing was rejected.
    pub successful: bool,
    /// When.
    pub at: String,
}

/// The latest failure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastFailure {
    /// When.
    pub at: String,
    /// A kind of rejection, or `fetch`.
    pub last_error_kind: &'static str,
    /// What happened.
    pub last_error: String,
}

/// A document that is not served.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RejectedStatus {
    /// Kind as in the key; empty if the key names none.
    pub resource_kind: String,
    /// Id as in the key; empty if the key names none.
    pub resource_id: String,
    /// Kind of rejection.
    pub last_error_kind: &'static str,
    /// Where, and what was expected.
    pub last_error: String,
    /// When the key's documents began to be rejected.
    pub first_seen_at: String,
    /// When one was last seen.
    pub last_seen_at: String,
    /// Since when an older good document is served instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_stale_since: Option<String>,
    /// The same as an age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_stale_age_seconds: Option<i64>,
}

/// A field that is not honoured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartialStatus {
    /// Kind as in the key.
    pub resource_kind: String,
    /// Dotted path.
    pub field: String,
    /// How many documents carry it.
    pub count: u64,
}

impl From<&PartiallyCompatible> for PartialStatus {
    fn from(row: &PartiallyCompatible) -> Self {
        let (resource_kind, field) = (row.kind.clone(), row.field.clone());
        Self { resource_kind, field, count: row.count }
    }
}

impl Gauges {
    /// What the status says, counted.
    pub fn of(status: &ConfigStatus) -> Self {
        let applied = status.applied.as_ref();
        let mut gauges = Self {
            last_reload_successful: status.last_reload.as_ref().map(|reload| reload.successful),
            observed_revision: status.source.observed_revision.unwrap_or(0),
            applied_revision: applied.map_or(0, |applied| applied.applied_revision),
            config_hash: applied.map(|applied| applied.config_hash.clone()),
            source_connected: status.source.connected.unwrap_or(true),
            ..Self::default()
        };
        for row in &status.rejected {
            *gauges.rejected.entry(row.resource_kind.clone()).or_default() += 1;
            if row.serving_stale_since.is_some() {
                *gauges.stale.entry(row.resource_kind.clone()).or_default() += 1;
            }
        }
        for row in &status.partially_compatible {
            *gauges.partially_compatible.entry(row.resource_kind.clone()).or_default() += 1;
        }
        gauges
    }
}

/// The documents that are not served, sorted by kind and id.
pub fn rejected(documents: &LastGood, prefix: &str, now: UnixSeconds) -> Vec<RejectedStatus> {
    let rows = documents.rejected().map(|(key, rejection)| {
        let (kind, id) = match key::parse(prefix.as_bytes(), key) {
            Ok((kind, id)) => (kind.name, id),
            Err(KeyError::UnknownKind { kind, id }) => (kind, id),
            Err(KeyError::Shape) => ("", ""),
        };
        let since = rejection.stale_since;
        RejectedStatus {
            resource_kind: kind.to_owned(),
            resource_id: id.to_owned(),
            last_error_kind: rejection.refusal.kind.name(),
            last_error: rejection.refusal.error.clone(),
            first_seen_at: rfc3339(rejection.first_seen),
            last_seen_at: rfc3339(rejection.last_seen),
            serving_stale_since: since.map(rfc3339),
            serving_stale_age_seconds: since.map(|since| now.saturating_sub(since).max(0)),
        }
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| {
        (&a.resource_kind, &a.resource_id).cmp(&(&b.resource_kind, &b.resource_id))
    });
    rows
}

/// The documents that are not served, as many as a heartbeat may tell, newest first.
pub fn newest_rejected(documents: &LastGood) -> Vec<RejectedResource> {
    let mut newest: Vec<_> = documents.rejected().collect();
    newest.sort_by_key(|(_, rejection)| Reverse(rejection.last_seen));
    let newest = newest.into_iter().take(REJECTED_MAX);
    let rows = newest.map(|(key, rejection)| RejectedResource {
        key: String::from_utf8_lossy(key).into_owned(),
        kind: rejection.refusal.kind.name(),
        error: rejection.refusal.error.clone(),
        timestamp_unix_secs: rejection.last_seen,
        stale_serving_since_unix_secs: rejection.stale_since,
    });
    rows.collect()
}

/// RFC 3339, UTC, whole seconds.
pub fn rfc3339(moment: UnixSeconds) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(moment).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_follows_the_published_order() {
        assert_eq!(State::of(false, true, true), State::NeverLoaded);
        assert_eq!(State::of(true, true, false), State::OutOfSync);
        assert_eq!(State::of(true, true, true), State::Degraded);
        assert_eq!(State::of(true, false, false), State::Empty);
        assert_eq!(State::of(true, false, true), State::Synced);
        assert_eq!(serde_json::to_string(&State::OutOfSync).unwrap(), "\"out_of_sync\"");
    }

    #[test]
    fn moments_are_printed_in_whole_seconds_of_utc() {
        assert_eq!(rfc3339(1_790_000_000), "2026-09-21T14:13:20Z");
    }
}
