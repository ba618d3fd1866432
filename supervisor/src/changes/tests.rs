use std::time::Duration;

use proptest::prelude::*;
use shared::resource::{Kind, Model, Resource};
use shared::update::Changes as Written;

use super::probation::PROBATION;
use super::*;
use crate::findings::Topic;

const ONE: WorkerId = WorkerId(1);
const TWO: WorkerId = WorkerId(2);

fn put(id: &str, name: &str) -> Change {
    Change::Put(Box::new(Resource::Model(Model {
        id: id.to_owned(),
        display_name: name.to_owned(),
        ..Model::default()
    })))
}

fn update(revision: i64, changes: Vec<Change>) -> Update {
    Update { revision: Revision(revision), whole: false, changes }
}

/// Changes after a first load that holds model `a`.
fn loaded(now: Instant) -> Changes {
    let mut changes = Changes::new(Quarantine::new("/p/"), Findings::default());
    let whole = Update { revision: Revision(1), whole: true, changes: vec![put("a", "first")] };
    let orders = changes.take_in(whole, &[], now);
    assert!(matches!(orders[..], [Order::TellAll(_, None)]), "{orders:?}");
    changes
}

fn content(changes: &mut Changes) -> Vec<Change> {
    let whole = changes.configuration().whole().unwrap().unwrap();
    read(&whole)
}

fn read(delivery: &Delivery) -> Vec<Change> {
    let memory = delivery.memory().try_clone_to_owned().unwrap();
    Written::read(memory).unwrap().map(Result::unwrap).collect()
}

fn told(orders: &[Order]) -> WorkerId {
    match orders {
        [Order::Tell(worker, _)] => *worker,
        orders => panic!("{orders:?}"),
    }
}

/// Goes through its trial in `ONE` without harm.
fn passes(changes: &mut Changes, update: Update, now: Instant) {
    let revision = update.revision;
    assert_eq!(told(&changes.take_in(update, &[ONE, TWO], now)), ONE);
    changes.applied(ONE, revision);
    let orders = changes.answered(ONE, now);
    assert!(matches!(orders[..], [Order::TellAll(_, Some(ONE))]), "{orders:?}");
}

#[test]
fn the_others_are_told_when_the_first_has_applied_and_answered() {
    let now = Instant::now();
    let mut changes = loaded(now);
    assert_eq!(told(&changes.take_in(update(2, vec![put("a", "second")]), &[ONE, TWO], now)), ONE);
    assert!(!changes.is_free());
    assert_eq!(content(&mut changes), [put("a", "first")], "a new worker is told what was before");
    assert!(changes.answered(ONE, now).is_empty(), "an answer to what was asked before");
    changes.applied(TWO, Revision(2));
    changes.applied(ONE, Revision(1));
    assert!(changes.answered(ONE, now).is_empty());
    changes.applied(ONE, Revision(2));
    assert!(changes.answered(TWO, now).is_empty());
    let orders = changes.answered(ONE, now);
    assert!(matches!(orders[..], [Order::TellAll(_, Some(ONE))]), "{orders:?}");
    assert!(changes.is_free());
    assert_eq!(content(&mut changes), [put("a", "second")]);
}

#[test]
fn a_change_that_two_workers_die_of_is_set_aside_and_a_later_one_of_the_same_resource_is_tried() {
    let now = Instant::now();
    let mut changes = loaded(now);
    changes.take_in(update(2, vec![put("a", "bad")]), &[ONE, TWO], now);
    assert_eq!(told(&changes.died(ONE, Death::Crashed, &[TWO], now)), TWO);
    let orders = changes.died(TWO, Death::Killed, &[], now);
    assert!(
        matches!(&orders[..], [Order::Undone(undone), Order::Retry] if *undone == [put("a", "first")])
    );
    assert_eq!(content(&mut changes), [put("a", "first")]);
    let findings = changes.findings.list();
    assert!(findings[0].1.text.contains("/p/models/a"), "{findings:?}");
    assert!(changes.quarantine.rows()[0].2.is_served);

    passes(&mut changes, update(3, vec![put("b", "other")]), now);
    assert_eq!(changes.quarantine.rows().len(), 1);
    passes(&mut changes, update(4, vec![put("a", "good")]), now);
    assert!(changes.quarantine.rows().is_empty() && changes.findings.list().is_empty());
    assert_eq!(content(&mut changes), [put("a", "good"), put("b", "other")]);
}

