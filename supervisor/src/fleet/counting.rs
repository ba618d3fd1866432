//! What all proxy workers of the node count together, and who of them has which lane.
//!
//! 1. A lane belongs to one process until that is gone; then what it had in progress is given back.
//! 2. The memory outlives every worker, and goes on with an upgrade in place. With a supervisor that was killed it ends: those
//!    of its workers that serve on count in it until they have left, their successors begin anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use shared::counters::{self, Counters, LANES};
use shared::id::WorkerId;

/// The supervisor's own lane, which no worker gets.
const OWN: usize = LANES - 1;

/// The counters of the node.
#[derive(Debug)]
pub struct NodeCounters {
    memory: File,
    counters: Counters,
    lanes: BTreeMap<usize, WorkerId>,
}

impl NodeCounters {
    /// Counters at zero.
    pub fn new() -> io::Result<Self> {
        Self::from_memory(counters::new_memory()?)
    }

    /// The counters of the image before.
    pub fn from_memory(memory: OwnedFd) -> io::Result<Self> {
        let memory = File::from(memory);
        let counters = Counters::open(&memory, OWN)?;
        Ok(Self { memory, counters, lanes: BTreeMap::new() })
    }

    /// The same, as we use them ourselves.
    pub fn own(&self) -> Counters {
        self.counters
    }

    /// The memory.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// A lane for a worker, and the memory; no lane if more workers live than there are lanes.
    pub fn hand_out(&mut self, worker: WorkerId) -> io::Result<(usize, OwnedFd)> {
        let memory = self.memory.try_clone()?;
        let free = (0..OWN).find(|lane| !self.lanes.contains_key(lane));
        let lane = free.ok_or_else(|| io::Error::other("too many proxy workers live"))?;
        self.lanes.insert(lane, worker);
        Ok((lane, memory.into()))
    }

    /// The worker has had this lane since before this image.
    pub fn knows(&mut self, worker: WorkerId, lane: usize) {
        self.lanes.insert(lane, worker);
    }

    /// The lane of a worker.
    pub fn lane_of(&self, worker: WorkerId) -> Option<usize> {
        self.lanes.iter().find(|(_, owner)| **owner == worker).map(|(lane, _)| *lane)
    }

    /// The process is gone: what it had in progress is given back, and its lane is free.
    pub fn gone(&mut self, worker: WorkerId) {
        if let Some(lane) = self.lane_of(worker) {
            self.counters.abandon(lane);
            self.lanes.remove(&lane);
        }
    }

    /// Gives back what workers had in progress that ended between two images.
    pub fn abandon_unknown(&self) {
        let unknown = (0..OWN).filter(|lane| !self.lanes.contains_key(lane));
        unknown.for_each(|lane| self.counters.abandon(lane));
    }
}

#[cfg(test)]
mod tests {
    use shared::counters::CounterKey;

    use super::*;

    fn worker(memory: OwnedFd, lane: usize) -> Counters {
        Counters::open(&File::from(memory), lane).unwrap()
    }

    fn hold(counters: Counters) {
        std::mem::forget(counters.hold(CounterKey::of(&["a"]), 99).unwrap().unwrap());
    }

    fn in_progress(node: &NodeCounters) -> u64 {
        node.own().in_progress(CounterKey::of(&["a"]))
    }

    #[test]
    fn what_a_worker_had_in_progress_comes_back_when_it_is_gone_and_its_lane_is_free_again() {
        let mut node = NodeCounters::new().unwrap();
        let (first, memory) = node.hand_out(WorkerId(1)).unwrap();
        hold(worker(memory, first));
        let (second, memory) = node.hand_out(WorkerId(2)).unwrap();
        hold(worker(memory, second));
        assert_eq!((node.lane_of(WorkerId(1)), in_progress(&node)), (Some(first), 2));
        node.gone(WorkerId(1));
        assert_eq!((node.lane_of(WorkerId(1)), in_progress(&node)), (None, 1));
        assert_eq!(node.hand_out(WorkerId(3)).unwrap().0, first);
        node.gone(WorkerId(9));
        assert_eq!(in_progress(&node), 1);
    }

    #[test]
    fn the_next_image_goes_on_with_the_counts_and_gives_back_those_of_whom_it_does_not_know() {
        let mut before = NodeCounters::new().unwrap();
        for id in [WorkerId(1), WorkerId(2)] {
            let (lane, memory) = before.hand_out(id).unwrap();
            hold(worker(memory, lane));
        }
        let memory = before.memory().try_clone_to_owned().unwrap();
        let mut next = NodeCounters::from_memory(memory).unwrap();
        next.knows(WorkerId(2), before.lane_of(WorkerId(2)).unwrap());
        assert_eq!(in_progress(&next), 2);
        next.abandon_unknown();
        assert_eq!(in_progress(&next), 1);
    }

    #[test]
    fn there_are_as_many_lanes_as_the_memory_has_without_our_own() {
        let mut node = NodeCounters::new().unwrap();
        let all = (0..300).filter(|id| node.hand_out(WorkerId(*id)).is_ok()).count();
        assert_eq!(all, OWN);
    }
}
