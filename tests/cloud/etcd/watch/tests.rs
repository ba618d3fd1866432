//! The promises of `watch.rs`, over a store and two channels.

use super::super::{message::*, store::Entries};
use super::*;
use bytes::Bytes;
use futures_util::stream::poll_fn;
use tonic::Code;

/// A client of one stream.
struct Client {
    memory: Arc<Memory>,
    requests: mpsc::Sender<Result<WatchRequest, Status>>,
    answers: mpsc::Receiver<Result<WatchResponse, Status>>,
}

impl Client {
    fn new(entries: &[(&str, &str)]) -> Self {
        let memory = Arc::new(Memory::new(2, map(entries)));
        let (requests, mut queue) = mpsc::channel(4);
        let (outgoing, answers) = mpsc::channel(4);
        let stream = poll_fn(move |context| queue.poll_recv(context));
        tokio::spawn(serve(Arc::clone(&memory), Fence::new("/e/"), stream, outgoing));
        Self { memory, requests, answers }
    }

    async fn ask(&self, union: Union) {
        self.requests.send(Ok(WatchRequest { request_union: Some(union) })).await.unwrap();
    }

    async fn create(&self, start_revision: i64) {
        let key = Bytes::from_static(b"/e/");
        let range_end = Bytes::from_static(b"/e0");
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision,
            fragment: true,
            ..Default::default()
        };
        self.ask(Union::Create(create)).await;
    }

    async fn answer(&mut self) -> WatchResponse {
        self.answers.recv().await.unwrap().unwrap()
    }
}

fn map(entries: &[(&str, &str)]) -> Entries {
    entries
        .iter()
        .map(|(key, value)| (Bytes::from(key.to_string()), Bytes::from(value.to_string())))
        .collect()
}

fn revision(answer: &WatchResponse) -> i64 {
    answer.header.as_ref().unwrap().revision
}

fn keys(answer: &WatchResponse) -> Vec<(EventType, String)> {
    let key = |event: &Event| String::from_utf8(event.kv.as_ref().unwrap().key.to_vec()).unwrap();
    answer.events.iter().map(|event| (event.r#type(), key(event))).collect()
}

#[tokio::test]
async fn a_watch_tells_what_was_missed_and_then_what_happens() {
    let mut client = Client::new(&[("/e/a", "1")]);
    client.memory.replace(map(&[("/e/b", "1"), ("/f/b", "1")]));
    client.create(3).await;
    let created = client.answer().await;
    assert!(created.created && created.events.is_empty());
    let missed = client.answer().await;
    assert_eq!(
        keys(&missed),
        [(EventType::Delete, "/e/a".into()), (EventType::Put, "/e/b".into())]
    );
    client.memory.replace(map(&[("/e/b", "2"), ("/f/b", "1")]));
    let next = client.answer().await;
    assert_eq!((keys(&next), revision(&next)), (vec![(EventType::Put, "/e/b".into())], 4));
}

#[tokio::test]
async fn a_watch_from_before_the_history_ends_with_the_oldest_revision() {
    let mut client = Client::new(&[]);
    client.create(1).await;
    assert!(client.answer().await.created);
    let ended = client.answer().await;
    assert_eq!((ended.canceled, ended.compact_revision), (true, 2));
}

#[tokio::test]
async fn a_watch_beyond_the_fence_ends_the_stream() {
    let mut client = Client::new(&[]);
    client.ask(Union::Create(WatchCreateRequest { key: "/e".into(), ..Default::default() })).await;
    assert_eq!(client.answers.recv().await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    assert!(client.answers.recv().await.is_none());
}

#[tokio::test]
async fn progress_names_a_revision_that_has_been_delivered() {
    let mut client = Client::new(&[]);
    client.create(0).await;
    assert!(client.answer().await.created);
    client.memory.replace(map(&[("/e/a", "1")]));
    client.ask(Union::Progress(WatchProgressRequest {})).await;
    assert_eq!(client.answer().await.events.len(), 1);
    let progress = client.answer().await;
    assert_eq!((progress.watch_id, progress.events.len(), revision(&progress)), (-1, 0, 3));
}

#[tokio::test]
async fn a_cancelled_watch_is_silent_and_its_neighbour_is_not() {
    let mut client = Client::new(&[]);
    for watch_id in 0..2 {
        client.create(0).await;
        assert_eq!(client.answer().await.watch_id, watch_id);
    }
    client.ask(Union::Cancel(WatchCancelRequest { watch_id: 0 })).await;
    assert!(client.answer().await.canceled);
    client.memory.replace(map(&[("/e/a", "1")]));
    let next = client.answer().await;
    assert_eq!((next.watch_id, next.events.len()), (1, 1));
}

#[tokio::test]
async fn a_large_change_comes_in_marked_fragments() {
    let mut client = Client::new(&[]);
    client.create(0).await;
    assert!(client.answer().await.created);
    let large = "x".repeat(FRAGMENT_BYTES * 2 / 3);
    client.memory.replace(map(&[("/e/a", &large), ("/e/b", &large), ("/e/c", &large)]));
    let mut marks = Vec::new();
    for _ in 0..3 {
        let part = client.answer().await;
        marks.push((part.events.len(), part.fragment));
    }
    assert_eq!(marks, [(1, true), (1, true), (1, false)]);
}
