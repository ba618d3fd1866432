//! How long to wait after a failure: exponential with full jitter, so that a thousand gateways do not come back at once.

use std::time::Duration;

/// Shortest upper bound of a pause.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts failures in a row. Pure: chance is passed in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure and says how long to wait: between a tenth of the bound and all of it, the bound doubling from
    /// 1 s to 60 s. `chance` is between 0 and 1.
    pub fn failed(&mut self, chance: f64) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(chance.clamp(0.1, 1.0))
    }

    /// Notes a success: the next failure starts over.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// A random number between 0 and 1; 1 where the system gives none, which only makes a pause longer.
pub fn chance() -> f64 {
    getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_start_over_after_success() {
        let mut backoff = Backoff::default();
        let bounds: Vec<_> = (0..8).map(|_| backoff.failed(1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.succeeded();
        assert_eq!(backoff.failed(1.0), FIRST);
    }

    #[test]
    fn chance_spreads_a_pause_and_never_makes_it_zero() {
        assert_eq!(Backoff::default().failed(0.5), Duration::from_millis(500));
        assert_eq!(Backoff::default().failed(0.0), Duration::from_millis(100));
        assert!((0.0..=1.0).contains(&chance()));
    }
}