#[test]
fn with_one_worker_the_next_one_is_asked_when_it_serves() {
    let now = Instant::now();
    let mut changes = loaded(now);
    changes.take_in(update(2, vec![put("a", "bad")]), &[ONE], now);
    assert!(changes.died(ONE, Death::Refused, &[], now).is_empty());
    assert!(changes.serving(&[], now).is_empty());
    assert_eq!(told(&changes.serving(&[TWO], now)), TWO);
    assert!(matches!(changes.died(TWO, Death::Hung, &[], now)[..], [Order::Undone(_), _]));
}

#[test]
fn a_first_worker_that_leaves_or_is_silent_is_followed_by_another() {
    let now = Instant::now();
    let mut changes = loaded(now);
    changes.take_in(update(2, vec![put("a", "x")]), &[ONE], now);
    assert_eq!(told(&changes.died(ONE, Death::Left, &[TWO], now)), TWO);
    let deadline = changes.next_tick().unwrap();
    assert!(changes.tick(&[TWO], deadline - Duration::from_millis(1)).is_empty());
    assert!(matches!(changes.tick(&[TWO], deadline)[..], [Order::End(TWO)]));
    assert!(changes.tick(&[TWO], deadline).is_empty(), "once");
    assert_eq!(
        told(&changes.died(TWO, Death::Hung, &[ONE], deadline)),
        ONE,
        "the first tied death"
    );
}

#[test]
fn where_no_worker_serves_for_long_a_change_comes_into_force_untried() {
    let now = Instant::now();
    let mut changes = loaded(now);
    changes.take_in(update(2, vec![put("a", "x")]), &[ONE], now);
    assert!(changes.died(ONE, Death::Crashed, &[], now).is_empty());
    let deadline = changes.next_tick().unwrap();
    assert!(matches!(changes.tick(&[], deadline)[..], [Order::TellAll(_, None)]));
    assert_eq!(content(&mut changes), [put("a", "x")]);
}

#[test]
fn what_workers_die_of_later_is_undone_everywhere() {
    let now = Instant::now();
    let mut changes = loaded(now);
    passes(&mut changes, update(2, vec![put("a", "bad"), put("b", "new")]), now);
    let later = now + PROBATION / 2;
    assert!(changes.died(ONE, Death::Crashed, &[TWO], later).is_empty());
    passes(&mut changes, update(3, vec![put("c", "innocent"), put("b", "newer")]), later);
    let orders = changes.died(TWO, Death::Hung, &[ONE], later);
    let [Order::TellAll(delivery, None), Order::Undone(_), Order::Retry] = &orders[..] else {
        panic!("{orders:?}")
    };
    // `c` and the newer `b` came after the first death.
    assert_eq!((delivery.revision, read(delivery)), (Revision(3), vec![put("a", "first")]));
    let expected = [put("a", "first"), put("b", "newer"), put("c", "innocent")];
    assert_eq!(content(&mut changes), expected);
    // Should the later change have to go as well, `b` is as it was before both.
    changes.died(ONE, Death::Crashed, &[], later);
    assert_eq!(content(&mut changes), [put("a", "first")]);
}

#[test]
fn of_several_changes_the_newest_goes_first_and_then_ever_more() {
    let now = Instant::now();
    let mut changes = loaded(now);
    for number in 0..8 {
        let (id, revision) = (number.to_string(), 2 + number);
        passes(&mut changes, update(revision, vec![put(&id, "new")]), now);
    }
    let mut left = vec![content(&mut changes).len()];
    while left.last().is_some_and(|left| *left > 1) && left.len() < 10 {
        assert!(changes.died(ONE, Death::Crashed, &[TWO], now).is_empty());
        assert!(!changes.died(TWO, Death::Crashed, &[ONE], now).is_empty());
        left.push(content(&mut changes).len());
    }
    assert_eq!(left, [9, 8, 6, 2, 1]);
    assert_eq!(content(&mut changes), [put("a", "first")]);
    assert_eq!(changes.configuration().revision(), Some(Revision(1)));
}

