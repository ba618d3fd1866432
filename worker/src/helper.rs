//! What the helper roles have in common: they are introduced to their clients, and serve each over a channel of its own.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use shared::channel::{ChannelError, Received};
use shared::message::{Client, ToSupervisor, ToWorker};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use crate::link::{Link, LinkError};
use crate::role::RoleError;

/// What one helper role does.
pub trait Helper {
    /// Serves whoever is at the other end of `channel`, until that end is closed.
    fn serve(&self, client: Client, channel: OwnedFd) -> LocalBoxFuture<'static, ()>;

    /// Takes in a message of the supervisor that only this role knows.
    fn told(&self, message: ToWorker, memory: Option<OwnedFd>) -> Result<(), LinkError>;

    /// How long clients are still heard, once the role leaves: whoever is gone may have said something before.
    fn leaves(&self) -> Duration {
        Duration::ZERO
    }
}

/// Does what the supervisor says until it is gone, or asks the role to leave: clients are then introduced to another.
pub async fn run(link: Rc<Link>, helper: &dyn Helper) -> Result<(), RoleError> {
    let mut outlives = false;
    let mut clients = JoinSet::new();
    loop {
        // Those that are gone.
        while clients.try_join_next().is_some() {}
        let received = match link.receive().await {
            Err(LinkError::Channel(ChannelError::Closed)) if outlives => {
                warn!("the supervisor is gone; serving on while there is a client");
                clients.join_all().await;
                return Ok(());
            }
            received => received?,
        };
        let Received { message, descriptor, .. } = received;
        match (message, descriptor) {
            (ToWorker::Activate, _) => drop(link.tell(ToSupervisor::Ready)),
            (ToWorker::Client(client), Some(channel)) => {
                clients.spawn_local(helper.serve(client, channel));
            }
            (ToWorker::Ping(number), _) => drop(link.tell(ToSupervisor::Pong(number, 0))),
            (ToWorker::Retire, _) => {}
            (ToWorker::Outlive, _) => outlives = true,
            (ToWorker::Drain, _) => break,
            (message, memory) => helper.told(message, memory)?,
        }
    }
    // Those that have another helper, or are gone, have closed their end.
    let _ = timeout(helper.leaves(), clients.join_all()).await;
    link.flushed().await;
    Ok(())
}
