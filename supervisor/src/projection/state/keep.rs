//! What outlives the process: taken back from the snapshot at the start, and kept in it from then on.

use shared::id::Revision;

use super::super::Update;
use super::super::last_good::UnixSeconds;
use super::State;
use crate::state::snapshot::file::Moment;
use crate::state::snapshot::restore::Restored;
use crate::state::snapshot::{Changed, Snapshot};

impl State {
    /// Takes back what the run before has kept; nothing may have been observed yet. The update is the whole set.
    pub fn restore(&mut self, restored: Restored, now: UnixSeconds) -> Update {
        let Moment { revision, observed_at, store } = restored.moment;
        let mut changes = Vec::with_capacity(restored.documents.len());
        for (key, record) in restored.documents {
            changes.extend(self.documents.take_back(key, record.kept, record.read, now));
        }
        self.store = store;
        self.kept = Some(restored.moment);
        self.observed = Some((revision, observed_at));
        self.handed_out = Some((revision, now));
        Update { revision: Revision(revision), whole: true, changes }
    }

    /// Hands what has changed to the snapshot, or everything if that is wanted.
    pub fn keep_in(&mut self, snapshot: Option<&Snapshot>) {
        let Some((snapshot, (revision, observed_at))) = snapshot.zip(self.observed) else {
            return drop(self.documents.changed());
        };
        let moment = Moment { revision, observed_at, store: self.store };
        let before = self.kept.replace(moment);
        if snapshot.wants_all() {
            let documents = self.documents.everything();
            return snapshot.keep_all(Changed { moment, documents });
        }
        let documents = self.documents.changed();
        let place = |moment: Moment| (moment.revision, moment.store);
        if !documents.is_empty() || before.map(place) != Some(place(moment)) {
            snapshot.keep(Changed { moment, documents });
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::update::Change;

    use super::super::{Entry, Event, Observed};
    use super::*;
    use crate::findings::Findings;
    use crate::state::seal::DataKey;
    use crate::state::snapshot::{Place, restore};

    const GOOD: &str =
        r#"{"display_name":"a","provider":"openai","model_name":"m","provider_key_id":"p"}"#;
    const BAD: &str = r#"{"display_name":5}"#;

    fn put(id: &str, text: &str) -> Event {
        Event::Put(format!("/e/models/{id}").into_bytes(), text.as_bytes().to_vec())
    }

    fn ids(update: &Update) -> Vec<&str> {
        fn id(change: &Change) -> &str {
            match change {
                Change::Put(resource) => resource.id(),
                Change::Delete(_, id) => id,
            }
        }
        update.changes.iter().map(id).collect()
    }

    /// Runs with `observed`, ends, and starts again as that build.
    fn restart(observed: Vec<Observed>, build: &str) -> (State, State, Update) {
        let folder = tempfile::tempdir().unwrap();
        let mtls = folder.path().join("mtls");
        std::fs::create_dir(&mtls).unwrap();
        let key = DataKey::generate().unwrap();
        let place = Place::new(&folder.path().join("cache"), &mtls, key, "e", "/e/");
        let snapshot = Snapshot::start(place.clone(), Findings::default()).unwrap();
        let mut before = State::new("/e/");
        // Until the snapshot has looked for what there was, it wants nothing.
        crate::cloud::decision_store::DecisionStore::load(&snapshot);
        for (now, observed) in observed.into_iter().enumerate() {
            before.observe(observed, 100 + now as i64);
            before.keep_in(Some(&snapshot));
        }
        snapshot.finish(std::time::Duration::from_secs(60));
        let build = if build.is_empty() { place.build.clone() } else { build.to_owned() };
        let restored = restore::open(&Place { build, ..place }, 0).restored.unwrap();
        let mut after = State::new("/e/");
        let update = after.restore(restored, 500);
        (before, after, update)
    }

    fn entries(documents: &[(&str, &str)]) -> Vec<Entry> {
        let entry = |(id, text): &(&str, &str)| Entry {
            key: format!("/e/models/{id}").into_bytes(),
            value: text.as_bytes().to_vec(),
            created: 0,
        };
        documents.iter().map(entry).collect()
    }

    fn steps() -> Vec<Observed> {
        let entries = entries(&[("a", GOOD), ("b", GOOD), ("n", "no JSON")]);
        vec![
            Observed::Loaded { revision: 5, entries },
            Observed::Changed { revision: 6, events: vec![put("a", BAD), put("c", GOOD)] },
            Observed::Changed { revision: 7, events: vec![Event::Delete(b"/e/models/b".to_vec())] },
        ]
    }

    #[test]
    fn a_restart_serves_and_says_the_same_also_of_what_is_stale_and_rejected() {
        for build in ["", "another"] {
            let (mut before, mut after, update) = restart(steps(), build);
            assert!(update.whole);
            assert_eq!((update.revision, ids(&update)), (Revision(7), vec!["a", "c"]));
            let (was, is) = (before.report(Revision(7), 600), after.report(Revision(7), 600));
            let (was, is) = (was.status, is.status);
            assert_eq!(is.rejected, was.rejected, "{build}");
            assert!(is.rejected[0].serving_stale_since.is_some());
            assert_eq!(is.source, was.source);
            assert!(is.source.connected == Some(false));
            let (was, is) = (was.applied.unwrap(), is.applied.unwrap());
            assert_eq!(is.applied_revision, 7);
            assert_eq!(
                (is.config_hash, is.resource_counts),
                (was.config_hash, was.resource_counts)
            );
        }
    }

    #[test]
    fn a_reload_after_a_restart_that_finds_the_same_swaps_nothing() {
        let (_, mut after, _) = restart(steps(), "");
        let entries = entries(&[("a", BAD), ("c", GOOD), ("n", "no JSON")]);
        assert!(after.observe(Observed::Loaded { revision: 7, entries }, 700).is_none());
        let update =
            after.observe(Observed::Changed { revision: 8, events: vec![put("d", GOOD)] }, 800);
        assert_eq!(ids(&update.unwrap()), ["d"]);
    }
}
