//! A watch stream over the projection in memory. It reads the store's history at the client's own pace: a client that
//! is slower than the history is told "compacted", and costs no memory meanwhile.

use super::{
    Memory,
    fence::Fence,
    message::{
        Event, ResponseHeader, WatchCreateRequest, WatchRequest, WatchRequestUnion as Union,
        WatchResponse,
    },
    store::ReadError,
};
use futures_util::{Stream, StreamExt};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::mpsc;
use tonic::Status;

/// Where the answers of a watch stream go.
pub type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

/// What a client sends on its stream.
pub trait Requests: Stream<Item = Result<WatchRequest, Status>> + Unpin {}
impl<S: Stream<Item = Result<WatchRequest, Status>> + Unpin> Requests for S {}

/// The size at which an answer is cut for a client that accepts fragments.
const FRAGMENT_BYTES: usize = 1024 * 1024;
/// etcd's mark for an answer that concerns the whole stream.
const EVERY_WATCH: i64 = -1;

struct Watch {
    request: WatchCreateRequest,
    next: i64,
}

/// One client's stream with its watches.
struct Session {
    memory: Arc<Memory>,
    fence: Fence,
    answers: Answers,
    watches: BTreeMap<i64, Watch>,
}

/// Why the stream ends.
enum End {
    /// The client is gone.
    Gone,
    /// The client asked for something that it will not get.
    Refused(Status),
}

/// Serves the stream until the client leaves it or is refused.
pub async fn serve(memory: Arc<Memory>, fence: Fence, requests: impl Requests, answers: Answers) {
    let mut session = Session { memory, fence, answers, watches: BTreeMap::new() };
    if let Err(End::Refused(status)) = session.run(requests).await {
        // A client that has gone meanwhile does not mind.
        let _ = session.answers.send(Err(status)).await;
    }
}

impl Session {
    async fn run(&mut self, mut requests: impl Requests) -> Result<(), End> {
        let mut changes = self.memory.changes();
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.answer(request).await?,
                    Some(Err(_)) | None => return Ok(()),
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.deliver().await?;
                }
                () = self.answers.closed() => return Ok(()),
            }
        }
    }

    async fn answer(&mut self, request: WatchRequest) -> Result<(), End> {
        match request.request_union {
            Some(Union::Create(create)) => self.create(create).await,
            Some(Union::Cancel(cancel)) => {
                if self.watches.remove(&cancel.watch_id).is_none() {
                    return Ok(());
                }
                self.send(self.memory.revision(), cancel.watch_id, |answer| answer.canceled = true)
                    .await
            }
            Some(Union::Progress(_)) => {
                // Taken first: everything up to here is delivered before it is claimed.
                let revision = self.memory.revision();
                self.deliver().await?;
                self.send(revision, EVERY_WATCH, |_| ()).await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), End> {
        self.fence
            .check(&request.key, &request.range_end)
            .map_err(|outside| End::Refused(Status::permission_denied(outside.to_string())))?;
        if !request.filters.is_empty() {
            return Err(End::Refused(Status::unimplemented(
                "the local Cloud does not filter events",
            )));
        }
        let revision = self.memory.revision();
        let watch_id = match request.watch_id {
            0 => (0..).find(|id| !self.watches.contains_key(id)).unwrap_or(0),
            taken if self.watches.contains_key(&taken) => {
                return self
                    .send(revision, EVERY_WATCH, |answer| {
                        answer.created = true;
                        answer.canceled = true;
                        answer.cancel_reason =
                            "etcdserver: duplicate watch ID provided on the watch stream".into();
                    })
                    .await;
            }
            chosen => chosen,
        };
        let next = if request.start_revision > 0 { request.start_revision } else { revision + 1 };
        self.watches.insert(watch_id, Watch { request, next });
        self.send(revision, watch_id, |answer| answer.created = true).await?;
        self.deliver().await
    }

    /// Sends what has happened since the last time, to every watch.
    async fn deliver(&mut self) -> Result<(), End> {
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for watch_id in ids {
            let Some(watch) = self.watches.get_mut(&watch_id) else { continue };
            let (revision, events) =
                self.memory.events(&watch.request.key, &watch.request.range_end, watch.next);
            match events {
                Ok(events) => {
                    // A watch may begin in the future: it waits for its own revision.
                    watch.next = watch.next.max(revision + 1);
                    let fragment = watch.request.fragment;
                    self.send_events(revision, watch_id, events, fragment).await?;
                }
                Err(error) => {
                    self.watches.remove(&watch_id);
                    self.send(revision, watch_id, |answer| {
                        answer.canceled = true;
                        answer.cancel_reason = error.to_string();
                        if let ReadError::Compacted { compact_revision } = error {
                            answer.compact_revision = compact_revision;
                        }
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }

    async fn send_events(
        &self,
        revision: i64,
        watch_id: i64,
        events: Vec<Event>,
        fragment: bool,
    ) -> Result<(), End> {
        if events.is_empty() {
            return Ok(());
        }
        let mut parts = if fragment { cut(events) } else { vec![events] }.into_iter().peekable();
        while let Some(events) = parts.next() {
            let fragment = parts.peek().is_some();
            self.send(revision, watch_id, |answer| {
                (answer.events, answer.fragment) = (events, fragment)
            })
            .await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        revision: i64,
        watch_id: i64,
        fill: impl FnOnce(&mut WatchResponse),
    ) -> Result<(), End> {
        let header = Some(ResponseHeader::at(revision));
        let mut answer = WatchResponse { header, watch_id, ..WatchResponse::default() };
        fill(&mut answer);
        self.answers.send(Ok(answer)).await.map_err(|_| End::Gone)
    }
}

/// The events in parts of about `FRAGMENT_BYTES`.
fn cut(events: Vec<Event>) -> Vec<Vec<Event>> {
    let mut parts: Vec<Vec<Event>> = Vec::new();
    let mut room = 0usize;
    for event in events {
        let bytes = prost::Message::encoded_len(&event);
        match parts.last_mut() {
            Some(part) if bytes <= room => part.push(event),
            _ => {
                room = FRAGMENT_BYTES;
                parts.push(vec![event]);
            }
        }
        room = room.saturating_sub(bytes);
    }
    parts
}

#[cfg(test)]
mod tests;
