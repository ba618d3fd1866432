//! What happens on one connection, and when it has been nothing for too long.
//!
//! ```text
//! new ──first byte──▶ head ──head complete──▶ busy ──last answer done──▶ idle ──first byte──▶ head
//! ```
//! A head that is not complete in time ends the connection, a new one that stays silent too. An idle HTTP/1.1 connection
//! may wait for as long as the settings say; HTTP/2 has no such limit.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use http::Version;
use tokio::time::Instant;

use super::heads::Head;

/// From the first byte of a head, or from the connection's begin, until the head is complete.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Why a connection should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was idle for as long as it may.
    Idle,
    /// A head did not come to its end.
    Stalled,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A head is awaited, the first of the connection or one of which a byte has come.
    Head {
        since: Instant,
    },
    Busy {
        requests: usize,
    },
    Idle {
        since: Instant,
    },
}

/// The activity of one connection.
pub(super) struct Activity {
    idle_limit: Duration,
    state: Cell<State>,
    is_http2: Cell<bool>,
    head: RefCell<Head>,
}

/// One request in progress.
pub(super) struct Busy(Rc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

impl Activity {
    /// A connection that has just begun. `idle_limit` zero is none.
    pub(super) fn new(idle_limit: Duration, now: Instant) -> Self {
        Self {
            idle_limit,
            state: Cell::new(State::Head { since: now }),
            is_http2: Cell::new(false),
            head: RefCell::default(),
        }
    }

    /// The head of a request is complete; its answer is done when the guard is dropped.
    pub(super) fn busy(self: &Rc<Self>, version: Version) -> Busy {
        self.begin(version);
        Busy(self.clone())
    }

    fn begin(&self, version: Version) {
        let requests = match self.state.get() {
            State::Busy { requests } => requests + 1,
            State::Head { .. } | State::Idle { .. } => 1,
        };
        self.state.set(State::Busy { requests });
        self.is_http2.set(version == Version::HTTP_2);
    }

    fn end(&self, now: Instant) {
        self.state.set(match self.state.get() {
            State::Busy { requests } if requests > 1 => State::Busy { requests: requests - 1 },
            State::Busy { .. } | State::Head { .. } | State::Idle { .. } => {
                State::Idle { since: now }
            }
        });
    }

    /// Bytes have come from the caller.
    pub(super) fn bytes_arrived(&self, bytes: &[u8], now: Instant) {
        if let State::Idle { .. } = self.state.get() {
            self.state.set(State::Head { since: now });
            self.head.borrow_mut().begin();
        }
        if let State::Head { .. } = self.state.get()
            && !self.is_http2.get()
        {
            self.head.borrow_mut().push(bytes);
        }
    }

    /// Whether the request that has just begun tells the length of its body more than once.
    pub(super) fn is_ambiguous(&self) -> bool {
        !self.is_http2.get() && self.head.borrow().is_ambiguous()
    }

    /// Returns when no request has been in progress, and no head has begun, for `grace`, from now on. Over HTTP/2, which says
    /// by itself which requests are still answered, at once.
    pub(super) async fn unused(&self, grace: Duration) {
        let start = Instant::now();
        while !self.is_http2.get() {
            let now = Instant::now();
            let over = match self.state.get() {
                State::Busy { .. } => now + grace,
                State::Head { since } | State::Idle { since } => since.max(start) + grace,
            };
            if over <= now {
                return;
            }
            tokio::time::sleep_until(over).await;
        }
    }

    /// Returns when no request has been in progress for `grace`.
    pub(super) async fn quiet(&self, grace: Duration) {
        loop {
            tokio::time::sleep(grace).await;
            if !matches!(self.state.get(), State::Busy { .. }) {
                return;
            }
        }
    }

    /// Returns when the connection should end.
    pub(super) async fn verdict(&self) -> Verdict {
        loop {
            let now = Instant::now();
            let next = match self.deadline() {
                Some((deadline, verdict)) if deadline <= now => return verdict,
                Some((deadline, _)) => deadline,
                None => now + HEAD_LIMIT,
            };
            // Looked at again before any limit that begins meanwhile can be over.
            let shortest = match self.idle_limit {
                Duration::ZERO => HEAD_LIMIT,
                idle_limit => idle_limit.min(HEAD_LIMIT),
            };
            tokio::time::sleep_until(next.min(now + shortest)).await;
        }
    }

    fn deadline(&self) -> Option<(Instant, Verdict)> {
        match self.state.get() {
            State::Head { since } if !self.is_http2.get() => {
                Some((since + HEAD_LIMIT, Verdict::Stalled))
            }
            State::Idle { since } if !self.is_http2.get() && !self.idle_limit.is_zero() => {
                Some((since + self.idle_limit, Verdict::Idle))
            }
            State::Head { .. } | State::Idle { .. } | State::Busy { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(activity: &Activity, now: Instant) -> Option<(Duration, Verdict)> {
        activity.deadline().map(|(deadline, verdict)| (deadline - now, verdict))
    }

    #[test]
    fn a_new_connection_and_a_begun_head_have_the_head_limit() {
        let now = Instant::now();
        let activity = Activity::new(Duration::ZERO, now);
        assert_eq!(limit(&activity, now), Some((HEAD_LIMIT, Verdict::Stalled)));
        activity.begin(Version::HTTP_11);
        activity.bytes_arrived(b"", now);
        assert_eq!(limit(&activity, now), None);
        activity.end(now);
        assert_eq!(limit(&activity, now), None);
        activity.bytes_arrived(b"", now + SECOND);
        activity.bytes_arrived(b"", now + 2 * SECOND);
        assert_eq!(limit(&activity, now), Some((SECOND + HEAD_LIMIT, Verdict::Stalled)));
    }

    #[test]
    fn only_an_idle_http1_connection_has_the_idle_limit() {
        let now = Instant::now();
        let activity = Activity::new(5 * SECOND, now);
        activity.begin(Version::HTTP_11);
        activity.begin(Version::HTTP_11);
        activity.end(now);
        assert_eq!(limit(&activity, now), None);
        activity.end(now + SECOND);
        assert_eq!(limit(&activity, now), Some((6 * SECOND, Verdict::Idle)));
        activity.begin(Version::HTTP_2);
        activity.end(now);
        assert_eq!(limit(&activity, now), None);
    }
}
