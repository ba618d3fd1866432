//! The role and its client, over the sockets that they have in a node.

use std::future::Future;

use futures_util::FutureExt;
use shared::cache::{PART_BYTES_MAX, Part, VALUE_BYTES_MAX};
use shared::channel;
use tokio::time;

use super::*;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let limited = async { time::timeout(Duration::from_secs(30), test).await };
    local.block_on(&runtime, limited).expect("the test hangs");
}

/// A client of a cache that keeps in `store`.
fn client_of(store: &Rc<RefCell<Store>>) -> Rc<CacheClient> {
    let (ours, theirs) = channel::pair().unwrap();
    let store = Rc::clone(store);
    tokio::task::spawn_local(async move {
        let _ = answer(&store, theirs).await;
    });
    let client = Rc::<CacheClient>::default();
    client.reached_over(ours);
    client
}

async fn found(client: &CacheClient, key: Key) -> Vec<u8> {
    loop {
        match client.find(key).await {
            Some(value) => return value,
            None => tokio::task::yield_now().await,
        }
    }
}

fn value(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[test]
fn what_one_worker_gives_another_finds_whatever_its_size() {
    run(async {
        let store = Rc::default();
        let (one, other) = (client_of(&store), client_of(&store));
        let sizes = [1, PART_BYTES_MAX, PART_BYTES_MAX + 1, VALUE_BYTES_MAX];
        for (number, size) in (0..).zip(sizes) {
            one.keep([number; 32], 60, value(size));
        }
        for (number, size) in (0..).zip(sizes) {
            assert!(found(&other, [number; 32]).await == value(size), "{size}");
        }
        assert_eq!(other.find([99; 32]).await, None);
    });
}

#[test]
fn many_questions_at_once_each_get_their_own_answer_while_values_are_given() {
    run(async {
        let store = Rc::default();
        let client = client_of(&store);
        for number in 0..40 {
            client.keep([number; 32], 60, value(8_000 * usize::from(number)));
        }
        found(&client, [39; 32]).await;
        let finding: Vec<_> = (0..40_u8)
            .map(|number| {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move { (number, client.find([number; 32]).await) })
            })
            .collect();
        client.keep([50; 32], 60, value(VALUE_BYTES_MAX));
        for task in finding {
            let (number, answer) = task.await.unwrap();
            assert!(answer == Some(value(8_000 * usize::from(number))), "{number}");
        }
    });
}

#[test]
fn without_a_cache_nothing_is_found_and_nobody_waits() {
    run(async {
        let client = Rc::<CacheClient>::default();
        client.keep([1; 32], 60, value(10));
        assert_eq!(client.find([1; 32]).now_or_never(), Some(None));
    });
}

#[test]
fn a_cache_that_hangs_costs_one_wait_and_its_late_answer_makes_it_good_again() {
    run(async {
        let (ours, theirs) = channel::pair().unwrap();
        let client = Rc::<CacheClient>::default();
        client.reached_over(ours);
        assert_eq!(client.find([1; 32]).await, None);
        assert_eq!(client.find([1; 32]).now_or_never(), Some(None), "nobody else waits");
        let store = Rc::<RefCell<Store>>::default();
        store.borrow_mut().keep([1; 32], value(10), Duration::from_secs(60), Instant::now());
        tokio::task::spawn_local(async move {
            let _ = answer(&store, theirs).await;
        });
        assert_eq!(found(&client, [1; 32]).await, value(10));
    });
}

#[test]
fn a_cache_that_dies_is_a_miss_for_those_that_wait_and_the_next_one_is_used() {
    run(async {
        let (ours, theirs) = channel::pair().unwrap();
        let client = Rc::<CacheClient>::default();
        client.reached_over(ours);
        let waiting = {
            let client = Rc::clone(&client);
            tokio::task::spawn_local(async move { client.find([1; 32]).await })
        };
        tokio::task::yield_now().await;
        drop(theirs);
        assert_eq!(waiting.await.unwrap(), None);
        let store = Rc::<RefCell<Store>>::default();
        let (ours, theirs) = channel::pair().unwrap();
        store.borrow_mut().keep([1; 32], value(10), Duration::from_secs(60), Instant::now());
        tokio::task::spawn_local(async move {
            let _ = answer(&store, theirs).await;
        });
        client.reached_over(ours);
        assert_eq!(found(&client, [1; 32]).await, value(10));
    });
}

#[test]
fn an_answer_that_is_none_ends_the_channel_and_is_a_miss() {
    run(async {
        let part = |number| FromCache::Part(Part { number, bytes: vec![1] });
        let found = |length| FromCache::Found { length, first: vec![1] };
        for lies in [vec![part(1)], vec![found(u32::MAX)], vec![found(9), part(2)], vec![found(0)]]
        {
            let (ours, theirs) = channel::pair().unwrap();
            let client = Rc::<CacheClient>::default();
            client.reached_over(ours);
            let liar: Channel<FromCache, ToCache> = Channel::new(theirs).unwrap();
            let lying = async {
                let number = liar.receive().await.unwrap().request_id;
                for lie in &lies {
                    liar.send(lie, number, None).await.unwrap();
                }
            };
            let (answer, ()) = tokio::join!(client.find([1; 32]), lying);
            assert_eq!(answer, None, "{lies:?}");
            assert!(matches!(liar.receive().await, Err(ChannelError::Closed)), "{lies:?}");
            assert_eq!(client.find([1; 32]).await, None);
        }
    });
}

#[test]
fn a_client_that_breaks_the_protocol_loses_its_channel_and_nothing_of_it_is_kept() {
    run(async {
        let keep = |length| ToCache::Keep { key: [1; 32], seconds: 60, length, first: vec![1] };
        let part = |number| ToCache::Part(Part { number, bytes: vec![1] });
        for lies in [
            vec![part(1)],
            vec![keep(u32::MAX)],
            vec![keep(3), keep(3)],
            vec![keep(3), part(2)],
            vec![keep(0)],
        ] {
            let store = Rc::<RefCell<Store>>::default();
            let (ours, theirs) = channel::pair().unwrap();
            let liar: Channel<ToCache, FromCache> = Channel::new(ours).unwrap();
            for lie in &lies {
                liar.send(lie, 1, None).await.unwrap();
            }
            assert!(answer(&store, theirs).await.is_err(), "{lies:?}");
            assert_eq!(store.borrow_mut().find(&[1; 32], Instant::now()), None, "{lies:?}");
        }
    });
}
