//! One running worker: its process, its channel, and what it last told.
//!
//! Three tasks of the runtime serve it: one reads what it says, one writes what it is told, one waits for its end. What it
//! is told is queued; a worker whose queue is full does not read any more and is ended by its silence.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};
use shared::channel::{Channel, ChannelError};
use shared::id::{Revision, Role, WorkerId};
use shared::message::{Confinement, Hello, ToSupervisor, ToWorker};
use shared::version::{PROTOCOLS, VERSION};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::Event;
use super::life::{self, Life};
use super::listening::listen;
use crate::broker::{Builds, settle};
use crate::configuration::Delivery;
use crate::process::launch::Launched;
use crate::process::{
    self,
    exit::{self, Exit},
};
use crate::process::{View, inspect};
use crate::sandbox_report::{Level, Parts};
use crate::worker_log;

/// Messages that wait for a worker that does not read.
const QUEUE_MAX: usize = 4096;

/// So much configuration is taken in between two questions, on a slow machine.
const BYTES_PER_QUESTION: u64 = 1024 * 1024;

/// Reasons that a worker may give for an incomplete confinement, and the length of each: it may have been taken over.
const REASONS_MAX: usize = 16;
const REASON_CHARS_MAX: usize = 300;

/// What is on its way to a worker.
enum Outgoing {
    Message(ToWorker),
    Configuration(Delivery),
    Budgets {
        whole: bool,
        memory: Rc<OwnedFd>,
    },
    Answer(ToWorker, u64, OwnedFd),
    /// Nothing more: everything before is in the socket.
    End,
}

/// Whose turn a worker is in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It holds the slot.
    Holder,
    /// It takes the slot over when it serves.
    Successor,
    /// It has been replaced, and finishes.
    Leaving,
}

/// How a worker ended, as far as that says something about what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// By a fault of its own: a signal that the kernel or the process itself sends, or an exit status that is not 0.
    Crashed,
    /// We killed it, because it did not answer or did not become ready.
    Hung,
    /// It could not apply what it was told.
    Refused,
    /// Somebody else killed it: an operator, or the kernel for want of memory.
    Killed,
    /// It was told to leave, or broke the protocol.
    Left,
}

impl Death {
    /// Every way to end.
    pub const ALL: [Self; 5] = [Self::Crashed, Self::Hung, Self::Refused, Self::Killed, Self::Left];

    /// In a word, for the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::Hung => "hung",
            Self::Refused => "refused",
            Self::Killed => "killed",
            Self::Left => "left",
        }
    }
}

/// One running worker.
pub struct Member {
    pub id: WorkerId,
    pub role: Role,
    pub slot: usize,
    pub place: Place,
    /// How often a replacement of all workers had been asked for when it was started.
    pub generation: u64,
    pub pid: Pid,
    pub life: Life,
    pub started: Instant,
    /// The revision it serves.
    pub applied: Option<Revision>,
    /// The latest question that it answered.
    pub answered: u64,
    /// Requests it told to have in flight then.
    pub in_flight: u32,
    /// The highest revision it was sent.
    pub told: Option<Revision>,
    /// The revision it was sent last: lower than others before where the store was set back.
    pub latest: Option<Revision>,
    /// It has told of usage and has not been answered.
    pub usage_told: bool,
    /// More was to be told than it reads.
    pub overflowed: bool,
    /// It could not apply a revision.
    pub refused: bool,
    /// It has been replaced, and is told to leave then.
    pub leaves_at: Option<Instant>,
    /// Why we killed it.
    killed: Option<&'static str>,
    /// Questions that it may leave unanswered while it takes in what it was sent.
    patience: u32,
    /// How its process ended.
    pub exit: Option<Exit>,
    /// Nothing more will be heard of it.
    pub closed: bool,
    /// Since when its life is where it is.
    pub since: SystemTime,
    process: Rc<OwnedFd>,
    view: View,
    level: Option<Level>,
    channel: Option<Rc<Channel<ToWorker, ToSupervisor>>>,
    confinement: Confinement,
    missing: Vec<String>,
    uid: Option<u32>,
    outgoing: mpsc::Sender<Outgoing>,
    /// Copies of control socket and log pipe, to be handed on.
    handles: Option<(OwnedFd, OwnedFd)>,
    /// What it says stays in the socket.
    pause: watch::Sender<bool>,
    listening: Option<JoinHandle<()>>,
    speaking: Option<JoinHandle<()>>,
}

