//! What the cache keeps, and for how long. The time is passed in.
//!
//! At [`BYTES_MAX`] whatever has been asked for least makes room; what has outlived its time is never found, and goes when
//! it is asked for or when room is needed.

use std::rc::Rc;
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::unsync;
use shared::cache::Key;

/// Everything that is kept takes no more, in bytes.
pub const BYTES_MAX: u64 = 128 * 1024 * 1024;
/// What a value takes beside its own bytes.
const OVERHEAD_BYTES: u64 = 160;
/// How many values there is room for at the start.
const VALUES: usize = 8 * 1024;

struct Row {
    value: Rc<[u8]>,
    until: Instant,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Row> for Bytes {
    fn weight(&self, _: &Key, row: &Row) -> u64 {
        OVERHEAD_BYTES + row.value.len() as u64
    }
}

/// Values by key.
pub struct Store(unsync::Cache<Key, Row, Bytes>);

impl Default for Store {
    fn default() -> Self {
        Self::with_room(BYTES_MAX)
    }
}

impl Store {
    fn with_room(bytes: u64) -> Self {
        Self(unsync::Cache::with_weighter(VALUES, bytes, Bytes))
    }

    /// What is kept under a key and has not outlived its time.
    pub fn find(&mut self, key: &Key, now: Instant) -> Option<Rc<[u8]>> {
        let row = self.0.get(key)?;
        if now < row.until {
            return Some(Rc::clone(&row.value));
        }
        self.0.remove(key);
        None
    }

    /// Keeps a value, in place of any before.
    pub fn keep(&mut self, key: Key, value: Vec<u8>, lifetime: Duration, now: Instant) {
        // A time that no clock reaches is no time.
        let Some(until) = now.checked_add(lifetime) else { return };
        self.0.insert(key, Row { value: value.into(), until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(number: u32) -> Key {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        key
    }

    #[test]
    fn a_value_is_found_until_its_time_is_over_and_never_again() {
        let now = Instant::now();
        let mut store = Store::default();
        store.keep(key(1), b"answer".to_vec(), MINUTE, now);
        let almost = now + MINUTE - Duration::from_nanos(1);
        assert_eq!(store.find(&key(1), almost).as_deref(), Some(&b"answer"[..]));
        assert_eq!(store.find(&key(2), now), None);
        assert_eq!(store.find(&key(1), now + MINUTE), None);
        assert_eq!(store.find(&key(1), now), None, "it is gone");
    }

    #[test]
    fn the_latest_value_of_a_key_counts_with_its_own_time() {
        let now = Instant::now();
        let mut store = Store::default();
        store.keep(key(1), b"old".to_vec(), MINUTE * 9, now);
        store.keep(key(1), b"new".to_vec(), MINUTE, now);
        assert_eq!(store.find(&key(1), now).as_deref(), Some(&b"new"[..]));
        assert_eq!(store.find(&key(1), now + MINUTE), None);
    }

    #[test]
    fn whatever_is_kept_takes_no_more_than_its_room_and_what_is_asked_for_stays() {
        let now = Instant::now();
        let mut store = Store::with_room(1024 * 1024);
        store.keep(key(0), vec![7; 1000], MINUTE, now);
        for number in 1..10_000 {
            store.keep(key(number), vec![0; 1000], MINUTE, now);
            assert!(store.find(&key(0), now).is_some(), "after {number}");
        }
        assert!(store.0.weight() <= 1024 * 1024, "{}", store.0.weight());
        let kept = (1..10_000).filter(|number| store.find(&key(*number), now).is_some()).count();
        assert!((100..1100).contains(&kept), "{kept}");
    }
}
