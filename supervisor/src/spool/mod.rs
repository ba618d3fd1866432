//! The spool: usage events between the worker that counted them and the Cloud that has accepted them.
//!
//! A thread of its own reads the workers' rings and keeps what it finds in a database; nobody else waits for the disk.
//!
//! Invariants, each with a test:
//! 1. a worker's record is freed only after the commit that holds it is synced;
//! 2. what a ring held is kept exactly once, whoever died when: how far it was read is part of the same transaction;
//! 3. an event leaves the spool when the Cloud has accepted it, or when it is a dead letter on disk;
//! 4. past the cap details go, counted, and totals per caller key, model and hour stay exact;
//! 5. memory does not grow with what waits: blocks are read when they are sent, but for a few of the latest (`recent.rs`).
//!
//! Where dead letters cannot be written, their blocks stay and are not sent again meanwhile; past a bound nothing is.
//! Where the disk refuses, events wait in memory within a bound (`staged.rs`), a finding says so, and they are written once
//! it takes them again. A database of another environment, or one that cannot be opened, is set aside under another name.
//!
//! ```text
//! <state>/spool.redb                     what waits, sealed                       store.rs
//! <state>/dead_letters.jsonl, .jsonl.1   what the Cloud will never accept         dead_letters.rs
//! <state>/run/*.ring                     what workers have written                ring_file.rs
//! ```

pub mod block;
mod body;
pub mod dead_letters;
mod disk;
mod keeper;
mod recent;
pub mod ring_file;
mod rings;
mod staged;
pub mod store;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc as blocking;
use std::time::{Duration, SystemTime};
use std::{io, thread};

use shared::id::WorkerId;
use shared::ring::Place;
use shared::usage::UsageEvent;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use self::block::Block;
pub use self::body::Body;
use self::dead_letters::DeadLetter;
use self::keeper::Keeper;
use self::ring_file::RingFile;
pub use self::rings::LiveRing;
use self::store::End;
use crate::findings::Findings;
use crate::state::seal::DataKey;

/// How long the thread may take to write the last events at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// Where and for whom events are kept.
#[derive(Debug)]
pub struct Home {
    /// The state directory.
    pub state: PathBuf,
    /// What it is sealed with.
    pub key: DataKey,
    /// The environment whose events these are.
    pub env_id: String,
    /// How much disk events may take, in bytes.
    pub bytes_max: u64,
}

/// How the spool stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Whether the database has been looked at: before, the rest says nothing.
    pub known: bool,
    /// Events that the Cloud has not accepted, those on their way included.
    pub waiting: u64,
    /// Those that nobody is sending.
    pub free: u64,
    /// Events of which only totals wait.
    pub folded: u64,
    /// Those of both that are in memory alone.
    pub unwritten: u64,
    /// Disk and memory that waiting events take, in bytes.
    pub bytes: u64,
    /// Events whose details were dropped since the start.
    pub shed: u64,
    /// Dead letters since the start.
    pub dead_letters: u64,
    /// When the oldest waiting event occurred.
    pub oldest: Option<SystemTime>,
    /// Rings of workers that run.
    pub live_rings: usize,
}

/// What the owner of the workers has to act on.
#[derive(Debug, PartialEq)]
pub enum Report {
    /// A worker's records up to this sequence are safe.
    Taken(WorkerId, u64),
    /// A worker did what it may not do.
    Misbehaved(WorkerId, String),
    /// What was found to have been spent, by caller key.
    Spent(Vec<(String, f64)>),
}

/// Events on their way to the Cloud.
#[derive(Debug, Default)]
pub struct Leased {
    /// The blocks they are in.
    pub blocks: Vec<u64>,
    /// What is in them.
    contents: Vec<Block>,
}

