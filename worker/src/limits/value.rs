//! Values of headers that are told with many answers: made once, not with each of them.

use std::array;
use std::cell::RefCell;

use ::shared::counters::Period;
use http::HeaderValue;

/// Limits that are remembered. Where two have the same place, the later one has it.
const LIMITS: usize = 32;
/// A minute's seconds, and none.
const SECONDS: usize = Period::Minute.seconds() as usize + 1;

thread_local! {
    static OF_LIMITS: RefCell<[Option<(u64, HeaderValue)>; LIMITS]> =
        const { RefCell::new([const { None }; LIMITS]) };
    static OF_SECONDS: [HeaderValue; SECONDS] = array::from_fn(|seconds| written(seconds as u64));
}

/// The value that tells this limit.
pub(super) fn of_limit(limit: u64) -> HeaderValue {
    OF_LIMITS.with_borrow_mut(|known| {
        // Neighbours among the round numbers that limits are do not share a place.
        let index = limit.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - LIMITS.ilog2());
        match known.get_mut(index as usize) {
            Some(Some((number, value))) if *number == limit => value.clone(),
            Some(place) => place.insert((limit, of_number(limit))).1.clone(),
            None => of_number(limit),
        }
    })
}

/// The value that is this number.
pub(super) fn of_number(number: u64) -> HeaderValue {
    // Digits are always a value.
    HeaderValue::from_str(itoa::Buffer::new().format(number)).unwrap_or_else(|_| number.into())
}

/// The value that tells so many seconds, which are those of a minute: `12s`.
pub(super) fn of_seconds(seconds: u64) -> HeaderValue {
    OF_SECONDS
        .with(|known| known.get(seconds as usize).cloned().unwrap_or_else(|| written(seconds)))
}

fn written(seconds: u64) -> HeaderValue {
    // Digits and a letter are always a value; the other arm is not reachable.
    HeaderValue::try_from(format!("{seconds}s")).unwrap_or(HeaderValue::from_static("60s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_that_of_its_number_whatever_was_told_before() {
        for _ in 0..2 {
            for limit in (0..500).chain([u64::MAX, 1_000, 1_000_000, 10_000]) {
                assert_eq!(of_limit(limit), limit.to_string());
                assert_eq!(of_limit(limit), limit.to_string());
                assert_eq!(of_number(limit), limit.to_string());
            }
            for seconds in [0, 1, 59, 60, 61, u64::MAX] {
                assert_eq!(of_seconds(seconds), format!("{seconds}s"));
            }
        }
    }
}
