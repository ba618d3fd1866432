//! The workers: one slot per process that should run, the worker that holds it, during a replacement the one that is to
//! take it over, and those that have been replaced and still finish.
//!
//! The fleet starts what should run, carries out what the pure parts decide (`life`, `restart`, `rollout`), and tells its
//! owner what happened. It knows nothing of the Cloud, of files or of HTTP. The time that it is given is that of
//! [`crate::awake`].

mod allowance;
mod census;
pub mod counting;
pub mod egress;
mod handle;
mod handover;
mod helpers;
pub mod life;
mod listener_tls;
mod listening;
mod member;
mod on_demand;
mod post;
mod replace;
mod restart;
mod rollout;
mod start;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use shared::channel::{ChannelError, Received};
use shared::counters::Counters;
use shared::id::{Revision, Role, WorkerId};
use shared::message::{Page, Series, ToSupervisor, ToWorker};
use shared::ring;
use tokio::sync::mpsc;
use tracing::error;

use self::counting::NodeCounters;
use self::life::{Input, PING_INTERVAL};
use self::member::{Member, Place};
use self::on_demand::CachePolicies;
use self::replace::Roll;
use self::restart::Restart;
use crate::exporters::Exporters;
use crate::key_sets::KeySets;
use crate::listener;
use crate::listener_tls::ListenerTls;
use crate::process::exit::Exit;
use crate::process::identity::Users;
use crate::process::launch::Program;
use crate::spool::ring_file::{RingFile, RingFolders};

pub use self::member::{Death, Summary};
pub use self::post::{Post, Sandbox, Unconfined};

/// How long a worker that was replaced may take to finish, unless the settings say otherwise.
pub const REPLACE_DRAIN: Duration = Duration::from_secs(600);

/// What the tasks of a worker report.
#[derive(Debug)]
pub enum Event {
    /// It said something, or its channel failed.
    Said(WorkerId, Result<Received<ToSupervisor>, ChannelError>),
    /// Its process ended.
    Ended(WorkerId, Exit),
}

/// What the owner of the fleet has to act on.
#[derive(Debug)]
pub enum Happening {
    /// A worker's usage ring has records up to this sequence.
    Usage(WorkerId, u64),
    /// A worker is about to start, with this usage ring; and why that is no file.
    Ring(WorkerId, RingFile, Option<String>),
    /// Caller keys whose budgets requests have needed, each so many.
    KeysInUse(Vec<(String, u32)>),
    /// A worker started; it counts in this memory.
    Started(WorkerId, OwnedFd),
    /// A worker takes a metric series into use.
    Series(WorkerId, Series),
    /// A channel to the egress worker, in place of any before.
    Egress(OwnedFd),
    /// A worker came with an upgrade, with this usage ring, read so far; whether it waits for an answer.
    Adopted(WorkerId, RingFile, ring::Place, bool),
    /// The status worker asks for a page.
    Fetch(WorkerId, Page, u64),
    /// A worker accepts connections.
    Serving,
    /// A proxy worker serves this revision.
    Applied(WorkerId, Revision),
    /// A proxy worker has answered a question.
    Answered(WorkerId),
    /// A worker could not apply a revision, and is replaced.
    Refused,
    /// Exporters are doing differently than before.
    Exporters,
    /// A proxy worker ended in this way; told before [`Happening::Gone`].
    Died(WorkerId, Death),
    /// A worker's process ended.
    Gone(WorkerId),
    /// All workers have been replaced; or why that was given up, while those that were there go on.
    Replaced(Result<(), String>),
}

/// One process that should run.
struct Slot {
    post: usize,
    restart: Restart,
    start_at: Option<Instant>,
    /// It should have a worker.
    wanted: bool,
}

/// All workers.
pub struct Fleet {
    program: Program,
    users: Users,
    sandbox: Sandbox,
    egress: egress::Knowledge,
    posts: Vec<Post>,
    rings: RingFolders,
    /// Whether workers outlive us if we are killed.
    outlive: bool,
    /// Why a worker cannot; said once.
    cannot_outlive: bool,
    slots: Vec<Slot>,
    members: Vec<Member>,
    events: mpsc::Sender<Event>,
    next_id: u32,
    next_ping: Instant,
    /// Number of the latest round of pings.
    round: u64,
    restarts: BTreeMap<Role, u64>,
    /// Roles of which a worker has served: what is needed for it was there.
    served: BTreeSet<Role>,
    /// What workers say is read: see [`Fleet::hear`].
    hears: bool,
    /// The node goes away, as every worker is told.
    retired: bool,
    /// Roles whose workers are not replaced any more.
    leaving: BTreeSet<Role>,
    /// Counts requests for a replacement of all workers.
    generation: u64,
    /// The replacement that is being carried out.
    roll: Option<Roll>,
    /// How long a worker that was replaced may take to finish; `None` = for ever.
    replace_drain: Option<Duration>,
    /// Certificate and key of the listener of callers, if they speak TLS.
    listener_tls: Option<ListenerTls>,
    /// What the cache is needed for.
    cache_policies: CachePolicies,
    /// What the export role is needed for.
    exporters: Exporters,
    /// What proxy workers count together.
    counters: NodeCounters,
    /// Keys of identity providers that workers have fetched.
    key_sets: KeySets,
}

