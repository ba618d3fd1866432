//! How many are in progress, over all workers; what a dead worker had in progress is given back.
//!
//! A place in the ledger is written before the gauge goes up, and cleared after it has gone down. A worker killed in between
//! leaves the gauge one too low for a moment, never too high for ever: gauges stop at zero.

use std::sync::atomic::Ordering::SeqCst;

use super::{CounterKey, Counters, GAUGES, GAUGES_AT, HELD_MAX, LANES, LEDGERS_AT, connections_of};

/// One of those in progress, until it is dropped.
#[derive(Debug)]
pub struct Held {
    counters: Counters,
    /// Of the gauge.
    place: usize,
    /// In the ledger, if there was room.
    line: Option<usize>,
}

/// There is no room for another gauge: the caller counts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Counters {
    /// One more is in progress, unless there are `limit` already: `Ok(None)`. Of all workers together never more than `limit`
    /// are.
    pub fn hold(&self, key: CounterKey, limit: u64) -> Result<Option<Held>, NoRoom> {
        let place = self.gauge_place(key).ok_or(NoRoom)?;
        let line = self.write_line(place);
        let held = Held { counters: *self, place, line };
        let more = |count: u64| (count < limit).then_some(count + 1);
        match self.word(place + 1).fetch_update(SeqCst, SeqCst, more) {
            Ok(_) => Ok(Some(held)),
            Err(_) => {
                held.clear_line();
                std::mem::forget(held);
                Ok(None)
            }
        }
    }

    /// How many are in progress.
    pub fn in_progress(&self, key: CounterKey) -> u64 {
        let place = self.known(GAUGES_AT, GAUGES, key);
        place.map_or(0, |place| self.word(place + 1).load(SeqCst))
    }

    /// Gives back what the worker of a lane had in progress when it died. Nobody may have the lane any more.
    pub fn abandon(&self, lane: usize) {
        if lane >= LANES {
            return;
        }
        if let Some(connections) = self.known_cell(connections_of(lane)) {
            connections.store(0, SeqCst);
        }
        for line in 0..HELD_MAX {
            let ledger = self.word(LEDGERS_AT + lane * HELD_MAX + line);
            if ledger.load(SeqCst) == 0 {
                continue;
            }
            // The line is a worker's word: a place that is none of a gauge is passed over.
            let place = usize::try_from(ledger.swap(0, SeqCst)).unwrap_or(0).saturating_sub(1);
            let is_gauge = (GAUGES_AT..GAUGES_AT + GAUGES * 2).contains(&place) && place % 2 == 0;
            if is_gauge {
                self.lower(place);
            }
        }
    }

    fn gauge_place(&self, key: CounterKey) -> Option<usize> {
        self.known(GAUGES_AT, GAUGES, key).or_else(|| self.find(GAUGES_AT, GAUGES, key)).or_else(
            || {
                // In place of one at zero. Whoever raises that one in this very moment lowers it again by its place.
                self.places(GAUGES_AT, GAUGES, key).find(|place| {
                    let slot = self.word(*place);
                    let owner = slot.load(SeqCst);
                    self.word(place + 1).load(SeqCst) == 0
                        && slot.compare_exchange(owner, key.0, SeqCst, SeqCst).is_ok()
                })
            },
        )
    }

    /// Writes the place into a free line of this worker's ledger.
    fn write_line(&self, place: usize) -> Option<usize> {
        // Only this worker writes here, on one thread; the first free line is near the number of those in progress.
        let start = LEDGERS_AT + self.lane * HELD_MAX;
        let free = (start..start + HELD_MAX).find(|line| self.word(*line).load(SeqCst) == 0)?;
        self.word(free).store(place as u64 + 1, SeqCst);
        Some(free)
    }

    fn lower(&self, place: usize) {
        let less = |count: u64| Some(count.saturating_sub(1));
        let _ = self.word(place + 1).fetch_update(SeqCst, SeqCst, less);
    }
}

impl Held {
    fn clear_line(&self) {
        if let Some(line) = self.line {
            self.counters.word(line).store(0, SeqCst);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counters.lower(self.place);
        self.clear_line();
    }
}
