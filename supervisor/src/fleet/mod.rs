//! The workers: one slot per process that should run, each with the worker that fills it now.
//!
//! The fleet starts what should run, carries out what the pure parts decide (`life`, `restart`), and tells its owner what
//! happened. It knows nothing of the Cloud, of files or of HTTP.

mod handle;
mod helpers;
pub mod life;
mod listener_tls;
mod member;
mod restart;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use shared::channel::{ChannelError, Received};
use shared::id::{Revision, Role, WorkerId};
use shared::message::{Page, Series, ToSupervisor, ToWorker};
use shared::worker_settings::{RoleSettings, WorkerSettings};
use tokio::sync::mpsc;
use tracing::{error, warn};

use self::life::{Input, PING_INTERVAL};
use self::member::Member;
use self::restart::Restart;
use crate::backoff::chance;
use crate::configuration::Delivery;
use crate::listener;
use crate::listener_tls::ListenerTls;
use crate::metrics;
use crate::process::exit::Exit;
use crate::process::identity::Users;
use crate::process::launch::{Launch, Launched, Program};
use crate::spool::ring_file::{RingFile, RingFolders};

pub use self::member::Summary;

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
    /// The status worker asks for a page.
    Fetch(WorkerId, Page, u64),
    /// A worker accepts connections.
    Serving,
    /// A worker could not apply a revision, and is replaced.
    Refused,
    /// A worker's process ended.
    Gone(WorkerId),
}

/// How the workers of one role are started.
#[derive(Debug)]
pub struct Post {
    /// The role.
    pub role: Role,
    /// How many of them.
    pub workers: usize,
    /// The listening socket that they share, if the role has one.
    pub listener: Option<TcpListener>,
    /// What they are told.
    pub settings: WorkerSettings,
}

/// How strictly workers are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Everything, or the worker is not used.
    Required,
    /// What the host has; the rest is reported.
    BestEffort,
    /// Nothing.
    Off,
}

impl Sandbox {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }
}

/// A confinement that `supervisor.sandbox: required` does not accept.
#[derive(Debug, thiserror::Error)]
#[error(
    "supervisor.sandbox is required, but a {role} worker is not fully confined: {missing}; fix the host, or set best-effort"
)]
pub struct Unconfined {
    role: Role,
    missing: String,
}

/// One process that should run.
struct Slot {
    post: usize,
    restart: Restart,
    member: Option<Member>,
    start_at: Option<Instant>,
}

