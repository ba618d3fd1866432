//! What all workers of a node know together of a direct model: until when it is left alone, how its last background check
//! went, how fast it answers, where a rotation stands. Each is one word of the counters, so that none is ever half written.
//!
//! ```text
//! cool-down   until, in milliseconds since 1970 (48 bits) | why (16 bits)
//! check       when, in seconds since 1970 (32 bits) | verdict (16 bits) | status (16 bits)
//! latency     when it was seen last, in seconds since 1970 (32 bits) | moving average in microseconds (32 bits)
//! ```
//! Zero says nothing. Where there is no room for a word nothing is known, and every model is as good as healthy.

use std::sync::atomic::Ordering::SeqCst;

use crate::counters::{CounterKey, Counters};
use crate::resource::{Model, ModelKind};

/// The weight of what was seen last in a moving average: one part of so many.
const AVERAGE_PARTS: u64 = 4;
/// An average that was not seen for so many seconds is not recent any more.
pub const LATENCY_SECONDS_MAX: u64 = 300;
/// Not even a document's longest cool-down is believed to end later than this after now: then a clock was set back.
const COOLDOWN_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// Why an attempt or a check has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The upstream answered with this status.
    Status(u16),
    /// It took too long.
    Timeout,
    /// The connection or the answer was broken.
    Transport,
}

impl Failure {
    const TIMEOUT: u64 = 1;
    const TRANSPORT: u64 = 2;

    fn word(self) -> u64 {
        match self {
            Self::Status(status) => status.into(),
            Self::Timeout => Self::TIMEOUT,
            Self::Transport => Self::TRANSPORT,
        }
    }

    fn of(word: u64) -> Self {
        match word & 0xffff {
            Self::TIMEOUT => Self::Timeout,
            Self::TRANSPORT => Self::Transport,
            status => Self::Status(u16::try_from(status).unwrap_or_default()),
        }
    }

    /// In words.
    pub fn text(self) -> String {
        match self {
            Self::Status(status) => format!("upstream returned {status}"),
            Self::Timeout => "upstream timed out".to_owned(),
            Self::Transport => "upstream cannot be reached or understood".to_owned(),
        }
    }
}

/// A direct model that is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoolingDown {
    /// Until then, in milliseconds since 1970.
    pub until_ms: u64,
    /// Because of this.
    pub failure: Failure,
}

/// How a background check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// When it ended, in seconds since 1970.
    pub at_seconds: u64,
    /// Whether the model was found healthy.
    pub is_healthy: bool,
    /// What the upstream answered, or why it did not.
    pub outcome: Failure,
}

/// What is known of how fast a model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Moving average, in microseconds.
    pub micros: u64,
    /// When it was seen last, in seconds since 1970; 0 = never.
    pub seen_seconds: u64,
}

/// Whether a model is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing speaks against it.
    Healthy,
    /// It is left alone for a while.
    Cooldown(CoolingDown),
    /// Its last background check has failed.
    Unhealthy(Check),
}

/// The words of one direct model.
#[derive(Clone, Copy, Debug)]
pub struct Deployment<'a> {
    counters: Counters,
    model_id: &'a str,
}

impl<'a> Deployment<'a> {
    /// Of the direct model with that resource id.
    pub fn new(counters: Counters, model_id: &'a str) -> Self {
        Self { counters, model_id }
    }

    /// The key of a word of it.
    fn key(&self, what: &str) -> CounterKey {
        CounterKey::of(&["deployment", what, self.model_id])
    }

    fn word(&self, what: &str) -> u64 {
        self.counters.known_cell(self.key(what)).map_or(0, |cell| cell.load(SeqCst))
    }

    /// Whether anything was found out about it: that it failed or, by a check, how it is.
    pub fn is_known(&self) -> bool {
        self.word("cooldown") != 0 || self.word("check") != 0
    }

    /// The gauge of its requests in flight.
    pub fn in_flight_key(&self) -> CounterKey {
        self.key("in-flight")
    }

    /// How many requests are in flight, of those that were counted.
    pub fn in_flight(&self) -> u64 {
        self.counters.in_progress(self.in_flight_key())
    }

