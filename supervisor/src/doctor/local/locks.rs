//! Who holds a lock, as the kernel lists it: looking takes no lock, so that no gateway that starts meanwhile is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process(u32),
    /// One that has no number here: of another container.
    Elsewhere,
}

/// Who holds an exclusive lock of the file, if anybody does.
pub fn holder(proc: &Path, file: &Path) -> Option<Holder> {
    let metadata = fs::metadata(file).ok()?;
    let device = metadata.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let locks = fs::read_to_string(proc.join("locks")).ok()?;
    in_table(&locks, &format!("{major:02x}:{minor:02x}:{}", metadata.ino()))
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF` lines, see proc_locks(5); those that wait have an arrow.
fn in_table(locks: &str, file: &str) -> Option<Holder> {
    locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, "WRITE", pid, place, ..] if *place == file => {
                // The holder may have handed its descriptor on and be gone; the number is that of who took it.
                let pid = pid.parse::<u32>().ok().filter(|pid| *pid != 0);
                Some(pid.map_or(Holder::Elsewhere, Holder::Process))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_in_the_table() {
        let table = "1: POSIX  ADVISORY  WRITE 7 08:01:11 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 8 08:01:11 0 EOF\n\
            3: FLOCK  ADVISORY  READ 9 08:01:11 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE 10 08:01:11 0 EOF\n\
            5: FLOCK  ADVISORY  WRITE 0 08:01:12 0 EOF\n";
        assert_eq!(in_table(table, "08:01:11"), Some(Holder::Process(10)));
        assert_eq!(in_table(table, "08:01:12"), Some(Holder::Elsewhere));
        assert_eq!(in_table(table, "08:01:1"), None);
    }

    #[test]
    fn a_lock_of_this_process_is_seen_while_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        let proc = Path::new("/proc");
        assert_eq!(holder(proc, &path), None);
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(holder(proc, &path), Some(Holder::Process(std::process::id())));
        drop(lock);
        assert_eq!(holder(proc, &path), None);
    }
}