/// What there is to tell about a running worker.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its name.
    pub id: WorkerId,
    /// What it is for.
    pub role: Role,
    /// Its process.
    pub pid: i32,
    /// The user it runs as; `None` before its hello.
    pub uid: Option<u32>,
    /// The name of that user, where it is the role's own.
    pub user: Option<&'static str>,
    /// How long the process has run.
    pub uptime: Duration,
    /// How often a worker of its role was started in place of one that ended by itself.
    pub restarts: u64,
    /// Where in its life it is.
    pub state: &'static str,
    /// Since when.
    pub since: SystemTime,
    /// The revision it serves.
    pub revision: Option<Revision>,
    /// Requests in flight, as it last told.
    pub in_flight: u32,
    /// How well it is confined; `None` before its hello.
    pub level: Option<Level>,
    /// What its confinement lacks, in words.
    pub missing: Vec<String>,
    /// Landlock ABI in force.
    pub landlock_abi: u16,
    /// How it is looked at.
    pub view: View,
}

impl Summary {
    /// Role, number and level, for the metric; `None` before its hello.
    pub fn sandbox(&self) -> Option<(Role, u32, u8)> {
        Some((self.role, self.id.0, self.level?.number()))
    }
}

impl Member {
    /// Takes over a worker that was just started.
    pub fn new(
        id: WorkerId,
        role: Role,
        (slot, place, generation): (usize, Place, u64),
        launched: Launched,
        events: mpsc::Sender<Event>,
        now: Instant,
    ) -> Self {
        let (outgoing, queue) = mpsc::channel(QUEUE_MAX);
        let (pause, paused) = watch::channel(false);
        let handles =
            launched.control.try_clone().and_then(|it| Ok((it, launched.log.try_clone()?)));
        let (mut listening, mut speaking) = (None, None);
        let process = Rc::new(launched.process);
        tokio::task::spawn_local(worker_log::forward(id, role, launched.pid, launched.log));
        tokio::task::spawn_local(watch(id, Rc::clone(&process), events.clone()));
        let (mut channel, mut closed) = (None, false);
        match Channel::new(launched.control).map(Rc::new) {
            Ok(opened) => {
                let opened = channel.insert(opened);
                let listen = listen(id, Rc::clone(opened), events, paused);
                listening = Some(tokio::task::spawn_local(listen));
                speaking = Some(tokio::task::spawn_local(speak(Rc::clone(opened), queue)));
            }
            // Without a channel it cannot say hello, and is ended by that.
            Err(error) => {
                warn!(worker = %id, %error, "cannot watch a control socket");
                closed = true;
            }
        }
        Self {
            id,
            role,
            slot,
            place,
            generation,
            pid: launched.pid,
            life: Life::started(now),
            started: now,
            applied: None,
            answered: 0,
            in_flight: 0,
            told: None,
            latest: None,
            usage_told: false,
            overflowed: false,
            refused: false,
            leaves_at: None,
            killed: None,
            patience: 0,
            exit: None,
            closed,
            since: SystemTime::now(),
            process,
            view: launched.view,
            level: None,
            channel,
            confinement: Confinement::default(),
            missing: Vec::new(),
            uid: None,
            outgoing,
            // Without them it cannot be handed on, and is replaced by an upgrade as by a death.
            handles: handles.ok(),
            pause,
            listening,
            speaking,
        }
    }

