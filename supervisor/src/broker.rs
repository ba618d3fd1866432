//! Which message a worker may send when: one table. Anything else ends the worker.
//!
//! The table as a whole is written out in `broker/tests.rs`: every role, every state, every kind.

mod greeting;

use shared::id::Role;
use shared::message::ToSupervisor;

use crate::fleet::life::Life;

pub use self::greeting::{Builds, settle};

/// Whether a worker of that role, at that point of its life, may say this. `usage_told`: it has said that there is usage,
/// and has not been answered.
pub fn permits(role: Role, life: Life, usage_told: bool, message: &ToSupervisor) -> bool {
    use ToSupervisor as Say;
    let starting = matches!(life, Life::Starting { .. });
    let joining = matches!(life, Life::Joining { .. });
    let serving = matches!(life, Life::Serving { .. });
    let draining = matches!(life, Life::Draining { .. });
    // What it says before the answer would queue without end.
    if usage_told && matches!(message, Say::Usage(_)) {
        return false;
    }
    // Killed: what it had counted before still counts, anything else is of no use any more.
    if life == Life::Doomed {
        return role == Role::Proxy && matches!(message, Say::Usage(_) | Say::Series(_));
    }
    match message {
        Say::Hello(hello) => starting && hello.role == role,
        Say::Ready => joining || draining,
        Say::Applied(_) | Say::Refused(..) => role == Role::Proxy && !starting,
        Say::Usage(_) | Say::KeysInUse(_) => role == Role::Proxy && (serving || draining),
        Say::Series(_) => !starting,
        Say::Pong(..) => !starting,
        Say::KeySet(_) => role == Role::Proxy && !starting,
        Say::KeyTaken(_) => role == Role::Signer && !starting,
        Say::ExporterHealth(_) => role == Role::Export && !starting,
        Say::Fetch(_) => role == Role::Status && (serving || draining),
    }
}

#[cfg(test)]
mod tests;
