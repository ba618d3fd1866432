//! When callers that are refused may ask again: so that only few come back in any second. Decides, and knows no clock.
//!
//! A caller that has been away for seconds costs several times what one costs that is being served: nothing of it is in the
//! processor's caches. So the more were refused of late, the later the next one may come. Where they are more than can come so within
//! the longest time that anybody is sent away for, the rest is spread over all of it.

use std::time::Duration;

use tokio::time::Instant;

/// Nobody comes back sooner.
const SOONEST: Duration = Duration::from_secs(3);
/// Nobody is sent away for longer: clients that honour `Retry-After` give up where it asks for more than a minute.
const LATEST: Duration = Duration::from_secs(30);
/// How many come back in a second, for one worker.
const IN_A_SECOND: u32 = 200;

/// Who comes back when.
#[derive(Debug, Default)]
pub(super) struct ComeBack {
    /// The first moment that is nobody's yet.
    next: Option<Instant>,
    /// For how many there was none.
    beyond: u32,
}

impl ComeBack {
    /// After how many seconds one may ask again that is refused now.
    pub(super) fn seconds(&mut self, now: Instant) -> u32 {
        let soonest = now + SOONEST;
        let its = self.next.map_or(soonest, |next| next.max(soonest));
        let after = its.saturating_duration_since(now);
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        if after > LATEST {
            self.beyond = self.beyond.wrapping_add(1);
            let spread = seconds(LATEST - SOONEST) + 1;
            return seconds(SOONEST) + self.beyond % spread;
        }
        self.next = Some(its + Duration::from_secs(1) / IN_A_SECOND);
        seconds(after)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// How many of those who were refused at these times, in milliseconds, come back in which second.
    fn came_back(refused: impl Iterator<Item = u64>) -> BTreeMap<u64, u32> {
        let (begin, mut come_back) = (Instant::now(), ComeBack::default());
        let mut came = BTreeMap::new();
        for at in refused {
            let after = come_back.seconds(begin + Duration::from_millis(at));
            *came.entry((at + u64::from(after) * 1000) / 1000).or_insert(0) += 1;
        }
        came
    }

    #[test]
    fn of_few_that_are_refused_each_comes_back_soon() {
        let came = came_back((0..100).map(|second| second * 1000));
        assert!(came.keys().eq(&(3..103).collect::<Vec<_>>()), "{came:?}");
    }

    #[test]
    fn of_thousands_that_are_refused_at_once_only_so_many_come_back_in_each_second() {
        let came = came_back((0..4000).map(|_| 0));
        assert_eq!(
            came.into_iter().collect::<Vec<_>>(),
            (3..23).map(|it| (it, IN_A_SECOND)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn as_many_as_come_back_are_refused_again_and_no_second_has_more_than_its_share_twice() {
        // Two hundred a second, for longer than anybody is sent away.
        let came = came_back((0..100 * u64::from(IN_A_SECOND)).map(|number| number * 5));
        assert!(came.values().all(|count| *count <= 2 * IN_A_SECOND), "{came:?}");
        assert_eq!(came.last_key_value().map(|(last, _)| *last), Some(102));
    }

    #[test]
    fn whoever_finds_no_moment_of_its_own_comes_back_within_the_longest_time_all_the_same() {
        let all = 100_000;
        let came = came_back((0..all).map(|_| 0));
        assert!(came.keys().all(|second| (3..=30).contains(second)), "{came:?}");
        let spread = u32::try_from(all).unwrap() / u32::try_from(came.len()).unwrap();
        assert!(came.values().all(|count| count.abs_diff(spread) <= IN_A_SECOND), "{came:?}");
    }
}
