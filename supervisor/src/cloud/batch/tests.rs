//! What the pace and the batches promise.

use proptest::prelude::*;

use super::*;

/// Delivers a batch to a manager that refuses a request with any of `bad`, or with more than `large` events.
fn deliver(count: usize, bad: &[usize], large: usize) -> (Vec<usize>, Option<Vec<usize>>, usize) {
    let mut pace = Pace::default();
    let now = Instant::now();
    let mut batch = Batch::new(count, &pace);
    let (mut delivered, mut requests) = (Vec::new(), 0);
    while let Some(range) = batch.next() {
        requests += 1;
        assert!(requests < 100_000, "no end in sight");
        let answer = if range.len() > large {
            Answer::TooLarge
        } else if range.clone().any(|event| bad.contains(&event)) {
            Answer::Refused
        } else {
            delivered.extend(range);
            Answer::Accepted
        };
        pace.answered(answer, 1.0, now);
        batch.answered(answer, &mut pace, 1.0, now);
    }
    delivered.sort_unstable();
    let given_up = batch.conclude(&pace).map(|mut events| {
        events.sort_unstable();
        events
    });
    (delivered, given_up, requests)
}

#[test]
fn a_full_batch_goes_at_once_and_a_smaller_one_within_a_second() {
    let mut pace = Pace::default();
    let start = Instant::now();
    let oldest = Step::Take { newest: false, max: EVENTS_MAX };
    assert_eq!(pace.next(0, 0, start), Step::Idle);
    assert_eq!(pace.next(0, 1, start), Step::Wait(start + GATHERING));
    assert_eq!(pace.next(0, 250, start), oldest);
    assert_eq!(pace.next(0, 7, start), Step::Wait(start + GATHERING));
    assert_eq!(pace.next(0, 7, start + GATHERING), oldest);
}

#[test]
fn lanes_come_in_one_after_another_as_the_backlog_grows_and_some_send_the_newest() {
    let mut pace = Pace::default();
    let now = Instant::now();
    assert_eq!(pace.next(1, 100, now), Step::Idle);
    let takes: Vec<_> = (0..LANES)
        .map(|lane| pace.next(lane, 1_000_000, now))
        .map(|step| matches!(step, Step::Take { newest: true, .. }))
        .collect();
    assert_eq!(takes, [false, true, false, false, false, true, false, false]);
}

#[test]
fn after_a_failure_one_lane_tries_until_it_is_accepted() {
    let mut pace = Pace::default();
    let start = Instant::now();
    assert_eq!([pace.permit(start), pace.permit(start)], [Permit::Send; 2]);
    pace.answered(Answer::Later(None), 1.0, start);
    // The other request of the same moment fails too, and does not count twice.
    pace.answered(Answer::Later(None), 1.0, start);
    let until = start + Duration::from_secs(1);
    assert_eq!(pace.permit(start), Permit::Wait(until));
    assert_eq!([pace.permit(until), pace.permit(until)], [Permit::Send, Permit::Hold]);
    pace.answered(Answer::Later(None), 1.0, until);
    let later = until + Duration::from_secs(2);
    assert_eq!(pace.permit(until), Permit::Wait(later));
    assert_eq!([pace.permit(later), pace.permit(later)], [Permit::Send, Permit::Hold]);
    pace.answered(Answer::Accepted, 1.0, later);
    assert_eq!([pace.permit(later), pace.permit(later)], [Permit::Send; 2]);
}

#[test]
fn retry_after_is_honoured_by_every_lane_and_is_not_shortened_by_another_failure() {
    let mut pace = Pace::default();
    let start = Instant::now();
    let told = Duration::from_secs(70);
    pace.answered(Answer::Later(Some(told)), 0.0, start);
    pace.answered(Answer::Later(None), 0.1, start);
    assert_eq!(pace.permit(start + told / 2), Permit::Wait(start + told));
    assert_eq!(pace.permit(start + told), Permit::Send);
}

#[test]
fn retry_after_holds_when_what_was_on_its_way_is_accepted() {
    let mut pace = Pace::default();
    let start = Instant::now();
    assert_eq!([pace.permit(start), pace.permit(start)], [Permit::Send; 2]);
    let told = Duration::from_secs(60);
    pace.answered(Answer::Later(Some(told)), 1.0, start);
    let later = start + Duration::from_millis(20);
    pace.answered(Answer::Accepted, 1.0, later);
    assert_eq!(pace.permit(later), Permit::Wait(start + told));
    assert_eq!(pace.next(0, 500, later), Step::Wait(start + told));
    assert!(!pace.is_open(later) && pace.is_open(start + told));
}

#[test]
fn a_manager_that_says_at_once_is_not_pressed() {
    let mut pace = Pace::default();
    let now = Instant::now();
    pace.answered(Answer::Later(Some(Duration::ZERO)), 1.0, now);
    assert_eq!(pace.permit(now), Permit::Wait(now + TOLD_PAUSE_MIN));
}

