//! Changes that are in force and may still turn out to be deadly, with what undoes them. Pure.
//!
//! Where several could be the deadly one, the newest is it; should workers go on to die, the two before it are, then the
//! four before those: what is deadly is found soon, and what served before it stays.
//!
//! Bounded: beyond [`CHANGES_MAX`] undone resources the oldest change counts as good before its time, and a change that is
//! larger by itself is not kept at all.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use shared::id::Revision;
use shared::update::Change;

use super::trial::DEATHS_MAX;
use crate::configuration::Key;
use crate::fleet::Death;

/// A change that nobody has died of for so long is good. A first death begins the time anew, once.
pub const PROBATION: Duration = Duration::from_secs(30);
/// Resources whose former values are kept, over all changes.
const CHANGES_MAX: usize = 16 * 1024;

/// A change in force.
#[derive(Debug)]
pub struct Entry {
    /// The revision that it led to.
    pub revision: Revision,
    /// The revision before.
    pub before: Revision,
    /// What leads back, by resource.
    pub inverse: BTreeMap<Key, Change>,
    /// Counts changes.
    number: u64,
    until: Instant,
    deaths: u32,
}

/// Changes that are not known to be good yet, the oldest first.
#[derive(Debug, Default)]
pub struct Probation {
    entries: VecDeque<Entry>,
    /// When workers last died of what no change can have done: the latest two times.
    untied: [Option<Instant>; 2],
    /// When changes were last condemned, and how many.
    condemned: Option<(Instant, usize)>,
    /// Changes so far.
    number: u64,
}

impl Probation {
    /// A change has come into force.
    pub fn begin(
        &mut self,
        (before, revision): (Revision, Revision),
        inverse: BTreeMap<Key, Change>,
        now: Instant,
    ) {
        self.expire(now);
        if inverse.is_empty() || inverse.len() > CHANGES_MAX {
            return;
        }
        self.number += 1;
        self.entries.push_back(Entry {
            revision,
            before,
            inverse,
            number: self.number,
            until: now + PROBATION,
            deaths: 0,
        });
        while self.entries.iter().map(|entry| entry.inverse.len()).sum::<usize>() > CHANGES_MAX {
            self.entries.pop_front();
        }
    }

    /// A worker has ended. Returns the changes that are to be undone, the oldest first, of those that were in force when it
    /// and one before it died.
    pub fn died(&mut self, death: Death, now: Instant) -> Vec<Entry> {
        self.expire(now);
        if !matches!(death, Death::Crashed | Death::Hung | Death::Refused) {
            return Vec::new();
        }
        // They died as often before the change came.
        let is_recent = |at: &Option<Instant>| {
            at.is_some_and(|at| now.saturating_duration_since(at) < PROBATION)
        };
        if self.entries.is_empty() || self.untied.iter().all(is_recent) {
            self.untied = [self.untied[1], Some(now)];
            return Vec::new();
        }
        for entry in &mut self.entries {
            entry.deaths += 1;
            if entry.deaths == 1 {
                entry.until = now + PROBATION;
            }
        }
        // In order: whoever came later has seen no more deaths.
        let suspects = self.entries.iter().take_while(|entry| entry.deaths >= DEATHS_MAX).count();
        if suspects == 0 {
            return Vec::new();
        }
        let recent = self
            .condemned
            .filter(|(at, _)| now.saturating_duration_since(*at) < PROBATION)
            .map_or(1, |(_, before)| before.saturating_mul(2));
        let many = recent.min(suspects);
        self.condemned = Some((now, recent));
        let condemned = self.entries.drain(suspects - many..suspects).collect();
        // What was there at these deaths has another explanation by now.
        self.entries.iter_mut().take(suspects - many).for_each(|entry| entry.deaths = 0);
        condemned
    }

    /// What leads back from `condemned`, which are no longer on probation, given that later changes stay. Where one of those
    /// has changed a resource again, that stays, and would itself lead back to the time before `condemned`.
    pub fn inverse(&mut self, condemned: Vec<Entry>) -> BTreeMap<Key, Change> {
        let mut back = BTreeMap::new();
        let newest = condemned.last().map(|entry| entry.number);
        // The newest first, so that the oldest value is the one that remains.
        for entry in condemned.into_iter().rev() {
            back.extend(entry.inverse);
        }
        let Some(newest) = newest else { return back };
        for entry in self.entries.iter_mut().filter(|entry| entry.number > newest) {
            for (key, undo) in &mut entry.inverse {
                if let Some(older) = back.remove(key) {
                    *undo = older;
                }
            }
        }
        back
    }

    fn expire(&mut self, now: Instant) {
        self.entries.retain(|entry| now < entry.until);
    }
}
