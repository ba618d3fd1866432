//! How many signatures a client may ask for: a bucket of tokens. Pure: the time is passed in.
//!
//! At the limit a client is refused at once, and that handshake fails; nothing queues, and no other client is concerned.

use std::time::{Duration, Instant};

/// Signatures per second, in the long run: more full handshakes than one worker, with one core, can make.
const PER_SECOND: u32 = 4000;
/// Signatures at once, after a pause.
const BURST: u32 = 4000;

/// The tokens of one client.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// When it would have been empty: what has passed since then is what it holds.
    empty_at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(now: Instant) -> Self {
        Self { empty_at: now.checked_sub(capacity()).unwrap_or(now) }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let token = Duration::from_secs(1) / PER_SECOND;
        let held = now.saturating_duration_since(self.empty_at);
        if held < token {
            return false;
        }
        // What is more than it holds has run over.
        let overflow = held.saturating_sub(capacity());
        self.empty_at += overflow + token;
        true
    }
}

fn capacity() -> Duration {
    Duration::from_secs(1) * BURST / PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(now))).sum()
    }

    #[test]
    fn a_burst_passes_and_then_only_so_many_per_second() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut bucket = Bucket::full(now);
        assert_eq!(taken(&mut bucket, now, 2 * BURST), BURST);
        let later = now + Duration::from_millis(500);
        assert_eq!(taken(&mut bucket, later, 2 * BURST), PER_SECOND / 2);
        assert!(!bucket.take(later));
    }

    #[test]
    fn nobody_saves_more_than_a_burst_and_a_clock_that_stands_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut bucket = Bucket::full(now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(taken(&mut bucket, later, 2 * BURST), BURST);
        assert!(!bucket.take(now), "an earlier moment gives nothing");
    }
}
