//! The egress role: resolves names and makes connections, for proxy workers and for the supervisor.

use std::os::fd::OwnedFd;

use shared::message::{Client, Confinement, ToWorker};
use shared::worker_settings::RoleSettings;

use crate::helper::{self, Helper};
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::role::RoleError;

struct Egress {}

impl Helper for Egress {
    fn serve(&self, _: Client, _: OwnedFd) {}

    fn told(&self, _: ToWorker, _: Option<OwnedFd>) -> Result<(), LinkError> {
        Err(LinkError::Unexpected { expected: "a message for the egress role" })
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Egress(_) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the egress role" }.into());
    };
    helper::run(link, &Egress {}).await
}
