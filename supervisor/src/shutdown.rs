//! The order in which the gateway ends. Pure: facts and time go in, the next order comes out.
//!
//! ```text
//! Running --signal--> Announced --min_drain--> Finishing --idle or max_drain--> DrainingProxies --none left-->
//! DrainingStatus --none left--> Done
//! ```
//! Once announced, health routes answer 503 and load balancers look elsewhere. Connections are accepted until nothing is in
//! flight any more: whoever asks meanwhile is answered. Where listening sockets stay open without us, under a service manager,
//! there is no `Finishing`: nothing is accepted after min_drain, or callers who keep coming would put the end off for ever;
//! they wait in the kernel for the next start. The metrics listener stays until the last request is answered; then the
//! export worker sends what is left as well.

use std::time::{Duration, Instant};

use shared::id::Role;

/// The status worker has nothing worth waiting for, the export worker a last batch.
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// How often workers are asked whether anything is still in flight.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long the stages may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the signal to the moment when connections are not accepted any more.
    pub min_drain: Duration,
    /// From then to the end of requests in flight; `None` waits for ever.
    pub max_drain: Option<Duration>,
    /// Listening sockets outlive this process, in the store of the service manager: who connects meanwhile waits for the next
    /// one.
    pub listeners_stay: bool,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No signal yet.
    Running,
    /// Load balancers are given time to look elsewhere.
    Announced {
        /// Until then.
        until: Instant,
    },
    /// Requests in flight are waited for; others are still taken.
    Finishing {
        /// No longer than until then.
        deadline: Option<Instant>,
        /// When the workers are asked again.
        ask_at: Instant,
    },
    /// Proxy workers accept nothing any more and leave.
    DrainingProxies,
    /// The status worker finishes.
    DrainingStatus,
    /// Nothing runs any more.
    Done,
}

/// What the fleet is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Tell everybody that the node goes away.
    Retire,
    /// Ask every worker what it has in flight.
    Ask,
    /// Let the workers of a role finish, and kill them at the deadline.
    Drain(Role, Option<Instant>),
}

/// Processes that there still are.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Proxy workers.
    pub proxies: usize,
    /// Status workers, and export workers, which leave with them.
    pub statuses: usize,
    /// Every proxy worker has answered the latest question, and none has anything in flight.
    pub idle: bool,
}

impl Stage {
    /// The signal has come. A second one changes nothing.
    pub fn signalled(self, limits: Limits, now: Instant) -> (Self, Option<Order>) {
        match self {
            Self::Running => {
                (Self::Announced { until: now + limits.min_drain }, Some(Order::Retire))
            }
            stage => (stage, None),
        }
    }

    /// One step forward, if the time or the processes allow.
    pub fn step(self, running: Running, limits: Limits, now: Instant) -> (Self, Option<Order>) {
        match self {
            Self::Announced { until } if now >= until => {
                let deadline = limits.max_drain.map(|limit| now + limit);
                if limits.listeners_stay {
                    return (Self::DrainingProxies, Some(Order::Drain(Role::Proxy, deadline)));
                }
                let ask_at = now + POLL_INTERVAL;
                (Self::Finishing { deadline, ask_at }, Some(Order::Ask))
            }
            Self::Finishing { deadline, .. }
                if running.idle || deadline.is_some_and(|deadline| now >= deadline) =>
            {
                (Self::DrainingProxies, Some(Order::Drain(Role::Proxy, deadline)))
            }
            Self::Finishing { deadline, ask_at } if now >= ask_at => {
                let ask_at = now + POLL_INTERVAL;
                (Self::Finishing { deadline, ask_at }, Some(Order::Ask))
            }
            Self::DrainingProxies if running.proxies == 0 => {
                let deadline = Some(now + STATUS_LIMIT);
                (Self::DrainingStatus, Some(Order::Drain(Role::Status, deadline)))
            }
            Self::DrainingStatus if running.statuses == 0 => (Self::Done, None),
            stage => (stage, None),
        }
    }

