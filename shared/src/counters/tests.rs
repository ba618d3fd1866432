use std::sync::{Arc, Barrier};
use std::thread;

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;

fn key(name: &str) -> CounterKey {
    CounterKey::of(&["test", name])
}

/// Runs `work` on so many threads, each with a lane of its own, all at once.
fn together<T: Send + 'static>(
    counters: Counters,
    threads: usize,
    work: impl Fn(Counters) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let (work, barrier) = (Arc::new(work), Arc::new(Barrier::new(threads)));
    let threads: Vec<_> = (0..threads)
        .map(|lane| {
            let (work, barrier) = (work.clone(), barrier.clone());
            let counters = counters.with_lane(lane).unwrap();
            thread::spawn(move || {
                barrier.wait();
                work(counters)
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn of_many_at_once_exactly_as_many_are_counted_as_the_limit_says() {
    let window = Window::at(Period::Minute, NOW);
    let taken = together(Counters::private(), 8, move |counters| {
        let is_counted =
            |_: &usize| matches!(counters.take(key("a"), window, 1, 1234), Taken::Counted(_));
        (0..500).filter(is_counted).count()
    });
    assert_eq!(taken.iter().sum::<usize>(), 1234);
}

#[test]
fn a_new_window_begins_at_nothing_and_a_clock_that_is_behind_does_not_bring_the_old_one_back() {
    let counters = Counters::private();
    let (old, new) = (Window::at(Period::Second, NOW), Window::at(Period::Second, NOW + 1));
    assert_eq!(counters.take(key("a"), old, 5, 5), Taken::Counted(5));
    assert_eq!(counters.take(key("a"), old, 1, 5), Taken::Full(5));
    assert_eq!(counters.take(key("a"), new, 1, 5), Taken::Counted(1));
    assert_eq!(counters.take(key("a"), old, 1, 5), Taken::Counted(2));
    assert_eq!((counters.count(key("a"), new), counters.count(key("b"), new)), (2, 0));
    counters.give_back(key("a"), old, 1);
    assert_eq!(counters.count(key("a"), new), 2);
    counters.give_back(key("a"), new, 1);
    assert_eq!(counters.count(key("a"), new), 1);
}

#[test]
fn more_windows_than_there_is_room_for_take_the_places_of_those_that_are_over() {
    let counters = Counters::private();
    let old = Window::at(Period::Second, NOW);
    for name in 0..WINDOWS {
        counters.take(key(&format!("old-{name}")), old, 1, 9);
    }
    let now = Window::at(Period::Minute, NOW + 300);
    let counted = (0..1000)
        .filter(|name| counters.take(key(&format!("new-{name}")), now, 1, 9) == Taken::Counted(1));
    assert_eq!(counted.count(), 1000);
}

#[test]
fn what_a_dead_worker_had_in_progress_comes_back_and_nothing_else() {
    let counters = Counters::private();
    let other = counters.with_lane(1).unwrap();
    let mine: Vec<_> = (0..3).map(|_| counters.hold(key("a"), 5).unwrap().unwrap()).collect();
    let theirs = other.hold(key("a"), 5).unwrap().unwrap();
    assert_eq!(counters.in_progress(key("a")), 4);
    // It is killed: nothing is dropped.
    mine.into_iter().for_each(std::mem::forget);
    counters.abandon(0);
    assert_eq!(counters.in_progress(key("a")), 1);
    drop(theirs);
    counters.abandon(0);
    assert_eq!(counters.in_progress(key("a")), 0);
}

#[test]
fn never_more_are_in_progress_than_the_limit_says() {
    let held = together(Counters::private(), 8, |counters| {
        let held: Vec<_> = (0..100).filter_map(|_| counters.hold(key("a"), 77).unwrap()).collect();
        let count = held.len();
        held.into_iter().for_each(std::mem::forget);
        count
    });
    assert_eq!(held.iter().sum::<usize>(), 77);
}

#[test]
fn cells_are_found_again_by_whoever_looks() {
    let counters = Counters::private();
    assert!(counters.known_cell(key("a")).is_none());
    counters.cell(key("a")).unwrap().store(7, SeqCst);
    let other = counters.with_lane(9).unwrap();
    assert_eq!(other.known_cell(key("a")).unwrap().load(SeqCst), 7);
    assert_ne!(CounterKey::of(&["a", "b"]), CounterKey::of(&["ab"]));
}

#[test]
fn a_key_is_that_of_its_parts_and_the_same_in_every_build() {
    const BEGUN: KeyBegin = KeyBegin::EMPTY.and("rate limit");
    let key = CounterKey::of(&["rate limit", "k-1", "rpm"]);
    assert_eq!(BEGUN.and("k-1").with("rpm"), key);
    assert_eq!(key.get(), 0x9935_e276_3de9_5071);
}

proptest! {
    #[test]
    fn no_content_of_the_memory_can_panic_anybody(words in prop::collection::vec(any::<u64>(), 64), lane in 0..LANES) {
        let counters = Counters::private();
        for (index, word) in words.iter().enumerate() {
            counters.word(LEDGERS_AT + lane * HELD_MAX + index).store(*word, SeqCst);
            counters.word(index * 2 + 1).store(*word, SeqCst);
        }
        counters.abandon(lane);
        let window = Window::at(Period::Day, NOW);
        counters.take(key("a"), window, words[0], words[1]);
        prop_assert!(counters.count(key("a"), window) <= words[1]);
    }
}
