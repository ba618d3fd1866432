//! Whether there is an egress worker: without one no new connection is made, by anybody. Pure, with time passed in.

use std::time::{Duration, Instant};

/// One that died is back in a fraction of this; only what lasts is told.
const MISSING_MAX: Duration = Duration::from_secs(3);

/// What is told, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It has been missing for too long.
    Missing,
    /// It is there, after it was missing.
    Back,
}

/// How long egress has been missing.
#[derive(Debug, Default)]
pub struct EgressWatch {
    missing_since: Option<Instant>,
    told: bool,
}

impl EgressWatch {
    /// Looks once.
    pub fn look(&mut self, serves: bool, now: Instant) -> Option<News> {
        if serves {
            self.missing_since = None;
            return std::mem::take(&mut self.told).then_some(News::Back);
        }
        let since = *self.missing_since.get_or_insert(now);
        let is_news = !self.told && now.saturating_duration_since(since) >= MISSING_MAX;
        self.told |= is_news;
        is_news.then_some(News::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_egress_worker_that_stays_away_is_told_and_once() {
        let start = Instant::now();
        let mut watch = EgressWatch::default();
        assert_eq!(watch.look(false, start), None);
        assert_eq!(watch.look(true, start + MISSING_MAX), None);
        let gone = start + MISSING_MAX;
        assert_eq!(watch.look(false, gone), None);
        assert_eq!(watch.look(false, gone + MISSING_MAX), Some(News::Missing));
        assert_eq!(watch.look(false, gone + MISSING_MAX * 2), None);
        assert_eq!(watch.look(true, gone + MISSING_MAX * 3), Some(News::Back));
        assert_eq!(watch.look(true, gone + MISSING_MAX * 4), None);
    }
}
