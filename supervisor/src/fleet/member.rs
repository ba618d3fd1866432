//! One running worker: its process, its channel, and what it last told.
//!
//! Three tasks of the runtime serve it: one reads what it says, one writes what it is told, one waits for its end. What it
//! is told is queued; a worker whose queue is full does not read any more and is ended by its silence.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

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
use super::life::Life;
use crate::configuration::Delivery;
use crate::process::inspect;
use crate::process::launch::Launched;
use crate::process::{
    self,
    exit::{self, Exit},
};
use crate::worker_log;

/// Messages that wait for a worker that does not read.
const QUEUE_MAX: usize = 4096;

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

/// One running worker.
pub struct Member {
    pub id: WorkerId,
    pub role: Role,
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
    /// How its process ended.
    pub exit: Option<Exit>,
    /// Nothing more will be heard of it.
    pub closed: bool,
    process: Rc<OwnedFd>,
    confinement: Confinement,
    missing: Vec<String>,
    uid: u32,
    outgoing: mpsc::Sender<Outgoing>,
    /// It came with an upgrade: it has the configuration that this image begins with.
    pub inherited: bool,
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
    /// The user it runs as.
    pub uid: u32,
    /// What its confinement lacks, in words.
    pub missing: Vec<String>,
    /// Landlock ABI in force.
    pub landlock_abi: u16,
}

impl Member {
    /// Takes over a worker that was just started.
    pub fn new(
        id: WorkerId,
        role: Role,
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
        tokio::task::spawn_local(worker_log::forward(id, role, launched.log));
        tokio::task::spawn_local(watch(id, Rc::clone(&process), events.clone()));
        let mut closed = false;
        match Channel::new(launched.control) {
            Ok(channel) => {
                let channel = Rc::new(channel);
                let listen = listen(id, Rc::clone(&channel), events, paused);
                listening = Some(tokio::task::spawn_local(listen));
                speaking = Some(tokio::task::spawn_local(speak(channel, queue)));
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
            exit: None,
            closed,
            process,
            confinement: Confinement::default(),
            missing: Vec::new(),
            uid: 0,
            outgoing,
            inherited: false,
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
        if hello.protocols.common(PROTOCOLS).is_none() || hello.version != VERSION {
            return Err(format!(
                "aisix-worker is version {:?}, aisix is {VERSION:?}; install both from one package",
                hello.version
            ));
        }
        let observed = inspect::observe(self.pid)
            .map_err(|error| format!("cannot look at process {}: {error}", self.pid))?;
        let mut missing = observed.missing(geteuid().as_raw());
        missing.extend(hello.confinement.missing.iter().cloned());
        self.uid = observed.uid;
        self.confinement = hello.confinement.clone();
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
        self.send(Outgoing::Configuration(delivery));
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

    /// What was found out about its confinement.
    pub fn confined(&self) -> (u32, &Confinement, &[String]) {
        (self.uid, &self.confinement, &self.missing)
    }

    /// Takes over what another image has found out.
    pub fn set_confined(&mut self, uid: u32, confinement: Confinement, missing: Vec<String>) {
        (self.uid, self.confinement, self.missing) = (uid, confinement, missing);
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
    pub fn kill(&self) {
        if let Err(error) = process::kill(&self.process) {
            warn!(worker = %self.id, %error, "cannot kill a worker");
        }
    }

    /// What there is to tell about it.
    pub fn summary(&self) -> Summary {
        Summary {
            id: self.id,
            role: self.role,
            pid: self.pid.as_raw(),
            uid: self.uid,
            missing: self.missing.clone(),
            landlock_abi: self.confinement.landlock_abi,
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

async fn listen(
    id: WorkerId,
    channel: Rc<Channel<ToWorker, ToSupervisor>>,
    events: mpsc::Sender<Event>,
    mut paused: watch::Receiver<bool>,
) {
    loop {
        let received = tokio::select! {
            biased;
            _ = paused.wait_for(|paused| *paused) => return,
            received = channel.receive() => received,
        };
        let last = received.is_err();
        if events.send(Event::Said(id, received)).await.is_err() || last {
            return;
        }
    }
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
