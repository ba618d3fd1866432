//! What is known of the store, and what was made of it. Pure: time is passed in.

use std::collections::BTreeMap;

use shared::id::Revision;
use tracing::warn;

use super::document::Refusal;
use super::last_good::{LastGood, Step, UnixSeconds};
use super::report::{
    Applied, ConfigStatus, Gauges, LastFailure, LastReload, PartialStatus, REJECTED_MAX,
    RejectedStatus, Report, SourceStatus, State as Word, rfc3339,
};
use super::{Update, key};
use crate::cloud::heartbeat::RejectedResource;

/// What the store was seen to hold or do.
#[derive(Debug)]
pub enum Observed {
    /// Its changes are followed from now on.
    Connected,
    /// They are not any more, or not yet.
    Lost {
        /// Why, in words.
        error: String,
    },
    /// Everything below the prefix.
    Loaded {
        /// At this revision.
        revision: i64,
        /// Keys and values.
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Changes, all of them up to a revision.
    Changed {
        /// That revision.
        revision: i64,
        /// In the order in which they happened.
        events: Vec<Event>,
    },
    /// There is nothing else up to this revision.
    Progress {
        /// That revision.
        revision: i64,
    },
}

/// One change in the store.
#[derive(Debug)]
pub enum Event {
    /// The key has this value.
    Put(Vec<u8>, Vec<u8>),
    /// The key is gone.
    Delete(Vec<u8>),
}

/// A hash, and which state of the set it belongs to.
struct Hashed {
    changes: u64,
    hash: String,
}

/// The projection as this gateway knows it.
pub struct State {
    prefix: String,
    documents: LastGood,
    connected: bool,
    observed: Option<(i64, UnixSeconds)>,
    /// The latest revision that workers were told, and when.
    handed_out: Option<(i64, UnixSeconds)>,
    /// What was last told as applied: hash and revision belong together, also while workers are catching up.
    applied: Option<Applied>,
    source_hash: Option<Hashed>,
    last_reload: Option<(bool, UnixSeconds)>,
    last_reload_success: Option<UnixSeconds>,
    last_failure: Option<(UnixSeconds, &'static str, String)>,
    reloads: u64,
    reload_failures: BTreeMap<&'static str, u64>,
}

impl State {
    /// Nothing seen yet. `prefix` ends with a slash.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            documents: LastGood::new(prefix),
            connected: false,
            observed: None,
            handed_out: None,
            applied: None,
            source_hash: None,
            last_reload: None,
            last_reload_success: None,
            last_failure: None,
            reloads: 0,
            reload_failures: BTreeMap::new(),
        }
    }

    /// Takes in what was seen. An update is what the workers have to be told.
    pub fn observe(&mut self, observed: Observed, now: UnixSeconds) -> Option<Update> {
        match observed {
            Observed::Connected => {
                self.connected = true;
                None
            }
            Observed::Lost { error } => {
                self.connected = false;
                self.reloads += 1;
                *self.reload_failures.entry("fetch").or_default() += 1;
                self.last_failure = Some((now, "fetch", error));
                self.last_reload = Some((false, now));
                None
            }
            Observed::Progress { revision } => {
                self.observed = Some((revision, now));
                None
            }
            Observed::Loaded { revision, entries } => {
                self.reloads += 1;
                let keys = entries.iter().map(|(key, _)| key.clone()).collect();
                let mut events: Vec<_> =
                    self.documents.missing_from(&keys).into_iter().map(Event::Delete).collect();
                events.extend(entries.into_iter().map(|(key, value)| Event::Put(key, value)));
                self.take(revision, events, true, now)
            }
            Observed::Changed { revision, events } => self.take(revision, events, false, now),
        }
    }

    fn take(
        &mut self,
        revision: i64,
        events: Vec<Event>,
        complete: bool,
        now: UnixSeconds,
    ) -> Option<Update> {
        let mut changes = Vec::new();
        let mut accepted = complete;
        for event in events {
            let (key, step) = match event {
                Event::Delete(key) => (Vec::new(), self.documents.delete(&key)),
                Event::Put(key, value) => (key.clone(), self.documents.put(key, value, now)),
            };
            let Step { change, refused } = step;
            changes.extend(change);
            match refused {
                None => accepted = true,
                Some(refusal) => self.note(&key, &refusal, now),
            }
        }
        self.observed = Some((revision, now));
        let successful = self.documents.rejected().next().is_none();
        self.last_reload = Some((successful, now));
        if successful {
            self.last_reload_success = Some(now);
        }
        // A rejected document alone is nothing new to the workers.
        if !accepted {
            return None;
        }
        let whole = self.handed_out.is_none();
        self.handed_out = Some((revision, now));
        Some(Update { revision: Revision(revision), whole, changes })
    }

    fn note(&mut self, key: &[u8], refusal: &Refusal, now: UnixSeconds) {
        let key = String::from_utf8_lossy(key);
        warn!(
            "{key:?} is not taken: {refusal}; an older good document stays in use where there is one"
        );
        *self.reload_failures.entry(refusal.kind.reason()).or_default() += 1;
        self.last_failure = Some((now, refusal.kind.name(), refusal.error.clone()));
    }

