//! The projection in memory, with etcd's revisions and a bounded history.
//!
//! Invariants, each with a test of that name:
//! 1. all changes of one replacement share one revision, and each replacement that changes anything takes the next;
//! 2. a read at a revision in the history sees exactly what the store held then;
//! 3. a watch from a revision in the history sees every change since, in order;
//! 4. what is older than the history is refused as compacted, never answered with less.
//!
//! The history begins at `compacted`: from there on, that revision included, everything is known.

use super::message::{Event, EventType, KeyValue, RangeRequest, RangeResponse, ResponseHeader};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// What every key maps to.
pub type Entries = BTreeMap<Bytes, Bytes>;

/// Changes that are kept at least: more than any gateway misses while it reconnects.
pub const HISTORY_CHANGES: usize = 16_384;

/// Keys and values of the present and of a bounded past.
pub struct Store {
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<KeyVersion>>,
    log: VecDeque<Event>,
    history_changes: usize,
}

/// A key from `modified` on. `value` is none once it is deleted.
struct KeyVersion {
    created: i64,
    modified: i64,
    version: i64,
    value: Option<Bytes>,
}

/// Why a read was refused; the texts are etcd's, which clients recognise.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// Older than the history.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that can be read.
        compact_revision: i64,
    },
    /// Newer than the store.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// An order or a filter that no gateway asks for.
    #[error("the local Cloud answers in ascending order of keys and without filters by revision")]
    Unsupported,
}

impl Store {
    /// A store that holds `entries` since `revision` and knows nothing of the time before.
    pub fn new(revision: i64, entries: Entries, history_changes: usize) -> Self {
        let keys = BTreeMap::new();
        let before = revision.saturating_sub(1);
        let mut store = Self {
            revision: before,
            compacted: revision,
            keys,
            log: VecDeque::new(),
            history_changes,
        };
        store.replace(entries);
        store.revision = revision;
        store
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Makes `entries` the whole content, as one revision. Returns how many keys changed.
    pub fn replace(&mut self, entries: Entries) -> usize {
        let next = self.revision + 1;
        let mut changed = 0;
        for (key, versions) in &mut self.keys {
            let is_present = versions.last().is_some_and(|last| last.value.is_some());
            if is_present && !entries.contains_key(key) {
                versions.push(KeyVersion { created: 0, modified: next, version: 0, value: None });
                let kv = KeyValue { key: key.clone(), mod_revision: next, ..KeyValue::default() };
                self.log.push_back(Event {
                    r#type: EventType::Delete.into(),
                    kv: Some(kv),
                    prev_kv: None,
                });
                changed += 1;
            }
        }
        for (key, value) in entries {
            let versions = self.keys.entry(key.clone()).or_default();
            let (created, version) = match versions.last() {
                Some(last) if last.value.as_ref() == Some(&value) => continue,
                Some(last) if last.value.is_some() => (last.created, last.version + 1),
                Some(_) | None => (next, 1),
            };
            let put = KeyVersion { created, modified: next, version, value: Some(value) };
            if let Some(kv) = put.key_value(&key) {
                self.log.push_back(Event {
                    r#type: EventType::Put.into(),
                    kv: Some(kv),
                    prev_kv: None,
                });
            }
            versions.push(put);
            changed += 1;
        }
        if changed > 0 {
            self.revision = next;
            self.compact();
        }
        changed
    }

    /// The keys of a range, now or at a past revision.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ReadError> {
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        let by_other_than_key = request.sort_order != 0 && request.sort_target != 0;
        if request.sort_order == 2 || by_other_than_key || filters.iter().any(|bound| *bound != 0) {
            return Err(ReadError::Unsupported);
        }
        let at = if request.revision <= 0 { self.revision } else { request.revision };
        if at > self.revision {
            return Err(ReadError::Future);
        }
        if at < self.compacted {
            return Err(ReadError::Compacted { compact_revision: self.compacted });
        }

        let limit =
            usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let header = Some(ResponseHeader::at(self.revision));
        let mut response = RangeResponse { header, ..RangeResponse::default() };
        for (key, versions) in self.keys.range::<[u8], _>(bounds(&request.key, &request.range_end))
        {
            let then = versions.iter().rev().find(|version| version.modified <= at);
            let Some(mut kv) = then.and_then(|version| version.key_value(key)) else { continue };
            response.count += 1;
            if request.count_only {
                continue;
            }
            if response.kvs.len() == limit {
                response.more = true;
                continue;
            }
            if request.keys_only {
                kv.value = Bytes::new();
            }
            response.kvs.push(kv);
        }
        Ok(response)
    }

    /// The changes of a range from revision `from` on, that one included.
    pub fn events(&self, key: &[u8], range_end: &[u8], from: i64) -> Result<Vec<Event>, ReadError> {
        if from < self.compacted {
            return Err(ReadError::Compacted { compact_revision: self.compacted });
        }
        let first = self.log.partition_point(|event| modified(event) < from);
        let range = bounds(key, range_end);
        let is_watched = |event: &&Event| {
            event
                .kv
                .as_ref()
                .is_some_and(|kv| std::ops::RangeBounds::<[u8]>::contains(&range, &kv.key[..]))
        };
        Ok(self.log.range(first..).filter(is_watched).cloned().collect())
    }

    /// Forgets whole revisions, oldest first, until the history fits; the latest one always stays.
    fn compact(&mut self) {
        let surplus = self.log.len().saturating_sub(self.history_changes);
        let Some(first) = self.log.get(surplus).map(modified) else { return };
        if surplus == 0 || first <= self.compacted {
            return;
        }
        self.compacted = first;
        while let Some(event) = self.log.front()
            && modified(event) < first
        {
            let Some(key) = self.log.pop_front().and_then(|event| event.kv).map(|kv| kv.key) else {
                continue;
            };
            let Some(versions) = self.keys.get_mut(&key) else { continue };
            let outdated = versions
                .iter()
                .filter(|version| version.modified <= first)
                .count()
                .saturating_sub(1);
            versions.drain(..outdated);
            if let [only] = versions.as_slice()
                && only.value.is_none()
                && only.modified <= first
            {
                self.keys.remove(&key);
            }
        }
    }
}

impl KeyVersion {
    /// As etcd tells it; none for a deleted key.
    fn key_value(&self, key: &Bytes) -> Option<KeyValue> {
        Some(KeyValue {
            key: key.clone(),
            create_revision: self.created,
            mod_revision: self.modified,
            version: self.version,
            value: self.value.clone()?,
            lease: 0,
        })
    }
}

fn modified(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// etcd's notation of a range as bounds of the map.
fn bounds<'a>(key: &'a [u8], range_end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    match range_end {
        [] => (Bound::Included(key), Bound::Included(key)),
        [0] => (Bound::Included(key), Bound::Unbounded),
        // An inverted range is empty in etcd, and a panic in a BTreeMap.
        end if end <= key => (Bound::Included(key), Bound::Excluded(key)),
        end => (Bound::Included(key), Bound::Excluded(end)),
    }
}

#[cfg(test)]
mod tests;
