//! Turns the table into two filters of the kernel: one that ends the worker at a forbidden call, one that knows the
//! permitted ones. The stricter answer of the two counts.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use shared::id::Role;

use super::table::{Argument, Call, FORBIDDEN, permitted};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The table cannot be compiled for this machine.
    #[error("cannot be compiled: {0}")]
    Compile(#[from] BackendError),
    /// The kernel, or a container's own filter, refused it.
    #[error("refused by the kernel: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Puts both filters in force for every thread there is, and all that follow. No call outside the role's groups works from then on.
pub fn apply(role: Role) -> Result<(), SeccompError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let forbidden: BpfProgram = SeccompFilter::new(
        FORBIDDEN.iter().map(|number| (*number, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Trap,
        architecture,
    )?
    .try_into()?;
    let permitted: BpfProgram = SeccompFilter::new(
        rules(permitted(role))?,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
        architecture,
    )?
    .try_into()?;
    seccompiler::apply_filter_all_threads(&forbidden)?;
    seccompiler::apply_filter_all_threads(&permitted)?;
    Ok(())
}

/// A call may stand in the table several times: it is permitted if any of its lines is met.
fn rules(groups: &[&[Call]]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Call(number, arguments) in groups.iter().copied().flatten() {
        let lines = rules.entry(*number).or_default();
        if !arguments.is_empty() {
            let conditions: Result<Vec<_>, _> = arguments.iter().map(condition).collect();
            lines.push(SeccompRule::new(conditions?)?);
        }
    }
    Ok(rules)
}

/// The kernel passes 64 bits; every other argument named in the table is an int or a set of flags in the lower 32.
fn condition(argument: &Argument) -> Result<SeccompCondition, BackendError> {
    let (index, operator, value) = match *argument {
        Argument::Is(index, value) => (index, SeccompCmpOp::Eq, value),
        Argument::IsNot(index, value) => (index, SeccompCmpOp::Ne, value),
        Argument::Without(index, bits) => (index, SeccompCmpOp::MaskedEq(bits), 0),
        Argument::IsApartFrom(index, bits, value) => {
            (index, SeccompCmpOp::MaskedEq(u64::from(u32::MAX) & !bits), value)
        }
        Argument::AtMost(index, value) => {
            return SeccompCondition::new(index, SeccompCmpArgLen::Qword, SeccompCmpOp::Le, value);
        }
        Argument::OwnProcess(index) => (index, SeccompCmpOp::Eq, u64::from(std::process::id())),
    };
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compiles_for_both_architectures() {
        for architecture in [TargetArch::x86_64, TargetArch::aarch64] {
            for role in Role::ALL {
                let filter = SeccompFilter::new(
                    rules(permitted(role)).unwrap(),
                    SeccompAction::Errno(38),
                    SeccompAction::Allow,
                    architecture,
                );
                BpfProgram::try_from(filter.unwrap()).unwrap();
            }
        }
    }

    #[test]
    fn nothing_is_both_permitted_and_forbidden() {
        for role in Role::ALL {
            for Call(number, _) in permitted(role).iter().copied().flatten() {
                assert!(!FORBIDDEN.contains(number), "system call {number}");
            }
        }
    }

    /// A line without conditions beside one with would silently count for nothing.
    #[test]
    fn a_call_is_permitted_always_or_under_conditions_and_not_both() {
        for role in Role::ALL {
            let calls: Vec<_> = permitted(role).iter().copied().flatten().collect();
            for Call(number, arguments) in &calls {
                let of_this = |other: &&&Call| other.0 == *number;
                let mixed = calls
                    .iter()
                    .filter(of_this)
                    .any(|other| other.1.is_empty() != arguments.is_empty());
                assert!(!mixed, "system call {number}");
            }
        }
    }

    #[test]
    fn only_the_proxy_role_can_write_at_an_offset_and_only_to_its_ring() {
        for role in Role::ALL {
            let calls: Vec<_> = permitted(role).iter().copied().flatten().collect();
            let writes: Vec<_> = calls.iter().filter(|call| call.0 == libc::SYS_pwrite64).collect();
            assert_eq!(writes.len(), usize::from(role == Role::Proxy));
            let ring = Argument::Is(0, shared::descriptor::USAGE as u64);
            assert!(writes.iter().all(|call| format!("{:?}", call.1[0]) == format!("{ring:?}")));
        }
    }

    #[test]
    fn only_roles_that_connect_can_make_a_socket() {
        let makes_sockets = |role| {
            permitted(role)
                .iter()
                .copied()
                .flatten()
                .any(|Call(number, _)| *number == libc::SYS_socket)
        };
        assert!(makes_sockets(Role::Proxy));
        assert!(makes_sockets(Role::Egress));
        assert!(!makes_sockets(Role::Status) && !makes_sockets(Role::Signer));
    }
}
