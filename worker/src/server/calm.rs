//! Memory that connections have used goes back to the system when they have come to rest.
//!
//! The allocator gives nothing back of itself while nothing is asked of it. Told at most once a second, however many connections
//! rest, so that a worker that is busy spends next to nothing on it.

use std::time::Duration;

use tokio::sync::Notify;

use crate::sys;

/// From the first connection that rests until memory is given back.
const CALM_AFTER: Duration = Duration::from_secs(1);

/// Once more after it: connections to upstreams are kept for a while longer than they are needed.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is owed to the system.
#[derive(Debug, Default)]
pub struct Calm(Notify);

impl Calm {
    /// A connection rests, or has ended: what it has used is free.
    pub(super) fn rests(&self) {
        self.0.notify_one();
    }

    /// Gives back whenever something was used, for the life of the worker; `more` what the allocator does not know of.
    pub(super) async fn give_back(&self, more: impl Fn()) {
        let mut again = false;
        loop {
            if again {
                again = tokio::time::timeout(AGAIN_AFTER, self.0.notified()).await.is_ok();
            } else {
                self.0.notified().await;
                again = true;
            }
            tokio::time::sleep(CALM_AFTER).await;
            sys::give_back_memory();
            more();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::hint::black_box;

    use super::*;

    /// Anonymous memory of this process, in KiB.
    fn anonymous() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_was_used_and_is_free_goes_back_to_the_system() {
        let small: Vec<Vec<u8>> = (0..4096).map(|_| black_box(vec![1; 8192])).collect();
        let used = anonymous();
        drop(small);
        sys::give_back_memory();
        let left = anonymous();
        // Other tests of this process may take something meanwhile.
        assert!(left + 16 * 1024 < used, "{left} of {used} KiB are left");
    }
}
