//! Documents that are newer than this build and guard traffic: they are not taken, and what they would guard is guarded.

use std::collections::BTreeMap;

use shared::resource::Resource;
use shared::update::Change;

use super::{
    DocumentKind, Entry, LastGood, Refusal, RefusalKind, Step, Text, UnixSeconds, document, key,
    refuse,
};

impl LastGood {
    /// Documents in force that guard traffic and cannot be enforced, taken or not, by kind; kinds without any may be there with 0.
    pub fn guards(&self) -> &BTreeMap<&'static str, u64> {
        &self.guards
    }

    /// `observed` is not taken.
    pub(super) fn reject(
        &mut self,
        key: &[u8],
        refusal: Refusal,
        observed: Text,
        before: Option<Entry>,
        now: UnixSeconds,
    ) -> (Entry, Step) {
        let was = before.as_ref().and_then(|before| before.guard);
        let is_same = before.as_ref().is_some_and(|before| before.observed == observed);
        let (mut entry, mut step) = refuse(refusal, observed, before, now);
        (entry.guard, step.change) = self.guard(key, &entry, was, is_same);
        (entry, step)
    }

    /// What follows for workers from a document that was not taken. `was`: the one before it, the same one if `is_same`,
    /// guarded although it was not taken.
    pub(super) fn guard(
        &mut self,
        key: &[u8],
        entry: &Entry,
        was: Option<DocumentKind>,
        is_same: bool,
    ) -> (Option<DocumentKind>, Option<Change>) {
        let rejection = entry.rejection.as_ref().map(|rejection| rejection.refusal.kind);
        if was.is_some() && rejection == Some(RefusalKind::NonJson) {
            // It says nothing, also not that there is nothing to guard any more.
            return (was, None);
        }
        was.into_iter().for_each(|kind| self.uncount_guard(kind));
        let in_force = entry.served.as_ref().is_some_and(|served| served.in_force);
        let guard = if in_force { None } else { self.newer(key, &entry.observed) };
        match guard {
            Some((kind, resource)) => {
                *self.guards.entry(kind.name).or_default() += 1;
                let is_told = is_same && was.is_some();
                (Some(kind), (!is_told).then(|| Change::Put(Box::new(resource))))
            }
            None => (None, was.and_then(|kind| self.deleted(key, kind))),
        }
    }

    fn newer(&self, key: &[u8], text: &Text) -> Option<(DocumentKind, Resource)> {
        let (kind, id) = key::parse(&self.prefix, key).ok()?;
        let value = serde_json::from_slice(text.expose()).ok()?;
        Some((kind, document::guard(kind, id, &value)?))
    }

    pub(super) fn uncount_guard(&mut self, kind: DocumentKind) {
        if let Some(count) = self.guards.get_mut(kind.name) {
            *count = count.saturating_sub(1);
        }
    }
}
