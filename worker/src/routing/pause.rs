//! How long to wait before an upstream is asked again.

use std::time::Duration;

/// The first pause, at most; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// No pause of our own is longer.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause before the retry of that number, which begins at 0. `chance`, from 0 to 1, takes off up to half of it, so that
/// those who failed together do not come back together. An upstream that asks for more time gets it, up to `patience`:
/// `None` if it wants more, for then this request does not ask it again.
pub fn before(
    retry: u32,
    chance: f64,
    retry_after: Option<u64>,
    patience: Duration,
) -> Option<Duration> {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(retry.min(16))).min(LONGEST);
    let own = doubled.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
    match retry_after.map(Duration::from_secs) {
        Some(asked) if asked > patience => None,
        Some(asked) => Some(own.max(asked)),
        None => Some(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_double_up_to_a_second_and_chance_takes_off_half_at_most() {
        let millis = |retry, chance| before(retry, chance, None, PATIENCE).unwrap().as_millis();
        assert_eq!(
            [0, 1, 2, 3, 4, 99].map(|retry| millis(retry, 0.0)),
            [100, 200, 400, 800, 1000, 1000]
        );
        assert_eq!((millis(0, 1.0), millis(9, 0.5)), (50, 750));
    }

    #[test]
    fn what_the_upstream_asks_for_is_kept_unless_it_is_too_long() {
        assert_eq!(before(0, 0.0, Some(3), PATIENCE), Some(Duration::from_secs(3)));
        assert_eq!(before(0, 0.0, Some(0), PATIENCE), Some(Duration::from_millis(100)));
        assert_eq!(before(0, 0.0, Some(6), PATIENCE), None);
        assert_eq!(before(0, 0.0, Some(u64::MAX), PATIENCE), None);
    }
}
