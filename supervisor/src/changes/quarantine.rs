//! Resources whose latest change is set aside because workers died of it: for the log, the finding, `/status/managed`,
//! `/status/config` and the heartbeat. Keys and former existence only, no values. Clones share it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use shared::id::Revision;
use shared::update::Change;

use crate::configuration::{Key, key_of};
use crate::projection::key::name_of;
use crate::projection::report::rfc3339;

/// So many keys are named in a text; the others are counted.
const NAMED_MAX: usize = 20;

/// A resource whose change is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The revision that is not in force for it.
    pub revision: Revision,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// Whether there is a former value, which is served instead.
    pub is_served: bool,
}

/// The resources that are held.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    prefix: Arc<str>,
    held: Arc<Mutex<BTreeMap<Key, Held>>>,
}

/// One of them on `/status/managed`.
#[derive(Debug, Serialize)]
pub struct QuarantineStatus {
    key: String,
    revision: i64,
    since: String,
    former_value_is_served: bool,
}

impl Quarantine {
    /// Nothing is held. `prefix`, which ends with a slash, is that of the store's keys.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), held: Arc::default() }
    }

    /// Holds the resources of these changes, which lead to what is served.
    pub fn hold(&self, revision: Revision, former: &[Change]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        self.lock().extend(former.iter().map(|change| {
            let is_served = matches!(change, Change::Put(_));
            (key_of(change), Held { revision, since, is_served })
        }));
    }

    /// These resources have changed since: they are held no longer. Says whether any was.
    pub fn lift(&self, keys: impl Iterator<Item = Key>) -> bool {
        let mut held = self.lock();
        if held.is_empty() {
            return false;
        }
        let before = held.len();
        for key in keys {
            held.remove(&key);
        }
        held.len() < before
    }

    /// What is held, by the full key of the store.
    pub fn rows(&self) -> Vec<(String, Key, Held)> {
        let held = self.lock();
        held.iter().map(|(key, held)| (self.name(key), key.clone(), held.clone())).collect()
    }

    /// The keys, as many as a line can bear.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().take(NAMED_MAX).map(|key| self.name(key)).collect()
    }

    /// The finding; `None` if nothing is held.
    pub fn text(&self) -> Option<String> {
        let (names, count) = (self.names(), self.lock().len());
        let others = match count.saturating_sub(names.len()) {
            0 => String::new(),
            others => format!(" and {others} others"),
        };
        (count > 0).then(|| {
            format!(
                "workers died of the latest change of {}{others}: it is set aside, and the former state of these resources \
                 stays in force; change or remove them",
                names.join(" ")
            )
        })
    }

    /// What `/status/managed` shows.
    pub fn status(&self) -> Vec<QuarantineStatus> {
        let rows = self.rows().into_iter().map(|(key, _, held)| QuarantineStatus {
            key,
            revision: held.revision.0,
            since: rfc3339(held.since),
            former_value_is_served: held.is_served,
        });
        rows.collect()
    }

    fn name(&self, (kind, id): &Key) -> String {
        format!("{}{}/{id}", self.prefix, name_of(*kind))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
