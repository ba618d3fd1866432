//! The client's side of egress: [`EgressDial`] asks from anywhere in the process, and one [`Driver`] keeps the channel.
//!
//! The channel is replaced when egress is started anew. What was asked and not answered is asked again over the new one;
//! while there is none it waits for so long as the client was made for, and then fails. At most [`CONNECTS_MAX`] questions
//! are open at a time; more wait for their turn, in the order in which they were asked, as long as whoever asks does.
//!
//! What egress says is checked before it is believed: it has to be a connected, non-blocking TCP socket.

use std::collections::BTreeMap;
use std::io;
use std::net::{self, IpAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::channel::{Channel, ChannelError, Received};
use crate::dial::{Destination, Dial, DialError, Dialling};

use super::{CONNECTS_MAX, FromEgress, Refusal, ToEgress, Unresolved};

/// Questions that nobody has taken up yet; beyond, whoever asks waits.
const QUEUE_MAX: usize = 1024;
/// How long a table that leads elsewhere than the client expects may take to change: as long as a change of configuration
/// needs to reach everybody, and some.
const OTHER_TABLE_LIMIT: Duration = Duration::from_secs(1);
/// Between two questions about it.
const OTHER_TABLE_PAUSE: Duration = Duration::from_millis(20);
/// How much of the words of egress an error shows.
const WORDS_CHARS_MAX: usize = 500;
/// How soon what the channel had no room for is sent again.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// What egress has answered.
type Answer = (FromEgress, Option<OwnedFd>);

struct Question {
    number: u64,
    message: ToEgress,
    answer: oneshot::Sender<Answer>,
}

/// Where a new channel is put for the driver. One that was not taken up is replaced.
#[derive(Debug, Default)]
struct Slot {
    channel: Mutex<Option<OwnedFd>>,
    filled: Notify,
}

/// Makes connections through the egress worker. Clones share the channel.
#[derive(Clone, Debug)]
pub struct EgressDial {
    questions: mpsc::Sender<Question>,
    forgotten: mpsc::UnboundedSender<u64>,
    numbers: Arc<AtomicU64>,
    slot: Arc<Slot>,
    limit: Option<Duration>,
}

/// Speaks with egress on behalf of every [`EgressDial`] of this process. Belongs to one runtime.
#[derive(Debug)]
pub struct Driver {
    questions: mpsc::Receiver<Question>,
    /// At most one for each question that was taken into `questions`.
    forgotten: mpsc::UnboundedReceiver<u64>,
    slot: Arc<Slot>,
    wait: Duration,
    channel: Option<Channel<ToEgress, FromEgress>>,
    open: BTreeMap<u64, Open>,
    /// When the last channel broke.
    broken_at: Instant,
}

#[derive(Debug)]
struct Open {
    message: ToEgress,
    answer: oneshot::Sender<Answer>,
    since: Instant,
    sent: bool,
}

/// A client without a channel yet. While there is none, a question waits for `wait`.
pub fn new(wait: Duration) -> (EgressDial, Driver) {
    let (questions, asked) = mpsc::channel(QUEUE_MAX);
    let (forgotten, forgets) = mpsc::unbounded_channel();
    let slot = Arc::new(Slot::default());
    let dial = EgressDial {
        questions,
        forgotten,
        numbers: Arc::new(AtomicU64::new(1)),
        slot: Arc::clone(&slot),
        limit: None,
    };
    let driver = Driver {
        questions: asked,
        forgotten: forgets,
        slot,
        wait,
        channel: None,
        open: BTreeMap::new(),
        broken_at: Instant::now(),
    };
    (dial, driver)
}

/// Tells the driver that nobody waits any more, unless the answer has come.
struct Waiting<'a> {
    dial: &'a EgressDial,
    number: u64,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.dial.forgotten.send(self.number);
        }
    }
}

