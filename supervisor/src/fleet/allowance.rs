//! How much a worker may say: more than any honest one has to, and too little to keep the supervisor busy. Pure.

use std::time::Instant;

use shared::message::ToSupervisor;

/// Said at once at most: every caller key of a large configuration, twice.
const ITEMS_MAX: f64 = 200_000.0;
/// Gained per second.
const ITEMS_PER_SECOND: f64 = 20_000.0;

/// What one worker may still say.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    left: f64,
    counted: Instant,
}

impl Allowance {
    /// That of a worker which has said nothing.
    pub fn new(now: Instant) -> Self {
        Self { left: ITEMS_MAX, counted: now }
    }

    /// Whether this may be said still. Its size counts, as far as the sender decides it.
    pub fn take(&mut self, message: &ToSupervisor, now: Instant) -> bool {
        let items = match message {
            ToSupervisor::KeysInUse(keys) => keys.len().max(1),
            ToSupervisor::ExporterHealth(health) => health.len().max(1),
            ToSupervisor::Series(series) => series.labels.len().max(1),
            _ => 1,
        };
        let gained = now.saturating_duration_since(self.counted).as_secs_f64() * ITEMS_PER_SECOND;
        self.left = (self.left + gained).min(ITEMS_MAX) - items as f64;
        self.counted = now;
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_ends_and_a_steady_stream_does_not() {
        let start = Instant::now();
        let pong = ToSupervisor::Pong(1, 0);
        let mut flooding = Allowance::new(start);
        let said = (0..).take_while(|_| flooding.take(&pong, start)).count();
        assert_eq!(said as f64, ITEMS_MAX);
        let mut steady = Allowance::new(start);
        let mut now = start;
        for _ in 0..1_000_000 {
            now += Duration::from_micros(100);
            assert!(steady.take(&pong, now));
        }
    }

    #[test]
    fn a_message_counts_for_what_it_holds() {
        let now = Instant::now();
        let keys = ToSupervisor::KeysInUse(vec![("key".to_owned(), 1); 1000]);
        let mut allowance = Allowance::new(now);
        assert_eq!((0..).take_while(|_| allowance.take(&keys, now)).count(), 200);
    }
}
