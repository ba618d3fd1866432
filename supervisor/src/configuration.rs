//! The validated configuration in force, kept so that a worker that starts later is told all of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::sys::stat::fstat;
use shared::id::Revision;
use shared::resource::{Exporter, Kind, Resource, WebUrl};
use shared::update::{self, Change};

/// A resource, by kind and id.
pub type Key = (Kind, String);

/// The resource that a change is about.
pub fn key_of(change: &Change) -> Key {
    match change {
        Change::Put(resource) => (resource.kind(), resource.id().to_owned()),
        Change::Delete(kind, id) => (*kind, id.clone()),
    }
}

/// Configuration on its way to workers: sealed memory that any number of them may read.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// In force once it is applied.
    pub revision: Revision,
    /// Whether it replaces everything.
    pub whole: bool,
    /// How much it is.
    pub bytes: u64,
    memory: Rc<OwnedFd>,
}

impl Delivery {
    /// Changes that lead to `revision`. `count` is how many there are.
    pub fn new<'a>(
        revision: Revision,
        whole: bool,
        count: usize,
        changes: impl Iterator<Item = &'a Change>,
    ) -> io::Result<Self> {
        let changes: Vec<_> = changes.map(for_proxies).collect();
        let memory = update::write(count, changes.iter().map(|change| &**change))?;
        let bytes = u64::try_from(fstat(&memory)?.st_size).unwrap_or_default();
        Ok(Self { revision, whole, bytes, memory: Rc::new(memory) })
    }

    /// The memory to hand over.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// A change as proxy workers are told of it: without what only the export role sends.
fn for_proxies(change: &Change) -> Cow<'_, Change> {
    let Change::Put(resource) = change else { return Cow::Borrowed(change) };
    match &**resource {
        Resource::Exporter(exporter) => {
            // A query may hold a key.
            let endpoint = WebUrl { target: "/".to_owned(), ..exporter.endpoint.clone() };
            let exporter = Exporter { headers: Vec::new(), endpoint, ..exporter.clone() };
            Cow::Owned(Change::Put(Box::new(Resource::Exporter(exporter))))
        }
        _ => Cow::Borrowed(change),
    }
}

/// Every resource in force, at one revision.
#[derive(Debug, Default)]
pub struct Configuration {
    revision: Option<Revision>,
    resources: BTreeMap<Key, Change>,
    /// Made when a worker needs it, dropped at the next change.
    whole: Option<Delivery>,
}

impl Configuration {
    /// Takes in changes, on top of what there is or (`whole`) in place of it. Returns what undoes them, one change for each
    /// resource; nothing for a whole.
    pub fn apply(
        &mut self,
        revision: Revision,
        whole: bool,
        changes: Vec<Change>,
    ) -> BTreeMap<Key, Change> {
        if whole {
            self.resources.clear();
        }
        let mut inverse = BTreeMap::new();
        for change in changes {
            let key = key_of(&change);
            let former = match change {
                Change::Delete(..) => self.resources.remove(&key),
                put => self.resources.insert(key.clone(), put),
            };
            if !whole {
                let undo = former.unwrap_or_else(|| Change::Delete(key.0, key.1.clone()));
                inverse.entry(key).or_insert(undo);
            }
        }
        self.revision = Some(revision);
        self.whole = None;
        inverse
    }

    /// The revision in force; `None` before the first load.
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// What would undo changes of these resources: what they are now.
    pub fn present(&self, keys: impl Iterator<Item = Key>) -> Vec<Change> {
        let now = |key: Key| match self.resources.get(&key) {
            Some(put) => put.clone(),
            None => Change::Delete(key.0, key.1),
        };
        keys.map(now).collect()
    }

    /// All of it, for a worker that has nothing. `None` before the first load.
    pub fn whole(&mut self) -> io::Result<Option<Delivery>> {
        let Some(revision) = self.revision else { return Ok(None) };
        if self.whole.is_none() {
            let resources = self.resources.values();
            self.whole = Some(Delivery::new(revision, true, self.resources.len(), resources)?);
        }
        Ok(self.whole.clone())
    }
}

#[cfg(test)]
mod tests {
    use shared::resource::Model;
    use shared::update::Changes;

    use super::*;

    fn put(id: &str, name: &str) -> Change {
        Change::Put(Box::new(Resource::Model(Model {
            id: id.to_owned(),
            display_name: name.to_owned(),
            ..Model::default()
        })))
    }

    fn content(delivery: &Delivery) -> Vec<Change> {
        let memory = delivery.memory().try_clone_to_owned().unwrap();
        Changes::read(memory).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_late_worker_is_told_the_sum_of_all_changes() {
        let mut configuration = Configuration::default();
        assert!(configuration.whole().unwrap().is_none());
        configuration.apply(Revision(5), true, vec![put("a", "one"), put("b", "two")]);
        let delete = Change::Delete(Kind::Model, "a".to_owned());
        configuration.apply(Revision(6), false, vec![delete, put("b", "2")]);
        let whole = configuration.whole().unwrap().unwrap();
        assert_eq!((whole.revision, whole.whole), (Revision(6), true));
        assert_eq!(content(&whole), [put("b", "2")]);
        assert!(whole.bytes > 0);
    }

    #[test]
    fn the_secrets_of_an_exporter_reach_no_proxy_worker_and_are_kept_here() {
        let exporter = |url: &str, headers| {
            Change::Put(Box::new(Resource::Exporter(Exporter {
                id: "o".to_owned(),
                name: "otel".to_owned(),
                endpoint: url.parse().unwrap(),
                headers,
                sample_rate: 1.0,
            })))
        };
        let headers = vec![("x-key".to_owned(), "secret".to_owned().into())];
        let full = exporter("https://otel.example/v1/traces?key=secret", headers);
        let mut configuration = Configuration::default();
        configuration.apply(Revision(5), true, vec![full.clone()]);
        let whole = configuration.whole().unwrap().unwrap();
        assert_eq!(content(&whole), [exporter("https://otel.example/", Vec::new())]);
        assert_eq!(configuration.present([key_of(&full)].into_iter()), [full]);
    }

    #[test]
    fn a_whole_update_leaves_nothing_of_the_one_before() {
        let mut configuration = Configuration::default();
        configuration.apply(Revision(5), true, vec![put("a", "one")]);
        assert!(configuration.apply(Revision(9), true, vec![put("c", "three")]).is_empty());
        let whole = configuration.whole().unwrap().unwrap();
        assert_eq!(content(&whole), [put("c", "three")]);
    }

    #[test]
    fn the_inverse_of_changes_leads_back_however_often_they_touch_a_resource() {
        let mut configuration = Configuration::default();
        configuration.apply(Revision(5), true, vec![put("a", "one"), put("b", "two")]);
        let before = content(&configuration.whole().unwrap().unwrap());
        let delete = |id: &str| Change::Delete(Kind::Model, id.to_owned());
        let changes = vec![put("a", "2"), delete("b"), put("a", "3"), put("c", "new"), delete("a")];
        let inverse = configuration.apply(Revision(6), false, changes);
        assert_eq!(inverse.len(), 3);
        configuration.apply(Revision(5), false, inverse.into_values().collect());
        assert_eq!(content(&configuration.whole().unwrap().unwrap()), before);
    }
}