impl Fleet {
    /// A fleet whose workers all start at the next [`Fleet::tick`].
    pub fn new(
        program: Program,
        users: Users,
        sandbox: Sandbox,
        posts: Vec<Post>,
        rings: RingFolders,
        events: mpsc::Sender<Event>,
        now: Instant,
    ) -> io::Result<Self> {
        let slots = posts
            .iter()
            .enumerate()
            .flat_map(|(post, needed)| std::iter::repeat_n(post, needed.workers))
            .map(|post| Slot::new(post, now))
            .collect();
        Ok(Self {
            program,
            users,
            sandbox,
            egress: egress::Knowledge::default(),
            posts,
            rings,
            outlive: false,
            cannot_outlive: false,
            slots,
            members: Vec::new(),
            events,
            next_id: 1,
            next_ping: now,
            round: 0,
            restarts: BTreeMap::new(),
            served: BTreeSet::new(),
            hears: false,
            retired: false,
            leaving: BTreeSet::new(),
            generation: 0,
            roll: None,
            replace_drain: Some(REPLACE_DRAIN),
            listener_tls: None,
            cache_policies: CachePolicies::default(),
            exporters: Exporters::default(),
            counters: NodeCounters::new()?,
            key_sets: KeySets::default(),
        })
    }

    /// What all proxy workers of the node count together. Other ones once workers of the image before are taken in.
    pub fn counters(&self) -> Counters {
        self.counters.own()
    }

    /// From now on what workers say is read, so that silence means something.
    pub fn hear(&mut self) {
        self.hears = true;
    }

    /// When [`Fleet::tick`] has something to do again.
    pub fn next_tick(&self) -> Instant {
        let starts = self.slots.iter().filter_map(|slot| slot.start_at);
        starts.chain([self.next_ping]).min().unwrap_or(self.next_ping)
    }

    /// Starts what is due, asks for signs of life, ends what is past its deadline.
    pub fn tick(&mut self, now: Instant, happenings: &mut Vec<Happening>) {
        for index in 0..self.members.len() {
            self.input(index, Input::Tick, now);
        }
        for slot in 0..self.slots.len() {
            let due = self.slots.get(slot).and_then(|slot| slot.start_at);
            if due.is_some_and(|due| due <= now) {
                self.start(slot, now, happenings);
            }
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.ping(now);
            self.heal_listeners();
        }
        self.end_overflowed(now);
        self.see_off(now);
        self.roll(now, happenings);
    }

    /// Asks every worker for a sign of life. Who has not said hello waits for the welcome and nothing else.
    fn ping(&mut self, now: Instant) {
        // Their answers would wait.
        if !self.hears {
            return;
        }
        for index in 0..self.members.len() {
            // Much to take in takes its time.
            if self.members.get_mut(index).is_some_and(|member| !member.is_excused()) {
                self.input(index, Input::Pinged, now);
            }
        }
        self.ask();
    }

    /// Asks every worker how many requests it has in flight.
    pub fn ask(&mut self) {
        self.round += 1;
        let round = self.round;
        for member in self.members_mut().filter(|member| member.is_welcome()) {
            member.tell(ToWorker::Ping(round));
        }
    }

    /// A worker that was taken over may have found a way to end a listener for everybody: it listens again.
    fn heal_listeners(&self) {
        for post in &self.posts {
            let Some(listener) = &post.listener else { continue };
            match listener::heal(listener) {
                Ok(false) => {}
                Ok(true) => {
                    error!(role = %post.role, "the listener had been ended; it listens again")
                }
                Err(error) => error!(role = %post.role, %error, "the listener cannot be used"),
            }
        }
    }

    /// A worker that does not read would miss a change of configuration and be behind for ever.
    fn end_overflowed(&mut self, now: Instant) {
        for index in 0..self.members.len() {
            if self.member(index).is_some_and(|member| member.overflowed) {
                self.input(index, Input::Misbehaved, now);
            }
        }
    }

    /// Ends a worker that broke the protocol in a way that only the owner of the fleet could see.
    pub fn misbehaved(&mut self, id: WorkerId, now: Instant) {
        if let Some(index) = self.index_of(id) {
            self.input(index, Input::Misbehaved, now);
        }
    }

    /// Workers tell their callers that the node goes away. They still serve, and are replaced if they die.
    pub fn retire(&mut self) {
        self.retired = true;
        for member in self.members_mut().filter(|member| member.is_welcome()) {
            member.tell(ToWorker::Retire);
        }
    }

    /// Asks the workers of a role to finish and leave. None is started any more.
    pub fn drain(&mut self, role: Role, deadline: Option<Instant>, now: Instant) {
        self.leaving.insert(role);
        for slot in &mut self.slots {
            if self.posts.get(slot.post).is_some_and(|post| post.role == role) {
                slot.start_at = None;
            }
        }
        for index in 0..self.members.len() {
            if self.member(index).is_some_and(|member| member.role == role) {
                self.input(index, Input::Drain(deadline), now);
            }
        }
    }

    fn member(&self, index: usize) -> Option<&Member> {
        self.members.get(index)
    }

    fn member_mut(&mut self, index: usize) -> Option<&mut Member> {
        self.members.get_mut(index)
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.iter_mut()
    }

    fn index_of(&self, id: WorkerId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// Who holds the slot.
    fn holder(&self, slot: usize) -> Option<&Member> {
        self.members.iter().find(|member| member.slot == slot && member.place == Place::Holder)
    }
}

impl Slot {
    /// A slot whose worker starts at once.
    fn new(post: usize, now: Instant) -> Self {
        Self { post, restart: Restart::default(), start_at: Some(now), wanted: true }
    }
}
