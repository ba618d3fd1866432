//! The validated configuration in force, kept so that a worker that starts later is told all of it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use shared::id::Revision;
use shared::resource::Kind;
use shared::update::{self, Change};

/// Configuration on its way to workers: sealed memory that any number of them may read.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// In force once it is applied.
    pub revision: Revision,
    /// Whether it replaces everything.
    pub whole: bool,
    memory: Rc<OwnedFd>,
}

impl Delivery {
    /// The memory to hand over.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Every resource in force, at one revision.
#[derive(Debug, Default)]
pub struct Configuration {
    revision: Option<Revision>,
    resources: BTreeMap<(Kind, String), Change>,
    /// Made when a worker needs it, dropped at the next change.
    whole: Option<Delivery>,
}

impl Configuration {
    /// Takes in a change and returns what to send to workers that have the revision before. On an error it is taken in all
    /// the same, and the workers have to be sent the whole.
    pub fn apply(
        &mut self,
        revision: Revision,
        whole: bool,
        changes: Vec<Change>,
    ) -> io::Result<Delivery> {
        let memory = update::write(changes.len(), changes.iter());
        if whole {
            self.resources.clear();
        }
        for change in changes {
            match change {
                Change::Delete(kind, id) => {
                    self.resources.remove(&(kind, id));
                }
                Change::Put(resource) => {
                    let key = (resource.kind(), resource.id().to_owned());
                    self.resources.insert(key, Change::Put(resource));
                }
            }
        }
        self.revision = Some(revision);
        self.whole = None;
        Ok(Delivery { revision, whole, memory: Rc::new(memory?) })
    }

    /// All of it, for a worker that has nothing. `None` before the first load.
    pub fn whole(&mut self) -> io::Result<Option<Delivery>> {
        let Some(revision) = self.revision else { return Ok(None) };
        if self.whole.is_none() {
            let memory = update::write(self.resources.len(), self.resources.values())?;
            self.whole = Some(Delivery { revision, whole: true, memory: Rc::new(memory) });
        }
        Ok(self.whole.clone())
    }
}

#[cfg(test)]
mod tests {
    use shared::resource::{Model, ModelKind, Resource};
    use shared::update::Changes;

    use super::*;

    fn put(id: &str, name: &str) -> Change {
        Change::Put(Box::new(Resource::Model(Model {
            id: id.to_owned(),
            display_name: name.to_owned(),
            kind: ModelKind::Routing,
            timeout_ms: None,
            stream_timeout_ms: None,
            allowed_cidrs: Vec::new(),
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
        configuration.apply(Revision(5), true, vec![put("a", "one"), put("b", "two")]).unwrap();
        let delete = Change::Delete(Kind::Model, "a".to_owned());
        let delta = configuration.apply(Revision(6), false, vec![delete, put("b", "2")]).unwrap();
        assert_eq!((delta.whole, content(&delta).len()), (false, 2));
        let whole = configuration.whole().unwrap().unwrap();
        assert_eq!((whole.revision, whole.whole), (Revision(6), true));
        assert_eq!(content(&whole), [put("b", "2")]);
    }

    #[test]
    fn a_whole_update_leaves_nothing_of_the_one_before() {
        let mut configuration = Configuration::default();
        configuration.apply(Revision(5), true, vec![put("a", "one")]).unwrap();
        configuration.apply(Revision(9), true, vec![put("c", "three")]).unwrap();
        let whole = configuration.whole().unwrap().unwrap();
        assert_eq!(content(&whole), [put("c", "three")]);
    }
}
