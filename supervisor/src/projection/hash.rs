//! The hashes by which the Cloud and the gateway compare configurations.
//!
//! Lower-case hex SHA-256 over, for each entry in ascending order of its full key: key, `0x00`, value, `0x0A`. A value is
//! in canonical JSON (object keys sorted, no white space), or as it is where it is not JSON.

use std::fmt::Write;

use aws_lc_rs::digest::{Context, SHA256};

/// After so many entries the state of the hash is kept, so that hashing can go on from there.
const ENTRIES_PER_POINT: usize = 1000;

/// A hash over a set that changes: what comes before the first change is not hashed again.
#[derive(Default)]
pub struct Chain {
    /// States after the entry of a key, in ascending order.
    points: Vec<(Vec<u8>, Context)>,
}

impl Chain {
    /// The entry of `key` is new, another, or gone.
    pub fn changed(&mut self, key: &[u8]) {
        let before = self.points.partition_point(|(point, _)| point.as_slice() < key);
        self.points.truncate(before);
    }

    /// The hash of all entries. `after` yields those after a key, or all, in ascending order.
    pub fn hash<'a, I: Iterator<Item = (&'a [u8], &'a [u8])>>(
        &mut self,
        after: impl FnOnce(Option<&[u8]>) -> I,
    ) -> String {
        let mut context = match self.points.last() {
            Some((_, context)) => context.clone(),
            None => Context::new(&SHA256),
        };
        let entries = after(self.points.last().map(|(key, _)| key.as_slice()));
        for (count, (key, value)) in entries.enumerate() {
            context.update(key);
            context.update(&[0]);
            context.update(value);
            context.update(b"\n");
            if (count + 1) % ENTRIES_PER_POINT == 0 {
                self.points.push((key.to_vec(), context.clone()));
            }
        }
        let mut text = String::with_capacity(64);
        for byte in context.finish().as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;

    type Set = BTreeMap<Vec<u8>, Vec<u8>>;

    fn hash(chain: &mut Chain, set: &Set) -> String {
        chain.hash(|after| {
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            set.range::<[u8], _>((start, Bound::Unbounded))
                .map(|(key, value)| (key.as_slice(), value.as_slice()))
        })
    }

    #[test]
    fn the_published_vectors_hold() {
        let value = br#"{"a":"x","b":1}"#.to_vec();
        let set = Set::from([(b"/aisix/e/models/a".to_vec(), value)]);
        assert_eq!(
            hash(&mut Chain::default(), &set),
            "6d95e04309c81add1088443128c1bd4c5ff1042b4222976e91b0beedfb68087c"
        );
        assert_eq!(
            hash(&mut Chain::default(), &Set::new()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_not_hashed_again_makes_no_difference(
            changes in proptest::collection::vec((0..4000_u32, 0..3_u8, any::<bool>()), 1..40)
        ) {
            let key = |number: u32| format!("{number:05}").into_bytes();
            let mut set: Set = (0..4000).step_by(2).map(|n| (key(n), vec![1])).collect();
            let mut chain = Chain::default();
            hash(&mut chain, &set);
            for (number, value, look) in changes {
                match value {
                    0 => drop(set.remove(&key(number))),
                    value => drop(set.insert(key(number), vec![value])),
                }
                chain.changed(&key(number));
                if look {
                    prop_assert_eq!(hash(&mut chain, &set), hash(&mut Chain::default(), &set));
                }
            }
            prop_assert_eq!(hash(&mut chain, &set), hash(&mut Chain::default(), &set));
        }
    }
}