    /// Checks a hello. Returns what the confinement lacks, as the kernel and the worker tell it, or why it is no worker of
    /// ours.
    pub fn accept(&mut self, hello: &Hello) -> Result<Vec<String>, String> {
        if hello.worker != self.id {
            return Err(format!("it says it is worker {}", hello.worker));
        }
        let version = settle(hello, PROTOCOLS, Builds::Same(VERSION))?;
        if let Some(channel) = &self.channel {
            channel.agree(version);
        }
        self.look_at(&hello.confinement)
    }

    /// Looks at the process from outside. Returns what its confinement lacks, by what is seen and what it tells itself.
    fn look_at(&mut self, told: &Confinement) -> Result<Vec<String>, String> {
        let observed = inspect::observe(&self.view)
            .map_err(|error| format!("cannot look at process {}: {error}", self.pid))?;
        let mut missing = observed.missing(geteuid().as_raw());
        let filter = observed.seccomp_filter;
        // What we ourselves see beside the filter: user, capabilities, privileges.
        let unprivileged = missing.len() == usize::from(!filter);
        let reasons = told.missing.iter().take(REASONS_MAX);
        missing.extend(
            reasons.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect::<String>()),
        );
        let complete = missing.is_empty();
        self.level = Some(Level::of(Parts { filter, unprivileged, complete }));
        self.uid = Some(observed.uid);
        self.confinement = told.clone();
        self.missing.clone_from(&missing);
        Ok(missing)
    }

    /// Whether it has been welcomed: before, it understands nothing else.
    pub fn is_welcome(&self) -> bool {
        !matches!(self.life, Life::Starting { .. } | Life::Doomed)
    }

    /// Queues a message.
    pub fn tell(&mut self, message: ToWorker) {
        if matches!(message, ToWorker::UsageTaken(_)) {
            self.usage_told = false;
        }
        self.send(Outgoing::Message(message));
    }

    /// Queues the welcome, with settings in sealed memory.
    pub fn welcome(&mut self, settings: OwnedFd) {
        self.send(Outgoing::Answer(ToWorker::Welcome, 0, settings));
    }

    /// Queues a message that goes with a descriptor.
    pub fn hand_over(&mut self, message: ToWorker, descriptor: OwnedFd) {
        self.send(Outgoing::Answer(message, 0, descriptor));
    }

    /// Queues configuration.
    pub fn deliver(&mut self, delivery: Delivery) {
        // A store that was set back sends lower revisions again, while a higher one may still be confirmed.
        self.told = self.told.max(Some(delivery.revision));
        self.latest = Some(delivery.revision);
        self.patience = u32::try_from(delivery.bytes / BYTES_PER_QUESTION).unwrap_or(u32::MAX);
        self.send(Outgoing::Configuration(delivery));
    }

    /// Whether one more unanswered question is no sign that it hangs: it was sent so much.
    pub fn is_excused(&mut self) -> bool {
        if self.applied == self.latest {
            self.patience = 0;
        }
        let excused = self.patience > 0;
        self.patience = self.patience.saturating_sub(1);
        excused
    }

    /// Queues budget verdicts.
    pub fn tell_budgets(&mut self, whole: bool, memory: Rc<OwnedFd>) {
        self.send(Outgoing::Budgets { whole, memory });
    }

    /// Queues the answer to a question.
    pub fn answer(&mut self, message: ToWorker, request: u64, body: OwnedFd) {
        self.send(Outgoing::Answer(message, request, body));
    }

    /// Reads nothing more of what it says.
    pub fn pause(&self) {
        self.pause.send_replace(true);
    }

    /// Whether nothing more is read of it.
    pub fn is_paused(&self) -> bool {
        self.listening.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Nothing more is said to it. Returns what has to end first: then all before is in the socket.
    pub fn fall_silent(&mut self) -> Option<JoinHandle<()>> {
        self.send(Outgoing::End);
        self.speaking.take()
    }

    /// What another image needs to go on with it: process, control socket, log pipe.
    pub fn handles(&self) -> Option<[BorrowedFd<'_>; 3]> {
        let (control, log) = self.handles.as_ref()?;
        Some([self.process.as_fd(), control.as_fd(), log.as_fd()])
    }

    /// What it told of its confinement, the user it runs as, and the protocol version that was agreed on.
    pub fn agreed(&self) -> (&Confinement, Option<u32>, u16) {
        let version = self.channel.as_ref().map_or(PROTOCOLS.newest, |channel| channel.version());
        (&self.confinement, self.uid, version)
    }

    /// Takes over what another image has agreed on with it.
    pub fn take_over(&mut self, confinement: &Confinement, version: u16) -> Result<(), String> {
        if let Some(channel) = &self.channel {
            channel.agree(version);
        }
        self.look_at(confinement).map(drop)
    }

    fn send(&mut self, outgoing: Outgoing) {
        match self.outgoing.try_send(outgoing) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                warn!(worker = %self.id, "a worker does not read what it is told");
                self.overflowed = true;
            }
            // Its channel has failed, as its reading side reports.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    /// Ends the process. Its end is reported as an event.
    pub fn kill(&mut self, reason: &'static str) {
        self.killed.get_or_insert(reason);
        if let Err(error) = process::kill(&self.process) {
            warn!(worker = %self.id, %error, "cannot kill a worker");
        }
    }

    /// Ends the process, of which nobody will hear any more.
    pub fn abandon(&self) {
        if let Err(error) = process::kill(&self.process) {
            warn!(worker = %self.id, %error, "cannot kill a worker");
        }
    }

    /// What its end says.
    pub fn death(&self, exit: Exit) -> Death {
        match (self.killed, exit) {
            _ if self.refused => Death::Refused,
            (Some(reason), _) if life::is_silence(reason) => Death::Hung,
            (Some(_), _) => Death::Left,
            (None, Exit::Signal(Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT)) => {
                Death::Killed
            }
            (None, exit) if exit.is_success() => Death::Left,
            (None, _) => Death::Crashed,
        }
    }

    /// What there is to tell about it.
    pub fn summary(&self) -> Summary {
        Summary {
            id: self.id,
            role: self.role,
            pid: self.pid.as_raw(),
            uid: self.uid,
            user: None,
            uptime: self.started.elapsed(),
            restarts: 0,
            state: self.life.name(),
            since: self.since,
            revision: self.applied,
            in_flight: self.in_flight,
            level: self.level,
            missing: self.missing.clone(),
            landlock_abi: self.confinement.landlock_abi,
            view: self.view.clone(),
        }
    }
}