impl EgressDial {
    /// The same with a limit for each connection, waiting for egress included.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self.clone() }
    }

    /// Egress is reached over this channel from now on, in place of any before.
    pub fn reached_over(&self, channel: OwnedFd) {
        *self.slot.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        self.slot.filled.notify_one();
    }

    /// The addresses of a destination's name, without connecting to any; `Ok` is never empty.
    pub async fn resolve(&self, destination: &Destination) -> Result<Vec<IpAddr>, ResolveError> {
        match self.ask(ToEgress::Resolve(destination.key.clone())).await {
            None => {
                Err(ResolveError::Dial(DialError::NoEgress { destination: destination.clone() }))
            }
            Some((FromEgress::Resolved { addresses, .. }, _)) => {
                let addresses: Vec<_> =
                    addresses.iter().filter_map(|address| address.parse().ok()).collect();
                if addresses.is_empty() {
                    let words = "the name has no address".to_owned();
                    return Err(ResolveError::Name(Unresolved::NoAddress, words));
                }
                Ok(addresses)
            }
            Some((FromEgress::Unresolved { kind, words, .. }, _)) => {
                Err(ResolveError::Name(kind, harmless(&words)))
            }
            Some((FromEgress::Refused { refusal, .. }, _)) => {
                Err(ResolveError::Dial(error(refusal, destination)))
            }
            Some((FromEgress::Connected { .. }, _)) => {
                Err(ResolveError::Dial(DialError::Unknown { destination: destination.clone() }))
            }
        }
    }

    /// `None` if there is nobody to answer.
    async fn ask(&self, message: ToEgress) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.questions.send(Question { number, message, answer }).await.ok()?;
        let mut waiting = Waiting { dial: self, number, answered: false };
        let answer = answered.await;
        waiting.answered = true;
        answer.ok()
    }

    async fn connect(&self, destination: &Destination) -> Result<TcpStream, DialError> {
        let unknown = || DialError::Unknown { destination: destination.clone() };
        let is_it = |host: &str, port| host == destination.host && port == destination.port;
        let begun = Instant::now();
        loop {
            match self.ask(ToEgress::Connect(destination.key.clone())).await {
                None => return Err(DialError::NoEgress { destination: destination.clone() }),
                Some((FromEgress::Connected { host, port }, socket)) if is_it(&host, port) => {
                    let stream = socket.ok_or_else(|| io::ErrorKind::InvalidData.into());
                    let stream = stream.and_then(connected);
                    return stream.map_err(|source| DialError::Connect {
                        destination: destination.clone(),
                        source,
                    });
                }
                Some((FromEgress::Refused { refusal, place: Some((host, port)) }, _))
                    if is_it(&host, port) =>
                {
                    return Err(error(refusal, destination));
                }
                Some((FromEgress::Refused { refusal, place: None }, _)) => {
                    return Err(error(refusal, destination));
                }
                // The table is of another moment than what we were told.
                Some(_) if begun.elapsed() < OTHER_TABLE_LIMIT => sleep(OTHER_TABLE_PAUSE).await,
                Some(_) => return Err(unknown()),
            }
        }
    }
}

impl Dial for EgressDial {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async move {
            let Some(limit) = self.limit else { return self.connect(destination).await };
            timeout(limit, self.connect(destination)).await.unwrap_or_else(|_| {
                Err(DialError::Timeout { destination: destination.clone(), limit })
            })
        })
    }
}

/// Why a name could not be resolved.
#[derive(Debug)]
pub enum ResolveError {
    /// What the resolver says.
    Name(Unresolved, String),
    /// It was not asked.
    Dial(DialError),
}

/// Words of the egress worker, fit for a line of a log.
fn harmless(words: &str) -> String {
    words.chars().filter(|it| !it.is_control()).take(WORDS_CHARS_MAX).collect()
}

/// The socket as a stream of this runtime, if it is what it should be.
fn connected(socket: OwnedFd) -> io::Result<TcpStream> {
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if getsockopt(&socket, sockopt::SockType)? != SockType::Stream {
        return wrong("egress handed over something else than a stream socket");
    }
    // Shared with egress: one that blocks would hold up everything here.
    let flags = OFlag::from_bits_truncate(fcntl(&socket, FcntlArg::F_GETFL)?);
    if !flags.contains(OFlag::O_NONBLOCK) {
        return wrong("egress handed over a socket that blocks");
    }
    let stream = net::TcpStream::from(socket);
    // Fails for what is not connected, and for every family but IPv4 and IPv6.
    stream.peer_addr()?;
    TcpStream::from_std(stream)
}

