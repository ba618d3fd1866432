use proptest::prelude::*;
use shared::resource::ApiKey;

use super::*;
use crate::cloud::budget::decision::Decision;

const RULES: Rules = Rules { stale_max: 600_000, unknown_allowed: false };
const START: Moment = 1_800_000_000_000;

fn api_key(id: &str) -> Change {
    Change::Put(Box::new(Resource::ApiKey(ApiKey {
        id: id.to_owned(),
        team_id: Some("team".to_owned()),
        ..ApiKey::default()
    })))
}

fn table(ids: &[&str]) -> Table {
    let mut table = Table::new(RULES, Vec::new(), START);
    let keys: Vec<_> = ids.iter().map(|id| api_key(id)).collect();
    table.projected(true, &keys, START);
    table
}

fn allow() -> Outcome {
    Outcome::Decided(Box::new(Decision { allow: true, ..Decision::default() }))
}

fn deny() -> Outcome {
    Outcome::Decided(Box::default())
}

fn left(remaining: f64) -> Outcome {
    let body = format!(r#"{{"allow":true,"budget":{{"remaining_usd":{remaining}}}}}"#);
    Outcome::Decided(Box::new(Decision::read(body.as_bytes()).unwrap()))
}

/// Asks for the next key and has it answered at once.
fn answer(table: &mut Table, outcome: Outcome, now: Moment) -> Option<String> {
    table.tick(now);
    let id = table.next(now)?;
    table.done(&id, outcome, now, 1.0);
    Some(id.to_string())
}

/// What the workers are told now: `a+` may, `a-` may not, `a?` is forgotten.
fn told(table: &mut Table) -> Vec<String> {
    let mark = |verdict| match verdict {
        Verdict::Allow => '+',
        Verdict::Deny(_) => '-',
        Verdict::Forget => '?',
    };
    table.take_untold().into_iter().map(|(id, verdict)| format!("{id}{}", mark(verdict))).collect()
}

#[test]
fn every_projected_key_is_asked_for_once_without_being_used() {
    let mut table = table(&["a", "b", "c"]);
    let mut asked: Vec<_> =
        (0..10).filter_map(|n| answer(&mut table, allow(), START + n * 10)).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["a", "b", "c"]);
    assert_eq!(told(&mut table), ["a+", "b+", "c+"]);
    assert_eq!(answer(&mut table, allow(), START + 300_000), None, "and then only in use");
    assert!(answer(&mut table, allow(), START + 541_000).is_some(), "or before it is too old");
}

#[test]
fn workers_are_told_only_what_is_new_to_them() {
    let mut table = table(&["a"]);
    answer(&mut table, allow(), START);
    assert_eq!(told(&mut table), ["a+"]);
    table.used(&[("a".to_owned(), 1)], START + 1_000);
    assert_eq!(answer(&mut table, allow(), START + 4_000), Some("a".to_owned()));
    assert!(told(&mut table).is_empty());
    assert_eq!(answer(&mut table, deny(), START + 8_000), Some("a".to_owned()));
    assert_eq!(told(&mut table), ["a-"]);
    assert_eq!(table.verdicts().len(), 1);
}

#[test]
fn a_key_that_waits_is_asked_for_before_those_that_nobody_uses() {
    let mut table = table(&["a", "b", "c"]);
    table.used(&[("c".to_owned(), 1)], START);
    assert_eq!(answer(&mut table, allow(), START).unwrap(), "c");
}

#[test]
fn a_key_is_asked_for_once_at_a_time() {
    let mut table = table(&["a"]);
    table.used(&[("a".to_owned(), 1)], START);
    let id = table.next(START).unwrap();
    for seconds in 1..10 {
        let now = START + seconds * 1_000;
        table.used(&[("a".to_owned(), 1)], now);
        table.tick(now);
        assert!(table.next(now).is_none());
    }
    assert_eq!(told(&mut table), ["a-"], "no decision in time");
    table.done(&id, allow(), START + 10_000, 1.0);
    assert_eq!(told(&mut table), ["a+"]);
}

#[test]
fn keys_that_are_not_projected_take_no_memory_and_deleted_ones_are_forgotten() {
    let mut table = table(&["a"]);
    answer(&mut table, allow(), START);
    table.take_unkept(true, START, 0);
    table.used(&[("made-up".to_owned(), 1)], START);
    table.spent("made-up", 1.0, START);
    assert_eq!(table.keys().count(), 1);
    told(&mut table);
    table.projected(false, &[Change::Delete(Kind::ApiKey, "a".to_owned())], START);
    assert_eq!(told(&mut table), ["a?"]);
    assert_eq!(table.take_unkept(false, START, 0), [("a".to_owned(), None)]);
    assert!(table.verdicts().is_empty());
    table.tick(START + 1_000_000);
    assert!(table.next(START + 1_000_000).is_none());
}

