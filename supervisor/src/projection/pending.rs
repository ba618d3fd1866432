//! Updates on their way to the supervisor: a lone one goes at once, those of a burst go together. Pure: time is passed in.
//!
//! What one transaction wrote is in one update, so updates may be joined but never split. Whoever reads the store stops
//! while there is no room.

use std::time::{Duration, Instant};

use super::Update;

/// Shortest time between two updates: a burst of thousands of revisions is no burst to the workers.
const SPACING: Duration = Duration::from_millis(5);
/// With so many changes waiting, the store is read no further.
const CHANGES_MAX: usize = 4096;

/// What the supervisor has not been told yet.
#[derive(Debug, Default)]
pub struct Pending {
    update: Option<Update>,
    sent: Option<Instant>,
}

impl Pending {
    /// Adds what has happened since.
    pub fn add(&mut self, update: Update) {
        match &mut self.update {
            Some(waiting) if !update.whole => {
                waiting.revision = update.revision;
                waiting.changes.extend(update.changes);
            }
            // What replaces everything replaces what waits, too.
            waiting => *waiting = Some(update),
        }
    }

    /// Whether more may be added.
    pub fn has_room(&self) -> bool {
        self.update.as_ref().is_none_or(|update| update.changes.len() < CHANGES_MAX)
    }

    /// When the supervisor may be told; `None` if there is nothing to tell.
    pub fn due_at(&self, now: Instant) -> Option<Instant> {
        self.update.as_ref()?;
        Some(self.sent.map_or(now, |sent| sent + SPACING))
    }

    /// What to tell it now.
    pub fn take(&mut self, now: Instant) -> Option<Update> {
        self.sent = Some(now);
        self.update.take()
    }
}

#[cfg(test)]
mod tests {
    use shared::id::Revision;
    use shared::resource::Kind;
    use shared::update::Change;

    use super::*;

    fn update(revision: i64, whole: bool, changes: usize) -> Update {
        let changes = (0..changes).map(|n| Change::Delete(Kind::Model, n.to_string())).collect();
        Update { revision: Revision(revision), whole, changes }
    }

    #[test]
    fn a_lone_update_goes_at_once_and_the_next_ones_together() {
        let (start, mut pending) = (Instant::now(), Pending::default());
        assert_eq!(pending.due_at(start), None);
        pending.add(update(1, true, 2));
        assert_eq!(pending.due_at(start), Some(start));
        assert!(pending.take(start).unwrap().whole);
        pending.add(update(2, false, 1));
        pending.add(update(3, false, 2));
        assert_eq!(pending.due_at(start), Some(start + SPACING));
        let joined = pending.take(start + SPACING).unwrap();
        assert_eq!((joined.revision, joined.whole, joined.changes.len()), (Revision(3), false, 3));
        assert_eq!(pending.due_at(start), None);
    }

    #[test]
    fn what_waits_keeps_that_it_replaces_everything_and_has_a_bound() {
        let mut pending = Pending::default();
        pending.add(update(1, true, 1));
        pending.add(update(2, false, 1));
        assert!(pending.has_room());
        pending.add(update(3, false, CHANGES_MAX));
        assert!(!pending.has_room());
        let joined = pending.take(Instant::now()).unwrap();
        assert!(joined.whole && joined.revision == Revision(3));
        assert!(pending.has_room());
    }
}