    /// Leaves it alone until then, or for longer if that was said before. `true` if it was not left alone yet.
    pub fn cool_down(&self, until_ms: u64, failure: Failure, now_ms: u64) -> bool {
        let Some(cell) = self.counters.cell(self.key("cooldown")) else { return false };
        let before = cell.fetch_max((until_ms << 16) | failure.word(), SeqCst);
        before >> 16 <= now_ms
    }

    /// Whether it is left alone now.
    pub fn cooling_down(&self, now_ms: u64) -> Option<CoolingDown> {
        let word = self.word("cooldown");
        let until_ms = word >> 16;
        (until_ms > now_ms && until_ms.saturating_sub(now_ms) <= COOLDOWN_MS_MAX)
            .then(|| CoolingDown { until_ms, failure: Failure::of(word) })
    }

    /// Whether a check is due that nobody else makes; whoever is told so makes it. Once in every interval, in all workers
    /// together.
    pub fn claim_check(&self, interval_ms: u64, now_ms: u64) -> bool {
        let Some(cell) = self.counters.cell(self.key("check-claimed")) else { return true };
        let before = cell.load(SeqCst);
        // A clock that was set back makes it due as well.
        let is_due = before == 0 || before > now_ms || now_ms.saturating_sub(before) >= interval_ms;
        is_due && cell.compare_exchange(before, now_ms.max(1), SeqCst, SeqCst).is_ok()
    }

    /// A check has ended. Without a verdict the former one stays.
    pub fn checked(&self, is_healthy: Option<bool>, outcome: Failure, now_seconds: u64) {
        let Some(cell) = self.counters.cell(self.key("check")) else { return };
        let _ = cell.fetch_update(SeqCst, SeqCst, |before| {
            let former = Check::of(before).is_none_or(|check| check.is_healthy);
            let verdict = u64::from(is_healthy.unwrap_or(former)).saturating_add(1);
            Some((now_seconds << 32) | (verdict << 16) | outcome.word())
        });
    }

    /// The last background check.
    pub fn last_check(&self) -> Option<Check> {
        Check::of(self.word("check"))
    }

    /// How fast it answers, if that was seen recently.
    pub fn latency(&self) -> Latency {
        let word = self.word("latency");
        Latency { micros: word & 0xffff_ffff, seen_seconds: word >> 32 }
    }

    /// An answer took so long.
    pub fn answered_in(&self, micros: u64, now_seconds: u64) {
        let Some(cell) = self.counters.cell(self.key("latency")) else { return };
        let sample = micros.clamp(1, 0xffff_ffff);
        let _ = cell.fetch_update(SeqCst, SeqCst, |before| {
            let (seen, average) = (before >> 32, before & 0xffff_ffff);
            let is_recent = now_seconds.saturating_sub(seen) <= LATENCY_SECONDS_MAX;
            let average = match average {
                0 => sample,
                _ if !is_recent => sample,
                average => average
                    .saturating_mul(AVERAGE_PARTS.saturating_sub(1))
                    .saturating_add(sample)
                    .div_ceil(AVERAGE_PARTS),
            };
            Some((now_seconds << 32) | average)
        });
    }

    /// Whether the model is to be asked, by what its document says.
    pub fn state(&self, model: &Model, now_ms: u64) -> State {
        let ModelKind::Direct(direct) = &model.kind else { return State::Healthy };
        if direct.cooldown.enabled
            && let Some(cooling) = self.cooling_down(now_ms)
        {
            return State::Cooldown(cooling);
        }
        let Some(document) = &direct.background_check else { return State::Healthy };
        match self.last_check() {
            Some(check) if !check.is_healthy => {
                let age = (now_ms / 1000).saturating_sub(check.at_seconds);
                let is_stale = age > document.stale_after_seconds;
                if is_stale { State::Healthy } else { State::Unhealthy(check) }
            }
            _ => State::Healthy,
        }
    }
}

