//! From the arguments and descriptors that a worker was born with to its role, and to an exit status.

use std::process::ExitCode;
use std::time::Duration;

use shared::id::Role;
use shared::turns;
use tokio::runtime;
use tokio::task::LocalSet;

use crate::inherit::{InheritError, Inheritance};
use crate::role::RoleError;
use crate::tls::Handshakes;
use crate::{cache, egress, export, log, proxy, sandbox, server, signer, status};

/// How long a proxy worker's turn is asked to be on a core that the supervisor wants too: shorter than the supervisor's, so that a request
/// that comes need not wait for it, and several times what is left to the kernel, since with every change the other's memory is in
/// the caches.
const TURN: Duration = Duration::from_millis(8);

/// Why the process ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It was not born as a worker.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// There is no runtime.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] std::io::Error),
    /// Its role ended before its time.
    #[error(transparent)]
    Role(#[from] RoleError),
}

/// Runs the role that the arguments name until it has been drained or the supervisor is gone.
pub fn main() -> ExitCode {
    let ended = run();
    log::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the log pipe: this line reaches the supervisor's log.
            eprintln!("aisix-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// To be called by the runtime each time before it waits.
pub fn pauses() {
    server::paused();
    log::flush();
}

/// The whole life of a worker.
pub fn run() -> Result<(), WorkerError> {
    // Asked by a supervisor that is about to start workers from this program.
    if std::env::args().nth(1).is_some_and(|argument| argument == "--version") {
        println!("aisix-worker {}", shared::version::VERSION);
        return Ok(());
    }
    let inheritance = Inheritance::take(std::env::args().skip(1))?;
    sandbox::hide(inheritance.policy);
    // Otherwise it is called by the number of the descriptor that it was executed from. For people only.
    let _ = nix::sys::prctl::set_name(match inheritance.role {
        Role::Proxy => c"aisix-proxy",
        Role::Status => c"aisix-status",
        Role::Egress => c"aisix-egress",
        Role::Signer => c"aisix-signer",
        Role::Cache => c"aisix-cache",
        Role::Export => c"aisix-export",
    });
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_park(pauses).build()?;
    let tasks = LocalSet::new();
    match inheritance.role {
        Role::Proxy => {
            let mut handshakes = None;
            let confinement = sandbox::enter_with(inheritance.policy, inheritance.role, || {
                handshakes = inheritance.tls.then(Handshakes::start);
                // The thread of handshakes, which has turns as ever, need not wait for the end of one of these.
                turns::ask_for(TURN);
            });
            let handshakes = handshakes.transpose()?;
            tasks.block_on(&runtime, proxy::run(inheritance, handshakes, confinement))?;
        }
        Role::Status => {
            let confinement = sandbox::enter(inheritance.policy, inheritance.role);
            tasks.block_on(&runtime, status::run(inheritance, confinement))?;
        }
        Role::Egress => {
            let confinement = sandbox::enter(inheritance.policy, inheritance.role);
            tasks.block_on(&runtime, egress::run(inheritance, confinement))?;
        }
        Role::Signer => {
            let confinement = sandbox::enter(inheritance.policy, inheritance.role);
            tasks.block_on(&runtime, signer::run(inheritance, confinement))?;
        }
        Role::Cache => {
            let confinement = sandbox::enter(inheritance.policy, inheritance.role);
            tasks.block_on(&runtime, cache::run(inheritance, confinement))?;
        }
        Role::Export => {
            let confinement = sandbox::enter(inheritance.policy, inheritance.role);
            tasks.block_on(&runtime, export::run(inheritance, confinement))?;
        }
    }
    Ok(())
}
