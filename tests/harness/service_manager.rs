//! A stand-in for systemd: the socket that a service tells how it is, and the store that keeps its descriptors.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::{Builder, wait};

/// What the service has told so far.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
    /// Every assignment, in order: `READY=1`.
    pub told: Vec<String>,
    /// Descriptors in the store, by name. They stay open in every child of the test.
    pub stored: Vec<(String, RawFd)>,
}

impl ServiceManager {
    /// Listens in a folder.
    pub fn at(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in the folder");
        socket.set_nonblocking(true).expect("it does not block");
        Self { socket, path, told: Vec::new(), stored: Vec::new() }
    }

    /// Starts a service as a unit with a watchdog would, with what is in the store.
    pub fn start(&self, builder: Builder, watchdog_micros: Option<u64>) -> Builder {
        let names: Vec<_> = self.stored.iter().map(|(name, _)| name.as_str()).collect();
        let mut script = format!(
            "export LISTEN_PID=$$ WATCHDOG_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; exec \"$@\"",
            names.len(),
            names.join(":")
        );
        for ((_, stored), number) in self.stored.iter().zip(3..) {
            assert!(*stored > 9, "the shell would take it for one of the numbers to be set");
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
}
