//! When callers that are refused may ask again: so that few come back in a second. Decides, and knows no clock.
//!
//! A caller that has been away for seconds costs several times what one costs that is being served: nothing of it is in the
//! processor's caches. So the more were refused of late, the later the next one may come. Where they are more than can come so within
//! the longest time that anybody is sent away for, the rest is spread over all of it.

use std::time::Duration;

use tokio::time::Instant;

use super::activity::HEAD_LIMIT;

/// Nobody comes back sooner.
const SOONEST: Duration = Duration::from_secs(3);
/// Nobody is sent away for longer: it is less than most clients wait for an answer, and than a head that has begun may take.
const LATEST: Duration = Duration::from_secs(25);
const _: () =
    assert!(LATEST.as_secs() < HEAD_LIMIT.as_secs(), "who is not heard would be too slow");
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
    /// After how many seconds one may ask again that is refused now, in an overload, and not heard before.
    pub(super) fn seconds(&mut self, now: Instant) -> u32 {
        let soonest = now + SOONEST;
        let its = self.next.map_or(soonest, |next| next.max(soonest));
        let after = its.saturating_duration_since(now);
        if after > LATEST {
            return self.spread(LATEST);
        }
        self.next = Some(its + Duration::from_secs(1) / IN_A_SECOND);
        seconds(after)
    }

    /// The same where nobody is kept from asking again at once: no moment is anybody's.
    pub(super) fn seconds_of_any(&mut self) -> u32 {
        self.spread(SOONEST + SOONEST)
    }

    /// One of the seconds up to that one, another each time.
    fn spread(&mut self, latest: Duration) -> u32 {
        self.beyond = self.beyond.wrapping_add(1);
        let count = seconds(latest.saturating_sub(SOONEST)) + 1;
        seconds(SOONEST) + self.beyond % count
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
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
    fn no_second_has_more_than_its_share_twice_until_there_are_more_than_can_come_so() {
        for in_a_second in [201, 300, 399, 600, 1000] {
            // Until the last of them are sent away for as long as anybody is.
            let seconds = 20 * u64::from(IN_A_SECOND) / (in_a_second - u64::from(IN_A_SECOND));
            let times = (0..in_a_second * seconds.min(100)).map(|it| it * 1000 / in_a_second);
            let came = came_back(times);
            let most = came.values().max().unwrap();
            assert!(*most <= 2 * IN_A_SECOND, "{most} of {in_a_second}");
        }
    }

    #[test]
    fn those_who_may_ask_at_once_all_the_same_take_no_moment_of_others() {
        let (now, mut come_back) = (Instant::now(), ComeBack::default());
        let told: Vec<_> = (0..10_000).map(|_| come_back.seconds_of_any()).collect();
        for seconds in 3..=6 {
            assert_eq!(told.iter().filter(|it| **it == seconds).count(), told.len() / 4);
        }
        assert_eq!(come_back.seconds(now), 3);
    }

    #[test]
    fn whoever_finds_no_moment_of_its_own_comes_back_within_the_longest_time_all_the_same() {
        let all = 100_000;
        let came = came_back((0..all).map(|_| 0));
        assert!(came.keys().all(|second| (3..=25).contains(second)), "{came:?}");
        let spread = u32::try_from(all).unwrap() / u32::try_from(came.len()).unwrap();
        assert!(came.values().all(|count| count.abs_diff(spread) <= IN_A_SECOND), "{came:?}");
    }
}
