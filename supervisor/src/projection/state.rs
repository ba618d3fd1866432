//! What is known of the store, and what was made of it. Pure: time is passed in.

mod keep;

use std::collections::BTreeMap;

use shared::id::Revision;
use tracing::warn;

use super::Update;
use super::document::Refusal;
use super::last_good::{LastGood, Step, UnixSeconds};
use super::report::{
    self, Applied, ConfigStatus, Gauges, LastFailure, LastReload, PartialStatus, Report,
    SourceStatus, State as Word, rfc3339,
};
use crate::state::snapshot::file::Moment;

/// What the store was seen to hold or do.
#[derive(Debug)]
pub enum Observed {
    /// Its changes are followed from now on.
    Connected,
    /// It is this store that is followed.
    Store {
        /// Its id.
        id: u64,
    },
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
    /// How often what is served had changed when that was told.
    applied_changes: u64,
    source_hash: Option<Hashed>,
    /// The store that revisions are of, as far as it says.
    store: Option<u64>,
    /// What the snapshot was last handed.
    kept: Option<Moment>,
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
            applied_changes: 0,
            source_hash: None,
            store: None,
            kept: None,
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
            Observed::Store { id } => {
                self.store = Some(id);
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
            let Step { change, refused, known } = step;
            changes.extend(change);
            match refused {
                None => accepted = true,
                Some(refusal) => self.note(&key, &refusal, known, now),
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
        if changes.is_empty() && self.handed_out.is_some_and(|(handed, _)| handed == revision) {
            return None;
        }
        self.handed_out = Some((revision, now));
        Some(Update { revision: Revision(revision), whole, changes })
    }

    fn note(&mut self, key: &[u8], refusal: &Refusal, known: bool, now: UnixSeconds) {
        if !known {
            let stale = self.documents.is_stale(key);
            let key = String::from_utf8_lossy(key);
            warn!(
                "{key:?} is not taken: {refusal}; {}",
                if stale { "its older good form stays in use" } else { "nothing is served for it" }
            );
        }
        *self.reload_failures.entry(refusal.kind.reason()).or_default() += 1;
        self.last_failure = Some((now, refusal.kind.name(), refusal.error.clone()));
    }

    /// Everything there is to tell, while `applied` is what every worker has confirmed.
    pub fn report(&mut self, applied: Revision, now: UnixSeconds) -> Report {
        let source = self.source();
        self.refresh_applied(applied, source.source_hash.as_deref());
        let rejected = report::rejected(&self.documents, &self.prefix, now);
        let rows = self.documents.partial().rows();
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
            partially_compatible: rows.iter().map(PartialStatus::from).collect(),
        };
        let mut gauges = Gauges::of(&status);
        gauges.last_reload_success = self.last_reload_success;
        gauges.reloads = self.reloads;
        gauges.reload_failures = self.reload_failures.clone();
        Report {
            gauges,
            rejected_resources: report::newest_rejected(&self.documents),
            partially_compatible_resources: rows,
            status,
        }
    }

    /// Hashes what is served, if the workers have all of it and it has changed. While they are catching up, what was last
    /// told stays true.
    fn refresh_applied(&mut self, confirmed: Revision, source_hash: Option<&str>) {
        let told = self.handed_out.filter(|(revision, _)| confirmed.0 >= *revision);
        let Some((revision, at)) = told else { return };
        let changes = self.documents.served_changes();
        let counts = self.documents.counts().iter().filter(|(_, count)| **count > 0);
        let before = self.applied.take();
        let config_hash = match (&before, source_hash) {
            (Some(applied), _) if self.applied_changes == changes => applied.config_hash.clone(),
            // Everything in the store is served.
            (_, Some(hash)) if self.documents.rejected().next().is_none() => hash.to_owned(),
            _ => self.documents.config_hash(),
        };
        self.applied_changes = changes;
        let apply_seq = match &before {
            Some(applied) if applied.config_hash == config_hash => applied.apply_seq,
            Some(applied) => applied.apply_seq + 1,
            None => 1,
        };
        self.applied = Some(Applied {
            applied_revision: revision,
            config_hash,
            apply_seq,
            applied_at: rfc3339(at),
            resource_counts: counts.map(|(kind, count)| (*kind, *count)).collect(),
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
}

#[cfg(test)]
mod tests;
