//! The documents of the store, each with the last good form of it.
//!
//! A put that cannot be taken leaves the older good document served ("stale") until a good one comes or the key is
//! deleted; it affects no other document. One that guards traffic in a way that this build does not know, with nothing older to
//! serve, is rejected and guards all the same. Pure: time is passed in. One put costs the same however large the set is.

mod guard;
mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;
use shared::codec::{self, VALUE_BYTES_MAX};
use shared::resource::Kind;
use shared::secret::Secret;
use shared::update::Change;

use super::canonical::canonical;
use super::document::{self, Document, Refusal, RefusalKind};
use super::hash::Chain;
use super::key::{self, DocumentKind, KeyError};
use super::names::Names;
use super::partial::{Partial, ROWS_MAX};
use crate::cloud::heartbeat::PartiallyCompatible;

pub use keep::{Kept, read_again};

/// A document of more bytes is read back as a worker would read it before it is handed out.
const READ_BACK_BYTES: usize = 512 * 1024;

/// Seconds since 1970 UTC.
pub type UnixSeconds = i64;

/// A document's text, which is held here and waits to be kept on disk.
pub type Text = Arc<Secret<Vec<u8>>>;

/// Why a key's latest document is not served.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// What was wrong.
    pub refusal: Refusal,
    /// When a document of this key was first rejected, without a good one since.
    pub first_seen: UnixSeconds,
    /// When it was last seen.
    pub last_seen: UnixSeconds,
    /// Since when an older good document is served instead.
    pub stale_since: Option<UnixSeconds>,
}

struct Entry {
    /// The latest document: canonical JSON, or as it came if it is not JSON.
    observed: Text,
    served: Option<Served>,
    rejection: Option<Rejection>,
    /// It is not taken because it is newer than this build, nothing is in force for it, and workers guard what it would.
    guard: Option<DocumentKind>,
}

struct Served {
    kind: DocumentKind,
    /// The document in force where it is not the latest one.
    older: Option<Text>,
    /// Workers were told of it: it is not switched off.
    in_force: bool,
    name: Option<String>,
    fields: Vec<String>,
}

/// What a put or a delete led to.
#[derive(Debug, Default)]
pub struct Step {
    /// What workers have to be told.
    pub change: Option<Change>,
    /// Why the document was not taken.
    pub refused: Option<Refusal>,
    /// The key's document was refused for the same reason before.
    pub known: bool,
}

/// All documents by full key.
pub struct LastGood {
    prefix: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Entry>,
    rejected: BTreeSet<Vec<u8>>,
    counts: BTreeMap<&'static str, u64>,
    names: Names,
    partial: Partial,
    /// Documents in force that guard traffic and cannot be enforced, by kind.
    guards: BTreeMap<&'static str, u64>,
    served_changes: u64,
    observed_changes: u64,
    rejection_changes: u64,
    served_chain: Chain,
    observed_chain: Chain,
    /// Keys of which something has changed that is to be kept on disk.
    unkept: BTreeSet<Vec<u8>>,
}

