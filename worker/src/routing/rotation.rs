//! Smooth weighted round robin, as a table: whoever knows the position in it knows the order, so that all workers can share
//! a single number.

/// Turns in a table. Weights that would need more are made smaller in proportion, none of them to nothing.
const TURNS_MAX: u64 = 4096;

/// Whose turn it is, for one period of the rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    turns: Vec<usize>,
    /// Those without a share of their own, who come last.
    rest: Vec<usize>,
}

impl Rotation {
    /// The rotation of these weights. A weight of zero has no share; where all have none they take turns.
    pub fn of(weights: &[u32]) -> Self {
        let mut weights: Vec<u64> = weights.iter().map(|weight| u64::from(*weight)).collect();
        if weights.iter().all(|weight| *weight == 0) {
            weights.fill(1);
        }
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
        let total = weights.iter().sum::<u64>() / divisor;
        for weight in weights.iter_mut().filter(|weight| **weight > 0) {
            *weight /= divisor;
            if total > TURNS_MAX {
                *weight = (*weight * TURNS_MAX / total).max(1);
            }
        }
        let numbered = || weights.iter().copied().enumerate();
        let rest = numbered().filter(|(_, weight)| *weight == 0).map(|(index, _)| index).collect();
        Self { turns: smooth(&weights), rest }
    }

    /// The order at a position: whose turn it is, then the others as their turns come.
    pub fn order(&self, position: u64) -> Vec<usize> {
        let length = self.turns.len().max(1) as u64;
        let first = usize::try_from(position % length).unwrap_or_default();
        let count = self.rest.len() + self.turns.iter().max().map_or(0, |max| max + 1);
        let mut is_in = vec![false; count.max(self.rest.iter().max().map_or(0, |max| max + 1))];
        let around = self.turns.iter().cycle().skip(first).take(self.turns.len());
        let mut order = Vec::new();
        for index in around.chain(&self.rest) {
            if let Some(is_in) = is_in.get_mut(*index)
                && !std::mem::replace(is_in, true)
            {
                order.push(*index);
            }
        }
        order
    }
}

/// One period: at every turn each gains its weight, and who has the most is next and pays for all.
fn smooth(weights: &[u64]) -> Vec<usize> {
    let total: u64 = weights.iter().sum();
    let total_paid = i64::try_from(total).unwrap_or(i64::MAX);
    let mut gained = vec![0_i64; weights.len()];
    let mut turns = Vec::new();
    for _ in 0..total {
        let mut next: Option<(usize, i64)> = None;
        for (index, (gain, weight)) in gained.iter_mut().zip(weights).enumerate() {
            *gain += i64::try_from(*weight).unwrap_or(i64::MAX);
            // The first of those who have as much.
            if *weight > 0 && next.is_none_or(|(_, most)| *gain > most) {
                next = Some((index, *gain));
            }
        }
        let Some((index, _)) = next else { break };
        if let Some(gain) = gained.get_mut(index) {
            *gain -= total_paid;
        }
        turns.push(index);
    }
    turns
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn firsts(weights: &[u32], count: u64) -> Vec<usize> {
        let rotation = Rotation::of(weights);
        (0..count).map(|position| rotation.order(position)[0]).collect()
    }

    #[test]
    fn turns_are_spread_smoothly_and_equal_weights_take_turns_as_declared() {
        assert_eq!(firsts(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(firsts(&[3, 3, 3], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(firsts(&[0, 0], 4), [0, 1, 0, 1]);
        assert_eq!(firsts(&[1, 0], 3), [0, 0, 0]);
    }

    #[test]
    fn who_is_not_next_follows_in_the_order_of_its_turns_and_who_has_no_share_comes_last() {
        assert_eq!(Rotation::of(&[1, 1, 1]).order(1), [1, 2, 0]);
        assert_eq!(Rotation::of(&[0, 1, 1]).order(1), [2, 1, 0]);
    }

    proptest! {
        #[test]
        fn everybody_is_in_every_order_once_and_has_its_share_of_the_first_places(
            weights in prop::collection::vec(0..20_u32, 1..8),
            position: u64,
        ) {
            let rotation = Rotation::of(&weights);
            let mut order = rotation.order(position);
            order.sort_unstable();
            prop_assert_eq!(order, (0..weights.len()).collect::<Vec<_>>());
            let total: u32 = weights.iter().sum();
            if total > 0 {
                let firsts = firsts(&weights, u64::from(total));
                for (index, weight) in weights.iter().enumerate() {
                    let count = firsts.iter().filter(|first| **first == index).count();
                    prop_assert_eq!(count, *weight as usize);
                }
            }
        }

        #[test]
        fn no_weights_make_a_long_table(weights in prop::collection::vec(any::<u32>(), 1..6)) {
            let rotation = Rotation::of(&weights);
            prop_assert!(rotation.turns.len() <= TURNS_MAX as usize + weights.len());
            for (index, weight) in weights.iter().enumerate() {
                prop_assert!(*weight == 0 || rotation.turns.contains(&index));
            }
        }
    }
}
