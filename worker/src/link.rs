//! The worker's end of the control socket: messages out in order and without waiting, messages in one at a time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use shared::channel::{Channel, ChannelError, Received};
use shared::codec::CodecError;
use shared::id::{Role, WorkerId};
use shared::message::{self, Confinement, Hello, ToSupervisor, ToWorker};
use shared::version::{PROTOCOLS, VERSION};
use shared::worker_settings::WorkerSettings;
use tokio::sync::Notify;

use crate::tls::CertificateError;

/// Messages that wait while the supervisor does not read. Beyond, questions and keys in use are refused to the caller of
/// [`Link::tell`];
/// what keeps the two sides in step is queued all the same.
const QUEUE_MAX: usize = 10_000;

/// Why a worker cannot go on with its supervisor.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed or is closed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The settings cannot be read.
    #[error("cannot read the settings: {0}")]
    Settings(#[source] CodecError),
    /// Budget verdicts cannot be read.
    #[error("cannot read budget verdicts: {0}")]
    Budgets(#[source] CodecError),
    /// What egress is told cannot be read.
    #[error("cannot read the destination table or the resolver's files: {0}")]
    Egress(#[source] CodecError),
    /// Whom to send traces to cannot be read.
    #[error("cannot read the exporters: {0}")]
    Exporters(#[source] CodecError),
    /// The listener's certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The supervisor said something that does not belong here.
    #[error("expected {expected}, the supervisor sent something else")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
    },
}

/// The queue was full; the message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{QUEUE_MAX} messages wait for the supervisor already")]
pub struct QueueFull;

/// The worker's end of the control socket.
pub struct Link {
    channel: Channel<ToSupervisor, ToWorker>,
    waiting: RefCell<VecDeque<(ToSupervisor, u64)>>,
    more: Notify,
    empty: Notify,
    broken: Cell<bool>,
}

impl Link {
    /// Says hello and waits for the welcome. Needs a `LocalSet`, on which queued messages are sent from then on.
    pub async fn open(
        control: OwnedFd,
        worker: WorkerId,
        role: Role,
        confinement: Confinement,
    ) -> Result<(Rc<Self>, WorkerSettings), LinkError> {
        let channel = Channel::new(control).map_err(ChannelError::Io)?;
        let version = VERSION.to_owned();
        let hello = Hello { worker, role, protocols: PROTOCOLS, version, confinement };
        channel.send(&ToSupervisor::Hello(hello), 0, None).await?;
        let answer = channel.receive().await?;
        let (ToWorker::Welcome, Some(memory)) = (answer.message, answer.descriptor) else {
            return Err(LinkError::Unexpected { expected: "welcome" });
        };
        // The supervisor has chosen among the versions of the hello.
        channel.follow();
        let settings = message::welcomed(memory).map_err(LinkError::Settings)?;
        let link = Rc::new(Self {
            channel,
            waiting: RefCell::default(),
            more: Notify::new(),
            empty: Notify::new(),
            broken: Cell::new(false),
        });
        tokio::task::spawn_local(Rc::clone(&link).send_waiting());
        Ok((link, settings))
    }

    /// The next message of the supervisor.
    pub async fn receive(&self) -> Result<Received<ToWorker>, LinkError> {
        Ok(self.channel.receive().await?)
    }

    /// Tells the supervisor, in the order of the calls and never waiting: what the socket has no room for is queued.
    pub fn tell(&self, message: ToSupervisor) -> Result<(), QueueFull> {
        self.ask(message, 0)
    }

    /// As [`Link::tell`], with the number that the answer will carry.
    pub fn ask(&self, message: ToSupervisor, request_id: u64) -> Result<(), QueueFull> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() && self.channel.try_send(&message, request_id, None).is_ok() {
            return Ok(());
        }
        let droppable = matches!(message, ToSupervisor::Fetch(_) | ToSupervisor::KeysInUse(_));
        if self.broken.get() || (droppable && waiting.len() >= QUEUE_MAX) {
            return Err(QueueFull);
        }
        waiting.push_back((message, request_id));
        self.more.notify_one();
        Ok(())
    }

    /// Returns when everything told so far is in the socket, from which the supervisor reads it even after we are gone.
    pub async fn flushed(&self) {
        loop {
            let empty = self.empty.notified();
            if self.waiting.borrow().is_empty() || self.broken.get() {
                return;
            }
            empty.await;
        }
    }

    async fn send_waiting(self: Rc<Self>) {
        loop {
            let next = self.waiting.borrow().front().cloned();
            match next {
                None => {
                    self.empty.notify_waiters();
                    self.more.notified().await;
                }
                Some((message, request_id)) => {
                    // The message stays at the front meanwhile, so that nothing overtakes it.
                    let sent = self.channel.send(&message, request_id, None).await;
                    self.waiting.borrow_mut().pop_front();
                    match sent {
                        Ok(()) => {}
                        // Only this message is at fault, the next may pass.
                        Err(ChannelError::Encode(_) | ChannelError::Frame(_)) => {}
                        Err(_) => {
                            // The receiving side ends the worker; nobody will read what is left.
                            self.broken.set(true);
                            self.waiting.borrow_mut().clear();
                            self.empty.notify_waiters();
                            return;
                        }
                    }
                }
            }
        }
    }
}