impl Check {
    fn of(word: u64) -> Option<Self> {
        let is_healthy = match (word >> 16) & 0xffff {
            1 => false,
            2 => true,
            _ => return None,
        };
        Some(Self { at_seconds: word >> 32, is_healthy, outcome: Failure::of(word) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{BackgroundCheck, DirectModel};

    const NOW: u64 = 1_800_000_000_000;

    fn model(background: bool) -> Model {
        let check = BackgroundCheck { stale_after_seconds: 60, ..BackgroundCheck::default() };
        let background_check = background.then_some(check);
        let direct = DirectModel { background_check, ..DirectModel::default() };
        Model { kind: ModelKind::Direct(Box::new(direct)), ..Model::default() }
    }

    #[test]
    fn a_model_is_left_alone_until_the_latest_moment_that_was_said_and_no_longer() {
        let counters = Counters::private();
        let deployment = Deployment::new(counters, "m");
        assert_eq!(deployment.state(&model(false), NOW), State::Healthy);
        assert!(deployment.cool_down(NOW + 5000, Failure::Status(503), NOW));
        assert!(!deployment.cool_down(NOW + 1000, Failure::Timeout, NOW));
        let other = Deployment::new(counters.with_lane(3).unwrap(), "m");
        let cooling = CoolingDown { until_ms: NOW + 5000, failure: Failure::Status(503) };
        assert_eq!(other.state(&model(false), NOW + 4999), State::Cooldown(cooling));
        assert_eq!(other.state(&model(false), NOW + 5000), State::Healthy);
        assert!(other.cool_down(NOW + 9000, Failure::Timeout, NOW + 5000));
        assert_eq!(Deployment::new(counters, "n").cooling_down(NOW), None);
    }

    #[test]
    fn a_document_that_switches_cool_downs_off_does_so_at_once() {
        let deployment = Deployment::new(Counters::private(), "m");
        deployment.cool_down(NOW + 5000, Failure::Transport, NOW);
        let mut off = model(false);
        if let ModelKind::Direct(direct) = &mut off.kind {
            direct.cooldown.enabled = false;
        }
        assert_eq!(deployment.state(&off, NOW), State::Healthy);
    }

    #[test]
    fn a_check_is_made_once_in_an_interval_whoever_asks() {
        let counters = Counters::private();
        let claims = |now| {
            (0..9)
                .filter(|lane| {
                    let counters = counters.with_lane(*lane).unwrap();
                    Deployment::new(counters, "m").claim_check(5000, now)
                })
                .count()
        };
        assert_eq!([claims(NOW), claims(NOW + 4999), claims(NOW + 5000)], [1, 0, 1]);
        assert_eq!(claims(NOW - 60_000), 1, "a clock that was set back");
    }

    #[test]
    fn a_failed_check_speaks_against_a_model_until_it_is_stale_or_the_next_one_succeeds() {
        let deployment = Deployment::new(Counters::private(), "m");
        let at = NOW / 1000;
        deployment.checked(Some(false), Failure::Status(500), at);
        assert!(matches!(deployment.state(&model(true), NOW), State::Unhealthy(check)
            if check.outcome == Failure::Status(500) && check.at_seconds == at));
        assert_eq!(deployment.state(&model(false), NOW), State::Healthy, "nobody checks any more");
        assert_eq!(deployment.state(&model(true), NOW + 61_000), State::Healthy);
        deployment.checked(None, Failure::Status(429), at + 1);
        assert!(matches!(deployment.state(&model(true), NOW), State::Unhealthy(_)));
        deployment.checked(Some(true), Failure::Status(200), at + 2);
        assert_eq!(deployment.state(&model(true), NOW), State::Healthy);
        assert_eq!(deployment.last_check().unwrap().outcome, Failure::Status(200));
    }

    #[test]
    fn the_average_follows_what_is_seen_and_forgets_what_is_old() {
        let deployment = Deployment::new(Counters::private(), "m");
        assert_eq!(deployment.latency(), Latency::default());
        deployment.answered_in(1000, 10);
        deployment.answered_in(2000, 11);
        assert_eq!(deployment.latency(), Latency { micros: 1250, seen_seconds: 11 });
        deployment.answered_in(u64::MAX, 11 + LATENCY_SECONDS_MAX);
        assert!(deployment.latency().micros > 1_000_000);
        deployment.answered_in(7, 12 + 3 * LATENCY_SECONDS_MAX);
        assert_eq!(deployment.latency().micros, 7);
    }
}
