//! The promises of `store.rs`.

use super::*;
use proptest::{collection::vec, prelude::*};

fn entries(pairs: &[(&str, &str)]) -> Entries {
    pairs
        .iter()
        .map(|(key, value)| (Bytes::from(key.to_string()), Bytes::from(value.to_string())))
        .collect()
}

fn all() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    }
}

fn content(response: &RangeResponse) -> Entries {
    response.kvs.iter().map(|kv| (kv.key.clone(), kv.value.clone())).collect()
}

#[test]
fn all_changes_of_one_replacement_share_one_revision() {
    let mut store = Store::new(2, entries(&[("a", "1"), ("b", "1")]), 100);
    assert_eq!(store.replace(entries(&[("a", "2"), ("c", "1")])), 3);
    assert_eq!(store.revision(), 3);
    let events = store.events(b"a", b"\0", 3).unwrap();
    let told: Vec<_> = events.iter().map(|event| (event.r#type(), modified(event))).collect();
    assert_eq!(told, [(EventType::Delete, 3), (EventType::Put, 3), (EventType::Put, 3)]);
}

#[test]
fn a_replacement_that_changes_nothing_takes_no_revision() {
    let mut store = Store::new(2, entries(&[("a", "1")]), 100);
    assert_eq!(store.replace(entries(&[("a", "1")])), 0);
    assert_eq!(store.revision(), 2);
}

#[test]
fn pages_at_one_revision_are_not_disturbed_by_a_change_between_them() {
    let mut store = Store::new(2, entries(&[("a", "1"), ("b", "1"), ("c", "1")]), 100);
    let first = store.range(&RangeRequest { limit: 2, revision: 2, ..all() }).unwrap();
    assert_eq!((first.kvs.len(), first.more, first.count), (2, true, 3));
    store.replace(entries(&[("b", "2")]));
    let rest = RangeRequest { key: Bytes::from_static(b"b\0"), limit: 2, revision: 2, ..all() };
    let second = store.range(&rest).unwrap();
    assert_eq!((content(&second), second.more), (entries(&[("c", "1")]), false));
    assert_eq!(second.header.unwrap().revision, 3);
}

#[test]
fn count_only_and_keys_only_leave_out_what_they_say() {
    let store = Store::new(2, entries(&[("a", "1"), ("b", "1")]), 100);
    let counted = store.range(&RangeRequest { count_only: true, ..all() }).unwrap();
    assert_eq!((counted.count, counted.kvs.len()), (2, 0));
    let keys = store.range(&RangeRequest { keys_only: true, ..all() }).unwrap();
    assert_eq!(content(&keys), entries(&[("a", ""), ("b", "")]));
}

#[test]
fn what_is_older_than_the_history_is_refused_as_compacted() {
    let mut store = Store::new(2, entries(&[("a", "0")]), 3);
    for value in ["1", "2", "3", "4"] {
        store.replace(entries(&[("a", value)]));
    }
    let compacted = ReadError::Compacted { compact_revision: 4 };
    assert_eq!(store.range(&RangeRequest { revision: 3, ..all() }), Err(compacted));
    assert!(store.events(b"a", b"", 3).is_err());
    assert_eq!(
        content(&store.range(&RangeRequest { revision: 4, ..all() }).unwrap()),
        entries(&[("a", "2")])
    );
    assert_eq!(store.events(b"a", b"", 4).unwrap().len(), 3);
}

#[test]
fn the_time_before_a_restart_is_compacted() {
    let store = Store::new(9, entries(&[]), 100);
    assert_eq!(store.revision(), 9);
    assert!(store.events(b"a", b"\0", 8).is_err());
    assert!(store.events(b"a", b"\0", 10).unwrap().is_empty());
}

#[test]
fn the_future_and_orders_that_are_not_kept_are_refused() {
    let store = Store::new(2, entries(&[("a", "1")]), 100);
    assert_eq!(store.range(&RangeRequest { revision: 3, ..all() }), Err(ReadError::Future));
    assert_eq!(store.range(&RangeRequest { sort_order: 2, ..all() }), Err(ReadError::Unsupported));
    assert_eq!(
        store.range(&RangeRequest { max_mod_revision: 2, ..all() }),
        Err(ReadError::Unsupported)
    );
}

#[test]
fn an_inverted_range_is_empty() {
    let store = Store::new(2, entries(&[("a", "1"), ("b", "1")]), 100);
    let inverted = RangeRequest {
        key: Bytes::from_static(b"b"),
        range_end: Bytes::from_static(b"a"),
        ..all()
    };
    assert_eq!(store.range(&inverted).unwrap().count, 0);
}

proptest! {
    #[test]
    fn reads_and_watches_in_the_history_see_exactly_what_was(
        states in vec(proptest::collection::btree_map("[a-e]", "[0-2]", 0..5), 1..12),
        history_changes in 1..12usize,
    ) {
        let mut seen: Vec<(i64, Entries)> = Vec::new();
        let mut store = Store::new(2, Entries::new(), history_changes);
        seen.push((2, Entries::new()));
        for state in states {
            let state: Entries = state.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
            if store.replace(state.clone()) > 0 {
                seen.push((store.revision(), state));
            }
        }
        let last = seen.last().map(|(_, state)| state.clone()).unwrap_or_default();
        let mut is_compacted = true;
        for (revision, state) in seen {
            let Ok(then) = store.range(&RangeRequest { revision, ..all() }) else {
                prop_assert!(is_compacted, "a gap in the history");
                prop_assert!(store.events(b"a", b"\0", revision).is_err());
                continue;
            };
            is_compacted = false;
            prop_assert_eq!(content(&then), state.clone());

            let mut replayed = state;
            for event in store.events(b"a", b"\0", revision + 1).unwrap() {
                let kv = event.kv.clone().unwrap();
                match event.r#type() {
                    EventType::Put => replayed.insert(kv.key, kv.value),
                    EventType::Delete => replayed.remove(&kv.key),
                };
            }
            prop_assert_eq!(replayed, last.clone());
        }
        prop_assert!(!is_compacted, "the present is always readable");
    }
}
