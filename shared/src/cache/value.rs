//! A value on its way, in parts. Pure, and hostile until it is whole: nothing is reserved for what a sender only promises.

use std::iter;

use bincode::{Decode, Encode};

use super::{PART_BYTES_MAX, VALUE_BYTES_MAX};

/// A part of a value behind the first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    /// Which one: the first behind the one that came with the length is 1.
    pub number: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why parts make no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Longer than any value.
    #[error("a value of {0} bytes is over the limit of {VALUE_BYTES_MAX}")]
    TooLong(u32),
    /// More came than was promised.
    #[error("more bytes than the value was said to have")]
    Overrun,
    /// A part is missing, or came twice.
    #[error("part {found} where part {expected} should come")]
    Order {
        /// What came.
        found: u32,
        /// What should have.
        expected: u32,
    },
    /// A part that brings nothing: they could come for ever.
    #[error("an empty part")]
    Empty,
}

/// As much of a value as has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    length: usize,
    next: u32,
    bytes: Vec<u8>,
}

impl Value {
    /// Begins with the length of the whole and the first part.
    ///
    /// # Errors
    /// The length is over the limit, or less than what came.
    pub fn begin(length: u32, first: Vec<u8>) -> Result<Self, ValueError> {
        let bytes_max = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes_max > VALUE_BYTES_MAX {
            return Err(ValueError::TooLong(length));
        }
        if first.len() > bytes_max {
            return Err(ValueError::Overrun);
        }
        if first.is_empty() && bytes_max > 0 {
            return Err(ValueError::Empty);
        }
        Ok(Self { length: bytes_max, next: 1, bytes: first })
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// It is not the next one, brings nothing, or more than was promised.
    pub fn add(&mut self, part: &Part) -> Result<(), ValueError> {
        if part.number != self.next {
            return Err(ValueError::Order { found: part.number, expected: self.next });
        }
        if part.bytes.is_empty() {
            return Err(ValueError::Empty);
        }
        if part.bytes.len() > self.length.saturating_sub(self.bytes.len()) {
            return Err(ValueError::Overrun);
        }
        self.next = self.next.saturating_add(1);
        self.bytes.extend_from_slice(&part.bytes);
        Ok(())
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }

    /// What has come.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A value in parts: its length, the first, and all others. `None` if it is longer than any value.
pub fn split(value: &[u8]) -> Option<(u32, Vec<u8>, impl Iterator<Item = Part>)> {
    let length = u32::try_from(value.len()).ok().filter(|_| value.len() <= VALUE_BYTES_MAX)?;
    let (first, rest) = value.split_at_checked(PART_BYTES_MAX).unwrap_or((value, &[]));
    let numbers = iter::successors(Some(1_u32), |number| number.checked_add(1));
    let parts = numbers
        .zip(rest.chunks(PART_BYTES_MAX))
        .map(|(number, bytes)| Part { number, bytes: bytes.to_vec() });
    Some((length, first.to_vec(), parts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(number: u32, bytes: &[u8]) -> Part {
        Part { number, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_value_of_any_length_is_whole_again_with_its_last_part_and_not_before() {
        let edge = PART_BYTES_MAX;
        for length in [0, 1, edge - 1, edge, edge + 1, 2 * edge, 3 * edge + 7, VALUE_BYTES_MAX] {
            let value: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let (told, first, parts) = split(&value).unwrap();
            let mut whole = Value::begin(told, first).unwrap();
            for part in parts {
                assert!(!whole.is_whole(), "{length}");
                assert!(part.bytes.len() <= PART_BYTES_MAX);
                whole.add(&part).unwrap();
            }
            assert!(whole.is_whole(), "{length}");
            assert!(whole.into_bytes() == value, "{length}");
        }
        assert!(split(&vec![0; VALUE_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn what_makes_no_value_is_refused_with_the_reason() {
        let over = u32::try_from(VALUE_BYTES_MAX).unwrap() + 1;
        assert_eq!(Value::begin(over, vec![0]), Err(ValueError::TooLong(over)));
        assert_eq!(Value::begin(1, vec![0, 0]), Err(ValueError::Overrun));
        assert_eq!(Value::begin(1, Vec::new()), Err(ValueError::Empty));
        let mut value = Value::begin(3, vec![0]).unwrap();
        assert_eq!(value.add(&part(2, b"x")), Err(ValueError::Order { found: 2, expected: 1 }));
        assert_eq!(value.add(&part(1, b"")), Err(ValueError::Empty));
        assert_eq!(value.add(&part(1, b"xyz")), Err(ValueError::Overrun));
        value.add(&part(1, b"x")).unwrap();
        assert_eq!(value.add(&part(1, b"x")), Err(ValueError::Order { found: 1, expected: 2 }));
        value.add(&part(2, b"y")).unwrap();
        assert!(value.is_whole());
        assert_eq!(value.add(&part(3, b"z")), Err(ValueError::Overrun));
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_value(
            value in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec(1..50_usize, 0..20),
        ) {
            let mut pieces = Vec::new();
            let mut rest = &value[..];
            for cut in cuts {
                if cut < rest.len() {
                    let (piece, after) = rest.split_at(cut);
                    pieces.push(piece);
                    rest = after;
                }
            }
            pieces.push(rest);
            let length = u32::try_from(value.len()).unwrap();
            let mut whole = Value::begin(length, pieces[0].to_vec()).unwrap();
            for (number, bytes) in (1..).zip(&pieces[1..]) {
                prop_assert!(!whole.is_whole());
                whole.add(&part(number, bytes)).unwrap();
            }
            prop_assert!(whole.is_whole());
            prop_assert_eq!(whole.into_bytes(), value);
        }

        #[test]
        fn no_parts_can_make_it_hold_more_than_was_promised(
            length in 0..100_u32,
            first in prop::collection::vec(any::<u8>(), 0..120),
            parts in prop::collection::vec((0..4_u32, prop::collection::vec(any::<u8>(), 0..60)), 0..8),
        ) {
            let Ok(mut value) = Value::begin(length, first) else { return Ok(()) };
            for (number, bytes) in parts {
                let _ = value.add(&Part { number, bytes });
            }
            prop_assert!(value.into_bytes().len() <= length as usize);
        }
    }
}
