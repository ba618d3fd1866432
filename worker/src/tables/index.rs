//! Resources by what they claim, which another one may claim as well.

use std::borrow::Borrow;
use std::hash::Hash;
use std::rc::Rc;

use shared::resource::{ApiKey, Model};

use crate::Map;

/// A resource with an id.
pub(super) trait Row {
    fn id(&self) -> &str;
}

impl Row for Model {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for ApiKey {
    fn id(&self) -> &str {
        &self.id
    }
}

/// Finds a resource by something that should be its own, but need not be.
#[derive(Debug)]
pub(super) struct Index<K, T> {
    /// All that claim the key, by ascending id, never empty.
    rows: Map<K, Vec<Rc<T>>>,
}

impl<K, T> Default for Index<K, T> {
    fn default() -> Self {
        Self { rows: Map::default() }
    }
}

impl<K: Hash + Eq, T: Row> Index<K, T> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&Rc<T>>
    where
        K: Borrow<Q>,
    {
        self.rows.get(key)?.last()
    }

    pub(super) fn found(&self) -> impl Iterator<Item = &Rc<T>> {
        self.rows.values().filter_map(|rows| rows.last())
    }

    pub(super) fn insert(&mut self, key: K, row: Rc<T>) {
        let rows = self.rows.entry(key).or_insert_with(|| Vec::with_capacity(1));
        let place = rows.partition_point(|other| other.id() < row.id());
        rows.insert(place, row);
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, id: &str)
    where
        K: Borrow<Q>,
    {
        let Some(rows) = self.rows.get_mut(key) else { return };
        rows.retain(|row| row.id() != id);
        if rows.is_empty() {
            self.rows.remove(key);
        }
    }
}
