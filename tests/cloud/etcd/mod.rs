//! The etcd v3 API as gateways use it: Range and Watch, read only, each environment behind its fence.
//!
//! The projection is in memory (filled from a file) or in a real etcd (forwarded); a client sees no difference.

pub mod fence;
mod forward;
mod message;
mod service;
pub mod store;
mod watch;

pub use forward::{BadEtcdUrl, Forward};
pub use message::RangeRequest;
pub use service::serve;

use bytes::Bytes;
use message::{Event, RangeResponse};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Entries, ReadError, Store};
use tokio::sync::watch as signal;
use tonic::Status;

const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Where the resources of all environments are.
#[derive(Clone)]
pub enum Projection {
    /// In this process.
    Memory(Arc<Memory>),
    /// In a real etcd.
    Etcd(Forward),
}

/// The store, shared by its writer and all readers, with a signal for each new revision.
pub struct Memory {
    store: Mutex<Store>,
    revision: signal::Sender<i64>,
}

impl Projection {
    /// One Range, unfenced: for the Cloud's own questions, and for clients once they have passed the fence.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        match self {
            Self::Memory(memory) => memory.store().range(&request).map_err(|error| match error {
                ReadError::Compacted { .. } | ReadError::Future => {
                    Status::out_of_range(error.to_string())
                }
                ReadError::Unsupported => Status::unimplemented(error.to_string()),
            }),
            Self::Etcd(etcd) => etcd.range(request).await,
        }
    }

    /// All keys that begin with `prefix`, and the revision they were read at.
    pub async fn keys(&self, prefix: &str) -> Result<(i64, Vec<Bytes>), Status> {
        let request = RangeRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: fence::prefix_end(prefix.as_bytes()).into(),
            keys_only: true,
            ..RangeRequest::default()
        };
        let response = self.range(request).await?;
        let revision = response.header.map_or(0, |header| header.revision);
        Ok((revision, response.kvs.into_iter().map(|kv| kv.key).collect()))
    }
}

impl Memory {
    /// A projection that holds `entries` since `revision`.
    pub fn new(revision: i64, entries: Entries) -> Self {
        let store = Mutex::new(Store::new(revision, entries, store::HISTORY_CHANGES));
        Self { store, revision: signal::Sender::new(revision) }
    }

    /// Makes `entries` the whole projection, as one revision, and wakes the watches. Returns how many keys changed.
    pub fn replace(&self, entries: Entries) -> usize {
        let (changed, revision) = {
            let mut store = self.store();
            (store.replace(entries), store.revision())
        };
        if changed > 0 {
            self.revision.send_replace(revision);
        }
        changed
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> i64 {
        self.store().revision()
    }

    /// The events of a range from a revision on, and the revision up to which they go.
    fn events(
        &self,
        key: &[u8],
        range_end: &[u8],
        from: i64,
    ) -> (i64, Result<Vec<Event>, ReadError>) {
        let store = self.store();
        (store.revision(), store.events(key, range_end, from))
    }

    fn changes(&self) -> signal::Receiver<i64> {
        self.revision.subscribe()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
