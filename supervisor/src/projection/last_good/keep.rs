//! Documents that outlive the process: what is kept of each, and how each is taken back.

use shared::update::Change;

use super::{Document, Entry, LastGood, Rejection, Text, UnixSeconds, key, read};

/// What is kept of one document.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The latest document.
    pub observed: Text,
    /// The one that is served in its place.
    pub older: Option<Text>,
    /// Why the latest is not served.
    pub rejection: Option<Rejection>,
}

impl Kept {
    /// What is served; `None` = nothing.
    pub fn in_force(&self) -> Option<&[u8]> {
        let text = match (&self.older, &self.rejection) {
            (Some(older), _) => older,
            (None, None) => &self.observed,
            (None, Some(_)) => return None,
        };
        Some(text.expose())
    }
}

/// Reads a document that was taken before. `None` if it cannot be, after all.
pub fn read_again(prefix: &str, key: &[u8], text: &[u8]) -> Option<Document> {
    let value = serde_json::from_slice(text).ok()?;
    read(prefix.as_bytes(), key, value, text.len()).ok().map(|(_, document)| document)
}

impl LastGood {
    /// What has changed since this was last asked: keys, with what is to be kept of each. `None` = it is gone.
    pub fn changed(&mut self) -> Vec<(Vec<u8>, Option<Kept>)> {
        let keys = std::mem::take(&mut self.unkept).into_iter();
        keys.map(|key| {
            let kept = self.entries.get(&key).map(Entry::kept);
            (key, kept)
        })
        .collect()
    }

    /// Everything that is to be kept.
    pub fn everything(&mut self) -> Vec<(Vec<u8>, Option<Kept>)> {
        self.unkept.clear();
        self.entries.iter().map(|(key, entry)| (key.clone(), Some(entry.kept()))).collect()
    }

    /// Takes back what was kept of `key`, and `read`, what this build had read out of it. Returns what workers are to be
    /// told. Nothing else may have been put under this key yet.
    pub fn take_back(
        &mut self,
        key: Vec<u8>,
        kept: Kept,
        read: Option<Document>,
        now: UnixSeconds,
    ) -> Vec<Change> {
        match read {
            Some(document) if kept.in_force().is_some() => {
                Vec::from_iter(self.take_read(key, kept, document))
            }
            _ => Vec::from_iter(self.put_again(key, kept, now)),
        }
    }

    fn take_read(&mut self, key: Vec<u8>, kept: Kept, document: Document) -> Option<Change> {
        let (kind, _) = key::parse(&self.prefix, &key).ok()?;
        let Kept { observed, older, rejection } = kept;
        self.observed_changes += 1;
        self.observed_chain.changed(&key);
        let in_force = older.clone().unwrap_or_else(|| observed.clone());
        let (mut entry, step) = self.take(&key, kind, document, in_force, None);
        entry.observed = observed;
        entry.rejection = rejection;
        if let Some(served) = &mut entry.served {
            served.older = older;
        }
        let mut change = step.change;
        if entry.rejection.is_some() {
            let (guard, guarded) = self.guard(&key, &entry, None, false);
            entry.guard = guard;
            change = change.or(guarded);
        }
        self.insert(key, entry, true);
        change
    }

    /// As if it had come from the store: another build may judge otherwise. When it began stays as it was.
    fn put_again(&mut self, key: Vec<u8>, kept: Kept, now: UnixSeconds) -> Option<Change> {
        let Kept { observed, older, rejection } = kept;
        let first = rejection.as_ref().map_or(now, |rejection| rejection.first_seen);
        let latest = (older.as_ref() != Some(&observed)).then_some(&observed);
        let mut change = None;
        for text in older.iter().chain(latest) {
            let step = self.put(key.clone(), text.expose().clone(), first);
            change = step.change.or(change);
        }
        if let (Some(entry), Some(before)) = (self.entries.get_mut(&key), rejection) {
            // What was refused is not known where the published snapshot has kept the older document alone.
            let pinned = older.as_ref() == Some(&observed) && entry.served.is_some();
            if let Some(rejection) = &mut entry.rejection {
                rejection.last_seen = before.last_seen;
                rejection.stale_since = rejection.stale_since.and(before.stale_since);
            } else if pinned {
                entry.rejection = Some(before);
                if let Some(served) = &mut entry.served {
                    served.older = older;
                }
                self.rejected.insert(key);
            }
        }
        change
    }
}

impl Entry {
    fn kept(&self) -> Kept {
        let older = self.served.as_ref().and_then(|served| served.older.clone());
        Kept { observed: self.observed.clone(), older, rejection: self.rejection.clone() }
    }
}
