//! The system calls that the supervisor never makes: a fixed list, which answers `EPERM`.
//!
//! A deny list, unlike those of the workers: the supervisor opens files, keeps a database and starts programs, and a list
//! of all that this needs would be about as long as the kernel's. Filters last over an exec and cannot be taken away, so
//! that each upgrade in place would add one. Ours is therefore recognised by what it makes a retired call answer.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::process::sys::retired_call;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// The list cannot be compiled for this machine.
    #[error("the filter cannot be compiled: {0}")]
    Compile(#[from] BackendError),
    /// The kernel, or a container's own filter, refused it.
    #[error("the filter is refused by the kernel: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Error number by which this list is recognised; no kernel gives it. Another list takes another one (`EBADE` is next).
const MARK: c_int = libc::EXFULL;

const DENIED: &[c_long] = &[
    // Other processes: their memory, their descriptors, their keys.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Wide parts of the kernel, in which most of its bugs were.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    // Another kernel, or more of it.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    // Another view of the file system or of the machine.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // What only an administrator asks for.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Flags of `clone` that ask for a namespace. Those of `clone3` cannot be looked at; without CAP_SYS_ADMIN they give a user
/// namespace at most.
const NAMESPACES: [c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Puts the list in force for every thread, unless it is already.
pub fn deny() -> Result<(), DenyError> {
    if retired_call() == MARK {
        return Ok(());
    }
    for program in programs(TargetArch::try_from(std::env::consts::ARCH)?)? {
        seccompiler::apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// The list, and the mark.
fn programs(architecture: TargetArch) -> Result<[BpfProgram; 2], BackendError> {
    let mut rules: BTreeMap<_, _> = DENIED.iter().map(|number| (*number, Vec::new())).collect();
    let namespaces = NAMESPACES.into_iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        let is_set = SeccompCmpOp::MaskedEq(flag);
        SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_set, flag)?])
    });
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    let mark = BTreeMap::from([(libc::SYS_nfsservctl, Vec::new())]);
    let answering = |rules, number: c_int| {
        let action = SeccompAction::Errno(number.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?;
        BpfProgram::try_from(filter)
    };
    Ok([answering(rules, libc::EPERM)?, answering(mark, MARK)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_compiles_for_both_architectures() {
        for architecture in [TargetArch::x86_64, TargetArch::aarch64] {
            programs(architecture).unwrap();
        }
    }
}
