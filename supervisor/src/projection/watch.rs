//! Follows the store for ever: load once, then every change; after a lost connection on from the last revision seen.
//!
//! Everything is loaded again only when the store has compacted that revision away, or is an older store than it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::proto::PbEvent;
use etcd_client::{Client, WatchOptions, WatchResponse, WatchStream};
use shared::dial::Dial;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::connect::{ConnectError, Source, connect, in_words};
use super::load::{MESSAGE_BYTES_MAX, load, range_end};
use super::state::{Event, Observed};
use crate::backoff::{Backoff, chance};
use crate::cloud::tls::CredentialsInForce;

/// A store that was too slow is given twice as long the next time, up to this.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// etcd's number of a delete; a put is 0, and anything else is not known.
const DELETE: i32 = 1;

/// Why the store is not followed right now.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The store would not answer the load.
    #[error("cannot load the projection: {0}")]
    Load(String),
    /// The store would not answer the watch.
    #[error("cannot watch the projection: {0}")]
    Watch(String),
    /// No answer.
    #[error("no answer to the {0} of the projection within {1:?}")]
    Silent(&'static str, Duration),
    /// Pages out of order.
    #[error("the store answered a page of the projection out of order")]
    Order,
    /// More than is ever taken.
    #[error("the projection is too large: {keys} keys, {bytes} bytes")]
    TooMuch {
        /// Read so far.
        keys: usize,
        /// Read so far.
        bytes: usize,
    },
    /// The store ended the watch.
    #[error("the store has ended the watch")]
    Ended,
    /// Nobody listens any more.
    #[error("the projection is not wanted any more")]
    Unwanted,
}

impl FollowError {
    /// A load that failed.
    pub fn load(error: &etcd_client::Error) -> Self {
        Self::Load(in_words(error))
    }
}

/// Why a connection that worked is left.
enum Left {
    /// What was seen is not enough to go on from.
    Reload,
    /// There is a new identity to show.
    NewIdentity,
}

/// What was seen, and when.
pub struct Sighting {
    /// What it was.
    pub observed: Observed,
    /// When the store's message about it was complete.
    pub at: Instant,
    /// How many revisions it tells of.
    pub revisions: u64,
}

/// Follows one source.
pub struct Follower {
    source: Source,
    dial: Arc<dyn Dial>,
    observed: mpsc::Sender<Sighting>,
    /// The latest revision up to which everything was seen.
    seen: Option<i64>,
    /// Which store that is a revision of, as far as it says.
    store: Option<u64>,
    backoff: Backoff,
    attempts: usize,
    /// How long the store may take to answer a request.
    patience: Duration,
    /// What was last logged as wrong.
    trouble: Option<String>,
}

impl Follower {
    /// Tells `observed` what it sees.
    pub fn new(source: Source, dial: Arc<dyn Dial>, observed: mpsc::Sender<Sighting>) -> Self {
        let (backoff, patience) = (Backoff::default(), source.request_limit);
        Self {
            source,
            dial,
            observed,
            seen: None,
            store: None,
            backoff,
            attempts: 0,
            patience,
            trouble: None,
        }
    }

    /// Everything up to this revision of this store was seen by the run before.
    pub fn resuming(mut self, seen: Option<(i64, Option<u64>)>) -> Self {
        self.seen = seen.map(|(revision, _)| revision);
        self.store = seen.and_then(|(_, store)| store);
        self
    }

    /// Follows until nobody listens.
    pub async fn run(mut self) {
        loop {
            let identity = self.identity();
            let error = match self.follow().await {
                Ok(Left::Reload) => {
                    info!(
                        "the store no longer has what came after the last revision seen; loading everything again"
                    );
                    (self.seen, self.store) = (None, None);
                    // With a pause, lest a broken store is asked for everything again and again.
                    self.pause(identity).await;
                    continue;
                }
                Ok(Left::NewIdentity) => continue,
                Err(FollowError::Unwanted) => return,
                Err(error) => {
                    if let FollowError::Silent(..) = error {
                        let longer = self.patience.saturating_mul(2).min(PATIENCE_MAX);
                        self.patience = longer.max(self.source.request_limit);
                    }
                    error.to_string()
                }
            };
            if self.trouble.as_ref() != Some(&error) {
                warn!(
                    "the projection is not followed: {error}; trying again, and serving what was loaded before, if anything was"
                );
                self.trouble = Some(error.clone());
            }
            if self.tell(Observed::Lost { error }).await.is_err() {
                return;
            }
            self.pause(identity).await;
        }
    }

    /// Until it is time to try again, which it is at once when there is a new identity to show.
    async fn pause(&mut self, mut identity: Option<CredentialsInForce>) {
        tokio::select! {
            () = sleep(self.backoff.failed(chance())) => {}
            () = changed(&mut identity) => self.backoff.succeeded(),
        }
    }

    /// What is in force, to notice that it is no longer.
    fn identity(&self) -> Option<CredentialsInForce> {
        let mut identity = self.source.tls.as_ref().map(|tls| tls.credentials.clone());
        if let Some(identity) = &mut identity {
            identity.mark_unchanged();
        }
        identity
    }

    async fn tell(&self, observed: Observed) -> Result<(), FollowError> {
        self.tell_of(observed, 1).await
    }

    async fn tell_of(&self, observed: Observed, revisions: u64) -> Result<(), FollowError> {
        let sighting = Sighting { observed, at: Instant::now(), revisions };
        self.observed.send(sighting).await.map_err(|_| FollowError::Unwanted)
    }