async fn watch(id: WorkerId, process: Rc<OwnedFd>, events: mpsc::Sender<Event>) {
    let exit = exit::wait(&process).await.unwrap_or_else(|error| {
        warn!(worker = %id, %error, "cannot wait for a worker");
        Exit::Unknown
    });
    // Fails only when the supervisor is leaving.
    let _ = events.send(Event::Ended(id, exit)).await;
}

async fn speak(channel: Rc<Channel<ToWorker, ToSupervisor>>, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = queue.recv().await {
        let sent = match &outgoing {
            Outgoing::Message(message) => channel.send(message, 0, None).await,
            Outgoing::Configuration(delivery) => {
                let message =
                    ToWorker::Configuration { revision: delivery.revision, whole: delivery.whole };
                channel.send(&message, 0, Some(delivery.memory())).await
            }
            Outgoing::Budgets { whole, memory } => {
                let message = ToWorker::Budgets { whole: *whole };
                channel.send(&message, 0, Some(memory.as_fd())).await
            }
            Outgoing::Answer(message, request, body) => {
                channel.send(message, *request, Some(body.as_fd())).await
            }
            Outgoing::End => return,
        };
        match sent {
            Ok(()) => {}
            // The reading side reports what happened to the channel.
            Err(ChannelError::Closed) => return,
            Err(error) => {
                error!(%error, "a message cannot be sent to a worker");
                return;
            }
        }
    }
}
