//! Who of all workers fetches the keys of a provider, and when next: one word that they share. Pure but for the word.
//!
//! ```text
//! until, in milliseconds since 1970 (48 bits) | failures in a row (8 bits) | whether somebody is fetching (8 bits)
//! ```
//! Until that moment nobody fetches: while somebody is fetching, for a pause after a success (a stream of tokens with unknown
//! keys must not become a stream of questions), and ever longer after failures. Who dies while fetching keeps the others
//! waiting for [`FETCHING_MS`] at most.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// How long a fetch may take: more than all its limits together.
pub const FETCHING_MS: u64 = 8_000;
/// After a success, nobody asks again for so long.
pub const PAUSE_MS: u64 = 5_000;
/// By then what was found has reached every worker that can be reached.
const SETTLE_MS: u64 = 1_000;
/// After a failure, the next attempt comes after this; after each further one twice as long.
const RETRY_MS: u64 = 500;
const RETRY_MS_MAX: u64 = 30_000;

/// Why keys are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// There are none.
    Nothing,
    /// Those that are there have been there for long, or a token is signed with another.
    Newer,
}

/// What the word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    until_ms: u64,
    failures: u8,
    is_fetching: bool,
}

/// The right to fetch.
#[derive(Debug)]
pub struct Lease {
    taken: u64,
    failures: u8,
}

impl State {
    fn of(word: u64) -> Self {
        Self {
            until_ms: word >> 16,
            failures: u8::try_from((word >> 8) & 0xff).unwrap_or(u8::MAX),
            is_fetching: word & 1 == 1,
        }
    }

    fn word(self) -> u64 {
        (self.until_ms << 16) | (u64::from(self.failures) << 8) | u64::from(self.is_fetching)
    }

    /// When a fetch is possible; the past means now.
    fn next_ms(self, now_ms: u64, want: Want) -> u64 {
        let longest = now_ms + RETRY_MS_MAX.max(FETCHING_MS).max(PAUSE_MS);
        // A clock that was set back must not stop anything.
        if self.until_ms > longest {
            return now_ms;
        }
        // What others have found did not reach this worker.
        let missed = want == Want::Nothing && !self.is_fetching && self.failures == 0;
        self.until_ms.saturating_sub(if missed { PAUSE_MS - SETTLE_MS } else { 0 })
    }
}

/// Takes the right to fetch, or says when to ask again.
pub fn take(word: &AtomicU64, now_ms: u64, want: Want) -> Result<Lease, u64> {
    let before = word.load(SeqCst);
    let state = State::of(before);
    let next = state.next_ms(now_ms, want);
    if next > now_ms {
        return Err(next);
    }
    let taken = State { until_ms: now_ms + FETCHING_MS, is_fetching: true, ..state }.word();
    match word.compare_exchange(before, taken, SeqCst, SeqCst) {
        Ok(_) => Ok(Lease { taken, failures: state.failures }),
        // Somebody was faster.
        Err(_) => Err(now_ms + SETTLE_MS),
    }
}

/// Whether it makes sense to wait: somebody is fetching, or may. Who has nothing waits after a success of others, too.
pub fn is_awaitable(word: &AtomicU64, now_ms: u64, want: Want) -> bool {
    let state = State::of(word.load(SeqCst));
    let is_on_its_way = want == Want::Nothing && state.failures == 0;
    state.is_fetching || is_on_its_way || state.next_ms(now_ms, want) <= now_ms
}

impl Lease {
    /// The fetch is over. Returns when the next one is possible.
    pub fn done(self, word: &AtomicU64, now_ms: u64, has_succeeded: bool) -> u64 {
        let failures = if has_succeeded { 0 } else { self.failures.saturating_add(1) };
        let pause = match failures {
            0 => PAUSE_MS,
            failures => RETRY_MS.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_MS_MAX),
        };
        let state = State { until_ms: now_ms + pause, failures, is_fetching: false };
        // If it took too long somebody else has taken over.
        let _ = word.compare_exchange(self.taken, state.word(), SeqCst, SeqCst);
        state.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn one_of_many_fetches_and_the_others_wait_until_it_has_or_is_given_up() {
        let word = AtomicU64::new(0);
        let lease = take(&word, NOW, Want::Nothing).unwrap();
        for want in [Want::Nothing, Want::Newer] {
            assert_eq!(take(&word, NOW + 10, want).unwrap_err(), NOW + FETCHING_MS);
        }
        let other = take(&word, NOW + FETCHING_MS, Want::Nothing).unwrap();
        // Too late: it does not speak for the other.
        lease.done(&word, NOW + FETCHING_MS + 1, true);
        assert!(take(&word, NOW + FETCHING_MS + 2, Want::Nothing).is_err());
        other.done(&word, NOW + FETCHING_MS + 3, true);
    }

    #[test]
    fn after_a_success_nobody_asks_for_newer_keys_at_once_but_who_has_none_does_soon() {
        let word = AtomicU64::new(0);
        take(&word, NOW, Want::Nothing).unwrap().done(&word, NOW, true);
        assert_eq!(take(&word, NOW + 1, Want::Newer).unwrap_err(), NOW + PAUSE_MS);
        assert_eq!(take(&word, NOW + 1, Want::Nothing).unwrap_err(), NOW + SETTLE_MS);
        assert!(take(&word, NOW + SETTLE_MS, Want::Nothing).is_ok());
        let word = AtomicU64::new(0);
        take(&word, NOW, Want::Nothing).unwrap().done(&word, NOW, true);
        assert!(take(&word, NOW + PAUSE_MS, Want::Newer).is_ok());
    }

    #[test]
    fn failures_are_followed_by_ever_longer_pauses_up_to_a_bound_and_a_success_ends_them() {
        let (word, mut now, mut pauses) = (AtomicU64::new(0), NOW, Vec::new());
        for _ in 0..300 {
            let next = take(&word, now, Want::Nothing).unwrap().done(&word, now, false);
            assert!(!is_awaitable(&word, now, Want::Nothing));
            assert_eq!(take(&word, now, Want::Nothing).unwrap_err(), next);
            pauses.push(next - now);
            now = next;
            assert!(is_awaitable(&word, now, Want::Nothing));
        }
        assert_eq!(pauses[..4], [500, 1_000, 2_000, 4_000]);
        assert_eq!(pauses.last(), Some(&RETRY_MS_MAX));
        take(&word, now, Want::Nothing).unwrap().done(&word, now, true);
        assert!(is_awaitable(&word, now, Want::Nothing));
        assert!(!is_awaitable(&word, now, Want::Newer));
        now += PAUSE_MS;
        let next = take(&word, now, Want::Newer).unwrap().done(&word, now, false);
        assert_eq!(next - now, 500);
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let word = AtomicU64::new(0);
        take(&word, NOW, Want::Nothing).unwrap().done(&word, NOW, true);
        assert!(take(&word, NOW - 86_400_000, Want::Newer).is_ok());
    }
}