#[test]
fn a_kill_from_outside_or_an_old_habit_of_dying_condemns_nothing() {
    let now = Instant::now();
    let mut changes = loaded(now);
    for _ in 0..2 {
        changes.died(ONE, Death::Crashed, &[TWO], now);
    }
    passes(&mut changes, update(2, vec![put("a", "x")]), now);
    for death in [Death::Killed, Death::Killed, Death::Left, Death::Crashed, Death::Crashed] {
        assert!(changes.died(ONE, death, &[TWO], now).is_empty(), "{death:?}");
    }
    let mut changes = loaded(now);
    passes(&mut changes, update(2, vec![put("a", "x")]), now);
    let good = now + PROBATION;
    for _ in 0..2 {
        assert!(changes.died(ONE, Death::Crashed, &[TWO], good).is_empty(), "it is good by now");
    }
}

#[test]
fn the_first_configuration_is_suspected_in_a_finding_until_workers_are_well() {
    let now = Instant::now();
    let mut changes = loaded(now);
    for _ in 0..2 {
        changes.died(ONE, Death::Crashed, &[], now);
    }
    assert_eq!(changes.findings.list()[0].0, Topic::Quarantine);
    changes.tick(&[ONE], now);
    changes.tick(&[], now + PROBATION / 2);
    changes.tick(&[ONE], now + PROBATION / 2);
    changes.tick(&[ONE], now + PROBATION);
    assert!(!changes.findings.list().is_empty(), "they had a gap");
    changes.tick(&[ONE], now + PROBATION * 2);
    assert!(changes.findings.list().is_empty());
}

proptest! {
    /// However changes, answers and deaths are mixed: workers that follow their orders have what new ones are told.
    #[test]
    fn every_worker_has_what_is_in_force(
        steps in prop::collection::vec((0..8u8, 0..3u8, any::<bool>()), 0..60),
    ) {
        let now = Instant::now();
        let mut changes = loaded(now);
        let mut workers = std::collections::BTreeMap::new();
        let mut next = 1;
        let start = |changes: &mut Changes, workers: &mut std::collections::BTreeMap<_, _>, next: &mut u32| {
            let has: std::collections::BTreeMap<_, _> =
                content(changes).into_iter().map(|change| (key_of(&change), change)).collect();
            workers.insert(WorkerId(*next), has);
            *next += 1;
        };
        start(&mut changes, &mut workers, &mut next);
        start(&mut changes, &mut workers, &mut next);
        let mut revision = 1;
        for (action, id, flag) in steps {
            let serving: Vec<WorkerId> = workers.keys().copied().collect();
            let first = serving[usize::from(flag) % serving.len()];
            let mut orders = match action {
                0..=2 if changes.is_free() => {
                    revision += 1;
                    let id = id.to_string();
                    let change = if flag {
                        Change::Delete(Kind::Model, id)
                    } else {
                        put(&id, &revision.to_string())
                    };
                    changes.take_in(update(revision, vec![change]), &serving, now)
                }
                3..=5 => {
                    changes.applied(first, Revision(revision));
                    changes.answered(first, now)
                }
                6 => {
                    workers.remove(&first);
                    let left: Vec<WorkerId> = workers.keys().copied().collect();
                    let mut orders = changes.died(first, Death::Crashed, &left, now);
                    start(&mut changes, &mut workers, &mut next);
                    let serving: Vec<WorkerId> = workers.keys().copied().collect();
                    orders.extend(changes.serving(&serving, now));
                    orders
                }
                _ => Vec::new(),
            };
            for order in orders.drain(..) {
                let (delivery, whom): (_, Vec<WorkerId>) = match order {
                    Order::Tell(worker, delivery) => (delivery, vec![worker]),
                    Order::TellAll(delivery, except) => {
                        let all = workers.keys().copied().filter(|id| Some(*id) != except);
                        (delivery, all.collect())
                    }
                    Order::Undone(_) | Order::Retry => continue,
                    order => panic!("{order:?}"),
                };
                for worker in whom {
                    let Some(has) = workers.get_mut(&worker) else { continue };
                    for change in read(&delivery) {
                        match change {
                            Change::Put(_) => drop(has.insert(key_of(&change), change)),
                            Change::Delete(kind, id) => drop(has.remove(&(kind, id))),
                        }
                    }
                }
            }
            if changes.is_free() {
                let in_force = content(&mut changes);
                for has in workers.values() {
                    let has: Vec<Change> = has.values().cloned().collect();
                    prop_assert_eq!(&has, &in_force);
                }
            }
        }
    }
}
