//! What happens on one connection, and when it has been nothing for too long.
//!
//! ```text
//! new ──first byte──▶ head ──head complete──▶ busy ──last answer done──▶ idle ──first byte──▶ head
//! ```
//! A head that is not complete in time ends the connection, a new one that stays silent too. An idle HTTP/1.1 connection
//! may wait for as long as the settings say; HTTP/2 has no such limit. Long before that it rests: it gives back what only a
//! request needs.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Version;
use tokio::time::Instant;

use super::entrance::Refused;

/// From the first byte of a head, or from the connection's begin, until the head is complete.
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// Idle for this long, a connection rests. Longer than the pauses of a caller that is busy.
pub(super) const REST_AFTER: Duration = Duration::from_millis(250);

/// What should become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It should rest.
    Rests,
    /// It should end: it was idle for as long as it may.
    Idle,
    /// It should end: a head did not come to its end.
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
    /// It has given back what it could.
    rests: Cell<bool>,
    /// Bytes of an answer, or the end of the connection, wait until the caller reads.
    is_blocked: Cell<bool>,
    /// The caller is not heard before this has come to its end.
    held: RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    /// What the entrance has said to the request whose head waits to be read.
    passed: Cell<Option<Result<(), Refused>>>,
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
            rests: Cell::new(false),
            is_blocked: Cell::new(false),
            held: RefCell::default(),
            passed: Cell::default(),
        }
    }

    /// The entrance has been asked about the next request.
    pub(super) fn has_passed(&self, passed: Result<(), Refused>) {
        self.passed.set(Some(passed));
    }

    /// What the entrance has said to the request that has just begun, if it was asked.
    pub(super) fn passed(&self) -> Option<Result<(), Refused>> {
        self.passed.take()
    }

    /// The caller, who was told to come back later, is not heard before `end`.
    pub(super) fn hold(&self, end: impl Future<Output = ()> + 'static) {
        self.held.replace(Some(Box::pin(end)));
    }

    /// The caller is heard from now on.
    pub(super) fn release(&self) {
        self.held.take();
    }

    /// Whether the caller is not heard for now.
    pub(super) fn is_held(&self) -> bool {
        self.held.borrow().is_some()
    }

    /// Is ready when the caller is heard.
    pub(super) fn poll_held(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut held = self.held.borrow_mut();
        if let Some(end) = held.as_mut() {
            ready!(end.as_mut().poll(context));
            *held = None;
        }
        Poll::Ready(())
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

    /// It has given back what it could, until bytes come.
    pub(super) fn rest(&self) {
        self.rests.set(true);
    }

    /// Bytes were written, all that there were (`is_done`) or not.
    pub(super) fn written(&self, is_done: bool) {
        self.is_blocked.set(!is_done);
    }

    /// Bytes have come from the caller.
    pub(super) fn bytes_arrived(&self, now: Instant) {
        self.rests.set(false);
        if let State::Idle { .. } = self.state.get() {
            self.state.set(State::Head { since: now });
        }
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

    /// Returns when no request has been in progress for `grace`. A caller that is slow to read the end of its answer has
    /// `blocked_limit` for that.
    pub(super) async fn quiet(&self, grace: Duration, blocked_limit: Duration) {
        let mut blocked = Duration::ZERO;
        loop {
            tokio::time::sleep(grace).await;
            let is_busy = matches!(self.state.get(), State::Busy { .. });
            if !is_busy && (!self.is_blocked.get() || blocked >= blocked_limit) {
                return;
            }
            blocked += if is_busy { Duration::ZERO } else { grace };
        }
    }

    /// Returns when something should become of the connection; where it is crowded, it rests at once. Whoever changes its state
    /// polls this afterwards.
    pub(super) async fn verdict(&self, is_crowded: impl Fn() -> bool) -> Verdict {
        let next = || self.deadline().map_or_else(|| Instant::now() + HEAD_LIMIT, |(next, _)| next);
        let mut sleep = pin!(tokio::time::sleep_until(next()));
        poll_fn(|context| {
            if self.may_rest() && is_crowded() {
                return Poll::Ready(Verdict::Rests);
            }
            // Set anew only for an earlier end, and otherwise when it is over: not for each request.
            if let Some((deadline, _)) = self.deadline()
                && deadline < sleep.deadline()
            {
                sleep.as_mut().reset(deadline);
            }
            loop {
                ready!(sleep.as_mut().poll(context));
                let now = Instant::now();
                match self.deadline() {
                    Some((deadline, verdict)) if deadline <= now => return Poll::Ready(verdict),
                    Some(_) | None => sleep.as_mut().reset(next()),
                }
            }
        })
        .await
    }

    /// Whether nothing is in progress or still to be written, and it has not given back yet what it can.
    pub(super) fn may_rest(&self) -> bool {
        let is_idle = matches!(self.state.get(), State::Idle { .. });
        is_idle && !self.rests.get() && !self.is_blocked.get() && !self.is_http2.get()
    }

    fn deadline(&self) -> Option<(Instant, Verdict)> {
        if self.is_http2.get() {
            return None;
        }
        match self.state.get() {
            State::Head { since } => Some((since + HEAD_LIMIT, Verdict::Stalled)),
            State::Idle { since } => {
                let rest = self.may_rest().then_some((since + REST_AFTER, Verdict::Rests));
                let end = (!self.idle_limit.is_zero())
                    .then_some((since + self.idle_limit, Verdict::Idle));
                rest.into_iter().chain(end).min_by_key(|(deadline, _)| *deadline)
            }
            State::Busy { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::server::tests::run;

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
        activity.bytes_arrived(now);
        assert_eq!(limit(&activity, now), None);
        activity.end(now);
        assert_eq!(limit(&activity, now), Some((REST_AFTER, Verdict::Rests)));
        activity.bytes_arrived(now + SECOND);
        activity.bytes_arrived(now + 2 * SECOND);
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
        activity.rest();
        assert_eq!(limit(&activity, now), Some((6 * SECOND, Verdict::Idle)));
        activity.begin(Version::HTTP_2);
        activity.end(now);
        assert_eq!(limit(&activity, now), None);
    }

    #[test]
    fn a_connection_rests_once_after_each_use_and_not_before_its_answer_is_written() {
        let now = Instant::now();
        let activity = Activity::new(Duration::ZERO, now);
        for _ in 0..2 {
            activity.bytes_arrived(now);
            activity.begin(Version::HTTP_11);
            activity.written(false);
            activity.end(now);
            assert_eq!(limit(&activity, now), None);
            activity.written(true);
            assert_eq!(limit(&activity, now), Some((REST_AFTER, Verdict::Rests)));
            activity.rest();
            assert_eq!(limit(&activity, now), None);
        }
    }

    #[test]
    fn where_it_is_crowded_a_connection_rests_as_soon_as_its_answer_is_written() {
        run(async {
            let now = Instant::now();
            let activity = Activity::new(Duration::ZERO, now);
            let verdict = |is_crowded| activity.verdict(move || is_crowded).now_or_never();
            assert_eq!(verdict(true), None, "its request has not begun");
            activity.begin(Version::HTTP_11);
            activity.written(false);
            activity.end(now);
            assert_eq!(verdict(true), None);
            activity.written(true);
            assert_eq!(verdict(false), None);
            assert_eq!(verdict(true), Some(Verdict::Rests));
            activity.rest();
            assert_eq!(verdict(true), None);
        });
    }

    #[test]
    fn an_answer_that_is_slow_to_be_read_has_its_time_when_a_connection_ends() {
        run(async {
            let activity = Activity::new(Duration::ZERO, Instant::now());
            activity.begin(Version::HTTP_11);
            activity.end(Instant::now());
            activity.written(false);
            let grace = Duration::from_millis(1);
            let quiet = activity.quiet(grace, SECOND * 3600);
            assert!(tokio::time::timeout(20 * grace, quiet).await.is_err());
            activity.quiet(grace, 5 * grace).await;
            activity.written(true);
            activity.quiet(grace, SECOND * 3600).await;
        });
    }
}
