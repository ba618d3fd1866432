//! The worker's program, and the users that workers run as.

use std::io;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::User;
use shared::id::Role;
use shared::version::VERSION;

use super::look::Look;
use super::state::user;
use super::{Fault, error, note, warning};
use crate::handover::exec::Own;
use crate::handover::preflight::version_of;
use crate::process::launch::Program;
use crate::process::own::may_switch_user;
use crate::settings::Settings;

const DOWN: &[&str] = &["daemon-down", "gateway-workers-restarting", "gateway-degraded"];

static MISSING: Fault = error(
    "host-worker-missing",
    "the worker's program is missing",
    "The gateway is two programs; the supervisor starts the other.",
    "install aisix-worker beside aisix, from the same package, or set supervisor.worker_path",
    DOWN,
);
static NOT_EXECUTABLE: Fault = error(
    "host-worker-not-executable",
    "the worker's program cannot be executed",
    "The gateway is two programs; the supervisor starts the other.",
    "chmod 755 it; its file system must not be mounted noexec, and it must be of this machine's kind",
    DOWN,
);
static OTHER_VERSION: Fault = error(
    "host-worker-other-version",
    "the worker's program is of another version than aisix",
    "Supervisor and workers are built and tested together.",
    "install both from one package",
    DOWN,
);
static NOT_ROOT: Fault = note(
    "host-not-root",
    "the gateway may not change user, so its workers share its user",
    "Root, or CAP_SETUID and CAP_SETGID, can give each role a user of its own. Everything else of their confinement is in force.",
    "run it by the service unit, as root, or as another user with CAP_SETUID, CAP_SETGID, CAP_SETPCAP and CAP_KILL as ambient capabilities",
);
static SHARED: Fault = warning(
    "host-workers-share-user",
    "root may not change user here, so workers run as root",
    "Whoever takes over a worker would be root.",
    "give the container or unit CAP_SETUID, CAP_SETGID and CAP_SETPCAP",
    &["gateway-not-confined"],
);
static USERS: Fault = note(
    "host-worker-users-absent",
    "the users of the workers are not on this machine, so numbers that nobody has are used",
    "A number that no user and no process has separates them as well; names are easier to read.",
    "the package makes them; otherwise nothing needs to be done",
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] =
    &[&MISSING, &NOT_EXECUTABLE, &OTHER_VERSION, &SHARED, &NOT_ROOT, &USERS];

/// Tries the program, and looks for the users.
pub fn check(settings: &Settings, look: &mut Look<'_>) {
    program(settings, look);
    users(look);
}

fn program(settings: &Settings, look: &mut Look<'_>) {
    let own = Own::of_this_process().program;
    let program = match Program::open(settings.workers.program.as_deref(), &own) {
        Ok(program) => program,
        Err(error) => return look.found(&MISSING, error.to_string()),
    };
    let at = program.path.display().to_string();
    match version_of(&program) {
        Ok(version) if version == VERSION => {}
        Ok(version) => {
            let told = if version.is_empty() { "(nothing)" } else { version.as_str() };
            look.found(&OTHER_VERSION, format!("{at} says {told:?}, aisix is {VERSION:?}"));
        }
        Err(error) => {
            let mode = std::fs::metadata(&program.path).map(|it| it.permissions().mode() & 0o7777);
            // Ours may differ from the gateway's only in what we may read.
            if error.kind() == io::ErrorKind::PermissionDenied
                && !look.stands_for_gateway()
                && mode.as_ref().is_ok_and(|mode| mode & 0o111 != 0)
            {
                return look.hidden(format!("{at}: {error}"));
            }
            let mode = mode.map(|mode| format!(" (mode {mode:04o})")).unwrap_or_default();
            look.found(&NOT_EXECUTABLE, format!("{at}{mode}: {error}"));
        }
    }
}

/// Whether workers have the user that runs the gateway; while none runs, whether they would if we started it.
fn shares(look: &Look<'_>) -> bool {
    match look.gateway {
        Some(gateway) => gateway.workers.iter().any(|worker| worker.uid == Some(look.runs_as)),
        None => look.stands_for_gateway() && !may_switch_user(),
    }
}

fn users(look: &mut Look<'_>) {
    if look.runs_as != 0 && shares(look) {
        return look.found(&NOT_ROOT, format!("it runs as {}", user(look.runs_as)));
    }
    if look.us != 0 {
        return;
    }
    if look.gateway.is_none() && !may_switch_user() {
        return look.found(&SHARED, "CAP_SETUID or CAP_SETGID is missing");
    }
    let absent = Role::ALL.map(Role::user).into_iter();
    let absent: Vec<_> = absent.filter(|name| matches!(User::from_name(name), Ok(None))).collect();
    if !absent.is_empty() {
        look.found(&USERS, absent.join(", "));
    }
}
