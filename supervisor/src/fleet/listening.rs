//! Hears one worker, in a task of its own, and keeps one that never stops talking from keeping everybody busy.
//!
//! What workers say waits for the supervisor's loop in one bounded queue, first come, first served: a worker has at most one
//! message on its way into it, so that every other is heard between two of its own. Who says more than [`PER_SECOND_MAX`] for long
//! is read more slowly: it fills its own socket, and waits. Who says more than any worker has to (`allowance.rs`) is ended. No worker in order comes near that; a status worker whose callers
//! ask as fast as they can is slowed down, and lives.

use std::rc::Rc;
use std::time::{Duration, Instant};

use shared::channel::{Channel, ChannelError};
use shared::id::WorkerId;
use shared::message::{ToSupervisor, ToWorker};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::Event;
use super::allowance::Allowance;

/// Messages per second that are heard of one worker for long.
const PER_SECOND_MAX: u32 = 2_000;
/// Messages that are heard at once: a worker that starts names its metric series.
const AT_ONCE_MAX: u32 = 4_000;

/// Hears a worker until its channel ends, however it does, or until what it says is to stay in its socket.
pub async fn listen(
    id: WorkerId,
    channel: Rc<Channel<ToWorker, ToSupervisor>>,
    events: mpsc::Sender<Event>,
    mut paused: watch::Receiver<bool>,
) {
    let (mut pace, mut allowance) = (Pace::new(Instant::now()), Allowance::new(Instant::now()));
    let mut slowed = false;
    loop {
        let received = tokio::select! {
            biased;
            _ = paused.wait_for(|paused| *paused) => return,
            received = channel.receive() => received,
        };
        let received = match received {
            Ok(said) if !allowance.take(&said.message, Instant::now()) => Err(ChannelError::Flood),
            received => received,
        };
        let last = received.is_err();
        if events.send(Event::Said(id, received)).await.is_err() || last {
            return;
        }
        if let Some(pause) = pace.heard(Instant::now()) {
            // Told once: it would be told two thousand times a second.
            if !std::mem::replace(&mut slowed, true) {
                warn!(worker = %id, "a worker says more than {PER_SECOND_MAX} messages a second, and is heard more slowly");
            }
            tokio::select! {
                _ = paused.wait_for(|paused| *paused) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// How fast a worker is heard: so many messages at once, so many per second for long. Pure.
#[derive(Debug)]
struct Pace {
    /// When everything heard so far would have been said at the permitted rate.
    paid_until: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { paid_until: now }
    }

    /// A message was heard: how long to wait before the next one, if at all.
    fn heard(&mut self, now: Instant) -> Option<Duration> {
        let each = Duration::from_secs(1) / PER_SECOND_MAX;
        let burst = each * AT_ONCE_MAX;
        self.paid_until = self.paid_until.max(now) + each;
        self.paid_until.saturating_duration_since(now).checked_sub(burst).filter(|it| !it.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use shared::channel;

    use super::*;

    #[test]
    fn a_worker_may_say_a_lot_at_once_and_less_for_long() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let at_once = (0..AT_ONCE_MAX).filter(|_| pace.heard(start).is_none()).count();
        assert_eq!(at_once, AT_ONCE_MAX as usize);
        assert!(pace.heard(start).is_some());
        // Whoever waits as told is heard at the rate.
        let (mut now, mut heard) = (start, 0);
        while now < start + Duration::from_secs(10) {
            now += pace.heard(now).unwrap_or_default();
            heard += 1;
        }
        assert!((18_000..=20_100).contains(&heard), "{heard}");
        // Silence brings the burst back, and no more than that.
        let later = now + Duration::from_secs(3600);
        let at_once = (0..AT_ONCE_MAX * 2).filter(|_| pace.heard(later).is_none()).count();
        assert_eq!(at_once, AT_ONCE_MAX as usize);
    }

    #[test]
    fn a_worker_that_never_stops_talking_does_not_keep_another_from_being_heard() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let talking = tokio::task::LocalSet::new().block_on(&runtime, async {
            let (events, mut heard) = mpsc::channel(128);
            let (flood, quiet) = (WorkerId(1), WorkerId(2));
            let [(ours_1, theirs_1), (ours_2, theirs_2)] =
                [channel::pair().unwrap(), channel::pair().unwrap()];
            let (_running, paused) = watch::channel(false);
            for (id, ours) in [(flood, ours_1), (quiet, ours_2)] {
                let channel = Rc::new(Channel::new(ours).unwrap());
                tokio::task::spawn_local(listen(id, channel, events.clone(), paused.clone()));
            }
            let talking = std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let worker = Channel::<ToSupervisor, ToWorker>::new(theirs_1).unwrap();
                    // Until the supervisor's end is closed.
                    while worker.send(&ToSupervisor::Pong(1, 0), 0, None).await.is_ok() {}
                });
            });
            let worker = Channel::<ToSupervisor, ToWorker>::new(theirs_2).unwrap();
            // The flood has begun.
            for _ in 0..100 {
                heard.recv().await.unwrap();
            }
            let (mut between, mut longest) = (0_usize, Duration::ZERO);
            for number in 0..200 {
                let asked = Instant::now();
                worker.send(&ToSupervisor::Pong(number, 0), 0, None).await.unwrap();
                while let Some(Event::Said(id, _)) = heard.recv().await {
                    if id == quiet {
                        break;
                    }
                    between += 1;
                }
                longest = longest.max(asked.elapsed());
            }
            println!(
                "200 messages heard beside a flood of {between}; the slowest after {longest:?}"
            );
            talking
        });
        // The listening tasks are gone, and the supervisor's end of the channel with them.
        talking.join().unwrap();
    }
}
