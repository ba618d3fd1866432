//! What goes out of the spool: leases of events, what becomes of them, and how the spool stands.

use std::time::{Instant, SystemTime};

use tracing::error;

use super::{IDLE, Keeper, OnItsWay};
use crate::findings::Topic;
use crate::projection::report::rfc3339;
use crate::spool::block::Block;
use crate::spool::dead_letters::DeadLetter;
use crate::spool::disk::{Disk, unix};
use crate::spool::store::End;
use crate::spool::{Leased, Settled};

/// How the finding begins that dead letters cannot be written.
const NO_DEAD_LETTERS: &str = "dead letters cannot be written";
/// Deliveries that wait for their dead letters to be written. Beyond, nothing is sent.
const UNSETTLED_MAX: usize = 64;

impl Keeper {
    pub(super) fn lease(&mut self, end: End, events_max: usize) -> Leased {
        if self.unsettled.len() >= UNSETTLED_MAX {
            return Leased::default();
        }
        if self.has_all_in_memory() {
            let blocks = self.recent.take(end, events_max);
            return self.lend(blocks);
        }
        let Some(disk) = &mut self.disk else { return Leased::default() };
        let (leased, staged) = (&self.leased, &self.staged);
        let skip = |number: u64| {
            leased.contains_key(&number)
                || staged.removed.contains(&number)
                || staged.damaged.contains(&number)
        };
        let mut found = disk.blocks(end, events_max, skip);
        if found.blocks.is_empty() && !disk.is_open() {
            // The disk is away: what waits in memory is sent from there.
            let free = staged.sendable().find(|(number, _)| !leased.contains_key(*number));
            found.blocks.extend(free.map(|(number, block)| (*number, block.clone())));
        }
        for (number, error) in found.damaged {
            error!(
                block = number,
                error,
                "usage events in the spool cannot be opened; they are set aside in its table `damaged`"
            );
            self.findings.found(
                Topic::Spool,
                format!("a block of usage events in {} cannot be opened: {error}; it is set aside in the table `damaged` of the spool", disk.state().display()),
            );
            self.staged.damaged.insert(number);
            self.recent.remove(number);
            self.staged_since.get_or_insert_with(Instant::now);
        }
        self.lend(found.blocks)
    }

    fn lend(&mut self, blocks: Vec<(u64, Block)>) -> Leased {
        let mut leased = Leased::default();
        for (number, block) in blocks {
            self.recent.remove(number);
            let (events, begins) = (block.events.into(), block.begins());
            self.leased.insert(number, OnItsWay { events, begins });
            leased.blocks.push(number);
            leased.contents.push(block);
        }
        leased
    }

    /// Events on disk that nobody is sending.
    fn free(&self) -> u64 {
        let leased = self.leased.values().map(|block| block.events).sum();
        self.counts.events.saturating_sub(self.going).saturating_sub(leased)
    }

    /// Whether every block on disk that nobody is sending is in memory too. Each one that is in memory is such a block.
    fn has_all_in_memory(&self) -> bool {
        let is_open = self.disk.as_ref().is_some_and(Disk::is_open);
        is_open && self.recent.events() > 0 && self.recent.events() == self.free()
    }

    pub(super) fn settle(&mut self, settled: Settled) {
        if !self.write_dead(&settled.dead) {
            // Not sent again meanwhile: the Cloud has all but the dead of them.
            self.unsettled.push(settled);
            return;
        }
        for number in settled.blocks {
            let events = self.leased.remove(&number).map_or(0, |block| block.events);
            if self.staged.remove(number).is_none() {
                self.going += events;
            }
            // One that was sent from memory may be on disk all the same, by a commit that seemed to have failed.
            self.staged.removed.insert(number);
            self.oldest = self.oldest.filter(|(oldest, _)| *oldest != number);
        }
        for (key, nano_usd) in &settled.spent {
            self.staged.spend(key, -i128::from(*nano_usd));
        }
        self.touch();
    }

