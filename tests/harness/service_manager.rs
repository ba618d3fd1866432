//! A stand-in for systemd: the socket that a service tells how it is, the store that keeps its descriptors, and the sockets
//! of a socket unit.

use std::io::IoSliceMut;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::{Builder, wait};

/// Below, the shell that starts the service would take a number for one of those to be set.
const FIRST_KEPT: RawFd = 10;

/// What the service has told so far.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
    /// Every assignment, in order: `READY=1`.
    pub told: Vec<String>,
    /// Descriptors in the store, by name. They stay open in every child of the test.
    pub stored: Vec<(String, RawFd)>,
    /// What a socket unit listens on, by the name that it gives.
    units: Vec<(String, RawFd)>,
}

impl ServiceManager {
    /// Listens in a folder.
    pub fn at(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in the folder");
        socket.set_nonblocking(true).expect("it does not block");
        let units = Vec::new();
        Self { socket, path, told: Vec::new(), stored: Vec::new(), units }
    }

    /// Listens there as a socket unit does: with a descriptor name of its own, and blocking. As what is in the store it stays
    /// open in every child of the test.
    ///
    /// # Panics
    /// If the address is not free.
    pub fn listen(&mut self, name: &str, address: SocketAddr) {
        let listener = TcpListener::bind(address).expect("the address is free");
        let kept = fcntl(&listener, FcntlArg::F_DUPFD(FIRST_KEPT)).expect("another number");
        self.units.push((name.to_owned(), kept));
    }

    /// Puts what a socket unit has listened on first into the store as well, as nobody should.
    pub fn store_first_of_unit(&mut self, name: &str) {
        let (_, descriptor) = self.units.first().expect("a socket unit listens");
        self.stored.push((name.to_owned(), *descriptor));
    }

    /// Starts a service as a unit with a watchdog would, with what socket units have and what is in the store.
    pub fn start(&self, builder: Builder, watchdog_micros: Option<u64>) -> Builder {
        // In this order.
        let all: Vec<_> = self.units.iter().chain(&self.stored).collect();
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        let mut script = format!(
            "export LISTEN_PID=$$ WATCHDOG_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; exec \"$@\"",
            names.len(),
            names.join(":")
        );
        for ((_, stored), number) in all.iter().zip(3..) {
            assert!(
                *stored >= FIRST_KEPT,
                "the shell would take it for one of the numbers to be set"
            );
            script.push_str(&format!(" {number}<&{stored}"));
        }
        let builder = builder
            .env("NOTIFY_SOCKET", &self.path.to_string_lossy())
            .started_by(&["bash", "-c", &script, "bash"]);
        match watchdog_micros {
            Some(micros) => builder.env("WATCHDOG_USEC", &micros.to_string()),
            None => builder,
        }
    }

    /// Has as much told to it as it can take, so that nothing more is taken until it hears again.
    pub fn fill(&self) {
        let other = UnixDatagram::unbound().expect("a socket");
        other.set_nonblocking(true).expect("it does not block");
        while other.send_to(b"X_FILLED=1\n", &self.path).is_ok() {}
    }

    /// Takes in what has come since.
    pub fn hear(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            let mut control = nix::cmsg_space!([RawFd; 8]);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let number = self.socket.as_raw_fd();
            let flags = MsgFlags::MSG_DONTWAIT;
            let Ok(received) = recvmsg::<()>(number, &mut slices, Some(&mut control), flags) else {
                return;
            };
            let descriptors: Vec<RawFd> = received
                .cmsgs()
                .expect("room for what comes along")
                .filter_map(|message| match message {
                    ControlMessageOwned::ScmRights(numbers) => Some(numbers),
                    _ => None,
                })
                .flatten()
                .collect();
            let bytes = received.bytes;
            let text = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            let name = lines.iter().find_map(|line| line.strip_prefix("FDNAME="));
            let name = name.unwrap_or("stored").to_owned();
            if lines.iter().any(|line| line == "FDSTORE=1") {
                for descriptor in descriptors {
                    if !self.stored.iter().any(|(stored, _)| *stored == name) {
                        self.stored.push((name.clone(), descriptor));
                    }
                }
            }
            if lines.iter().any(|line| line == "FDSTOREREMOVE=1") {
                self.stored.retain(|(stored, _)| *stored != name);
            }
            self.told.extend(lines);
        }
    }

    /// Waits until something has been told.
    pub async fn is_told(&mut self, what: &str) {
        wait::until(&format!("the service tells {what}"), async || {
            self.hear();
            let last = || self.told.last().cloned().unwrap_or_default();
            if self.told.iter().any(|told| told.starts_with(what)) { Ok(()) } else { Err(last()) }
        })
        .await;
    }

    /// How often something has been told.
    pub fn times(&mut self, what: &str) -> usize {
        self.hear();
        self.told.iter().filter(|told| told.starts_with(what)).count()
    }

    /// What was told last of these, by how they begin.
    pub fn last(&mut self, what: &str) -> String {
        self.hear();
        self.told.iter().rfind(|told| told.starts_with(what)).cloned().unwrap_or_default()
    }

    /// Waits until something has been told so often.
    pub async fn is_told_times(&mut self, what: &str, times: usize) {
        wait::until(&format!("the service tells {what} {times} times"), async || {
            let told = self.times(what);
            if told == times { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
    }
}