impl LastGood {
    /// Nothing yet. `prefix` ends with a slash.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.as_bytes().to_vec(),
            entries: BTreeMap::new(),
            rejected: BTreeSet::new(),
            counts: BTreeMap::new(),
            names: Names::default(),
            partial: Partial::default(),
            guards: BTreeMap::new(),
            served_changes: 0,
            observed_changes: 0,
            rejection_changes: 0,
            served_chain: Chain::default(),
            observed_chain: Chain::default(),
            unkept: BTreeSet::new(),
        }
    }

    /// The document at `key` is `value` now.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>, now: UnixSeconds) -> Step {
        let parsed = serde_json::from_slice::<Value>(&value);
        let observed = Text::new(match &parsed {
            Ok(document) => Secret::new(canonical(document, &value)),
            Err(_) => Secret::new(value),
        });
        let before = self.entries.remove(&key);
        if before.as_ref().is_none_or(|before| before.observed != observed) {
            self.observed_changes += 1;
            self.observed_chain.changed(&key);
        } else if let Some(before @ Entry { rejection: None, .. }) = before {
            // The same document again.
            self.entries.insert(key, before);
            return Step::default();
        }
        let read = parsed
            .map_err(|error| not_json(&error))
            .and_then(|document| read(&self.prefix, &key, document, observed.expose().len()));
        let (entry, step) = match read {
            Ok((kind, document)) => self.take(&key, kind, document, observed, before),
            Err(refusal) => self.reject(&key, refusal, observed, before, now),
        };
        self.unkept.insert(key.clone());
        self.insert(key, entry, step.known);
        step
    }

    /// `known`: it was refused for the same reason before.
    fn insert(&mut self, key: Vec<u8>, entry: Entry, known: bool) {
        let news = if entry.rejection.is_some() {
            self.rejected.insert(key.clone()) || !known
        } else {
            self.rejected.remove(&key)
        };
        self.rejection_changes += u64::from(news);
        self.entries.insert(key, entry);
    }

    fn take(
        &mut self,
        key: &[u8],
        kind: DocumentKind,
        document: Document,
        observed: Text,
        before: Option<Entry>,
    ) -> (Entry, Step) {
        let unchanged = before.as_ref().is_some_and(|before| before.in_force() == Some(&observed));
        if !unchanged {
            self.served_changes += 1;
            self.served_chain.changed(key);
        }
        let guard = before.as_ref().and_then(|before| before.guard);
        guard.into_iter().for_each(|kind| self.uncount_guard(kind));
        let before = before.and_then(|before| before.served);
        if let Some(served) = &before {
            self.uncount(served);
        }
        let was_told = guard.is_some() || before.is_some_and(|before| before.in_force);
        let Document { resource, name, fields } = document;
        let served = Served { kind, older: None, in_force: resource.is_some(), name, fields };
        self.count(&served);
        let change = match resource {
            _ if unchanged => None,
            Some(resource) => Some(Change::Put(Box::new(resource))),
            // Switched off.
            None if was_told => self.deleted(key, kind),
            None => None,
        };
        let entry = Entry { observed, served: Some(served), rejection: None, guard: None };
        (entry, Step { change, ..Step::default() })
    }

    /// There is no document at `key` any more.
    pub fn delete(&mut self, key: &[u8]) -> Step {
        let Some(entry) = self.entries.remove(key) else { return Step::default() };
        self.observed_changes += 1;
        self.observed_chain.changed(key);
        self.rejection_changes += u64::from(self.rejected.remove(key));
        self.unkept.insert(key.to_vec());
        entry.guard.into_iter().for_each(|kind| self.uncount_guard(kind));
        let guarded = entry.guard.and_then(|kind| self.deleted(key, kind));
        let Some(served) = entry.served else { return Step { change: guarded, ..Step::default() } };
        self.served_changes += 1;
        self.served_chain.changed(key);
        self.uncount(&served);
        let change = if served.in_force { self.deleted(key, served.kind) } else { guarded };
        Step { change, ..Step::default() }
    }

    /// What tells workers that the document of `key` is not in force any more.
    fn deleted(&self, key: &[u8], kind: DocumentKind) -> Option<Change> {
        let (_, id) = key::parse(&self.prefix, key).ok()?;
        Some(Change::Delete(kind.served?, id.to_owned()))
    }

    /// Whether there is a document at `key`, good or bad.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.entries.contains_key(key)
    }

    /// Keys that are there and not in `present`, as after a load that may have missed deletions.
    pub fn missing_from(&self, present: &BTreeSet<Vec<u8>>) -> Vec<Vec<u8>> {
        self.entries.keys().filter(|key| !present.contains(*key)).cloned().collect()
    }

    fn count(&mut self, served: &Served) {
        let kind = served.kind.name;
        *self.counts.entry(kind).or_default() += 1;
        self.partial.add(kind, &served.fields);
        if let Some(name) = &served.name {
            self.names.add(kind, name);
        }
        if served.is_guard() {
            *self.guards.entry(kind).or_default() += 1;
        }
    }

    fn uncount(&mut self, served: &Served) {
        let kind = served.kind.name;
        if let Some(count) = self.counts.get_mut(kind) {
            *count = count.saturating_sub(1);
        }
        self.partial.remove(kind, &served.fields);
        if let Some(name) = &served.name {
            self.names.remove(kind, name);
        }
        if served.is_guard() {
            self.uncount_guard(served.kind);
        }
    }

    /// How many documents are served, by kind; kinds without any may be there with 0.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// What documents ask for and this gateway does not honour, and names that they share; by kind and field.
    pub fn partial_rows(&self) -> Vec<PartiallyCompatible> {
        let mut rows = self.partial.rows();
        rows.extend(self.names.rows());
        rows.sort_by(|one, other| (&one.kind, &one.field).cmp(&(&other.kind, &other.field)));
        rows.truncate(ROWS_MAX);
        rows
    }

    /// Grows by one whenever a document begins or ceases to be rejected, or is rejected for another reason.
    pub fn rejection_changes(&self) -> u64 {
        self.rejection_changes
    }

    /// Full keys whose latest document is not served, with the reason, in ascending order.
    pub fn rejected(&self) -> impl Iterator<Item = (&[u8], &Rejection)> {
        self.rejected.iter().filter_map(|key| {
            let rejection = self.entries.get(key)?.rejection.as_ref()?;
            Some((key.as_slice(), rejection))
        })
    }

    /// Whether an older document is served in place of the one at `key`.
    pub fn is_stale(&self, key: &[u8]) -> bool {
        let rejection = self.entries.get(key).and_then(|entry| entry.rejection.as_ref());
        rejection.is_some_and(|rejection| rejection.stale_since.is_some())
    }

    /// Grows by one whenever what is served changes.
    pub fn served_changes(&self) -> u64 {
        self.served_changes
    }

    /// Grows by one whenever what is in the store changes.
    pub fn observed_changes(&self) -> u64 {
        self.observed_changes
    }

    /// Hash over what is served.
    pub fn config_hash(&mut self) -> String {
        let entries = &self.entries;
        self.served_chain.hash(|after| {
            let entries = entries.range::<[u8], _>((from(after), Bound::Unbounded));
            entries.filter_map(|(key, entry)| {
                Some((key.as_slice(), entry.in_force()?.expose().as_slice()))
            })
        })
    }

    /// Hash over what is in the store.
    pub fn source_hash(&mut self) -> String {
        let entries = &self.entries;
        self.observed_chain.hash(|after| {
            let entries = entries.range::<[u8], _>((from(after), Bound::Unbounded));
            entries.map(|(key, entry)| (key.as_slice(), entry.observed.expose().as_slice()))
        })
    }
}

