//! The documents of the store, each with the last good form of it.
//!
//! A put that cannot be taken leaves the older good document served ("stale") until a good one comes or the key is
//! deleted; it affects no other document. Pure: time is passed in. One put costs the same however large the set is.

mod keep;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use shared::codec::{self, VALUE_BYTES_MAX};
use shared::secret::Secret;
use shared::update::Change;
use tracing::warn;

use super::document::{self, Document, Refusal, RefusalKind};
use super::hash;
use super::key::{self, DocumentKind, KeyError};
use super::partial::Partial;

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
}

struct Served {
    kind: DocumentKind,
    /// The document in force where it is not the latest one.
    older: Option<Text>,
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
    names: HashMap<(&'static str, String), u32>,
    partial: Partial,
    served_changes: u64,
    observed_changes: u64,
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
            names: HashMap::new(),
            partial: Partial::default(),
            served_changes: 0,
            observed_changes: 0,
            unkept: BTreeSet::new(),
        }
    }

    /// The document at `key` is `value` now.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>, now: UnixSeconds) -> Step {
        let parsed = serde_json::from_slice::<Value>(&value);
        let observed = Text::new(match &parsed {
            Ok(document) => Secret::new(hash::canonical(document)),
            Err(_) => Secret::new(value),
        });
        let before = self.entries.remove(&key);
        if before.as_ref().is_none_or(|before| before.observed != observed) {
            self.observed_changes += 1;
        } else if let Some(before @ Entry { rejection: None, .. }) = before {
            // The same document again.
            self.entries.insert(key, before);
            return Step::default();
        }
        let read = parsed
            .map_err(|error| not_json(&error))
            .and_then(|document| read(&self.prefix, &key, document, observed.expose().len()));
        let (entry, step) = match read {
            Ok((kind, document)) => self.take(kind, document, observed, before),
            Err(refusal) => refuse(refusal, observed, before, now),
        };
        self.unkept.insert(key.clone());
        self.insert(key, entry);
        step
    }

    fn insert(&mut self, key: Vec<u8>, entry: Entry) {
        if entry.rejection.is_some() {
            self.rejected.insert(key.clone());
        } else {
            self.rejected.remove(&key);
        }
        self.entries.insert(key, entry);
    }

    fn take(
        &mut self,
        kind: DocumentKind,
        document: Document,
        observed: Text,
        before: Option<Entry>,
    ) -> (Entry, Step) {
        let unchanged = before.as_ref().is_some_and(|before| before.in_force() == Some(&observed));
        if !unchanged {
            self.served_changes += 1;
        }
        if let Some(served) = before.and_then(|before| before.served) {
            self.uncount(&served);
        }
        let served = Served { kind, older: None, name: document.name, fields: document.fields };
        self.count(&served);
        let resource = document.resource.filter(|_| !unchanged);
        let change = resource.map(|resource| Change::Put(Box::new(resource)));
        let entry = Entry { observed, served: Some(served), rejection: None };
        (entry, Step { change, ..Step::default() })
    }

    /// There is no document at `key` any more.
    pub fn delete(&mut self, key: &[u8]) -> Step {
        let Some(entry) = self.entries.remove(key) else { return Step::default() };
        self.observed_changes += 1;
        self.rejected.remove(key);
        self.unkept.insert(key.to_vec());
        let Some(served) = entry.served else { return Step::default() };
        self.served_changes += 1;
        self.uncount(&served);
        let id = key::parse(&self.prefix, key).map_or("", |(_, id)| id);
        let change = served.kind.served.map(|kind| Change::Delete(kind, id.to_owned()));
        Step { change, ..Step::default() }
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
            let holders = self.names.entry((kind, name.clone())).or_default();
            *holders += 1;
            if *holders == 2 {
                // A key hash is no secret, but nobody knows a key by it either.
                let name = if kind == "api_keys" { "key_hash" } else { name };
                warn!("{kind}: two documents share {name:?}; the one with the highest id is used");
            }
        }
    }

    fn uncount(&mut self, served: &Served) {
        let kind = served.kind.name;
        if let Some(count) = self.counts.get_mut(kind) {
            *count = count.saturating_sub(1);
        }
        self.partial.remove(kind, &served.fields);
        if let Some(name) = &served.name {
            let holder = (kind, name.clone());
            if let Some(holders) = self.names.get_mut(&holder) {
                *holders = holders.saturating_sub(1);
                if *holders == 0 {
                    self.names.remove(&holder);
                }
            }
        }
    }

    /// How many documents are served, by kind; kinds without any may be there with 0.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// What documents ask for and this gateway does not honour.
    pub fn partial(&self) -> &Partial {
        &self.partial
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
    pub fn config_hash(&self) -> String {
        hash::hash(self.entries.iter().filter_map(|(key, entry)| {
            Some((key.as_slice(), entry.in_force()?.expose().as_slice()))
        }))
    }

    /// Hash over what is in the store.
    pub fn source_hash(&self) -> String {
        let entries = self.entries.iter();
        hash::hash(entries.map(|(key, entry)| (key.as_slice(), entry.observed.expose().as_slice())))
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
    let entry = Entry { observed, served, rejection: Some(rejection) };
    (entry, Step { change: None, refused: Some(refusal), known })
}

#[cfg(test)]
mod tests;
