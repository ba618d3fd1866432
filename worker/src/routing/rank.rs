//! The strategies that compare targets with each other: the cheapest, the fastest, the least busy first. Who compares equal
//! stays as declared.

use std::cmp::Ordering;

use shared::deployment::{LATENCY_SECONDS_MAX, Latency};

/// The cheapest first; whose price is not known comes last.
pub fn by_cost(costs: &[Option<f64>]) -> Vec<usize> {
    let price = |index: usize| costs.get(index).copied().flatten().unwrap_or(f64::INFINITY);
    let is_unknown = |index: usize| costs.get(index).is_none_or(Option::is_none);
    sorted(costs.len(), |one, other| {
        is_unknown(one).cmp(&is_unknown(other)).then(price(one).total_cmp(&price(other)))
    })
}

/// The fastest first, by its moving average. Before all others those that were not seen recently, the longest unseen
/// first, so that they are seen.
pub fn by_latency(latencies: &[Latency], now_seconds: u64) -> Vec<usize> {
    let key = |index: usize| {
        let latency = latencies.get(index).copied().unwrap_or_default();
        let is_recent = latency.micros > 0
            && now_seconds.saturating_sub(latency.seen_seconds) <= LATENCY_SECONDS_MAX;
        (is_recent, if is_recent { latency.micros } else { latency.seen_seconds })
    };
    sorted(latencies.len(), |one, other| key(one).cmp(&key(other)))
}

/// The one with the fewest requests in flight for its weight first, of equal ones the heaviest; whose weight is zero comes
/// last. Each is given as requests in flight and weight.
pub fn by_load(loads: &[(u64, u32)]) -> Vec<usize> {
    let load = |index: usize| loads.get(index).copied().unwrap_or_default();
    sorted(loads.len(), |one, other| {
        let ((busy, weight), (other_busy, other_weight)) = (load(one), load(other));
        let scaled = |busy: u64, weight: u32| u128::from(busy) * u128::from(weight);
        (weight == 0)
            .cmp(&(other_weight == 0))
            .then(scaled(busy, other_weight).cmp(&scaled(other_busy, weight)))
            .then(other_weight.cmp(&weight))
    })
}

fn sorted(count: usize, compare: impl Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    order.sort_by(|one, other| compare(*one, *other));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_goes_first_and_the_unpriced_last() {
        assert_eq!(by_cost(&[None, Some(2.0), Some(0.0), Some(2.0)]), [2, 1, 3, 0]);
    }

    #[test]
    fn the_unseen_go_first_then_the_fastest() {
        let seen = |micros, seen_seconds| Latency { micros, seen_seconds };
        let now = 10_000;
        let latencies = [seen(900, now), seen(0, 0), seen(100, now - 1), seen(1, now - 301)];
        assert_eq!(by_latency(&latencies, now), [1, 3, 2, 0]);
        assert_eq!(by_latency(&[seen(5, now), seen(5, now)], now), [0, 1]);
    }

    #[test]
    fn requests_in_flight_count_for_the_weight() {
        assert_eq!(by_load(&[(2, 1), (3, 3), (0, 0)]), [1, 0, 2]);
        assert_eq!(by_load(&[(0, 1), (0, 2), (1, 9)]), [1, 0, 2]);
        assert_eq!(by_load(&[(1, 1), (1, 1)]), [0, 1]);
        assert_eq!(by_load(&[(u64::MAX, u32::MAX), (1, 1)]), [1, 0]);
    }
}
