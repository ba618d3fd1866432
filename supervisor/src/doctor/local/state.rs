//! The state directory: whether the gateway can use it, has it for itself, and can use what is in it.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, Statvfs, statvfs};
use nix::unistd::{AccessFlags, eaccess};

use super::locks::{self, Holder};
use super::look::{self, Look};
use super::{Fault, error, warning};
use crate::accounts;
use crate::bundle::Bundle;
use crate::settings::Managed;
use crate::settings::source::scope;
use crate::state::snapshot::file::{self, ReadError};

const MIB: u64 = 1024 * 1024;
/// With less, nothing that matters can be written.
const FULL_BYTES: u64 = 4 * MIB;
/// Room for a snapshot of some size, and for a while of usage.
const LOW_BYTES: u64 = 256 * MIB;
/// A larger snapshot is not opened: it would take too long.
const SNAPSHOT_BYTES_MAX: u64 = 256 * MIB;

/// What follows from a directory that cannot be written.
const UNWRITTEN: &[&str] = &[
    "gateway-state-directory",
    "gateway-snapshot",
    "gateway-spool",
    "gateway-certificate",
    "gateway-rotation-refused",
    "gateway-socket-missing",
];

static MISSING: Fault = error(
    "state-missing",
    "the state directory is missing and cannot be made",
    "It holds the identity, the snapshot and usage that was not delivered. Without it the gateway serves, and forgets at its end.",
    "make it (install -d -m 700 -o USER DIRECTORY), or let managed.mtls_dir, dp_id_file and snapshot_cache_path lead to one that the gateway may write",
    UNWRITTEN,
);
static NOT_A_DIRECTORY: Fault = error(
    "state-not-a-directory",
    "the state directory is no directory",
    "It is the folder that holds managed.mtls_dir.",
    "let managed.mtls_dir lead into a directory of the gateway's own",
    UNWRITTEN,
);
static WRONG_OWNER: Fault = error(
    "state-wrong-owner",
    "the state directory, or something in it, belongs to another user than the one that runs the gateway",
    "What was once run as another user, or restored from a backup, belongs to that user.",
    "chown -R it to the user that runs the gateway",
    UNWRITTEN,
);
static FOREIGN_OWNER: Fault = warning(
    "state-other-owner",
    "the state directory, or something in it, belongs to a user other than root, and root runs the gateway",
    "Root may do without, where it has CAP_DAC_OVERRIDE; under the service unit it has not.",
    "chown -R root: it; under the service unit root may not write what is another user's",
    UNWRITTEN,
);
static NOT_WRITABLE: Fault = error(
    "state-not-writable",
    "the state directory cannot be written",
    "Snapshot, usage and renewed certificates cannot be kept.",
    "chmod u+rwx it, as the user that runs the gateway",
    UNWRITTEN,
);
static OPEN: Fault = warning(
    "state-open-to-everyone",
    "every user may write to the state directory",
    "Any user could replace the identity and the snapshot.",
    "chmod 700 it, or give the gateway a directory of its own",
    &["gateway-state-directory"],
);
static READ_ONLY: Fault = error(
    "state-read-only",
    "the file system of the state directory is read-only",
    "Snapshot, usage and renewed certificates cannot be kept.",
    "mount it for writing (a volume, in a container), or let managed.mtls_dir lead elsewhere; if it was for writing before, look at the kernel's log for errors of the disk",
    UNWRITTEN,
);
static FULL: Fault = error(
    "state-full",
    "the file system of the state directory is full",
    "Snapshot, usage and renewed certificates cannot be kept. Traffic goes on, and usage waits in memory.",
    "make room; what waits in memory is written by itself then",
    UNWRITTEN,
);
static LOW: Fault = warning(
    "state-space-low",
    "little room is left on the file system of the state directory",
    "Usage is kept while the Cloud is away, up to managed.spool_max_bytes.",
    "make room, or lower managed.spool_max_bytes",
    &[],
);
static IN_USE: Fault = error(
    "state-in-use",
    "another process holds the state directory",
    "One gateway at a time has a state directory: two would report each other's usage.",
    "stop that gateway, or give this one a state directory of its own",
    &["daemon-down", "host-port-in-use"],
);
static FOREIGN: Fault = warning(
    "state-foreign-environment",
    "the snapshot in the state directory is of another environment",
    "Resources of another environment are never served.",
    "nothing, if the gateway has moved: it is set aside and written anew; else give the bundle of the right environment",
    &["gateway-snapshot"],
);
static OTHER_PREFIX: Fault = warning(
    "state-foreign-prefix",
    "the snapshot in the state directory is of another etcd.prefix",
    "Its resources stand elsewhere in the store, and are not served.",
    "correct etcd.prefix; the one that AISIX Cloud uses is the default",
    &["gateway-snapshot"],
);
static DAMAGED: Fault = warning(
    "state-snapshot-damaged",
    "the snapshot in the state directory is damaged",
    "A snapshot is used as a whole or not at all.",
    "nothing, while the Cloud can be reached: it is set aside, the one before it is used, and a new one is written; look at the disk",
    &["gateway-snapshot"],
);
static UNREADABLE: Fault = warning(
    "state-snapshot-unreadable",
    "the snapshot in the state directory cannot be read",
    "A restart while the Cloud is away would serve nothing.",
    "make it readable for the user that runs the gateway; look at the disk",
    &["gateway-snapshot"],
);
static SEALED: Fault = warning(
    "state-seal-lost",
    "what is in the state directory was sealed under a key that is not there",
    "Snapshot and spool are sealed under a key that the client key, or a credential, opens.",
    "put back the client key or the credential aisix-seal-key that it was sealed under, if they are known; else the gateway begins anew, without unsent usage",
    &["state-snapshot-damaged", "gateway-snapshot", "gateway-spool"],
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[
    &IN_USE,
    &READ_ONLY,
    &FULL,
    &MISSING,
    &NOT_A_DIRECTORY,
    &WRONG_OWNER,
    &FOREIGN_OWNER,
    &NOT_WRITABLE,
    &OPEN,
    &LOW,
    &SEALED,
    &FOREIGN,
    &OTHER_PREFIX,
    &DAMAGED,
    &UNREADABLE,
];

/// Looks at the directory and what is in it.
pub fn check(managed: &Managed, look: &mut Look<'_>) {
    let state = managed.state_dir();
    match fs::metadata(state) {
        Ok(metadata) if !metadata.is_dir() => {
            look.found(&NOT_A_DIRECTORY, state.display().to_string());
        }
        Ok(metadata) => {
            held(state, look);
            if !system(state, look) {
                rights(managed, &metadata, look);
            }
            snapshot(managed, look);
        }
        Err(error) if look.is_hidden(state, error.kind()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => missing(state, look),
        Err(error) => look.found(&NOT_A_DIRECTORY, format!("{}: {error}", state.display())),
    }
}

/// It is made at the start, where that may be.
fn missing(state: &Path, look: &mut Look<'_>) {
    let Some(above) = state.ancestors().skip(1).find(|above| above.exists()) else { return };
    if system(above, look) || !look.stands_for_gateway() && look.us != 0 {
        return;
    }
    if !above.is_dir() || eaccess(above, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let (state, above) = (state.display(), above.display());
        look.found(&MISSING, format!("{state} does not exist, and {above} cannot be written"));
    }
}

/// The file system it is on. Whether it is read-only, after which nothing more needs to be said.
fn system(state: &Path, look: &mut Look<'_>) -> bool {
    let Ok(about) = statvfs(state) else { return false };
    let read_only = about.flags().contains(FsFlags::ST_RDONLY);
    if let Some((fault, evidence)) = of_system(read_only, free_bytes(&about), inodes(&about)) {
        look.found(fault, format!("{}: {evidence}", state.display()));
    }
    read_only
}

fn free_bytes(about: &Statvfs) -> u64 {
    about.blocks_available().saturating_mul(about.fragment_size())
}

/// Whether there are files to be had; a file system that does not count them has all that one wants.
fn inodes(about: &Statvfs) -> bool {
    about.files() == 0 || about.files_available() > 0
}

fn of_system(read_only: bool, free: u64, inodes: bool) -> Option<(&'static Fault, String)> {
    let left = format!("{} MiB are free", free / MIB);
    match () {
        () if read_only => Some((&READ_ONLY, "mounted read-only".to_owned())),
        () if !inodes => Some((&FULL, "no file can be made: no inode is free".to_owned())),
        () if free < FULL_BYTES => Some((&FULL, left)),
        () if free < LOW_BYTES => Some((&LOW, left)),
        () => None,
    }
}

/// Owners and modes, of the directory and of what is ours in it.
fn rights(managed: &Managed, metadata: &Metadata, look: &mut Look<'_>) {
    let state = managed.state_dir();
    let mode = metadata.mode() & 0o7777;
    if mode & 0o1002 == 0o002 {
        look.found(&OPEN, format!("{} has the mode {mode:04o}", state.display()));
    }
    let runs_as = look.runs_as;
    let foreign: Vec<_> = ours(managed)
        .into_iter()
        .filter_map(|path| Some((fs::metadata(&path).ok()?.uid(), path)))
        .filter(|(owner, _)| *owner != runs_as)
        .map(|(owner, path)| format!("{} is {}'s", path.display(), user(owner)))
        .collect();
    if !foreign.is_empty() {
        let fault = if runs_as == 0 { &FOREIGN_OWNER } else { &WRONG_OWNER };
        let evidence = format!("{}; the gateway runs as {}", foreign.join(", "), user(runs_as));
        return look.found(fault, evidence);
    }
    if mode & 0o700 != 0o700 && runs_as != 0 {
        return look.found(&NOT_WRITABLE, format!("{} has the mode {mode:04o}", state.display()));
    }
    if look.stands_for_gateway() && eaccess(state, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        look.found(&NOT_WRITABLE, state.display().to_string());
    }
}

/// The directory, and those of our files that are read and written again.
fn ours(managed: &Managed) -> Vec<PathBuf> {
    let state = managed.state_dir();
    let mut ours = vec![state.to_owned(), managed.mtls_dir.clone(), managed.dp_id_file.clone()];
    ours.extend(["lock", "spool.redb", "spool"].map(|name| state.join(name)));
    ours.extend(["client.key", "client.crt", "seal"].map(|name| managed.mtls_dir.join(name)));
    ours.extend(managed.snapshot.clone());
    ours
}

/// A user by name, where there is one.
pub fn user(uid: u32) -> String {
    let named = accounts::user_name(uid);
    named.map_or_else(|| format!("user {uid}"), |name| format!("user {name} ({uid})"))
}

/// Whoever has the lock, if it is not the gateway that answers.
fn held(state: &Path, look: &mut Look<'_>) {
    let proc = look.places.proc.clone();
    let Some(holder) = locks::holder(&proc, &state.join("lock")) else { return };
    if look.gateway.is_some() {
        return;
    }
    let who = match holder {
        // One that we may not ask: it may be well.
        Holder::Process(pid) if !look.stands_for_gateway() && look.us != 0 => {
            let pid = look::shown(&proc, pid);
            return look.hidden(format!("the gateway that runs as process {pid}"));
        }
        Holder::Process(pid) => format!("process {}", look::shown(&proc, pid)),
        Holder::Elsewhere => "a process that has no number here (of another container?)".to_owned(),
    };
    look.found(&IN_USE, format!("{who} holds the lock of {}", state.display()));
}

/// The snapshot: whose it is, and whether it opens.
fn snapshot(managed: &Managed, look: &mut Look<'_>) {
    let Some(path) = managed.snapshot.as_deref() else { return };
    let (env_id, prefix, bytes) = match file::whose(path) {
        Ok(found) => found,
        Err(ReadError::Io(error)) if look.is_hidden(path, error.kind()) => return,
        Err(ReadError::Io(error)) => {
            return look.found(&UNREADABLE, format!("{}: {error}", path.display()));
        }
        // None yet, or one that the published data plane has left, which is imported.
        Err(_) => return,
    };
    let Ok(bundle) = Bundle::examine(managed, look.now) else { return };
    let at = path.display();
    if env_id != bundle.env_id {
        let evidence = format!("{at} is of environment {env_id}, the bundle of {}", bundle.env_id);
        return look.found(&FOREIGN, evidence);
    }
    let wanted = scope(&managed.prefix, &bundle.env_id);
    if prefix != wanted {
        return look
            .found(&OTHER_PREFIX, format!("{at} is of {prefix:?}, etcd.prefix makes {wanted:?}"));
    }
    match bundle.kept_data_key(managed) {
        Err(why) => look.found(&SEALED, format!("{}/seal {why}", managed.mtls_dir.display())),
        // A gateway that runs writes it meanwhile.
        Ok(Some(key)) if look.gateway.is_none() && bytes <= SNAPSHOT_BYTES_MAX => {
            if let Err(error) = file::read(path, &key, &env_id, &prefix) {
                look.found(&DAMAGED, format!("{at} {error}"));
            }
        }
        Ok(None) if look.gateway.is_none() => {
            look.found(&SEALED, format!("{}/seal is not there", managed.mtls_dir.display()));
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_read_only_full_or_low_in_this_order() {
        let fault = |read_only, free, inodes| {
            of_system(read_only, free, inodes).map(|(fault, _)| fault.code)
        };
        assert_eq!(fault(true, 0, false), Some("state-read-only"));
        assert_eq!(fault(false, u64::MAX, false), Some("state-full"));
        assert_eq!(fault(false, FULL_BYTES - 1, true), Some("state-full"));
        assert_eq!(fault(false, FULL_BYTES, true), Some("state-space-low"));
        assert_eq!(fault(false, LOW_BYTES, true), None);
    }
}
