//! When a worker that ended is started again: at once the first time, later and later while it keeps dying. Pure.

use std::time::{Duration, Instant};

/// Delay after the second death in a row; doubled after each further one.
const DELAY_FIRST: Duration = Duration::from_millis(100);
/// No delay is longer.
pub const DELAY_MAX: Duration = Duration::from_secs(30);
/// No delay is longer where no other worker of the role serves, or where it was not the worker's fault: whoever waits in the
/// listener's queue waits for this one.
pub const DELAY_MAX_ALONE: Duration = Duration::from_secs(1);
/// A worker that has lived so long is well: the count starts again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// How often in a row the worker of one slot has died.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restart {
    deaths_in_a_row: u32,
}

impl Restart {
    /// The worker started at `started` ended now; returns when to start the next one. `chance` in 0..1 spreads the delay
    /// over its upper half, so that several workers that die together do not start together; it is no longer than `limit`.
    pub fn ended(
        &mut self,
        started: Instant,
        now: Instant,
        chance: f64,
        limit: Duration,
    ) -> Instant {
        if now.saturating_duration_since(started) >= HEALTHY_AFTER {
            self.deaths_in_a_row = 0;
        }
        let delay = match self.deaths_in_a_row.checked_sub(1) {
            None => Duration::ZERO,
            Some(exponent) => {
                let factor = 2u32.saturating_pow(exponent.min(16));
                DELAY_FIRST.saturating_mul(factor).min(limit)
            }
        };
        self.deaths_in_a_row = self.deaths_in_a_row.saturating_add(1);
        now + delay.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_no_time_and_each_further_one_more_up_to_a_limit() {
        let now = Instant::now();
        let mut restart = Restart::default();
        let delays: Vec<_> =
            (0..12).map(|_| restart.ended(now, now, 0.0, DELAY_MAX).duration_since(now)).collect();
        assert_eq!(delays[..4], [0, 100, 200, 400].map(Duration::from_millis));
        assert_eq!(delays[11], DELAY_MAX);
        let alone = restart.ended(now, now, 0.0, DELAY_MAX_ALONE);
        assert_eq!(alone, now + DELAY_MAX_ALONE);
    }

    #[test]
    fn a_worker_that_was_well_starts_again_at_once() {
        let now = Instant::now();
        let mut restart = Restart::default();
        for _ in 0..5 {
            restart.ended(now, now, 0.5, DELAY_MAX);
        }
        let later = now + HEALTHY_AFTER;
        assert_eq!(restart.ended(now, later, 0.5, DELAY_MAX), later);
    }

    #[test]
    fn chance_spreads_over_the_upper_half_of_the_delay() {
        let now = Instant::now();
        let mut restart = Restart::default();
        restart.ended(now, now, 0.0, DELAY_MAX);
        assert_eq!(restart.ended(now, now, 1.0, DELAY_MAX), now + DELAY_FIRST / 2);
    }
}
