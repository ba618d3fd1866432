//! What the worker was born with: its name, its policy, and descriptors by fixed number.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use shared::descriptor;
use shared::id::{Role, WorkerId};
use shared::ring::{RING_BYTES, Writer};

use crate::sandbox::Policy;
use crate::sys;

/// What the supervisor gave this process.
#[derive(Debug)]
pub struct Inheritance {
    /// What this process is for.
    pub role: Role,
    /// Which one it is.
    pub id: WorkerId,
    /// How strictly it must confine itself.
    pub policy: Policy,
    /// Whether callers speak TLS.
    pub tls: bool,
    /// The socket to the supervisor.
    pub control: OwnedFd,
    /// The memory to count in.
    pub metrics: OwnedFd,
    /// The ring of usage events, in the proxy role.
    pub usage: Option<Writer>,
    /// Where log lines go.
    pub log: OwnedFd,
    /// Where the next supervisor asks for the listener, in the proxy role and if it may outlive its supervisor.
    pub adoption: Option<OwnedFd>,
    /// Occupies the number that the connection of the next supervisor is to get, in the proxy role.
    pub placeholder: Option<OwnedFd>,
    /// The listening socket, in the roles that serve one; shared with other processes: nobody may change its flags.
    pub listener: Option<TcpListener>,
}

/// Why the process cannot be a worker.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Not started by a supervisor.
    #[error("usage: aisix-worker ROLE ID SANDBOX [tls]; it is started by aisix, never by hand")]
    Arguments,
    /// A descriptor that should be there is not.
    #[error("descriptor {number} ({name}) was not handed over; aisix-worker is started by aisix")]
    Descriptor {
        /// Its number.
        number: i32,
        /// What it is for.
        name: &'static str,
    },
}

impl Inheritance {
    /// Takes what the arguments (without the program's name) and the descriptor table hold. To be called once.
    pub fn take(mut arguments: impl Iterator<Item = String>) -> Result<Self, InheritError> {
        let mut next = || arguments.next().ok_or(InheritError::Arguments);
        let role = Role::from_name(&next()?).ok_or(InheritError::Arguments)?;
        let id = WorkerId(next()?.parse().map_err(|_| InheritError::Arguments)?);
        let policy = Policy::from_name(&next()?).ok_or(InheritError::Arguments)?;
        let tls = arguments.any(|argument| argument == "tls");
        let log = take(descriptor::LOG, "log pipe")?;
        let control = take(descriptor::CONTROL, "control socket")?;
        let metrics = take(descriptor::METRICS, "metric slots")?;
        let usage = match role {
            // Mapped now, since nothing can be once the sandbox is closed.
            Role::Proxy => {
                let ring = File::from(take(descriptor::USAGE, "usage ring")?);
                Some(Writer::mapped(ring, RING_BYTES))
            }
            Role::Status | Role::Egress | Role::Signer | Role::Cache | Role::Export => None,
        };
        let listener =
            role.listens().then(|| take(descriptor::LISTENER, "listener")).transpose()?;
        let listener = listener.map(TcpListener::from);
        // The sandbox will not answer that any more.
        sys::born_user();
        sys::files_max();
        let (adoption, placeholder) = match role {
            Role::Proxy => {
                (sys::inherited(descriptor::ADOPTION), sys::inherited(descriptor::ADOPTED))
            }
            Role::Status | Role::Egress | Role::Signer | Role::Cache | Role::Export => (None, None),
        };
        Ok(Self {
            role,
            id,
            policy,
            tls,
            control,
            metrics,
            usage,
            log,
            adoption,
            placeholder,
            listener,
        })
    }
}

fn take(number: i32, name: &'static str) -> Result<OwnedFd, InheritError> {
    sys::inherited(number).ok_or(InheritError::Descriptor { number, name })
}
