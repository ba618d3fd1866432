//! What the helper roles have in common: they are introduced to their clients, and serve each over a channel of its own.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use shared::channel::Received;
use shared::message::{Client, ToSupervisor, ToWorker};

use crate::link::{Link, LinkError};
use crate::role::RoleError;

/// What one helper role does.
pub trait Helper {
    /// Serves whoever is at the other end of `channel`, until that end is closed.
    fn serve(&self, client: Client, channel: OwnedFd);

    /// Takes in a message of the supervisor that only this role knows.
    fn told(&self, message: ToWorker, memory: Option<OwnedFd>) -> Result<(), LinkError>;
}

/// Does what the supervisor says until it is gone, or asks the role to leave: clients are then introduced to another.
pub async fn run(link: Rc<Link>, helper: &dyn Helper) -> Result<(), RoleError> {
    loop {
        let Received { message, descriptor, .. } = link.receive().await?;
        match (message, descriptor) {
            (ToWorker::Activate, _) => drop(link.tell(ToSupervisor::Ready)),
            (ToWorker::Client(client), Some(channel)) => helper.serve(client, channel),
            (ToWorker::Ping(number), _) => drop(link.tell(ToSupervisor::Pong(number, 0))),
            (ToWorker::Retire, _) => {}
            (ToWorker::Drain, _) => break,
            (message, memory) => helper.told(message, memory)?,
        }
    }
    link.flushed().await;
    Ok(())
}
