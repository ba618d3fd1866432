//! Which message a worker may send when: one table. Anything else ends the worker.

use shared::id::Role;
use shared::message::ToSupervisor;

use crate::fleet::life::Life;

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
        Say::KeyTaken(_) => role == Role::Signer && !starting,
        Say::Fetch(_) => role == Role::Status && (serving || draining),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use shared::id::Revision;
    use shared::message::Page;

    use super::*;

    #[test]
    fn a_role_may_say_only_what_is_its_own() {
        let serving = Life::Serving { unanswered: 0 };
        assert!(permits(Role::Proxy, serving, false, &ToSupervisor::Usage(1)));
        assert!(!permits(Role::Status, serving, false, &ToSupervisor::Usage(1)));
        assert!(permits(Role::Proxy, serving, false, &ToSupervisor::KeysInUse(Vec::new())));
        assert!(!permits(Role::Status, serving, false, &ToSupervisor::KeysInUse(Vec::new())));
        assert!(!permits(Role::Status, serving, false, &ToSupervisor::Applied(Revision(1))));
        assert!(permits(Role::Status, serving, false, &ToSupervisor::Fetch(Page::Ready)));
        assert!(!permits(Role::Proxy, serving, false, &ToSupervisor::Fetch(Page::Ready)));
        assert!(permits(Role::Signer, serving, false, &ToSupervisor::KeyTaken(1)));
        assert!(!permits(Role::Proxy, serving, false, &ToSupervisor::KeyTaken(1)));
    }

    #[test]
    fn a_worker_tells_of_usage_once_until_it_is_answered() {
        for life in [Life::Serving { unanswered: 0 }, Life::Doomed] {
            assert!(permits(Role::Proxy, life, false, &ToSupervisor::Usage(1)));
            assert!(!permits(Role::Proxy, life, true, &ToSupervisor::Usage(2)));
        }
    }

    #[test]
    fn before_its_hello_a_worker_may_say_nothing_else() {
        let starting = Life::started(Instant::now());
        for message in [
            ToSupervisor::Ready,
            ToSupervisor::Applied(Revision(1)),
            ToSupervisor::Usage(1),
            ToSupervisor::KeysInUse(Vec::new()),
            ToSupervisor::Pong(1, 0),
        ] {
            assert!(!permits(Role::Proxy, starting, false, &message), "{message:?}");
        }
    }
}