    /// Tries again to write dead letters, once in a while and at the end.
    pub(super) fn settle_again(&mut self, now: Instant, is_end: bool) {
        if self.unsettled.is_empty() || !is_end && now < self.settled_at + IDLE {
            return;
        }
        self.settled_at = now;
        // One tells whether the rest is worth trying.
        while let Some(settled) = self.unsettled.pop() {
            let before = self.unsettled.len();
            self.settle(settled);
            if self.unsettled.len() > before {
                return;
            }
        }
        let is_ours = |text: &str| text.starts_with(NO_DEAD_LETTERS);
        let list = self.findings.list();
        if list.iter().any(|(topic, it)| *topic == Topic::Spool && is_ours(&it.text)) {
            self.findings.settled(Topic::Spool);
        }
    }

    /// Writes dead letters. False if they cannot be.
    fn write_dead(&mut self, dead: &[DeadLetter]) -> bool {
        let (false, Some(file)) = (dead.is_empty(), &self.dead_letters) else { return true };
        let at = rfc3339(i64::try_from(unix(SystemTime::now())).unwrap_or(i64::MAX));
        let path = file.path().display();
        if let Err(error) = file.write(dead, &at) {
            self.findings.found(
                Topic::Spool,
                format!("{NO_DEAD_LETTERS} to {path}: {error}; the events stay in the spool: make room on the disk"),
            );
            return false;
        }
        self.facts.dead_letters += dead.len() as u64;
        let count = self.facts.dead_letters;
        let reason = dead.first().map_or("", |letter| letter.reason.as_str());
        self.findings.found(
            Topic::Usage,
            format!("the Cloud will not accept {count} usage events since the start, they are in {path}: {reason}"),
        );
        true
    }

    /// Tells how the spool stands.
    pub(super) fn tell(&mut self) {
        self.facts.known = true;
        let there = self.counts.events.saturating_sub(self.going);
        self.facts.waiting = there.saturating_add(self.staged.events());
        // What is only in memory is sent from there if the disk is away, else after the commit.
        let is_away = self.disk.as_ref().is_some_and(|disk| !disk.is_open());
        let in_memory = || self.staged.sendable().map(|(_, block)| u64::from(block.events)).sum();
        let leased: u64 = self.leased.values().map(|block| block.events).sum();
        self.facts.free = if is_away { in_memory() } else { there }.saturating_sub(leased);
        self.facts.folded = self.counts.folded.saturating_add(self.staged.folded());
        self.facts.unwritten = self.staged.events().saturating_add(self.staged.folded());
        self.facts.bytes = self.counts.bytes.saturating_add(self.staged.bytes());
        self.facts.live_rings = self.rings.live();
        self.facts.oldest = self.oldest();
        self.told.send_if_modified(|told| {
            let changed = *told != self.facts;
            if changed {
                told.clone_from(&self.facts);
            }
            changed
        });
    }

    /// When the oldest event occurred: looked up again only when the oldest block is another.
    fn oldest(&mut self) -> Option<SystemTime> {
        if self.facts.waiting == 0 {
            self.oldest = None;
            return None;
        }
        let known = self.oldest.filter(|(number, _)| !self.staged.removed.contains(number));
        if let Some((_, at)) = known {
            return at;
        }
        let (number, at) = if self.recent.events() == self.free() {
            let on_their_way = self.leased.iter().map(|(number, block)| (*number, block.begins));
            let recent = self.recent.oldest().map(|(number, block)| (number, block.begins()));
            on_their_way.chain(recent).min_by_key(|(number, _)| *number)?
        } else {
            let removed = &self.staged.removed;
            let disk = self.disk.as_mut()?;
            let found = disk.blocks(End::Oldest, 1, |number| removed.contains(&number));
            let (number, block) = found.blocks.into_iter().next()?;
            (number, block.begins())
        };
        self.oldest = Some((number, at));
        at
    }
}
