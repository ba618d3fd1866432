//! Answers that are given again. Two halves: the cache role, which keeps them for every worker of the node, and what a proxy
//! worker does to use it.
//!
//! - The role keeps opaque values under hashes (`store`), for a while, within a fixed number of bytes. It never sees a request,
//!   a name or a key of a caller; an answer it does, as bytes.
//! - A client that breaks the protocol loses its channel, and is introduced anew only when either side is started anew.
//! - One question of each client is answered at a time; those that wait stay in its socket.
//! - A policy may keep its answers in a Redis instead, for all gateways of its environment (`redis`).
//! - Neither is ever needed: a worker without a cache, or with one that does not answer, asks providers (`client`).

mod canonical;
mod client;
mod kept;
mod policies;
mod redis;
pub(crate) mod store;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use shared::cache::{FromCache, Key, ToCache, Value, ValueError, split};
use shared::channel::{Channel, ChannelError};
use shared::message::{Client, Confinement, ToWorker};
use shared::worker_settings::RoleSettings;
use tracing::warn;

use self::store::Store;
use crate::helper::{self, Helper};
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::role::RoleError;

pub use self::canonical::canonical;
pub use self::client::CacheClient;
pub use self::kept::Kept;
pub use self::policies::CachePolicies;
pub use self::redis::RedisCache;

/// Why a client is served no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The channel failed, or what came over it was no message.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The parts of a value are none.
    #[error("a value that cannot be kept: {0}")]
    Value(#[from] ValueError),
    /// A part of a value that was not begun, or another value before the last part of one.
    #[error("parts of values out of turn")]
    Turn,
}

struct Cache(Rc<RefCell<Store>>);

impl Helper for Cache {
    fn serve(&self, client: Client, channel: OwnedFd) -> LocalBoxFuture<'static, ()> {
        let store = Rc::clone(&self.0);
        Box::pin(async move {
            match answer(&store, channel).await {
                Ok(()) | Err(ServeError::Channel(ChannelError::Closed)) => {}
                Err(error) => warn!(?client, %error, "a client broke the protocol"),
            }
        })
    }

    fn told(&self, _: ToWorker, _: Option<OwnedFd>) -> Result<(), LinkError> {
        Err(LinkError::Unexpected { expected: "a message for the cache role" })
    }
}

/// A value that a client is giving.
struct Coming {
    number: u64,
    key: Key,
    lifetime: Duration,
    value: Value,
}

/// Answers one client until it is gone.
pub(crate) async fn answer(store: &RefCell<Store>, channel: OwnedFd) -> Result<(), ServeError> {
    let channel: Channel<FromCache, ToCache> = Channel::new(channel).map_err(ChannelError::Io)?;
    let mut coming: Option<Coming> = None;
    loop {
        let received = channel.receive().await?;
        if received.descriptor.is_some() {
            return Err(ChannelError::Descriptors.into());
        }
        let number = received.request_id;
        match received.message {
            ToCache::Find(key) => {
                let found = store.borrow_mut().find(&key, Instant::now());
                tell(&channel, number, found.as_deref()).await?;
            }
            ToCache::Keep { .. } if coming.is_some() => return Err(ServeError::Turn),
            ToCache::Keep { key, seconds, length, first } => {
                let value = Value::begin(length, first)?;
                let lifetime = Duration::from_secs(seconds.into());
                coming = Some(Coming { number, key, lifetime, value });
            }
            ToCache::Part(part) => match &mut coming {
                Some(coming) if coming.number == number => coming.value.add(&part)?,
                _ => return Err(ServeError::Turn),
            },
        }
        if let Some(Coming { key, lifetime, value, .. }) = coming.take_if(|it| it.value.is_whole())
        {
            store.borrow_mut().keep(key, value.into_bytes(), lifetime, Instant::now());
        }
        // Who always has another question waiting must not keep the others from their turn.
        tokio::task::yield_now().await;
    }
}

/// Sends what was found, or that nothing was.
async fn tell(
    channel: &Channel<FromCache, ToCache>,
    number: u64,
    found: Option<&[u8]>,
) -> Result<(), ChannelError> {
    let Some((length, first, parts)) = found.and_then(split) else {
        return channel.send(&FromCache::Missing, number, None).await;
    };
    channel.send(&FromCache::Found { length, first }, number, None).await?;
    for part in parts {
        channel.send(&FromCache::Part(part), number, None).await?;
    }
    Ok(())
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Cache(_) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the cache role" }.into());
    };
    helper::run(link, &Cache(Rc::default())).await
}

#[cfg(test)]
mod tests;
