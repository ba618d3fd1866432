//! Where the control socket stands, and how it comes to stand there without taking anybody else's place.
//!
//! `supervisor.control_socket` where that is set; else `/run/aisix/aisix.sock`; else, where that cannot be had (no right to
//! make it, or another gateway has it), `<state>/run/aisix.sock`. A lock beside the socket says whose it is: what a dead
//! supervisor left behind is replaced, what a living one listens on never is. The socket gets its mode and its group before
//! anybody can connect, and its name last.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::unistd::Group;

/// Where it stands unless the configuration says otherwise.
pub const DEFAULT: &str = "/run/aisix/aisix.sock";
/// Its name below the state directory.
const BELOW_STATE: &str = "run/aisix.sock";
/// Who may use it, beside its owner.
pub const GROUP: &str = "aisix";
/// Longest path of a Unix socket, in bytes: `sun_path` with its end.
pub const PATH_BYTES_MAX: usize = 107;
/// What the name is while the socket is made ready.
const UNREADY: &str = ".new";
/// Connections that wait to be taken.
const BACKLOG: i32 = 16;

/// Why a socket cannot stand at a path.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No socket can have that path.
    #[error("the path is {bytes} bytes long, a socket's may have {PATH_BYTES_MAX}: choose a shorter one", bytes = .0)]
    TooLong(usize),
    /// Another gateway listens there.
    #[error("another gateway listens there")]
    Taken,
    /// Something else has that name.
    #[error("what stands there is no socket, and is left alone")]
    NotASocket,
    /// Anybody could put another socket in its place.
    #[error("its folder can be written by everybody")]
    OpenFolder,
    /// A step that the system refused.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
}

/// The paths to try, the first one first, for a gateway with these settings.
pub fn candidates(set: Option<&Path>, state: Option<&Path>) -> Vec<PathBuf> {
    match set {
        Some(path) => vec![path.to_owned()],
        None => {
            let below = state.map(|state| state.join(BELOW_STATE));
            [PathBuf::from(DEFAULT)].into_iter().chain(below).collect()
        }
    }
}

/// A socket that listens. Dropped, it is removed.
#[derive(Debug)]
pub struct Place {
    /// Where it stands.
    pub path: PathBuf,
    /// Inode of the socket: what is there later may be another's.
    inode: u64,
    _lock: Flock<File>,
}

/// Opens the socket at the first path that can be had. `Err` has a reason for each.
pub fn open(paths: &[PathBuf]) -> Result<(Place, UnixListener, Vec<String>), String> {
    let mut refused = Vec::new();
    for path in paths {
        match open_at(path) {
            Ok((place, listener)) => return Ok((place, listener, refused)),
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    Err(refused.join("; "))
}

fn open_at(path: &Path) -> Result<(Place, UnixListener), PlaceError> {
    let unready = with_ending(path, UNREADY);
    let bytes = path.as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(PlaceError::TooLong(bytes));
    }
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let lock = lock(&with_ending(path, ".lock"))?;
    look_at(path)?;
    // Bound under another name, which is free: whoever bound it before is gone, since the lock is ours.
    let short = if unready.as_os_str().len() > PATH_BYTES_MAX { path } else { &unready };
    remove(short)?;
    let socket = bound(short)?;
    protect(short)?;
    listen(&socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))
        .map_err(|errno| PlaceError::System("cannot listen", errno.into()))?;
    if short != path {
        fs::rename(short, path).map_err(system("cannot be named"))?;
    }
    let inode = fs::metadata(path).map_err(system("cannot be looked at"))?.ino();
    let place = Place { path: path.to_owned(), inode, _lock: lock };
    Ok((place, UnixListener::from(socket)))
}

fn system(attempted: &'static str) -> impl Fn(io::Error) -> PlaceError {
    move |error| PlaceError::System(attempted, error)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The folder, made if it is not there. One in which anybody may rename files is no place for a socket that is trusted.
fn make_folder(folder: &Path) -> Result<(), PlaceError> {
    if !folder.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(system("its folder cannot be made"))?;
    }
    let mode = fs::metadata(folder).map_err(system("its folder cannot be looked at"))?.mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(PlaceError::OpenFolder);
    }
    Ok(())
}

fn lock(path: &Path) -> Result<Flock<File>, PlaceError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(system("its lock cannot be opened"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| PlaceError::Taken)
}

