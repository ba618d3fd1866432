//! Time without the pauses of this process: a supervisor, a container or a machine that was stopped for a while takes nobody
//! for dead when it goes on. What workers said meanwhile waits in their sockets and is read first. Pure.

use std::time::{Duration, Instant};

/// The loop wakes every second; a longer silence of its own is a pause.
const PAUSE_MIN: Duration = Duration::from_secs(3);

/// A clock that stands still while this process does.
#[derive(Clone, Copy, Debug)]
pub struct Awake {
    seen: Instant,
    paused: Duration,
}

impl Awake {
    /// A clock that agrees with the real one so far.
    pub fn new(now: Instant) -> Self {
        Self { seen: now, paused: Duration::ZERO }
    }

    /// What it shows when the real one shows `now`. To be asked at least once a second.
    pub fn at(&mut self, now: Instant) -> Instant {
        let silence = now.saturating_duration_since(self.seen);
        if silence >= PAUSE_MIN {
            self.paused += silence;
        }
        self.seen = self.seen.max(now);
        now.checked_sub(self.paused).unwrap_or(now)
    }

    /// What it showed last.
    pub fn last(&self) -> Instant {
        self.seen.checked_sub(self.paused).unwrap_or(self.seen)
    }

    /// What the real clock will show when this one shows `awake`.
    pub fn real(&self, awake: Instant) -> Instant {
        awake + self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_does_not_count_and_short_silences_do() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut awake = Awake::new(start);
        assert_eq!(awake.at(start + second), start + second);
        assert_eq!(awake.at(start + 3 * second), start + 3 * second);
        // Stopped for an hour.
        let later = start + 3 * second + 3600 * second;
        assert_eq!(awake.at(later), start + 3 * second);
        assert_eq!(awake.at(later + second), start + 4 * second);
        assert_eq!(awake.real(start + 5 * second), later + 2 * second);
    }

    #[test]
    fn a_moment_that_lies_back_is_no_pause() {
        let start = Instant::now();
        let mut awake = Awake::new(start + Duration::from_secs(10));
        assert_eq!(awake.at(start), start);
        assert_eq!(awake.at(start + Duration::from_secs(11)), start + Duration::from_secs(11));
    }
}
