//! A proxy worker's side of the cache of the node.
//!
//! It never costs a request more than [`FIND_LIMIT`], and never fails one. Without a cache, which is while one is started,
//! nothing is found at once. A question that is not answered in time is a miss, and until the cache says anything again (or
//! another takes its place) nobody else waits for it: nothing is asked and nothing given. What is to be kept is given aside,
//! when the socket has room.
//!
//! | what | bound | at the bound |
//! |---|---|---|
//! | questions | [`ASKED_MAX`] | a miss |
//! | values on their way to the cache | [`KEEPING_BYTES_MAX`] | not kept |
//! | a value | `VALUE_BYTES_MAX` | not kept |

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use shared::cache::{FromCache, Key, ToCache, VALUE_BYTES_MAX, Value, ValueError, split};
use shared::channel::{Channel, ChannelError};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// How long an answer is waited for. One that comes at all comes within a tenth of a millisecond.
pub const FIND_LIMIT: Duration = Duration::from_millis(500);
/// How long a cache that was waited for in vain is left alone: it may owe nothing any more.
const SILENCE: Duration = Duration::from_secs(1);
/// Questions that are open at a time.
pub const ASKED_MAX: usize = 512;
/// Bytes of values that wait for the cache to take them.
pub const KEEPING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why the channel is of no use any more.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("a value that is none: {0}")]
    Value(#[from] ValueError),
}

/// The cache of the node, whichever process it is now.
#[derive(Default)]
pub struct CacheClient {
    peer: RefCell<Option<Rc<Peer>>>,
    numbers: Cell<u64>,
    keeping_bytes: Cell<usize>,
}

/// One cache process.
struct Peer {
    channel: Channel<ToCache, FromCache>,
    asked: RefCell<HashMap<u64, Asked>>,
    /// One value at a time.
    turn: Semaphore,
    /// It was waited for in vain, and is left alone until then, or until it says something.
    silent_until: Cell<Option<Instant>>,
}

struct Asked {
    answer: oneshot::Sender<Option<Vec<u8>>>,
    coming: Option<Value>,
}

impl CacheClient {
    /// The cache is reached over this socket from now on.
    pub fn reached_over(self: &Rc<Self>, channel: OwnedFd) {
        let channel = match Channel::new(channel) {
            Ok(channel) => channel,
            Err(error) => return warn!(%error, "the channel to the cache cannot be used"),
        };
        let peer = Rc::new(Peer {
            channel,
            asked: RefCell::default(),
            turn: Semaphore::new(1),
            silent_until: Cell::new(None),
        });
        *self.peer.borrow_mut() = Some(Rc::clone(&peer));
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            match peer.hear().await {
                Broken::Channel(ChannelError::Closed) => {}
                error => warn!(%error, "the cache broke the protocol, and is not used any more"),
            }
            // Whoever waits for an answer is told that there is none.
            peer.asked.borrow_mut().clear();
            this.peer.borrow_mut().take_if(|now| Rc::ptr_eq(now, &peer));
        });
    }

    /// What is kept under the key; `None` if nothing is, or nobody says so in time.
    pub async fn find(&self, key: Key) -> Option<Vec<u8>> {
        let peer = self.peer.borrow().clone().filter(|peer| !peer.is_silent())?;
        let number = self.next_number();
        let (answer, answered) = oneshot::channel();
        {
            let mut asked = peer.asked.borrow_mut();
            if asked.len() >= ASKED_MAX {
                return None;
            }
            asked.insert(number, Asked { answer, coming: None });
        }
        let _forgotten = Forgotten { peer: &peer, number };
        let asking = async {
            peer.channel.send(&ToCache::Find(key), number, None).await.ok()?;
            answered.await.ok()?
        };
        match timeout(FIND_LIMIT, asking).await {
            Ok(found) => found,
            Err(_) => {
                let until = Instant::now() + SILENCE;
                if peer.silent_until.replace(Some(until)).is_none() {
                    warn!(
                        "the cache does not answer: until it does, or is replaced, every request goes to its provider"
                    );
                }
                None
            }
        }
    }

    /// Has a value kept, later. What is too long, or has nowhere to wait, is not.
    pub fn keep(self: &Rc<Self>, key: Key, seconds: u32, value: Vec<u8>) {
        let peer = self.peer.borrow().clone().filter(|peer| !peer.is_silent());
        let waiting = self.keeping_bytes.get() + value.len();
        let Some(peer) = peer else { return };
        if value.len() > VALUE_BYTES_MAX || waiting > KEEPING_BYTES_MAX {
            return;
        }
        self.keeping_bytes.set(waiting);
        let (this, number) = (Rc::clone(self), self.next_number());
        tokio::task::spawn_local(async move {
            // It ends with the channel at the latest; whoever hears it says why.
            let _ = peer.give(number, key, seconds, &value).await;
            this.keeping_bytes.set(this.keeping_bytes.get().saturating_sub(value.len()));
        });
    }

    fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get().wrapping_add(1));
        self.numbers.get()
    }
}

impl Peer {
    fn is_silent(&self) -> bool {
        self.silent_until.get().is_some_and(|until| Instant::now() < until)
    }

    async fn give(
        &self,
        number: u64,
        key: Key,
        seconds: u32,
        value: &[u8],
    ) -> Result<(), ChannelError> {
        // Never closed.
        let _turn = self.turn.acquire().await;
        let Some((length, first, parts)) = split(value) else { return Ok(()) };
        self.channel.send(&ToCache::Keep { key, seconds, length, first }, number, None).await?;
        for part in parts {
            self.channel.send(&ToCache::Part(part), number, None).await?;
        }
        Ok(())
    }

    /// Takes in answers until there are no more. Those that nobody waits for any more are passed over.
    async fn hear(&self) -> Broken {
        loop {
            let received = match self.channel.receive().await {
                Ok(received) => received,
                Err(error) => return error.into(),
            };
            if received.descriptor.is_some() {
                return ChannelError::Descriptors.into();
            }
            if self.silent_until.take().is_some() {
                info!("the cache answers again");
            }
            if let Err(error) = self.take_in(received.request_id, received.message) {
                return error.into();
            }
        }
    }

    fn take_in(&self, number: u64, message: FromCache) -> Result<(), ValueError> {
        let mut asked = self.asked.borrow_mut();
        let Some(question) = asked.get_mut(&number) else { return Ok(()) };
        match message {
            FromCache::Missing => {}
            FromCache::Found { length, first } => {
                question.coming = Some(Value::begin(length, first)?);
            }
            FromCache::Part(part) => match &mut question.coming {
                Some(value) => value.add(&part)?,
                None => return Err(ValueError::Order { found: part.number, expected: 0 }),
            },
        }
        if question.coming.as_ref().is_none_or(Value::is_whole)
            && let Some(Asked { answer, coming }) = asked.remove(&number)
        {
            // Who asked may have left.
            let _ = answer.send(coming.map(Value::into_bytes));
        }
        Ok(())
    }
}

/// Takes a question back, whatever became of it.
struct Forgotten<'a> {
    peer: &'a Peer,
    number: u64,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.peer.asked.borrow_mut().remove(&self.number);
    }
}
