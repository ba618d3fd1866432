//! When to send how many usage events, and what an answer means for them. Pure: time and chance are passed in.
//!
//! Several requests are on their way at a time, each in a lane of its own. Most lanes send the oldest events, some the
//! newest, so that a long backlog does not keep fresh events waiting. The manager judges a batch as a whole, so a batch
//! that it refuses is halved until the events at fault are found, while other lanes go on.
//!
//! ```text
//! accepted                 the events are done
//! 400                      some of them are bad: halve
//! 413                      too many at once: halve, and send smaller batches for a while
//! 429, 503, Retry-After    nobody sends before that
//! anything else            nobody sends for 1-60 s, then one lane tries; for ever
//! ```
//! An event that is refused alone is given up only if the Cloud has accepted another just before: of the same batch, or any
//! since it was refused first. Otherwise it may be the manager that is at fault, and everything is kept.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::manager::Reason;
use crate::backoff::Backoff;

/// The most events in one request, as published.
pub const EVENTS_MAX: usize = 100;
/// Requests on their way at a time. With 40 ms for each, 20,000 events a second.
pub const LANES: usize = 8;
/// Every fourth lane sends the newest events: the second one for the first.
const NEWEST: (usize, usize) = (4, 1);
/// The longest that an event waits for others to fill its batch.
const GATHERING: Duration = Duration::from_secs(1);
/// The shortest pause that a manager can ask for.
const TOLD_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Pause after a failure while the process is leaving.
const HURRIED_PAUSE: Duration = Duration::from_millis(200);
/// So many events refused alone in a row, and none accepted: the manager refuses whatever it is sent.
const REFUSED_ALONE_MAX: u32 = 8;

/// What a lane without events does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until there are more events.
    Idle,
    /// Nothing, until then or until there are more events.
    Wait(Instant),
    /// Take at most so many events.
    Take {
        /// The newest instead of the oldest.
        newest: bool,
        /// How many.
        max: usize,
    },
}

/// Whether a lane may send a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may, and tells the answer.
    Send,
    /// Not before then.
    Wait(Instant),
    /// Not before another lane has heard how its request went.
    Hold,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 2xx.
    Accepted,
    /// At least one event is unacceptable.
    Refused,
    /// Too large.
    TooLarge,
    /// Come back later.
    Later(Option<Duration>),
}

impl From<&Reason> for Answer {
    fn from(reason: &Reason) -> Self {
        match reason {
            Reason::Status { status: 400, .. } => Self::Refused,
            // A load balancer in between may say it with a page of its own.
            Reason::Status { status: 413, .. } | Reason::WebPage { status: 413 } => Self::TooLarge,
            Reason::Status { retry_after, .. } => Self::Later(*retry_after),
            Reason::Connection(_) | Reason::Timeout | Reason::TooLong | Reason::WebPage { .. } => {
                Self::Later(None)
            }
        }
    }
}

/// The pace of all lanes together.
#[derive(Debug)]
pub struct Pace {
    /// How many events a request may hold at present.
    size_max: usize,
    /// Since when events gather for the next batch.
    gathering_since: Option<Instant>,
    not_before: Option<Instant>,
    /// The manager has said not to come before then, whatever it answers to what was on its way.
    told_until: Option<Instant>,
    /// The last answer was a failure: one lane at a time tries.
    failing: bool,
    probing: bool,
    backoff: Backoff,
    hurried: bool,
    /// Requests that were accepted.
    accepted: u64,
    /// Events refused alone since one was accepted.
    refused_alone: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            size_max: EVENTS_MAX,
            gathering_since: None,
            not_before: None,
            told_until: None,
            failing: false,
            probing: false,
            backoff: Backoff::default(),
            hurried: false,
            accepted: 0,
            refused_alone: 0,
        }
    }
}

impl Pace {
    /// What a lane does while `free` events wait that nobody is sending.
    pub fn next(&mut self, lane: usize, free: u64, now: Instant) -> Step {
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        if free == 0 {
            self.gathering_since = None;
            return Step::Idle;
        }
        // One lane for little, so that there are not eight connections for nothing.
        if free <= lane.saturating_mul(self.size_max) {
            return Step::Idle;
        }
        let gathered = *self.gathering_since.get_or_insert(now) + GATHERING;
        if let Some(until) = self.closed_until(now) {
            return Step::Wait(until);
        }
        if free < self.size_max && now < gathered && !self.hurried {
            return Step::Wait(gathered);
        }
        self.gathering_since = None;
        let newest = lane % NEWEST.0 == NEWEST.1;
        Step::Take { newest, max: EVENTS_MAX }
    }

    /// Whether a lane may send what it has.
    pub fn permit(&mut self, now: Instant) -> Permit {
        if let Some(until) = self.closed_until(now) {
            return Permit::Wait(until);
        }
        if self.failing && std::mem::replace(&mut self.probing, true) {
            return Permit::Hold;
        }
        Permit::Send
    }

    /// Whether nobody has to wait.
    pub fn is_open(&self, now: Instant) -> bool {
        self.closed_until(now).is_none()
    }