fn from(after: Option<&[u8]>) -> Bound<&[u8]> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

impl Served {
    fn is_guard(&self) -> bool {
        // What is enforced is not reported as anything else.
        let is_reported = self.fields.iter().any(|field| field == document::NOT_ENFORCED);
        self.in_force && is_reported && self.kind.served.is_some_and(Kind::is_guard)
    }
}

impl Entry {
    fn in_force(&self) -> Option<&Text> {
        let served = self.served.as_ref()?;
        Some(served.older.as_ref().unwrap_or(&self.observed))
    }
}

fn not_json(error: &serde_json::Error) -> Refusal {
    let error = format!("not JSON: line {}, column {}", error.line(), error.column());
    Refusal { kind: RefusalKind::NonJson, error }
}

fn read(
    prefix: &[u8],
    key: &[u8],
    value: Value,
    bytes: usize,
) -> Result<(DocumentKind, Document), Refusal> {
    let (kind, id) = key::parse(prefix, key).map_err(|error| {
        let kind = match error {
            KeyError::Shape => RefusalKind::BadKey,
            KeyError::UnknownKind { .. } => RefusalKind::UnknownKind,
        };
        Refusal { kind, error: error.to_string() }
    })?;
    let document = document::read(kind, id, value)?;
    match &document.resource {
        Some(resource) if bytes > READ_BACK_BYTES => {
            let change = Change::Put(Box::new(resource.clone()));
            let encoded = codec::encode(&change);
            let back = encoded.and_then(|bytes| codec::decode::<Change, VALUE_BYTES_MAX>(&bytes));
            back.map_err(|_| Refusal {
                kind: RefusalKind::ParseFailed,
                error: format!(
                    "the document is too large for a worker ({VALUE_BYTES_MAX} bytes in memory)"
                ),
            })?;
        }
        _ => {}
    }
    Ok((kind, document))
}

fn refuse(
    refusal: Refusal,
    observed: Text,
    before: Option<Entry>,
    now: UnixSeconds,
) -> (Entry, Step) {
    let (served, earlier) = match before {
        None => (None, None),
        Some(before) => {
            let served = before.served.map(|mut served| {
                served.older.get_or_insert(before.observed);
                served
            });
            (served, before.rejection)
        }
    };
    let stale_since = served
        .as_ref()
        .map(|_| earlier.as_ref().and_then(|earlier| earlier.stale_since).unwrap_or(now));
    let known = earlier.as_ref().is_some_and(|earlier| earlier.refusal == refusal);
    let first_seen = earlier.map_or(now, |earlier| earlier.first_seen);
    let rejection = Rejection { refusal: refusal.clone(), first_seen, last_seen: now, stale_since };
    let entry = Entry { observed, served, rejection: Some(rejection), guard: None };
    (entry, Step { change: None, refused: Some(refusal), known })
}

#[cfg(test)]
mod tests;
