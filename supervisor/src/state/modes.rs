//! Modes of what is ours in the state directory: repaired, and told once.

use std::ffi::OsStr;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

/// A file that only the gateway reads.
pub const FILE: u32 = 0o600;
/// A folder that only the gateway enters.
pub const FOLDER: u32 = 0o700;

/// What a state directory holds; a folder with anything else is not ours alone, and is left as it is.
const OURS: [&str; 6] = ["lock", "mtls", "dp_id", "spool", "run", "lost+found"];

/// What was found and repaired, or what remains to be done by hand.
pub type Told = Result<String, String>;

/// Gives the file the mode 600 if it is there, ours and has another.
pub fn repair_file(path: &Path) -> Option<Told> {
    let metadata = fs::metadata(path).ok()?;
    repair(path, &metadata, FILE)
}

/// The same for the state directory, with 700, where it holds nothing but what is ours: `snapshot` is the name of the
/// snapshot in it. A folder of another user is accepted unless every user may write to it; one that only root's group may
/// write to besides us, as well: so it is in images, where whoever runs the gateway is in that group.
pub fn repair_folder(path: &Path, snapshot: &OsStr) -> Option<Told> {
    let metadata = fs::metadata(path).ok()?;
    if is_of_image(&metadata) {
        return None;
    }
    if metadata.uid() == geteuid().as_raw() && is_ours(path, snapshot) {
        return repair(path, &metadata, FOLDER);
    }
    let mode = metadata.mode() & 0o1777;
    (mode & 0o1002 == 0o002).then(|| {
        Err(format!(
            "every user may write to {} (mode {mode:03o}): run chmod o-w on it, or give the gateway a directory of its own",
            path.display()
        ))
    })
}

fn is_of_image(folder: &Metadata) -> bool {
    folder.gid() == 0 && folder.mode() & 0o777 == 0o770
}

fn is_ours(folder: &Path, snapshot: &OsStr) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else { return false };
    let snapshot = snapshot.as_encoded_bytes();
    entries.all(|entry| {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let ours = OURS.iter().map(|ours| ours.as_bytes()).chain([snapshot]);
        ours.into_iter().any(|ours| name.starts_with(ours))
    })
}

fn repair(path: &Path, metadata: &Metadata, wanted: u32) -> Option<Told> {
    let mode = metadata.mode() & 0o777;
    if mode == wanted || metadata.uid() != geteuid().as_raw() {
        return None;
    }
    let found = format!("{} had the mode {mode:03o}", path.display());
    Some(match fs::set_permissions(path, Permissions::from_mode(wanted)) {
        Ok(()) => Ok(format!("{found}; it is {wanted:03o} now")),
        Err(error) => {
            Err(format!("{found} and cannot be changed ({error}): run chmod {wanted:03o} on it"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_ours_is_repaired_and_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        let file = state.join("cache.json");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let told = repair_folder(&state, OsStr::new("cache.json")).unwrap().unwrap();
        assert!(told.contains("755") && told.contains("700 now"), "{told}");
        let told = repair_file(&file).unwrap().unwrap();
        assert!(told.contains("644") && told.contains("600 now"), "{told}");
        assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
        assert_eq!(repair_folder(&state, OsStr::new("cache.json")), None);
        assert_eq!(repair_file(&file), None);
    }

    #[test]
    fn a_folder_that_is_open_to_roots_group_alone_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = fs::metadata(folder.path()).unwrap();
        for (given, kept) in [(0o770, 0o770), (0o775, 0o700), (0o750, 0o700)] {
            fs::set_permissions(folder.path(), Permissions::from_mode(given)).unwrap();
            let told = repair_folder(folder.path(), OsStr::new("cache.json"));
            let kept = if metadata.gid() == 0 { kept } else { 0o700 };
            assert_eq!((mode(folder.path()), told.is_none()), (kept, kept == 0o770));
        }
    }

    #[test]
    fn a_folder_that_holds_what_is_not_ours_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("passwd"), "").unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        assert_eq!(repair_folder(folder.path(), OsStr::new("cache.json")), None);
        assert_eq!(mode(folder.path()), 0o755);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let told = repair_folder(folder.path(), OsStr::new("cache.json")).unwrap().unwrap_err();
        assert!(told.contains("every user may write"), "{told}");
        assert_eq!(mode(folder.path()), 0o777);
    }
}