    /// Makes a connection and follows the store on it.
    async fn follow(&mut self) -> Result<Left, FollowError> {
        let urls = &self.source.endpoints;
        let url = urls.get(self.attempts % urls.len().max(1)).cloned().unwrap_or_default();
        self.attempts = self.attempts.wrapping_add(1);
        let mut identity = self.identity();
        let client = connect(&self.source, &url, &*self.dial).await?;
        let mut seen = match self.seen {
            Some(seen) => seen,
            None => {
                let loaded = load(&client, &self.source.prefix, self.patience).await?;
                self.seen = Some(loaded.revision);
                let (revision, entries) = (loaded.revision, loaded.entries);
                info!("projection loaded: {} documents at revision {revision}", entries.len());
                self.tell(Observed::Loaded { revision, entries }).await?;
                revision
            }
        };
        let opened = open(&client, &self.source.prefix, seen + 1, self.patience).await;
        let (mut stream, now_at, store) = match opened {
            Err(FollowError::Watch(reason)) if is_compacted(&reason) => return Ok(Left::Reload),
            opened => opened?,
        };
        // A store that was set back would not send a thing until it has overtaken what we have seen.
        if now_at.is_some_and(|now_at| now_at < seen) {
            return Ok(Left::Reload);
        }
        // Another store counts revisions of its own.
        if self.store.is_some() && store.is_some() && self.store != store {
            return Ok(Left::Reload);
        }
        if let Some(id) = store {
            self.store = store;
            self.tell(Observed::Store { id }).await?;
        }
        // Whoever follows successfully stays with this endpoint.
        self.attempts = self.attempts.wrapping_sub(1);
        self.backoff.succeeded();
        self.patience = self.source.request_limit;
        self.trouble = None;
        info!("following the projection at {url} from revision {seen}");
        self.tell(Observed::Connected).await?;
        let mut events = Vec::new();
        loop {
            let response = tokio::select! {
                response = stream.message() => response,
                () = changed(&mut identity) => return Ok(Left::NewIdentity),
            };
            let WatchResponse(response) = match response {
                Ok(response) => response.ok_or(FollowError::Ended)?,
                Err(error) if is_compacted(&in_words(&error)) => return Ok(Left::Reload),
                Err(error) => return Err(FollowError::Watch(in_words(&error))),
            };
            if response.compact_revision > 0 || is_compacted(&response.cancel_reason) {
                return Ok(Left::Reload);
            }
            if response.canceled {
                return Err(FollowError::Watch(response.cancel_reason));
            }
            let progress = response.events.is_empty();
            events.extend(response.events);
            // One revision may come in several parts: they count together.
            if response.fragment {
                continue;
            }
            let now_at = response.header.map_or(0, |header| header.revision);
            let revisions = revisions(&events);
            let observed = if progress && events.is_empty() {
                seen = seen.max(now_at);
                Observed::Progress { revision: seen }
            } else {
                // Of a long backlog the header names the store's revision, not that of these events.
                let latest =
                    events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).max();
                seen = seen.max(latest.unwrap_or(0));
                let events = std::mem::take(&mut events).into_iter().filter_map(event).collect();
                Observed::Changed { revision: seen, events }
            };
            self.seen = Some(seen);
            self.tell_of(observed, revisions).await?;
        }
    }
}

/// How many revisions these changes are, which are in the order of their revisions.
fn revisions(events: &[PbEvent]) -> u64 {
    let mut revisions: Vec<_> =
        events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).collect();
    revisions.dedup();
    revisions.len() as u64
}

/// A watch from `revision` on that the store has accepted, the store's own revision, and its id.
async fn open(
    client: &Client,
    prefix: &str,
    revision: i64,
    limit: Duration,
) -> Result<(WatchStream, Option<i64>, Option<u64>), FollowError> {
    let options = WatchOptions::new()
        .with_range(range_end(prefix))
        .with_start_revision(revision)
        .with_progress_notify()
        .with_fragment();
    let mut client = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
    let opened = async {
        let mut stream = client.watch(prefix, Some(options)).await?;
        let created = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, created))
    };
    let (stream, created) = timeout(limit, opened)
        .await
        .map_err(|_| FollowError::Silent("watch", limit))?
        .map_err(|error| FollowError::Watch(in_words(&error)))?;
    let WatchResponse(created) = created.ok_or(FollowError::Ended)?;
    let compacted = created.compact_revision > 0 || is_compacted(&created.cancel_reason);
    if created.canceled && !compacted {
        return Err(FollowError::Watch(created.cancel_reason));
    }
    if compacted {
        // As good as a store that was set back: what was seen is of no use.
        return Ok((stream, Some(0), None));
    }
    let (now_at, store) = created.header.map_or((0, 0), |of| (of.revision, of.cluster_id));
    Ok((stream, Some(now_at).filter(|now_at| *now_at > 0), Some(store).filter(|id| *id > 0)))
}

/// Whether the store says that it no longer has the revision. Stores that only resemble etcd may say so in words alone.
pub fn is_compacted(reason: &str) -> bool {
    reason.contains("required revision has been compacted")
}

/// Waits for new credentials; for ever where there are none.
async fn changed(identity: &mut Option<CredentialsInForce>) {
    if let Some(identity) = identity
        && identity.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

fn event(event: PbEvent) -> Option<Event> {
    let kv = event.kv?;
    Some(match event.r#type {
        DELETE => Event::Delete(kv.key),
        _ => Event::Put(kv.key, kv.value),
    })
}