impl Leased {
    /// How many events there are.
    pub fn len(&self) -> usize {
        self.contents.iter().map(|block| block.events as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Some of the events as the body of a request.
    pub fn body(&self, range: Range<usize>) -> Body {
        body::body(&self.contents, range)
    }

    /// The events of all blocks.
    pub fn into_events(self) -> Vec<UsageEvent> {
        self.contents.iter().flat_map(|block| block.open().unwrap_or_default()).collect()
    }
}

/// What became of leased events; see [`Spool::settle`].
struct Settled {
    blocks: Vec<u64>,
    spent: Vec<(String, u64)>,
    dead: Vec<DeadLetter>,
}

enum Command {
    Open(WorkerId, RingFile),
    Adopt { worker: WorkerId, ring: RingFile, place: Place, told: bool },
    Live(oneshot::Sender<Vec<LiveRing>>),
    Told(WorkerId, u64),
    Gone(WorkerId),
    Lease { end: End, events_max: usize, answer: oneshot::Sender<Leased> },
    Settle(Settled),
    Close(oneshot::Sender<()>),
}

/// A handle of the spool. Clones are the same spool.
#[derive(Clone)]
pub struct Spool {
    commands: blocking::Sender<Command>,
    facts: watch::Receiver<Facts>,
}

impl Spool {
    /// Starts the thread that keeps events at `home`; without one they are let go. Reports come through the receiver. Rings
    /// that are `handed_on` by name belong to workers that live, and come by [`Spool::adopt`].
    pub fn start(
        home: Option<Home>,
        left_over: Vec<RingFile>,
        handed_on: Vec<String>,
        findings: Findings,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Report>)> {
        let (commands, received) = blocking::channel();
        let (told, facts) = watch::channel(Facts::default());
        // As many reports wait as there are workers: each is answered before it says more.
        let (reports, reported) = mpsc::unbounded_channel();
        thread::Builder::new().name("spool".to_owned()).spawn(move || {
            Keeper::new(home, left_over, handed_on, findings, reports, told).run(&received);
        })?;
        Ok((Self { commands, facts }, reported))
    }

    /// Takes over the ring of a new worker.
    pub fn open(&self, worker: WorkerId, ring: RingFile) {
        self.command(Command::Open(worker, ring));
    }

    /// Takes over the ring of a worker that came with an upgrade, which was read as far as `place`. `told`: it has told of
    /// usage and waits for the answer.
    pub fn adopt(&self, worker: WorkerId, ring: RingFile, place: Place, told: bool) {
        self.command(Command::Adopt { worker, ring, place, told });
    }

    /// The rings of workers that run, to be handed on. Nothing more is read of them, unless somebody tells of more.
    pub async fn live(&self) -> Vec<LiveRing> {
        let (answer, live) = oneshot::channel();
        self.command(Command::Live(answer));
        timeout(CLOSE_LIMIT, live).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// A worker says that its ring has records up to `last`.
    pub fn told(&self, worker: WorkerId, last: u64) {
        self.command(Command::Told(worker, last));
    }

    /// A worker is gone.
    pub fn gone(&self, worker: WorkerId) {
        self.command(Command::Gone(worker));
    }

    /// How the spool stands, and how to be told of changes.
    pub fn facts(&self) -> watch::Receiver<Facts> {
        self.facts.clone()
    }

    /// Events to be sent, whole blocks, at most `events_max` events unless one block holds more. Nobody else is given them
    /// until the process ends.
    pub async fn lease(&self, end: End, events_max: usize) -> Leased {
        let (answer, leased) = oneshot::channel();
        self.command(Command::Lease { end, events_max, answer });
        leased.await.unwrap_or_default()
    }

    /// Lets leased blocks go: the Cloud has accepted every event but the dead ones. `spent` is what the events cost, by
    /// caller key, in billionths of a dollar.
    pub fn settle(&self, blocks: Vec<u64>, spent: Vec<(String, u64)>, dead: Vec<DeadLetter>) {
        self.command(Command::Settle(Settled { blocks, spent, dead }));
    }

    /// Writes what is not on disk yet and ends the thread.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        self.command(Command::Close(done));
        // A disk that hangs is not waited for.
        let _ = timeout(CLOSE_LIMIT, closed).await;
    }

    fn command(&self, command: Command) {
        // Fails only after the thread was closed.
        let _ = self.commands.send(command);
    }
}