#[test]
fn whoever_leaves_waits_less_and_gathers_no_more() {
    let mut pace = Pace::default();
    let now = Instant::now();
    pace.answered(Answer::Later(Some(Duration::from_secs(3600))), 1.0, now);
    pace.hurry();
    assert!(matches!(pace.next(0, 1, now), Step::Take { .. }));
    assert_eq!(pace.permit(now), Permit::Send);
    pace.answered(Answer::Later(None), 1.0, now);
    assert_eq!(pace.permit(now), Permit::Wait(now + HURRIED_PAUSE));
}

#[test]
fn requests_become_smaller_after_413_and_grow_again() {
    let mut pace = Pace::default();
    let now = Instant::now();
    let mut batch = Batch::new(100, &pace);
    pace.answered(Answer::TooLarge, 1.0, now);
    batch.answered(Answer::TooLarge, &mut pace, 1.0, now);
    assert_eq!(batch.next(), Some(0..50));
    assert_eq!(Batch::new(100, &pace).todo.len(), 2);
    for _ in 0..100 {
        pace.answered(Answer::Accepted, 1.0, now);
    }
    assert_eq!(Batch::new(100, &pace).todo.len(), 1);
}

#[test]
fn one_bad_event_of_a_hundred_is_found_in_a_few_requests() {
    let (delivered, given_up, requests) = deliver(100, &[99], 1000);
    assert_eq!((delivered.len(), given_up), (99, Some(vec![99])));
    assert!(requests <= 15, "{requests} requests");
}

#[test]
fn an_event_that_is_refused_alone_is_parked_until_the_cloud_accepts_another() {
    let mut pace = Pace::default();
    let now = Instant::now();
    let mut batch = Batch::new(1, &pace);
    let refuse = |batch: &mut Batch, pace: &mut Pace| {
        pace.answered(Answer::Refused, 1.0, now);
        batch.answered(Answer::Refused, pace, 1.0, now);
        assert_eq!(batch.next(), None);
    };
    refuse(&mut batch, &mut pace);
    assert_eq!(batch.conclude(&pace), None);
    assert!(!batch.revive(&pace));
    pace.answered(Answer::Accepted, 1.0, now);
    assert!(batch.revive(&pace));
    assert_eq!(batch.next(), Some(0..1));
    refuse(&mut batch, &mut pace);
    assert_eq!(batch.conclude(&pace), Some(vec![0]));
}

#[test]
fn a_manager_that_refuses_everything_is_not_believed_and_not_pressed() {
    let mut pace = Pace::default();
    let mut batch = Batch::new(100, &pace);
    let now = Instant::now();
    let mut requests = 0;
    while batch.next().is_some() && pace.permit(now) == Permit::Send {
        pace.answered(Answer::Refused, 1.0, now);
        batch.answered(Answer::Refused, &mut pace, 1.0, now);
        requests += 1;
    }
    assert!(matches!(pace.permit(now), Permit::Wait(_)), "after {requests} requests");
    let everything = batch.todo.iter().map(Range::len).sum::<usize>() + batch.suspects.len();
    assert_eq!(everything, 100);
}

#[test]
fn what_was_refused_while_the_manager_was_at_fault_is_delivered_when_it_is_well() {
    let mut pace = Pace::default();
    let mut batch = Batch::new(10, &pace);
    let now = Instant::now();
    let mut delivered = Vec::new();
    for request in 0.. {
        let Some(range) = batch.next() else { break };
        let answer = if request < 20 { Answer::Refused } else { Answer::Accepted };
        pace.answered(answer, 1.0, now);
        batch.answered(answer, &mut pace, 1.0, now);
        if answer == Answer::Accepted {
            delivered.extend(range);
        }
    }
    delivered.sort_unstable();
    if batch.conclude(&pace).is_none() {
        pace.answered(Answer::Accepted, 1.0, now);
        assert!(batch.revive(&pace));
        while let Some(range) = batch.next() {
            batch.answered(Answer::Accepted, &mut pace, 1.0, now);
            delivered.extend(range);
        }
    }
    assert_eq!(batch.conclude(&pace), Some(Vec::new()));
    delivered.sort_unstable();
    assert_eq!(delivered, (0..10).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn every_good_event_is_delivered_once_and_only_bad_ones_are_given_up(
        count in 1..=EVENTS_MAX,
        bad in proptest::collection::btree_set(0..EVENTS_MAX, 0..6),
        large in 1..200usize,
    ) {
        let bad: Vec<usize> = bad.into_iter().filter(|event| *event < count).collect();
        let (delivered, given_up, _) = deliver(count, &bad, large);
        let good: Vec<usize> = (0..count).filter(|event| !bad.contains(event)).collect();
        prop_assert_eq!(&delivered, &good);
        if good.is_empty() && !bad.is_empty() {
            prop_assert_eq!(given_up, None);
        } else {
            prop_assert_eq!(given_up, Some(bad));
        }
    }
}
