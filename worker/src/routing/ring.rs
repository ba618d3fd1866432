//! Consistent hashing in the manner of ketama: every target has points on a ring, a key belongs to the next point. Where a
//! target goes, only its keys move, each to whom follows on the ring.

use shared::counters::CounterKey;

/// Points of a target of weight one.
const POINTS: u64 = 160;
/// Points on a ring. Weights that would need more are made smaller in proportion, none of them to nothing.
const POINTS_MAX: u64 = 32 * 1024;

/// The points, in their order around the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring(Vec<(u64, usize)>);

/// A place on the ring for a key.
pub fn place(key: &[&str]) -> u64 {
    CounterKey::of(key).get()
}

impl Ring {
    /// The ring of targets by their names and weights. A weight of zero has no share; where all have none they are equal.
    pub fn of<'a>(targets: impl Iterator<Item = (&'a str, u32)> + Clone) -> Self {
        let all: u64 = targets.clone().map(|(_, weight)| u64::from(weight)).sum();
        let mut points = Vec::new();
        for (index, (name, weight)) in targets.enumerate() {
            let weight = if all == 0 { 1 } else { u64::from(weight) };
            let count = match weight.saturating_mul(POINTS) {
                0 => 0,
                count if all.saturating_mul(POINTS) <= POINTS_MAX => count,
                _ => (weight * POINTS_MAX / all.max(1)).max(1),
            };
            points.extend((0..count).map(|point| (place(&[name, &point.to_string()]), index)));
        }
        points.sort_unstable();
        Self(points)
    }

    /// The targets as they follow from a place on the ring, each once.
    pub fn order(&self, place: u64) -> Vec<usize> {
        let first = self.0.partition_point(|(point, _)| *point < place);
        let count = self.0.iter().map(|(_, index)| index + 1).max().unwrap_or_default();
        let mut is_in = vec![false; count];
        let mut order = Vec::new();
        for (_, index) in self.0.iter().cycle().skip(first).take(self.0.len()) {
            if let Some(is_in) = is_in.get_mut(*index)
                && !std::mem::replace(is_in, true)
            {
                order.push(*index);
                if order.len() == count {
                    break;
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(targets: &[(&str, u32)]) -> Ring {
        Ring::of(targets.iter().copied())
    }

    fn owner(ring: &Ring, key: usize) -> usize {
        ring.order(place(&[&key.to_string()]))[0]
    }

    #[test]
    fn keys_are_shared_out_by_weight() {
        let ring = ring(&[("a", 1), ("b", 3), ("c", 0)]);
        let of_b = (0..10_000).filter(|key| owner(&ring, *key) == 1).count();
        assert!((6_800..8_200).contains(&of_b), "{of_b}");
        assert!((0..10_000).all(|key| owner(&ring, key) != 2));
    }

    #[test]
    fn when_a_target_goes_only_its_keys_move_and_to_whom_followed() {
        let all = ring(&[("a", 1), ("b", 1), ("c", 1)]);
        let without_b = ring(&[("a", 1), ("c", 1)]);
        for key in 0..2_000 {
            let order = all.order(place(&[&key.to_string()]));
            let left: Vec<_> = order.iter().filter(|index| **index != 1).collect();
            let now = ["a", "c"][owner(&without_b, key)];
            assert_eq!(["a", "b", "c"][*left[0]], now);
        }
    }

    #[test]
    fn huge_weights_make_no_huge_ring() {
        let ring = ring(&[("a", u32::MAX), ("b", 1), ("c", u32::MAX)]);
        assert!(ring.0.len() <= POINTS_MAX as usize + 3);
        assert_eq!(ring.order(0).len(), 3);
    }

    proptest! {
        #[test]
        fn everybody_with_a_share_is_in_every_order_once(weights in prop::collection::vec(0..4_u32, 1..6), place: u64) {
            let names: Vec<_> = (0..weights.len()).map(|index| index.to_string()).collect();
            let targets = names.iter().map(String::as_str).zip(weights.iter().copied());
            let mut order = Ring::of(targets).order(place);
            order.sort_unstable();
            let all_zero = weights.iter().all(|weight| *weight == 0);
            let with_share = (0..weights.len()).filter(|index| all_zero || weights[*index] > 0);
            prop_assert_eq!(order, with_share.collect::<Vec<_>>());
        }
    }
}
