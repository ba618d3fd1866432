//! What was, for metrics: hashes that were applied before, and when the source was last there.

use std::collections::VecDeque;

use super::{Observed, UnixSeconds};
use crate::projection::report::{Applied, Gauges};

/// Former hashes that are told: each is a series of its own.
const FORMER_MAX: usize = 4;

/// What was.
#[derive(Default)]
pub struct History {
    former: VecDeque<String>,
    contact: Option<UnixSeconds>,
}

impl History {
    /// Something was seen of the source, which was connected before or was not.
    pub fn contact(&mut self, observed: &Observed, was_connected: bool, now: UnixSeconds) {
        if was_connected || !matches!(observed, Observed::Lost { .. }) {
            self.contact = Some(now);
        }
    }

    /// What is applied takes the place of what was.
    pub fn applied(&mut self, before: Option<&Applied>, now: &Applied) {
        let Some(before) = before.filter(|it| it.config_hash != now.config_hash) else { return };
        self.former.retain(|hash| *hash != now.config_hash && *hash != before.config_hash);
        if self.former.len() >= FORMER_MAX {
            self.former.pop_front();
        }
        self.former.push_back(before.config_hash.clone());
    }

    /// Enters it among the metrics.
    pub fn tell(&self, gauges: &mut Gauges, is_connected: bool, now: UnixSeconds) {
        gauges.former_hashes = self.former.iter().cloned().collect();
        // The connection is asked for signs of life, so that it is there while it counts as such.
        gauges.last_contact = if is_connected { Some(now) } else { self.contact };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn applied(hash: &str) -> Applied {
        Applied {
            applied_revision: 1,
            config_hash: hash.to_owned(),
            apply_seq: 1,
            applied_at: String::new(),
            resource_counts: BTreeMap::new(),
        }
    }

    #[test]
    fn the_latest_former_hashes_are_told_and_never_the_current_one() {
        let mut history = History::default();
        let hashes = ["a", "b", "c", "a", "d", "e", "f"].map(applied);
        history.applied(None, &hashes[0]);
        for pair in hashes.windows(2) {
            history.applied(Some(&pair[0]), &pair[1]);
        }
        history.applied(Some(&hashes[6]), &hashes[6]);
        let mut gauges = Gauges::default();
        history.tell(&mut gauges, false, 9);
        assert_eq!(gauges.former_hashes, ["c", "a", "d", "e"]);
        assert_eq!(gauges.last_contact, None);
    }

    #[test]
    fn a_lost_connection_was_there_until_it_was_lost() {
        let mut history = History::default();
        let lost = || Observed::Lost { error: String::new() };
        let told = |history: &History, is_connected| {
            let mut gauges = Gauges::default();
            history.tell(&mut gauges, is_connected, 9);
            gauges.last_contact
        };
        history.contact(&lost(), false, 1);
        assert_eq!(told(&history, false), None);
        history.contact(&Observed::Connected, false, 2);
        assert_eq!(told(&history, true), Some(9));
        history.contact(&lost(), true, 3);
        history.contact(&lost(), false, 4);
        assert_eq!(told(&history, false), Some(3));
    }
}
