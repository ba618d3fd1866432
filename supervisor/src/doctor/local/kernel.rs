//! What workers are confined with: Landlock and the system call filter, tried for real, on a thread that ends.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::look::Look;
use super::{Fault, error, warning};
use crate::fleet::Sandbox;
use crate::process::landlock_version;
use crate::settings::Settings;

const LESS: &[&str] = &["gateway-not-confined"];

static REQUIRED: Fault = error(
    "host-confinement-required",
    "supervisor.sandbox is required, and this host cannot confine workers so",
    "With required the gateway refuses to run with less than the whole confinement.",
    "let the host have what the evidence names, or set supervisor.sandbox to best-effort",
    &[
        "daemon-down",
        "host-landlock-",
        "host-seccomp-",
        "host-workers-share-user",
        "gateway-not-confined",
    ],
);
static SECCOMP: Fault = warning(
    "host-seccomp-missing",
    "this kernel has no system call filters",
    "A worker gives up most system calls before it reads a byte from outside.",
    "run a kernel with CONFIG_SECCOMP_FILTER; without it workers are hardly confined",
    LESS,
);
static SECCOMP_BLOCKED: Fault = warning(
    "host-seccomp-blocked",
    "system call filters are kept from this process, as by a container's own filter",
    "A worker gives up most system calls before it reads a byte from outside.",
    "let the container's seccomp profile allow seccomp() and prctl(); Docker's and Kubernetes' RuntimeDefault do",
    LESS,
);
static LANDLOCK: Fault = warning(
    "host-landlock-missing",
    "this kernel has no Landlock, or it is not enabled",
    "With Landlock a worker gives up every file and every port.",
    "run Linux 6.12 or later with landlock among the lsm= of its command line; without it workers have the system call filter alone",
    LESS,
);
static LANDLOCK_BLOCKED: Fault = warning(
    "host-landlock-blocked",
    "Landlock is kept from this process, as by a container's own filter",
    "With Landlock a worker gives up every file and every port.",
    "let the container's seccomp profile allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self",
    LESS,
);
static LANDLOCK_OLD: Fault = warning(
    "host-landlock-old",
    "the Landlock of this kernel is old: it confines files, not all connections and signals",
    "Rules for TCP ports came with version 4, those for signals and abstract sockets with 6.",
    "run Linux 6.12 or later",
    LESS,
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] =
    &[&REQUIRED, &SECCOMP, &SECCOMP_BLOCKED, &LANDLOCK, &LANDLOCK_BLOCKED, &LANDLOCK_OLD];

/// The version that has rules for TCP ports and scopes for signals and abstract sockets.
const LANDLOCK_WANTED: i64 = 6;

/// Tries both.
pub fn check(settings: Option<&Settings>, look: &mut Look<'_>) {
    let policy = settings.map_or(Sandbox::BestEffort, |settings| settings.workers.sandbox);
    if policy == Sandbox::Off {
        return;
    }
    let found = [of_filter(filter()), of_landlock(landlock_version())];
    let found: Vec<_> = found.into_iter().flatten().collect();
    if policy == Sandbox::Required && !found.is_empty() {
        let lacks: Vec<_> = found.iter().map(|(_, evidence)| evidence.as_str()).collect();
        look.found(&REQUIRED, lacks.join("; "));
    }
    for (fault, evidence) in found {
        look.found(fault, evidence);
    }
}

fn of_landlock(answer: io::Result<i64>) -> Option<(&'static Fault, String)> {
    match answer {
        Ok(version) if version >= LANDLOCK_WANTED => None,
        Ok(version) => Some((
            &LANDLOCK_OLD,
            format!("the kernel has version {version} of Landlock, wanted is {LANDLOCK_WANTED}"),
        )),
        Err(error) => {
            let fault = match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EOPNOTSUPP) => &LANDLOCK,
                _ => &LANDLOCK_BLOCKED,
            };
            Some((fault, format!("landlock_create_ruleset: {error}")))
        }
    }
}

fn of_filter(answer: Result<(), FilterError>) -> Option<(&'static Fault, String)> {
    let error = answer.err()?;
    let code = match &error {
        FilterError::Apply(
            seccompiler::Error::Prctl(cause) | seccompiler::Error::Seccomp(cause),
        ) => cause.raw_os_error(),
        _ => None,
    };
    let fault = match code {
        Some(libc::ENOSYS | libc::EINVAL) => &SECCOMP,
        _ => &SECCOMP_BLOCKED,
    };
    Some((fault, format!("a system call filter cannot be put in force: {error}")))
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error("{0}")]
    Thread(io::Error),
    #[error("{0}")]
    Compile(#[from] seccompiler::BackendError),
    #[error("{0}")]
    Apply(#[from] seccompiler::Error),
}

/// Puts a filter that allows everything in force, on a thread of its own.
fn filter() -> Result<(), FilterError> {
    let attempt = || -> Result<(), FilterError> {
        let (allow, deny) = (SeccompAction::Allow, SeccompAction::Errno(1));
        let filter = SeccompFilter::new(BTreeMap::new(), allow, deny, TargetArch::try_from(ARCH)?)?;
        Ok(seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?)
    };
    let thread = thread::Builder::new().name("doctor-filter".to_owned()).spawn(attempt);
    let joined = thread.map_err(FilterError::Thread)?.join();
    joined.unwrap_or_else(|_| Err(FilterError::Thread(io::Error::other("the thread failed"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_answers_about_landlock_is_told_apart() {
        let code = |answer: io::Result<i64>| of_landlock(answer).map(|(fault, _)| fault.code);
        let error = io::Error::from_raw_os_error;
        assert_eq!(code(Ok(LANDLOCK_WANTED)), None);
        assert_eq!(code(Ok(3)), Some("host-landlock-old"));
        assert_eq!(code(Err(error(libc::ENOSYS))), Some("host-landlock-missing"));
        assert_eq!(code(Err(error(libc::EOPNOTSUPP))), Some("host-landlock-missing"));
        assert_eq!(code(Err(error(libc::EPERM))), Some("host-landlock-blocked"));
    }

    #[test]
    fn what_the_kernel_answers_about_filters_is_told_apart() {
        let code = |number: i32| {
            let error = seccompiler::Error::Seccomp(io::Error::from_raw_os_error(number));
            of_filter(Err(FilterError::Apply(error))).map(|(fault, _)| fault.code)
        };
        assert_eq!(of_filter(Ok(())).map(|(fault, _)| fault.code), None);
        assert_eq!(code(libc::EINVAL), Some("host-seccomp-missing"));
        assert_eq!(code(libc::EPERM), Some("host-seccomp-blocked"));
    }

    #[test]
    fn trying_leaves_this_thread_without_a_filter() {
        let filters = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find(|line| line.starts_with("Seccomp:")).map(str::to_owned)
        };
        let before = filters();
        filter().unwrap();
        assert_eq!(filters(), before);
    }
}