fn error(refusal: Refusal, destination: &Destination) -> DialError {
    let destination = destination.clone();
    match refusal {
        Refusal::Unknown => DialError::Unknown { destination },
        Refusal::Resolve(reason) => DialError::Resolve { host: destination.host, reason },
        Refusal::Connect(0, words) => {
            DialError::Connect { destination, source: io::Error::other(words) }
        }
        // The words name the addresses that were tried.
        Refusal::Connect(number, words) => {
            let kind = io::Error::from_raw_os_error(number).kind();
            DialError::Connect { destination, source: io::Error::new(kind, harmless(&words)) }
        }
        Refusal::Timeout(ms) => {
            DialError::Timeout { destination, limit: Duration::from_millis(ms) }
        }
        Refusal::NotPermitted(reason) => DialError::NotPermitted { destination, reason },
        Refusal::Busy => {
            let source = io::Error::other("the egress worker has too many connections on the way");
            DialError::Connect { destination, source }
        }
    }
}

impl Driver {
    /// Runs until the last [`EgressDial`] is gone.
    pub async fn run(mut self) {
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                Some(number) = self.forgotten.recv() => self.forget(number),
                question = self.questions.recv(), if self.open.len() < CONNECTS_MAX => {
                    let Some(question) = question else { return };
                    self.ask(question);
                }
                () = self.slot.filled.notified() => self.take_channel(),
                received = next(self.channel.as_ref()) => match received {
                    Ok(received) => self.answer(received),
                    Err(_) => self.broken(),
                },
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {
                    if self.channel.is_some() { self.send_waiting() } else { self.give_up() }
                }
            }
        }
    }

    /// When something has to be done that no event tells of.
    fn wake_at(&self) -> Option<Instant> {
        if self.channel.is_some() {
            let unsent = self.open.values().any(|open| !open.sent);
            return unsent.then(|| Instant::now().checked_add(ROOM_PAUSE)).flatten();
        }
        self.open.values().filter_map(|open| self.deadline(open)).min()
    }

    fn deadline(&self, open: &Open) -> Option<Instant> {
        open.since.max(self.broken_at).checked_add(self.wait)
    }

    fn ask(&mut self, question: Question) {
        let Question { number, message, answer } = question;
        if answer.is_closed() {
            return;
        }
        let sent = self.send(&message, number);
        self.open.insert(number, Open { message, answer, since: Instant::now(), sent });
    }

    fn forget(&mut self, number: u64) {
        // Where there is no room for it the answer comes, and its socket is closed.
        if self.open.remove(&number).is_some_and(|open| open.sent) {
            self.send(&ToEgress::Forget, number);
        }
    }

    fn send(&mut self, message: &ToEgress, number: u64) -> bool {
        let Some(channel) = &self.channel else { return false };
        channel.try_send(message, number, None).is_ok()
    }

    fn send_waiting(&mut self) {
        let Some(channel) = &self.channel else { return };
        for (number, open) in self.open.iter_mut().filter(|(_, open)| !open.sent) {
            open.sent = channel.try_send(&open.message, *number, None).is_ok();
            if !open.sent {
                return;
            }
        }
    }

    /// Whatever is open goes to the new one: the old one is closed, and egress at its end with it.
    fn take_channel(&mut self) {
        let channel = self.slot.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(channel) = channel else { return };
        self.broken();
        self.channel = Channel::new(channel).ok();
        self.send_waiting();
    }

    fn broken(&mut self) {
        self.channel = None;
        self.broken_at = Instant::now();
        self.open.values_mut().for_each(|open| open.sent = false);
    }

    fn answer(&mut self, received: Received<FromEgress>) {
        // One that is not waited for any more is dropped here, with its socket.
        if let Some(open) = self.open.remove(&received.request_id) {
            let _ = open.answer.send((received.message, received.descriptor));
        }
        // There is room again.
        self.send_waiting();
    }

    /// Without a channel: those that have waited long enough are told that there is nobody.
    fn give_up(&mut self) {
        let now = Instant::now();
        let is_over = |open: &Open| self.deadline(open).is_some_and(|deadline| deadline <= now);
        let over = self.open.iter().filter(|(_, open)| is_over(open));
        let over: Vec<u64> = over.map(|(number, _)| *number).collect();
        // Dropping the sender is the answer.
        over.iter().for_each(|number| drop(self.open.remove(number)));
    }
}

async fn next(
    channel: Option<&Channel<ToEgress, FromEgress>>,
) -> Result<Received<FromEgress>, ChannelError> {
    match channel {
        Some(channel) => channel.receive().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
