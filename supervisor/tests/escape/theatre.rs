//! Starts probes through the real launcher, gives them something to aim at, and sees what comes of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Uid};
use shared::id::{Role, WorkerId};
use shared::ring::RING_BYTES;
use supervisor::handover::orphans;
use supervisor::metrics;
use supervisor::process::identity::Users;
use supervisor::process::launch::{Launch, Launched, Program};
use supervisor::process::reserve_descriptors;
use tempfile::TempDir;

use crate::table::Expected;

const SECRET: &str = "the planted key\n";
/// Milliseconds after which a probe counts as hung.
const HANG: u16 = 60_000;

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It worked.
    Worked(String),
    /// The kernel's error.
    Failed(String),
    /// The worker ended, and its log names the call.
    Ended(libc::c_long),
    /// The worker was killed by this signal.
    Killed(String),
}

impl Seen {
    /// In a few words.
    pub fn words(&self) -> String {
        match self {
            Self::Worked(what) => format!("worked: {what}"),
            Self::Failed(error) => error.clone(),
            Self::Ended(number) => format!("ended at call {number}"),
            Self::Killed(signal) => format!("killed by {signal}"),
        }
    }

    /// Whether it is what must come.
    pub fn is(&self, expected: Expected) -> bool {
        match (expected, self) {
            (Expected::Unknown, Self::Failed(error)) => error == "ENOSYS",
            (Expected::Ends(number), Self::Ended(seen)) => number == *seen,
            (Expected::Killed(signal), Self::Killed(seen)) => signal == seen,
            (Expected::Allowed, Self::Worked(_)) => true,
            (Expected::Bounded, Self::Worked(what)) => {
                what.contains("then E") || what.contains("of 64 MiB")
            }
            // Where the address space has no room for one block beside what the thread itself needs.
            (Expected::Bounded, Self::Failed(error)) => error == "ENOMEM",
            (Expected::Landlock, Self::Failed(error)) => error == "EACCES",
            (Expected::Landlock, Self::Worked(_)) => !has_landlock(),
            _ => false,
        }
    }
}

fn has_landlock() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains("landlock"))
}

/// What probes aim at.
pub struct Theatre {
    folder: TempDir,
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    hidden: UnixListener,
    hidden_name: String,
    program: Program,
    users: Users,
    _reserved: Vec<File>,
}

/// One attempt.
pub struct Attempt<'a> {
    pub name: &'a str,
    pub role: Role,
    pub policy: &'a str,
    /// `main` or `other`.
    pub thread: &'a str,
}