/// All workers.
pub struct Fleet {
    program: Program,
    users: Users,
    sandbox: Sandbox,
    posts: Vec<Post>,
    rings: RingFolders,
    slots: Vec<Slot>,
    events: mpsc::Sender<Event>,
    next_id: u32,
    next_ping: Instant,
    /// Number of the latest round of pings.
    round: u64,
    restarts: BTreeMap<Role, u64>,
    /// Roles of which a worker has served: what is needed for it was there.
    served: BTreeSet<Role>,
    /// The node goes away, as every worker is told.
    retired: bool,
    /// Roles whose workers are not replaced any more.
    leaving: BTreeSet<Role>,
    /// Certificate and key of the listener of callers, if they speak TLS.
    listener_tls: Option<ListenerTls>,
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
    ) -> Self {
        let slots = posts
            .iter()
            .enumerate()
            .flat_map(|(post, needed)| std::iter::repeat_n(post, needed.workers))
            .map(|post| Slot {
                post,
                restart: Restart::default(),
                member: None,
                start_at: Some(now),
            })
            .collect();
        Self {
            program,
            users,
            sandbox,
            posts,
            rings,
            slots,
            events,
            next_id: 1,
            next_ping: now,
            round: 0,
            restarts: BTreeMap::new(),
            served: BTreeSet::new(),
            retired: false,
            leaving: BTreeSet::new(),
            listener_tls: None,
        }
    }

    /// When [`Fleet::tick`] has something to do again.
    pub fn next_tick(&self) -> Instant {
        let starts = self.slots.iter().filter_map(|slot| slot.start_at);
        starts.chain([self.next_ping]).min().unwrap_or(self.next_ping)
    }

    /// Starts what is due, asks for signs of life, ends what is past its deadline.
    pub fn tick(&mut self, now: Instant, happenings: &mut Vec<Happening>) {
        for index in 0..self.slots.len() {
            self.input(index, Input::Tick, now);
            let due = self.slots.get(index).and_then(|slot| slot.start_at);
            if due.is_some_and(|due| due <= now) {
                self.start(index, now, happenings);
            }
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.ping(now);
            self.heal_listeners();
        }
        self.end_overflowed(now);
    }

    /// Asks every worker for a sign of life. Who has not said hello waits for the welcome and nothing else.
    fn ping(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            self.input(index, Input::Pinged, now);
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

    /// Whether every proxy worker has answered the latest question, and none has anything in flight.
    pub fn is_idle(&self) -> bool {
        let mut proxies = self.members().filter(|member| member.role == Role::Proxy);
        proxies.all(|member| {
            !member.is_welcome() || (member.answered == self.round && member.in_flight == 0)
        })
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
        for index in 0..self.slots.len() {
            let member = self.slots.get(index).and_then(|slot| slot.member.as_ref());
            if member.is_some_and(|member| member.overflowed) {
                self.input(index, Input::Misbehaved, now);
            }
        }
    }

    fn start(&mut self, index: usize, now: Instant, happenings: &mut Vec<Happening>) {
        let id = WorkerId(self.next_id);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(post) = self.posts.get(slot.post) else { return };
        slot.start_at = None;
        // Each step names what it was.
        let launched = metrics::new_memory()
            .map_err(|error| format!("cannot make metric slots: {error}"))
            .and_then(|metrics| {
                let ring = match post.role {
                    Role::Proxy => Some(self.rings.make(id)),
                    Role::Status | Role::Egress | Role::Signer => None,
                };
                let ring = ring.transpose();
                let ring = ring.map_err(|error| format!("cannot make a usage ring: {error}"))?;
                let usage = ring.as_ref().map(|(_, writer, _)| writer.as_fd());
                let launched =
                    launch(&self.program, &self.users, self.sandbox, post, id, &metrics, usage);
                match launched {
                    Ok(launched) => Ok((launched, metrics, ring)),
                    Err(reason) => {
                        // Nobody will write to it: it would stay until the next start.
                        let removed = ring.map(|(ring, ..)| ring.remove());
                        if let Some(Err(error)) = removed {
                            warn!(%error, "a usage ring without a worker cannot be removed");
                        }
                        Err(reason)
                    }
                }
            });
        match launched {
            Ok((launched, metrics, ring)) => {
                // The writing end is the worker's alone from here on.
                let ring = ring.map(|(ring, _, reason)| Happening::Ring(id, ring, reason));
                happenings.extend(ring);
                self.next_id = self.next_id.wrapping_add(1);
                let member = Member::new(id, post.role, launched, self.events.clone(), now);
                slot.member = Some(member);
                happenings.push(Happening::Started(id, metrics));
            }
            Err(reason) => {
                error!(role = %post.role, "{reason}");
                slot.start_at = Some(slot.restart.ended(now, now, chance()));
            }
        }
    }

    /// Sends a change of configuration to every worker that has been told the one before.
    pub fn deliver(&mut self, delivery: &Delivery) {
        let told = |member: &&mut Member| member.role == Role::Proxy && member.is_welcome();
        for member in self.members_mut().filter(told) {
            member.deliver(delivery.clone());
        }
    }

    /// Sends budget verdicts that changed to every worker that has been told the others.
    pub fn tell_budgets(&mut self, memory: &Rc<OwnedFd>) {
        let told = |member: &&mut Member| member.role == Role::Proxy && member.is_welcome();
        for member in self.members_mut().filter(told) {
            member.tell_budgets(false, Rc::clone(memory));
        }
    }

    /// Sends the answer to a page that the status worker asked for.
    pub fn answer(&mut self, id: WorkerId, request: u64, page: ToWorker, body: OwnedFd) {
        if let Some(member) = self.members_mut().find(|member| member.id == id) {
            member.answer(page, request, body);
        }
    }

    /// Tells one worker, if it is still there.
    pub fn tell(&mut self, id: WorkerId, message: ToWorker) {
        if let Some(member) = self.members_mut().find(|member| member.id == id) {
            member.tell(message);
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
        for index in 0..self.slots.len() {
            let member = self.slots.get(index).and_then(|slot| slot.member.as_ref());
            if member.is_some_and(|member| member.role == role) {
                self.input(index, Input::Drain(deadline), now);
            }
        }
    }

    /// What there is to tell about each running worker.
    pub fn summaries(&self) -> Vec<Summary> {
        self.members().map(Member::summary).collect()
    }

    /// How many processes of a role there are.
    pub fn running(&self, role: Role) -> usize {
        self.members().filter(|member| member.role == role).count()
    }

    /// Requests in flight, as last told by each worker.
    pub fn in_flight(&self) -> u64 {
        self.members().map(|member| u64::from(member.in_flight)).sum()
    }

    /// Whether every slot has a worker that serves.
    pub fn is_complete(&self) -> bool {
        self.slots.iter().all(|slot| slot.member.as_ref().is_some_and(|m| m.life.is_serving()))
    }

    /// How often a worker of a role was started in place of one that ended by itself.
    pub fn restarts(&self, role: Role) -> u64 {
        self.restarts.get(&role).copied().unwrap_or_default()
    }

    /// How many workers of a role accept connections.
    pub fn serving(&self, role: Role) -> usize {
        self.members().filter(|member| member.role == role && member.life.is_serving()).count()
    }

    /// The revision that every serving proxy worker serves: `None` if there is none, or one of them has none yet, or
    /// still one of the time before the store was set back.
    pub fn applied(&self) -> Option<Revision> {
        let serving = || self.members().filter(|m| m.role == Role::Proxy && m.life.is_serving());
        if serving().any(|member| member.applied > member.latest) {
            return None;
        }
        serving().map(|member| member.applied).min().flatten()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.slots.iter().filter_map(|slot| slot.member.as_ref())
    }

    fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.slots.iter_mut().filter_map(|slot| slot.member.as_mut())
    }

    fn index_of(&self, id: WorkerId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.member.as_ref().is_some_and(|m| m.id == id))
    }
}

fn launch(
    program: &Program,
    users: &Users,
    sandbox: Sandbox,
    post: &Post,
    id: WorkerId,
    metrics: &OwnedFd,
    usage: Option<BorrowedFd<'_>>,
) -> Result<Launched, String> {
    let launch = Launch {
        role: post.role,
        id,
        policy: sandbox.name(),
        user: users.of(post.role),
        listener: post.listener.as_ref().map(AsFd::as_fd),
        tls: matches!(&post.settings.role, RoleSettings::Proxy(proxy) if proxy.tls),
        metrics: metrics.as_fd(),
        usage,
    };
    program.launch(&launch).map_err(|error| error.to_string())
}