    /// Until when nobody may send, if so.
    fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.max(self.told_until).filter(|until| now < *until)
    }

    /// Takes the answer to a request that was permitted. `chance` is between 0 and 1.
    pub fn answered(&mut self, answer: Answer, chance: f64, now: Instant) {
        self.probing = false;
        match answer {
            Answer::Later(told) => self.pause(told, chance, now),
            Answer::Accepted | Answer::Refused | Answer::TooLarge => {
                self.failing = false;
                self.not_before = None;
                self.backoff.succeeded();
            }
        }
        if answer == Answer::Accepted {
            self.accepted += 1;
            self.refused_alone = 0;
            self.size_max = (self.size_max + 1).min(EVENTS_MAX);
        }
    }

    /// The manager refuses whatever it is sent: that is a failure like any other.
    pub fn refuses_all(&mut self, chance: f64, now: Instant) {
        self.refused_alone = 0;
        self.pause(None, chance, now);
    }

    fn pause(&mut self, told: Option<Duration>, chance: f64, now: Instant) {
        // Requests that were on their way together fail together: that is one failure.
        let is_known = self.failing && !self.is_open(now);
        let pause = match told {
            Some(told) => told.max(TOLD_PAUSE_MIN),
            None if is_known => Duration::ZERO,
            None => self.backoff.failed(chance),
        };
        let pause = if self.hurried { pause.min(HURRIED_PAUSE) } else { pause };
        self.failing = true;
        let until = if told.is_some() { &mut self.told_until } else { &mut self.not_before };
        *until = (*until).max(Some(now + pause));
    }

    /// The process is leaving: gather no more, wait less.
    pub fn hurry(&mut self) {
        self.hurried = true;
        self.not_before = None;
        self.told_until = None;
    }
}

/// Events on their way: which of them are to be sent next, and what is known of the others.
#[derive(Debug)]
pub struct Batch {
    /// To be sent, each range in a request of its own.
    todo: VecDeque<Range<usize>>,
    /// Refused alone while nothing was accepted.
    suspects: Vec<usize>,
    /// Refused alone while others were accepted.
    given_up: Vec<usize>,
    /// The Cloud accepts events: it is not at fault.
    has_accepted: bool,
    /// Requests that the Cloud had accepted when the batch was done but for its suspects.
    parked_at: u64,
}

impl Batch {
    /// A batch of so many events.
    pub fn new(events: usize, pace: &Pace) -> Self {
        let size = pace.size_max.max(1);
        let starts = (0..events).step_by(size);
        let todo = starts.map(|start| start..events.min(start + size)).collect();
        let (suspects, given_up) = (Vec::new(), Vec::new());
        Self { todo, suspects, given_up, has_accepted: false, parked_at: 0 }
    }

    /// What to send next; `None` when every event has been sent.
    pub fn next(&self) -> Option<Range<usize>> {
        self.todo.front().cloned()
    }

    /// Takes the answer to the range that [`Batch::next`] named, after [`Pace::answered`] did.
    pub fn answered(&mut self, answer: Answer, pace: &mut Pace, chance: f64, now: Instant) {
        let Some(range) = self.todo.front().cloned() else { return };
        match answer {
            Answer::Later(_) => return,
            Answer::Accepted => {
                self.has_accepted = true;
                self.retry();
            }
            Answer::Refused | Answer::TooLarge if range.len() <= 1 => {
                let list = if self.has_accepted { &mut self.given_up } else { &mut self.suspects };
                list.push(range.start);
                pace.refused_alone += 1;
                if pace.refused_alone >= REFUSED_ALONE_MAX {
                    self.has_accepted = false;
                    pace.refuses_all(chance, now);
                }
            }
            Answer::Refused | Answer::TooLarge => {
                if answer == Answer::TooLarge {
                    pace.size_max = range.len().div_ceil(2);
                }
                // Breadth first: large parts that are good come before single events that are not.
                let middle = range.start + range.len().div_ceil(2);
                self.todo.extend([range.start..middle, middle..range.end]);
            }
        }
        self.todo.pop_front();
    }

    /// Every event has been sent. The events to be given up, or `None` if it is not known yet whose fault it is: then the
    /// batch is parked.
    pub fn conclude(&mut self, pace: &Pace) -> Option<Vec<usize>> {
        if self.suspects.is_empty() {
            return Some(std::mem::take(&mut self.given_up));
        }
        self.parked_at = pace.accepted;
        None
    }

    /// Whether the suspects of a parked batch can be told apart now. If so they are to be sent again.
    pub fn revive(&mut self, pace: &Pace) -> bool {
        let has_accepted = pace.accepted > self.parked_at;
        if has_accepted {
            self.retry();
            self.has_accepted = true;
        }
        has_accepted
    }

    /// Sends the suspects again.
    pub fn retry(&mut self) {
        self.todo.extend(self.suspects.drain(..).map(|event| event..event + 1));
    }
}

#[cfg(test)]
mod tests;
