//! A Redis, or a cluster of them, as a worker uses it: one connection to each node, kept and shared by all requests.
//!
//! 1. Every call has a limit of time, and ends with an error rather than late.
//! 2. When Redis does not answer, nobody asks it for a moment ([`PAUSE`]): a request waits for a Redis that is away once, not
//!    every time.
//! 3. It is reached through egress alone, at the addresses of the configuration. Of a cluster every node has to be written
//!    there as the cluster announces it; a key whose slot is on its way to another node (`ASK`) is not followed.
//!
//! What cannot be asked is for whoever asks to do without.

mod connect;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};
use shared::dial::Dial;
use shared::worker_settings::{RedisNode, RedisSettings};
use tokio::time::Instant;

use crate::upstream::{TrustError, TrustRoots};
use connect::Connector;

/// How long Redis is left alone after it has not answered.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Slots of a cluster, as its protocol has it.
const SLOTS: u16 = 16384;

/// Why there is no answer of Redis.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// It has not answered a moment ago, and is left alone.
    #[error("it did not answer a moment ago, and is asked again soon")]
    Away,
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(Rc<str>),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke, or it is not that kind of Redis.
    #[error("{0}")]
    Failed(Rc<str>),
    /// It refuses the command. It is there all the same.
    #[error("it refuses a command: {0}")]
    Refused(Rc<str>),
}

type Connected = Result<MultiplexedConnection, Rc<str>>;
type Connecting = Shared<LocalBoxFuture<'static, Connected>>;

/// A Redis, or a cluster of them. Lives in one thread, within a `LocalSet`.
pub struct Redis {
    connector: Rc<Connector>,
    nodes: Vec<RedisNode>,
    is_cluster: bool,
    /// One to each node that was asked so far; never more than there are in the configuration.
    connections: RefCell<HashMap<RedisNode, Connecting>>,
    /// Who has which slot, as far as the cluster has told.
    slots: RefCell<HashMap<u16, RedisNode>>,
    away_until: Cell<Option<Instant>>,
}

impl Redis {
    /// A client of the Redis of the settings. Connects when it is first asked.
    ///
    /// # Errors
    /// Its TLS settings cannot be used.
    pub fn new(
        dial: Rc<dyn Dial>,
        trust: &TrustRoots,
        settings: &RedisSettings,
    ) -> Result<Rc<Self>, TrustError> {
        Ok(Rc::new(Self {
            connector: Rc::new(Connector::new(dial, trust, settings)?),
            nodes: settings.nodes.clone(),
            is_cluster: settings.is_cluster,
            connections: RefCell::default(),
            slots: RefCell::default(),
            away_until: Cell::new(None),
        }))
    }

    /// Whether Redis is left alone for now.
    pub fn is_away(&self) -> bool {
        self.away_until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Sends a command about `key`, and about no key of another slot, and waits `limit` for the answer.
    ///
    /// # Errors
    /// There is no answer, or one that is an error or of another type. Whether the command had an effect is unknown then,
    /// except where Redis has refused it.
    pub async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        key: &str,
        limit: Duration,
    ) -> Result<T, RedisError> {
        if self.is_away() {
            return Err(RedisError::Away);
        }
        let asked = tokio::time::timeout(limit, self.asked(command, key)).await;
        let answer = asked.unwrap_or(Err(RedisError::Timeout(limit)));
        match &answer {
            Ok(_) => self.away_until.set(None),
            Err(RedisError::Refused(_)) => {}
            Err(error) => {
                self.away_until.set(Some(Instant::now() + PAUSE));
                // A connection whose other end is gone would never say so. Those that are being made have their own limit.
                if matches!(error, RedisError::Timeout(_)) {
                    self.connections.borrow_mut().retain(|_, it| it.peek().is_none());
                }
            }
        }
        let answer = answer?;
        redis::from_redis_value(answer)
            .map_err(|error| RedisError::Refused(error.to_string().into()))
    }

    async fn asked(&self, command: &Cmd, key: &str) -> Result<redis::Value, RedisError> {
        let slot = self.is_cluster.then(|| slot(key));
        let known = slot.and_then(|slot| self.slots.borrow().get(&slot).cloned());
        let first = || self.nodes.first().cloned();
        let Some(node) = known.or_else(first) else {
            return Err(RedisError::Connect("there is no node in the configuration".into()));
        };
        let answer = self.asked_of(&node, command).await;
        let moved = match (&answer, slot) {
            (Err(error), Some(slot)) => moved(error).map(|node| (slot, node)),
            _ => None,
        };
        let Some((slot, node)) = moved else { return answer.map_err(known_error) };
        if !self.nodes.contains(&node) {
            let text = format!(
                "the cluster has a node {} that is not in the configuration",
                node.authority()
            );
            return Err(RedisError::Failed(text.into()));
        }
        self.slots.borrow_mut().insert(slot, node.clone());
        self.asked_of(&node, command).await.map_err(known_error)
    }

    async fn asked_of(&self, node: &RedisNode, command: &Cmd) -> Result<redis::Value, Failure> {
        let connecting = self.connection(node);
        let mut connection = match connecting.clone().await {
            Ok(connection) => connection,
            Err(reason) => {
                self.forget(node, &connecting);
                return Err(Failure::Connect(reason));
            }
        };
        let answer = connection.send_packed_command(command).await;
        let answer = answer.and_then(redis::Value::extract_error);
        answer.map_err(|error| {
            if error.is_unrecoverable_error() || error.is_io_error() {
                self.forget(node, &connecting);
            }
            Failure::Redis(error)
        })
    }

    /// The connection to a node, made if there is none. Its making goes on when whoever asked has given up.
    fn connection(&self, node: &RedisNode) -> Connecting {
        let mut connections = self.connections.borrow_mut();
        if let Some(connection) = connections.get(node) {
            return connection.clone();
        }
        let (connector, to) = (Rc::clone(&self.connector), node.clone());
        let connecting = async move { connector.connect(&to).await }.boxed_local().shared();
        tokio::task::spawn_local(connecting.clone());
        connections.insert(node.clone(), connecting.clone());
        connecting
    }

    /// The next who asks connects anew, unless somebody has done so already.
    fn forget(&self, node: &RedisNode, connection: &Connecting) {
        let mut connections = self.connections.borrow_mut();
        if connections.get(node).is_some_and(|known| known.ptr_eq(connection)) {
            connections.remove(node);
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Redis").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

enum Failure {
    Connect(Rc<str>),
    Redis(redis::RedisError),
}

fn known_error(failure: Failure) -> RedisError {
    match failure {
        Failure::Connect(reason) => RedisError::Connect(reason),
        Failure::Redis(error) => {
            let text = error.to_string().into();
            let is_answer =
                matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension);
            if is_answer && !error.is_cluster_error() {
                RedisError::Refused(text)
            } else {
                RedisError::Failed(text)
            }
        }
    }
}

/// Where a cluster says that the slot is.
fn moved(failure: &Failure) -> Option<RedisNode> {
    let Failure::Redis(error) = failure else { return None };
    if error.kind() != redis::ErrorKind::Server(redis::ServerErrorKind::Moved) {
        return None;
    }
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    Some(RedisNode { host: host.to_owned(), port: port.parse().ok()? })
}

/// The slot of a key: CRC-16 (XMODEM) of what is between its first braces, or of all of it.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests;