impl Theatre {
    pub fn new() -> Self {
        let reserved = reserve_descriptors().unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Where the system refuses, it must be for the confinement.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
        let hidden_name = format!("aisix-escape-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&hidden_name).unwrap();
        let hidden = UnixListener::bind_addr(&address).unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        hidden.set_nonblocking(true).unwrap();
        let program = Program::open(Some(&probe()), &probe()).unwrap();
        let users = Users::choose(61_500, &[]);
        let theatre = Self {
            folder,
            tcp,
            udp,
            unix,
            hidden,
            hidden_name,
            program,
            users,
            _reserved: reserved,
        };
        theatre.set_scene();
        theatre
    }

    fn set_scene(&self) {
        fs::write(self.key(), SECRET).unwrap();
        fs::set_permissions(self.key(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(self.victim(), "stays").unwrap();
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn victim(&self) -> PathBuf {
        self.folder.path().join("victim")
    }

    fn user(&self, role: Role, policy: &str) -> Option<(Uid, Gid)> {
        // Unconfined means as free as can be.
        if policy == "off" { None } else { self.users.of(role) }
    }

    /// A probe that waits to be told.
    pub fn launch(&self, role: Role, policy: &str) -> (Launched, Option<TcpListener>) {
        let metrics = metrics::new_memory().unwrap();
        let ring = tempfile::tempfile().unwrap();
        ring.set_len(RING_BYTES).unwrap();
        let listener = role.listens().then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).unwrap();
        }
        // What an orphan is asked over.
        let name = format!("{}.ring", uuid::Uuid::new_v4());
        let adoption =
            (role == Role::Proxy).then(|| orphans::listen(&self.folder.path().join(name)).unwrap());
        let launched = self.program.launch(&Launch {
            role,
            id: WorkerId(1),
            policy,
            tls: false,
            adoption: adoption.as_ref().map(AsFd::as_fd),
            user: self.user(role, policy),
            listener: listener.as_ref().map(AsFd::as_fd),
            metrics: metrics.as_fd(),
            usage: (role == Role::Proxy).then(|| ring.as_fd()),
        });
        (launched.unwrap(), listener)
    }

    /// Makes an attempt in a fresh process.
    pub fn make(&self, attempt: &Attempt<'_>, sibling: &Launched) -> Seen {
        let (launched, listener) = self.launch(attempt.role, attempt.policy);
        let told = [
            ("attempt", attempt.name.to_owned()),
            ("thread", attempt.thread.to_owned()),
            ("supervisor", std::process::id().to_string()),
            ("sibling", sibling.pid.to_string()),
            ("key", self.key().display().to_string()),
            ("victim", self.victim().display().to_string()),
            ("folder", self.folder.path().display().to_string()),
            ("port", self.tcp.local_addr().unwrap().port().to_string()),
            ("udp", self.udp.local_addr().unwrap().port().to_string()),
            ("socket", self.folder.path().join("socket").display().to_string()),
            ("abstract", self.hidden_name.clone()),
        ];
        let told: String = told.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        send(launched.control.as_raw_fd(), told.as_bytes(), MsgFlags::empty()).unwrap();
        let end = wait_for_end(&launched);
        let log = read_all(&launched.log);
        let said = last_words(&launched.control).or_else(|| {
            log.lines().find_map(|line| Some(line.strip_prefix("outcome ")?.to_owned()))
        });
        if attempt.policy != "off" {
            self.assert_unharmed(attempt, listener.as_ref());
            assert!(!log.contains("missing: system call filter"), "{log}");
        }
        match (said, end) {
            (Some(said), _) => match said.strip_prefix("ok ") {
                Some(what) => Seen::Worked(what.to_owned()),
                None => Seen::Failed(said),
            },
            (None, WaitStatus::Exited(_, 0)) => Seen::Worked("another program".to_owned()),
            (None, WaitStatus::Exited(_, 159)) => {
                let number = log.lines().find_map(|it| it.strip_prefix("forbidden system call "));
                Seen::Ended(number.and_then(|number| number.parse().ok()).unwrap_or(-1))
            }
            (None, WaitStatus::Signaled(_, signal, _)) => Seen::Killed(signal.to_string()),
            (None, other) => panic!("{}: {other:?}: {log}", attempt.name),
        }
    }

    /// The names of all attempts, as the probe knows them.
    pub fn names(&self) -> Vec<String> {
        let (sibling, _listener) = self.launch(Role::Status, "off");
        let list = Attempt { name: "list", role: Role::Status, policy: "off", thread: "main" };
        let Seen::Worked(names) = self.make(&list, &sibling) else { panic!("no list") };
        drop(sibling);
        names.split(' ').map(str::to_owned).collect()
    }

    /// Nothing of what an attempt aimed at has changed.
    fn assert_unharmed(&self, attempt: &Attempt<'_>, listener: Option<&TcpListener>) {
        let name = attempt.name;
        assert_eq!(fs::read_to_string(self.key()).unwrap(), SECRET, "{name}");
        assert!(self.victim().exists(), "{name}");
        assert!(!self.folder.path().join("planted").exists(), "{name}");
        for socket in [&self.unix, &self.hidden] {
            assert!(socket.accept().is_err(), "{name} has reached a Unix socket");
        }
        let reached = self.tcp.accept().is_ok() | self.udp.recv(&mut [0]).is_ok();
        let may_reach = ["tcp", "udp"].contains(&name);
        assert!(may_reach || !reached, "{name} has reached a port");
        let Some(listener) = listener else { return };
        assert!(getsockopt(listener, sockopt::AcceptConn).unwrap(), "{name}");
        assert!(!getsockopt(listener, sockopt::KeepAlive).unwrap(), "{name}");
        let flags = nix::fcntl::fcntl(listener, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert_ne!(flags & libc::O_NONBLOCK, 0, "{name}");
    }

    /// Puts back what an unconfined attempt has changed.
    pub fn reset(&self) {
        let _ = fs::remove_file(self.folder.path().join("planted"));
        let _ = fs::remove_file(self.folder.path().join("b"));
        self.set_scene();
        while self.tcp.accept().is_ok() {}
        while self.unix.accept().is_ok() {}
        while self.hidden.accept().is_ok() {}
        while self.udp.recv(&mut [0; 8]).is_ok() {}
    }
}

/// Ends a probe that waits.
pub fn dismiss(launched: &Launched) {
    assert!(!has_ended(launched), "the sibling was harmed");
    supervisor::process::kill(&launched.process).unwrap();
    wait_for_end(launched);
}

fn has_ended(launched: &Launched) -> bool {
    let mut ended = [PollFd::new(launched.process.as_fd(), PollFlags::POLLIN)];
    poll(&mut ended, 0u16).unwrap() == 1
}

fn wait_for_end(launched: &Launched) -> WaitStatus {
    let mut ended = [PollFd::new(launched.process.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ended, HANG).unwrap() == 0 {
        let _ = supervisor::process::kill(&launched.process);
        panic!("a probe hung: {}", read_all(&launched.log));
    }
    waitid(Id::PIDFd(launched.process.as_fd()), WaitPidFlag::WEXITED).unwrap()
}

/// All that is in the pipe by now.
fn read_all(pipe: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut file = File::from(pipe.try_clone().unwrap());
    // Ends with the writers, or where nothing more is there.
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last thing that was said and is text.
fn last_words(control: &OwnedFd) -> Option<String> {
    let mut buffer = vec![0; 128 * 1024];
    let mut last = None;
    while let Ok(length @ 1..) = recv(control.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        if buffer[0].is_ascii_alphabetic() {
            last = Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    last
}

/// Beside the programs.
fn probe() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("aisix-probe")
}

/// Prints a table and keeps it in `target`; beside this file too, where the environment asks for that.
pub fn keep(name: &str, lines: &[String]) -> io::Result<()> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let machine = format!("Linux {} on {}", kernel.trim(), std::env::consts::ARCH);
    let table = [&[machine], lines, &[String::new()]].concat().join("\n");
    println!("{table}");
    let mut places = vec![probe().ancestors().nth(2).unwrap().join(format!("escape-{name}.txt"))];
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/escape/results"));
        fs::create_dir_all(&folder)?;
        places.push(folder.join(format!("{name}.txt")));
    }
    for place in places {
        fs::write(&place, &table)?;
        println!("kept in {}", place.display());
    }
    Ok(())
}