#[test]
fn what_was_kept_decides_after_a_restart_and_its_age_goes_on() {
    let mut first = table(&["a", "gone"]);
    answer(&mut first, left(1.0), START);
    answer(&mut first, left(1.0), START + 30);
    first.spent("a", 0.25, START + 40);
    first.delivered("a", 0.25, START + 50, START + 50);
    let kept: Vec<_> = first
        .take_unkept(true, START + 60, 0)
        .into_iter()
        .map(|(id, bytes)| (id, bytes.unwrap()))
        .collect();
    for (age, expected) in [(599_000, "a+"), (600_000, "a-")] {
        let now = START + age;
        let mut second = Table::new(RULES, kept.clone(), now);
        // Usage that still waits in the spool is told before any key is known.
        second.spent("a", 0.5, now);
        second.projected(true, &[api_key("a")], now);
        let dropped = second.take_unkept(false, now, 0);
        assert_eq!(dropped, [("gone".to_owned(), None)]);
        let (_, key) = second.keys().next().unwrap();
        assert_eq!(key.spend.total(), 0.75);
        second.used(&[("a".to_owned(), 1)], now);
        let id = second.next(now).expect("it is asked for again");
        second.done(&id, Outcome::Away("down".to_owned(), None), now + 10, 1.0);
        let told = told(&mut second);
        assert_eq!(told.last().map(String::as_str), Some(expected), "{told:?}");
    }
}

#[test]
fn a_used_up_allowance_is_told_at_once_and_asked_for_at_once() {
    let mut table = table(&["a"]);
    table.used(&[("a".to_owned(), 1)], START);
    answer(&mut table, left(1.0), START);
    assert_eq!(told(&mut table), ["a+"]);
    table.spent("a", 0.5, START + 100);
    assert!(!table.has_untold());
    table.spent("a", 0.5, START + 100);
    assert_eq!(told(&mut table), ["a-"]);
    table.delivered("a", 1.0, START + 150, START + 150);
    assert_eq!(answer(&mut table, left(3.0), START + 200), Some("a".to_owned()));
    assert_eq!(told(&mut table), ["a+"]);
}

#[test]
fn a_worker_cannot_make_spending_that_is_no_amount() {
    let mut table = table(&["a"]);
    for cost in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        table.spent("a", cost, START);
        table.delivered("a", cost, START, START);
    }
    assert_eq!(table.keys().next().unwrap().1.spend.total(), 0.0);
}

#[test]
fn the_cloud_is_away_after_failures_that_are_its_own_and_back_with_the_first_decision() {
    let mut table = table(&["a", "b", "c", "d", "e"]);
    let away = || Outcome::Away("down".to_owned(), None);
    for n in 0..3 {
        assert!(!table.is_away());
        answer(&mut table, away(), START + n * 100).unwrap();
    }
    assert!(table.is_away());
    assert_eq!(table.calls().failed, 3);
    answer(&mut table, allow(), START + 1_000).unwrap();
    assert!(!table.is_away());
    let refused = Outcome::Refused("status 403".to_owned());
    answer(&mut table, refused, START + 2_000).unwrap();
    assert!(!table.is_away());
    assert_eq!(table.refused().map(|(_, reason, count)| (reason, count)), Some(("status 403", 1)));
}

#[test]
fn once_nothing_comes_in_time_no_old_decision_is_waited_for_until_something_does() {
    let kept = kept::write(&Decision { allow: true, ..Decision::default() }, START, 0.0);
    let now = START + 600_000;
    let mut table = Table::new(RULES, vec![("a".to_owned(), kept)], now);
    table.projected(true, &[api_key("a"), api_key("b")], now);
    assert!(told(&mut table).is_empty(), "nothing is known of the Cloud");
    // The call for `b` hangs, and so may that for `a`.
    table.used(&[("b".to_owned(), 1)], now);
    assert_eq!(&*table.next(now).unwrap(), "b");
    let later = now + 5_000;
    table.used(&[("a".to_owned(), 1)], later);
    assert!(told(&mut table).contains(&"a-".to_owned()));
    assert_eq!(&*table.next(later).unwrap(), "a");
    table.done(&"b".into(), allow(), later + 5_000, 1.0);
    assert_eq!(table.calls().cloud(later + 5_000), Cloud::Doubtful, "it came too late");
    let id = table.next(later + 5_000);
    assert_eq!(id, None, "one call at a time for each");
    table.done(&"a".into(), allow(), later + 5_000, 1.0);
    assert!(told(&mut table).contains(&"a+".to_owned()));
}