/// Whether what stands there may be replaced: nothing, or a socket on which nobody listens.
fn look_at(path: &Path) -> Result<(), PlaceError> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err(PlaceError::NotASocket),
        Ok(_) => match UnixStream::connect(path) {
            // A full backlog would make this wait; no supervisor of ours leaves one full, and the lock is free.
            Ok(_) => Err(PlaceError::Taken),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(PlaceError::System("what stands there cannot be asked", error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PlaceError::System("cannot be looked at", error)),
    }
}

fn remove(path: &Path) -> Result<(), PlaceError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PlaceError::System("what is left there cannot be removed", error))
        }
        _ => Ok(()),
    }
}

fn bound(path: &Path) -> Result<OwnedFd, PlaceError> {
    let refused = |errno: nix::Error| PlaceError::System("cannot be bound", errno.into());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(refused)?;
    let address = UnixAddr::new(path).map_err(refused)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address).map_err(refused)?;
    Ok(socket)
}

/// For the owner, and for the group where there is one. Nobody can connect yet: it does not listen.
fn protect(path: &Path) -> Result<(), PlaceError> {
    let group = Group::from_name(GROUP).ok().flatten();
    // Under the service unit it is our own group, and the call may be forbidden.
    let is_of = |gid| fs::symlink_metadata(path).is_ok_and(|there| there.gid() == gid);
    let shared = group.map(|group| group.gid.as_raw());
    let shared = shared.is_some_and(|gid| is_of(gid) || chown(path, None, Some(gid)).is_ok());
    let mode = if shared { 0o660 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(system("cannot be protected"))
}

impl Drop for Place {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            // A socket that stays is replaced by the next gateway.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_a_dead_gateway_left_behind_is_replaced_and_what_a_living_one_has_is_not() {
        let folder = folder();
        let path = folder.path().join("run/aisix.sock");
        drop(fs::create_dir(path.parent().unwrap()));
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket without a listener is left over");
        let (place, listener) = open_at(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(matches!(open_at(&path), Err(PlaceError::Taken)));
        drop((place, listener));
        assert!(!path.exists(), "it is removed in the end");
    }

    #[test]
    fn a_stranger_who_listens_without_a_lock_keeps_the_socket() {
        let folder = folder();
        let path = folder.path().join("aisix.sock");
        let stranger = UnixListener::bind(&path).unwrap();
        assert!(matches!(open_at(&path), Err(PlaceError::Taken)));
        drop(stranger);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(matches!(open_at(&path), Err(PlaceError::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn the_second_place_is_taken_where_the_first_cannot_be_had_and_the_reason_is_told() {
        let folder = folder();
        let (first, second) = (folder.path().join("1.sock"), folder.path().join("2.sock"));
        let (_one, _listener) = open_at(&first).unwrap();
        let (place, _other, refused) = open(&[first.clone(), second.clone()]).unwrap();
        assert_eq!(place.path, second);
        assert_eq!(refused, [format!("{}: another gateway listens there", first.display())]);
    }

    #[test]
    fn only_owner_and_group_may_connect() {
        let folder = folder();
        let path = folder.path().join("aisix.sock");
        let _open = open_at(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().mode() & 0o777;
        assert!(matches!(mode, 0o600 | 0o660), "{mode:o}");
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_told_with_its_length() {
        let folder = folder();
        let longest = PATH_BYTES_MAX - folder.path().as_os_str().len() - 1;
        let error = open_at(&folder.path().join("x".repeat(longest + 1))).unwrap_err().to_string();
        assert!(error.contains("108") && error.contains("107"), "{error}");
        // Just short enough: there is no room for the name under which it is made ready.
        open_at(&folder.path().join("x".repeat(longest))).unwrap();
    }

    #[test]
    fn a_folder_that_everybody_can_write_is_no_place() {
        let folder = folder();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let error = open_at(&folder.path().join("aisix.sock"));
        assert!(matches!(error, Err(PlaceError::OpenFolder)));
    }

    #[test]
    fn what_the_configuration_names_is_the_only_candidate() {
        let (set, state) = (Path::new("/x/y.sock"), Path::new("/state"));
        assert_eq!(candidates(Some(set), Some(state)), [set]);
        let default = candidates(None, Some(state));
        assert_eq!(default, [Path::new(DEFAULT), Path::new("/state/run/aisix.sock")]);
        assert_eq!(candidates(None, None), [Path::new(DEFAULT)]);
    }
}