    /// When [`Stage::step`] should be asked again even if nothing happens.
    pub fn wake_at(self) -> Option<Instant> {
        match self {
            Self::Announced { until } => Some(until),
            Self::Finishing { ask_at, .. } => Some(ask_at),
            Self::Running | Self::DrainingProxies | Self::DrainingStatus | Self::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        min_drain: Duration::from_secs(30),
        max_drain: Some(Duration::from_secs(5)),
        listeners_stay: false,
    };

    const BUSY: Running = Running { proxies: 2, statuses: 1, idle: false };
    const IDLE: Running = Running { idle: true, ..BUSY };

    #[test]
    fn proxies_finish_before_the_status_worker_and_both_before_the_end() {
        let now = Instant::now();
        let (stage, order) = Stage::Running.signalled(LIMITS, now);
        assert_eq!(order, Some(Order::Retire));
        assert_eq!(stage.step(IDLE, LIMITS, now + LIMITS.min_drain / 2), (stage, None));
        let later = now + LIMITS.min_drain;
        let (stage, order) = stage.step(BUSY, LIMITS, later);
        assert_eq!(order, Some(Order::Ask));
        assert_eq!(stage.step(BUSY, LIMITS, later), (stage, None));
        let (stage, order) = stage.step(IDLE, LIMITS, later);
        let deadline = Some(later + Duration::from_secs(5));
        assert_eq!(order, Some(Order::Drain(Role::Proxy, deadline)));
        assert_eq!(stage.step(IDLE, LIMITS, later), (stage, None));
        let (stage, order) = stage.step(Running { proxies: 0, ..IDLE }, LIMITS, later);
        assert!(matches!(order, Some(Order::Drain(Role::Status, Some(_)))));
        let none = Running { proxies: 0, statuses: 0, idle: true };
        assert_eq!(stage.step(none, LIMITS, later), (Stage::Done, None));
    }

    #[test]
    fn while_something_is_in_flight_workers_are_asked_again_until_the_limit() {
        let now = Instant::now();
        let limits = Limits { min_drain: Duration::ZERO, ..LIMITS };
        let (stage, _) = Stage::Running.signalled(limits, now);
        let (stage, _) = stage.step(BUSY, limits, now);
        assert_eq!(stage.wake_at(), Some(now + POLL_INTERVAL));
        let (stage, order) = stage.step(BUSY, limits, now + POLL_INTERVAL);
        assert_eq!(order, Some(Order::Ask));
        let (stage, order) = stage.step(BUSY, limits, now + Duration::from_secs(5));
        assert_eq!(stage, Stage::DrainingProxies);
        assert!(matches!(order, Some(Order::Drain(Role::Proxy, Some(_)))));
    }

    #[test]
    fn callers_who_keep_coming_do_not_put_the_end_off_where_listeners_outlive_it() {
        let now = Instant::now();
        let limits = Limits { max_drain: None, listeners_stay: true, ..LIMITS };
        let (stage, _) = Stage::Running.signalled(limits, now);
        assert_eq!(stage.step(BUSY, limits, now), (stage, None));
        let (stage, order) = stage.step(BUSY, limits, now + limits.min_drain);
        assert_eq!(stage, Stage::DrainingProxies);
        assert_eq!(order, Some(Order::Drain(Role::Proxy, None)));
    }

    #[test]
    fn a_second_signal_changes_nothing() {
        let now = Instant::now();
        let (stage, _) = Stage::Running.signalled(LIMITS, now);
        assert_eq!(stage.signalled(LIMITS, now + Duration::from_secs(1)), (stage, None));
    }

    #[test]
    fn without_a_limit_requests_in_flight_are_waited_for() {
        let now = Instant::now();
        let limits = Limits { min_drain: Duration::ZERO, max_drain: None, ..LIMITS };
        let (stage, _) = Stage::Running.signalled(limits, now);
        let (stage, _) = stage.step(BUSY, limits, now);
        let (stage, order) = stage.step(BUSY, limits, now + Duration::from_secs(1_000_000));
        assert!(matches!(stage, Stage::Finishing { .. }));
        assert_eq!(order, Some(Order::Ask));
    }
}
