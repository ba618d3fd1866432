//! What is known of the store, and what was made of it. Pure: time is passed in.

mod history;
mod keep;

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::id::Revision;
use shared::resource::Model;
use tracing::warn;

use history::History;

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
        /// What there is.
        entries: Vec<Entry>,
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

/// One key of the store, with what it holds.
#[derive(Debug)]
pub struct Entry {
    /// The full key.
    pub key: Vec<u8>,
    /// The document.
    pub value: Vec<u8>,
    /// The revision that the key has been there since; 0 if the store does not tell.
    pub created: i64,
}

/// One change in the store.
#[derive(Debug)]
pub enum Event {
    /// The key has this value.
    Put(Vec<u8>, Vec<u8>),
    /// The key is gone.
    Delete(Vec<u8>),
}

/// What was last told about the store: hash and revision belong together.
struct Told {
    changes: u64,
    hash: String,
    revision: i64,
    at: UnixSeconds,
}

/// What workers were handed and may not all have yet.
struct Candidate {
    changes: u64,
    applied: Applied,
}

/// The projection as this gateway knows it.
pub struct State {
    prefix: String,
    is_file: bool,
    documents: LastGood,
    connected: bool,
    observed: Option<(i64, UnixSeconds)>,
    /// The latest revision that workers were told, and when.
    handed_out: Option<(i64, UnixSeconds)>,
    /// What was last told as applied: hash and revision belong together, also while workers are catching up.
    applied: Option<Applied>,
    /// How often what is served had changed when that was told.
    applied_changes: u64,
    /// Kept while workers are behind what they were handed, so that something newer can be told even if they always are.
    candidate: Option<Candidate>,
    told: Option<Told>,
    /// The second in which everything was last hashed: a large set takes a while.
    hashed_at: Option<UnixSeconds>,
    /// The store that revisions are of, as far as it says.
    store: Option<u64>,
    /// What the snapshot was last handed.
    kept: Option<Moment>,
    /// The models in force, and how often what is served had changed then.
    models: Option<(u64, Arc<[Model]>)>,
    last_reload: Option<(bool, UnixSeconds)>,
    last_reload_success: Option<UnixSeconds>,
    last_failure: Option<(UnixSeconds, &'static str, String)>,
    reloads: u64,
    reload_failures: BTreeMap<&'static str, u64>,
    history: History,
}

impl State {
    /// Nothing seen yet. `prefix` ends with a slash.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            is_file: false,
            documents: LastGood::new(prefix),
            connected: false,
            observed: None,
            handed_out: None,
            applied: None,
            applied_changes: 0,
            candidate: None,
            told: None,
            hashed_at: None,
            store: None,
            kept: None,
            models: None,
            last_reload: None,
            last_reload_success: None,
            last_failure: None,
            reloads: 0,
            reload_failures: BTreeMap::new(),
            history: History::default(),
        }
    }

    /// The same for documents of a file, of which there is nothing to be connected to.
    pub fn of_file(prefix: &str) -> Self {
        Self { is_file: true, ..Self::new(prefix) }
    }

    /// Takes in what was seen. An update is what the workers have to be told.
    pub fn observe(&mut self, observed: Observed, now: UnixSeconds) -> Option<Update> {
        self.history.contact(&observed, self.connected, now);
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
                let keys = entries.iter().map(|entry| entry.key.clone()).collect();
                let mut events: Vec<_> =
                    self.documents.missing_from(&keys).into_iter().map(Event::Delete).collect();
                let seen = self.observed.map_or(i64::MAX, |(revision, _)| revision);
                for Entry { key, value, created } in entries {
                    // Deleted and created again while nobody looked: its older good form ended with the delete.
                    if created > seen && self.documents.contains(&key) {
                        events.push(Event::Delete(key.clone()));
                    }
                    events.push(Event::Put(key, value));
                }
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
            // One that is not taken may guard all the same.
            accepted |= change.is_some();
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
        // What workers confirm of a store that was set back since says nothing about it.
        if self.handed_out.is_some_and(|(before, _)| revision < before) {
            self.candidate = None;
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

    /// Everything there is to tell, while `confirmed` is what every worker has confirmed.
    pub fn report(&mut self, confirmed: Revision, now: UnixSeconds) -> Report {
        let may_hash = self.hashed_at != Some(now);
        let source = self.source(may_hash, now);
        self.refresh_applied(confirmed.0, may_hash, now);
        let rejected = report::rejected(&self.documents, &self.prefix, now);
        let rows = self.documents.partial_rows();
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
        self.history.tell(&mut gauges, self.connected, now);
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

    /// The models in force, sorted by id. They are read again only after something has changed.
    pub fn models(&mut self) -> Arc<[Model]> {
        let changes = self.documents.served_changes();
        match &self.models {
            Some((at, models)) if *at == changes => Arc::clone(models),
            _ => {
                let models: Arc<[Model]> = self.documents.models().collect();
                self.models = Some((changes, Arc::clone(&models)));
                models
            }
        }
    }

    /// What guards traffic and cannot be enforced, in words; `None` if there is nothing.
    pub fn not_enforced(&self) -> Option<String> {
        let counts = self.documents.guards().iter().filter(|(_, count)| **count > 0);
        let counts: Vec<_> = counts.map(|(kind, count)| format!("{count} {kind}")).collect();
        (!counts.is_empty()).then(|| {
            format!(
                "this build cannot enforce what is configured: {}; what they guard, and only that, is refused with status \
                 501; disable or remove them, or serve that traffic from a gateway that enforces them",
                counts.join(", ")
            )
        })
    }

    /// Grows whenever a document begins or ceases to be rejected.
    pub fn rejection_changes(&self) -> u64 {
        self.documents.rejection_changes()
    }

    /// Moves on to what the workers have by now. While they are catching up, what was last told stays true.
    fn refresh_applied(&mut self, confirmed: i64, may_hash: bool, now: UnixSeconds) {
        let Some((revision, at)) = self.handed_out else { return };
        let changes = self.documents.served_changes();
        let current = self.applied.is_some() && self.applied_changes == changes;
        // More than was ever handed out of this store is from before it was set back.
        let reached = |revision: i64| revision <= confirmed;
        // The first time is told at once, and so is what costs nothing.
        let may_tell = current || may_hash || self.applied.is_none() || self.source_is_served();
        if confirmed == revision && may_tell {
            let applied = self.applied_at(revision, at, now);
            self.tell(Candidate { changes, applied });
            self.candidate = None;
        } else if confirmed < revision {
            let reached = |waits: &mut Candidate| reached(waits.applied.applied_revision);
            if let Some(candidate) = self.candidate.take_if(reached) {
                self.tell(candidate);
            }
            if self.candidate.is_none() && !current && may_hash {
                let applied = self.applied_at(revision, at, now);
                self.candidate = Some(Candidate { changes, applied });
            }
        }
    }

    /// Whether everything in the store is served, and its hash is known.
    fn source_is_served(&self) -> bool {
        let changes = self.documents.observed_changes();
        self.told.as_ref().is_some_and(|told| told.changes == changes)
            && self.documents.rejected().next().is_none()
    }

    /// What there will be to tell once every worker has `revision`, which is the latest.
    fn applied_at(&mut self, revision: i64, at: UnixSeconds, now: UnixSeconds) -> Applied {
        let served = self.documents.served_changes();
        let config_hash = match (&self.applied, &self.told) {
            (Some(applied), _) if self.applied_changes == served => applied.config_hash.clone(),
            (_, Some(told)) if self.source_is_served() => told.hash.clone(),
            _ => {
                self.hashed_at = Some(now);
                self.documents.config_hash()
            }
        };
        let counts = self.documents.counts().iter().filter(|(_, count)| **count > 0);
        Applied {
            applied_revision: revision,
            config_hash,
            apply_seq: 0,
            applied_at: rfc3339(at),
            resource_counts: counts.map(|(kind, count)| (*kind, *count)).collect(),
        }
    }

    fn tell(&mut self, Candidate { changes, mut applied }: Candidate) {
        applied.apply_seq = match &self.applied {
            Some(before) if before.config_hash == applied.config_hash => before.apply_seq,
            Some(before) => before.apply_seq + 1,
            None => 1,
        };
        self.history.applied(self.applied.as_ref(), &applied);
        self.applied_changes = changes;
        self.applied = Some(applied);
    }

    fn source(&mut self, may_hash: bool, now: UnixSeconds) -> SourceStatus {
        let changes = self.documents.observed_changes();
        if let Some((revision, at)) = self.observed {
            let known = self.told.take_if(|told| told.changes == changes || !may_hash);
            let hash = match known {
                // Not yet again: what was told before is still true of its revision.
                Some(told) if told.changes != changes => Some(told),
                Some(told) => Some(Told { revision, at, ..told }),
                None => {
                    self.hashed_at = Some(now);
                    Some(Told { changes, hash: self.documents.source_hash(), revision, at })
                }
            };
            self.told = hash;
        }
        SourceStatus {
            r#type: if self.is_file { "file" } else { "etcd" },
            connected: (!self.is_file).then_some(self.connected),
            observed_revision: self.told.as_ref().map(|told| told.revision),
            source_hash: self.told.as_ref().map(|told| told.hash.clone()),
            observed_at: self.told.as_ref().map(|told| rfc3339(told.at)),
        }
    }
}

#[cfg(test)]
mod tests;