    /// Everything there is to tell, while `applied` is what every worker has confirmed.
    pub fn report(&mut self, applied: Revision, now: UnixSeconds) -> Report {
        self.refresh_applied(applied);
        let rejected = self.rejected(now);
        let rows = self.documents.partial().rows();
        let source = self.source();
        let served =
            self.applied.as_ref().is_some_and(|applied| !applied.resource_counts.is_empty());
        let status = ConfigStatus {
            state: Word::of(self.applied.is_some(), !rejected.is_empty(), served),
            source,
            applied: self.applied.clone(),
            last_reload: self
                .last_reload
                .map(|(successful, at)| LastReload { successful, at: rfc3339(at) }),
            last_failure: self.last_failure.as_ref().map(|(at, kind, error)| LastFailure {
                at: rfc3339(*at),
                last_error_kind: kind,
                last_error: error.clone(),
            }),
            rejected,
            partially_compatible: rows
                .iter()
                .map(|row| PartialStatus {
                    resource_kind: row.kind.clone(),
                    field: row.field.clone(),
                    count: row.count,
                })
                .collect(),
        };
        Report {
            gauges: self.gauges(&status),
            rejected_resources: self.newest_rejected(),
            partially_compatible_resources: rows,
            status,
        }
    }

    /// Hashes what is served, if the workers have all of it and it has changed. While they are catching up, what was last
    /// told stays true.
    fn refresh_applied(&mut self, confirmed: Revision) {
        let Some((revision, at)) = self.handed_out.filter(|(at, _)| confirmed.0 >= *at) else {
            return;
        };
        let apply_seq = self.documents.served_changes();
        let counts = self.documents.counts().iter();
        let hash = match self.applied.take() {
            Some(applied) if applied.apply_seq == apply_seq => applied.config_hash,
            _ => self.documents.config_hash(),
        };
        self.applied = Some(Applied {
            applied_revision: revision,
            config_hash: hash,
            apply_seq,
            applied_at: rfc3339(at),
            resource_counts: counts
                .filter(|(_, count)| **count > 0)
                .map(|(kind, count)| (*kind, *count))
                .collect(),
        });
    }

    fn source(&mut self) -> SourceStatus {
        let changes = self.documents.observed_changes();
        let hash = self.observed.map(|_| match self.source_hash.take() {
            Some(hashed) if hashed.changes == changes => hashed.hash,
            _ => self.documents.source_hash(),
        });
        self.source_hash = hash.clone().map(|hash| Hashed { changes, hash });
        SourceStatus {
            r#type: "etcd",
            connected: self.connected,
            observed_revision: self.observed.map(|(revision, _)| revision),
            source_hash: hash,
            observed_at: self.observed.map(|(_, at)| rfc3339(at)),
        }
    }

    fn rejected(&self, now: UnixSeconds) -> Vec<RejectedStatus> {
        let mut rows: Vec<_> = self
            .documents
            .rejected()
            .map(|(key, rejection)| {
                let (kind, id) = match key::parse(self.prefix.as_bytes(), key) {
                    Ok((kind, id)) => (kind.name, id),
                    Err(key::KeyError::UnknownKind { kind, id }) => (kind, id),
                    Err(key::KeyError::Shape) => ("", ""),
                };
                RejectedStatus {
                    resource_kind: kind.to_owned(),
                    resource_id: id.to_owned(),
                    last_error_kind: rejection.refusal.kind.name(),
                    last_error: rejection.refusal.error.clone(),
                    first_seen_at: rfc3339(rejection.first_seen),
                    last_seen_at: rfc3339(rejection.last_seen),
                    serving_stale_since: rejection.stale_since.map(rfc3339),
                    serving_stale_age_seconds: rejection
                        .stale_since
                        .map(|since| (now - since).max(0)),
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            (&a.resource_kind, &a.resource_id).cmp(&(&b.resource_kind, &b.resource_id))
        });
        rows
    }

    fn newest_rejected(&self) -> Vec<RejectedResource> {
        let mut newest: Vec<_> = self.documents.rejected().collect();
        newest.sort_by_key(|(_, rejection)| std::cmp::Reverse(rejection.last_seen));
        let newest =
            newest.into_iter().take(REJECTED_MAX).map(|(key, rejection)| RejectedResource {
                key: String::from_utf8_lossy(key).into_owned(),
                kind: rejection.refusal.kind.name(),
                error: rejection.refusal.error.clone(),
                timestamp_unix_secs: rejection.last_seen,
                stale_serving_since_unix_secs: rejection.stale_since,
            });
        newest.collect()
    }

    fn gauges(&self, status: &ConfigStatus) -> Gauges {
        let mut gauges = Gauges {
            last_reload_successful: self.last_reload.map(|(successful, _)| successful),
            last_reload_success: self.last_reload_success,
            reloads: self.reloads,
            reload_failures: self.reload_failures.clone(),
            observed_revision: status.source.observed_revision.unwrap_or(0),
            applied_revision: status.applied.as_ref().map_or(0, |applied| applied.applied_revision),
            config_hash: status.applied.as_ref().map(|applied| applied.config_hash.clone()),
            source_connected: self.connected,
            ..Gauges::default()
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

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
