//! Capabilities after the start: one table, a reason beside each.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::errors::CapsError;
use caps::{CapSet, Capability};
use nix::unistd::geteuid;
use tracing::info;

use super::Files;

/// What the supervisor always needs, if it was started with it.
const NEEDED: [Capability; 6] = [
    // Each role runs as a user of its own,
    Capability::CAP_SETUID,
    // and in no group of ours.
    Capability::CAP_SETGID,
    // Workers are started without any capability, not even in the bounding set.
    Capability::CAP_SETPCAP,
    // Ending a worker, who is another user.
    Capability::CAP_KILL,
    // A listener below port 1024 that comes with an upgrade in place.
    Capability::CAP_NET_BIND_SERVICE,
    // The control socket belongs to a group of which we need not be a member.
    Capability::CAP_CHOWN,
];

/// Levels below a folder of state at which files are looked at: what is deeper is made by ourselves.
const LEVELS: usize = 2;

/// Gives up every other capability. Returns the names of those that are kept.
pub fn reduce(files: &Files<'_>) -> Result<String, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    // Nothing to give up, and the calls that do it may be forbidden.
    if permitted.is_empty() && caps::read(None, CapSet::Inheritable)?.is_empty() {
        return Ok(String::new());
    }
    // Whoever has neither of these reads what the modes of the files allow.
    let of_files = [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH];
    let may = of_files.iter().any(|it| permitted.contains(it));
    let for_files = if may { for_files(files, geteuid().as_raw()) } else { None };
    if let Some((capability, path)) = for_files.filter(|(it, _)| permitted.contains(it)) {
        info!(path = %path.display(), "kept {capability}, since what is there is of another owner");
    }
    let wanted = NEEDED.into_iter().chain(for_files.map(|(capability, _)| capability));
    let kept: HashSet<_> = wanted.filter(|capability| permitted.contains(capability)).collect();
    // First, while we may.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    // A program that root executes gets what the bounding set has. For any other user only ambient capabilities last over
    // the exec of an upgrade in place. Workers are started without either.
    let over_exec = if geteuid().is_root() { HashSet::new() } else { kept.clone() };
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &over_exec)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Ambient, &over_exec)?;
    let mut names: Vec<_> = kept.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    Ok(names.join(" "))
}

/// Whether workers can be given users of their own.
pub fn may_switch_user() -> bool {
    let has = |capability| matches!(caps::has_cap(None, CapSet::Effective, capability), Ok(true));
    has(Capability::CAP_SETUID) && has(Capability::CAP_SETGID)
}

/// What files of another owner make necessary, and the first of them.
fn for_files<'a>(files: &Files<'a>, us: u32) -> Option<(Capability, &'a Path)> {
    if let Some(path) = files.writes.iter().find(|path| is_foreign_below(path, us, LEVELS)) {
        return Some((Capability::CAP_DAC_OVERRIDE, path));
    }
    let closed = |path: &&&Path| is_closed(path, us);
    let path = files.reads.iter().chain(&files.writes).find(closed)?;
    Some((Capability::CAP_DAC_READ_SEARCH, path))
}

/// Whether something at or below `path` belongs to another user. What is not there yet will be ours.
fn is_foreign_below(path: &Path, us: u32, levels: usize) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    if metadata.uid() != us {
        return true;
    }
    if levels == 0 || !metadata.is_dir() {
        return false;
    }
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.flatten().any(|entry| is_foreign_below(&entry.path(), us, levels - 1))
}

/// Whether a file, or a folder on the way to it, is of another user who lets no others in.
fn is_closed(path: &Path, us: u32) -> bool {
    let Ok(path) = fs::canonicalize(path) else { return false };
    let is_closed_to_others = |metadata: &Metadata| {
        let needed = if metadata.is_dir() { 0o001 } else { 0o004 };
        metadata.uid() != us && metadata.mode() & needed == 0
    };
    path.ancestors().any(|part| fs::metadata(part).is_ok_and(|it| is_closed_to_others(&it)))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn us() -> u32 {
        geteuid().as_raw()
    }

    fn capability(files: &Files<'_>, us: u32) -> Option<Capability> {
        for_files(files, us).map(|(capability, _)| capability)
    }

    #[test]
    fn files_of_our_own_need_no_capability() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "key").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let files = Files { reads: vec![&file], writes: vec![folder.path()] };
        assert_eq!(for_files(&files, us()), None);
        // Neither does what is not there.
        let files = Files { reads: vec![Path::new("/nowhere/key")], writes: vec![] };
        assert_eq!(for_files(&files, us()), None);
    }

    #[test]
    fn state_of_another_owner_and_closed_files_need_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "key").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        // Seen by somebody else.
        let them = us() + 1;
        let files = Files { reads: vec![], writes: vec![folder.path()] };
        assert_eq!(capability(&files, them), Some(Capability::CAP_DAC_OVERRIDE));
        let files = Files { reads: vec![&file], writes: vec![] };
        assert_eq!(capability(&files, them), Some(Capability::CAP_DAC_READ_SEARCH));
    }
}
