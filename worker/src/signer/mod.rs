//! The signer role: holds the listener's TLS key and signs handshakes with it, nothing else.

use std::os::fd::OwnedFd;

use shared::message::{Client, Confinement, ToWorker};
use shared::worker_settings::RoleSettings;

use crate::helper::{self, Helper};
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::role::RoleError;

struct Signer {}

impl Helper for Signer {
    fn serve(&self, _: Client, _: OwnedFd) {}

    fn told(&self, _: ToWorker, _: Option<OwnedFd>) -> Result<(), LinkError> {
        Err(LinkError::Unexpected { expected: "a message for the signer role" })
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Signer(_) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the signer role" }.into());
    };
    helper::run(link, &Signer {}).await
}