#[test]
fn a_cloud_that_refuses_every_key_is_asked_seldom_until_it_decides() {
    let ids: Vec<_> = (0..60).map(|n| format!("k{n}")).collect();
    let mut table = table(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    let mut calls = 0;
    for at in 0..1_000 {
        if answer(&mut table, Outcome::Refused("status 403".to_owned()), START + at).is_some() {
            calls += 1;
        }
    }
    assert!((20..40).contains(&calls), "{calls}");
    assert!(!table.is_away());
    while table.calls().is_vain() {
        let now = table.next_at(START + 1_000).unwrap();
        answer(&mut table, allow(), now).unwrap();
    }
}

#[test]
fn what_is_kept_is_of_the_clock_on_the_wall_as_it_is_now() {
    let mut table = table(&["a"]);
    answer(&mut table, allow(), START);
    let hour = 3_600_000;
    let kept = table.take_unkept(true, START, hour);
    let kept = kept::read(kept[0].1.as_ref().unwrap(), Moment::MAX).unwrap();
    assert_eq!(kept.at, START + hour);
    table.keep_all();
    assert!(table.has_unkept());
}

#[test]
fn decisions_are_kept_when_they_change_and_else_from_time_to_time() {
    let mut table = table(&["a"]);
    table.used(&[("a".to_owned(), 1)], START);
    answer(&mut table, allow(), START);
    assert_eq!(table.take_unkept(false, START, 0).len(), 1);
    answer(&mut table, allow(), START + 4_000).unwrap();
    assert_eq!(table.take_unkept(false, START + 4_000, 0).len(), 0);
    assert!(table.has_unkept());
    assert_eq!(table.take_unkept(false, START + 5_000, 0).len(), 1);
    answer(&mut table, deny(), START + 8_000).unwrap();
    assert_eq!(table.take_unkept(false, START + 8_000, 0).len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Used(u8),
    Spent(u8),
    Delivered(u8),
    Ask,
    Done(u8),
    Delete(u8),
    Put(u8),
}

fn steps() -> impl Strategy<Value = Vec<(Step, Moment)>> {
    let key = 0..4u8;
    let step = prop_oneof![
        key.clone().prop_map(Step::Used),
        key.clone().prop_map(Step::Spent),
        key.clone().prop_map(Step::Delivered),
        Just(Step::Ask),
        (0..5u8).prop_map(Step::Done),
        key.clone().prop_map(Step::Delete),
        key.prop_map(Step::Put),
    ];
    prop::collection::vec((step, 0..3_000i64), 0..120)
}

proptest! {
    /// Whatever happens: a worker that was told every change knows what a new one is told, no key is asked for twice at a
    /// time, and nothing of a deleted key is left.
    #[test]
    fn what_workers_were_told_adds_up(steps in steps()) {
        let mut table = table(&["k0", "k1"]);
        let (mut now, mut open, mut known) = (START, Vec::new(), BTreeMap::new());
        for (step, pause) in steps {
            now += pause;
            table.tick(now);
            let id = |n: u8| format!("k{n}");
            match step {
                Step::Used(n) => table.used(&[(id(n), 1)], now),
                Step::Spent(n) => table.spent(&id(n), 0.3, now),
                Step::Delivered(n) => table.delivered(&id(n), 0.3, now, now),
                Step::Ask => {
                    if let Some(id) = table.next(now) {
                        open.push(id);
                    }
                }
                Step::Done(how) => {
                    if let Some(id) = open.pop() {
                        let outcome = match how {
                            0 => allow(),
                            1 => deny(),
                            2 => left(0.5),
                            3 => Outcome::Refused("no".to_owned()),
                            _ => Outcome::Away("down".to_owned(), None),
                        };
                        table.done(&id, outcome, now, 1.0);
                    }
                }
                Step::Delete(n) => {
                    table.projected(false, &[Change::Delete(Kind::ApiKey, id(n))], now);
                    open.retain(|open| **open != *id(n));
                }
                Step::Put(n) => table.projected(false, &[api_key(&id(n))], now),
            }
            let mut once = open.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), open.len());
            for (id, verdict) in table.take_untold() {
                match verdict {
                    Verdict::Forget => drop(known.remove(&id.to_string())),
                    verdict => drop(known.insert(id.to_string(), verdict)),
                }
            }
            let whole: BTreeMap<_, _> = table
                .verdicts()
                .into_iter()
                .map(|(id, verdict)| (id.to_owned(), verdict.clone()))
                .collect();
            prop_assert_eq!(&whole, &known);
        }
        for n in 0..4 {
            table.projected(false, &[Change::Delete(Kind::ApiKey, format!("k{n}"))], now);
        }
        table.tick(now + 10_000_000);
        prop_assert_eq!((table.keys().count(), table.waiting(), table.next_at(now)), (0, 0, None));
    }
}
