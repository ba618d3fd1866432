//! A stand-in for the journal of systemd: the socket that a service sends its lines to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{close, geteuid};

use crate::Builder;

/// The fields of one line.
pub type Entry = BTreeMap<String, String>;

/// What it was sent so far.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Every line, in order.
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Listens in a folder. `None`, with a word about it, where nobody may mount anything.
    pub fn at(folder: &Path) -> Option<Self> {
        if !geteuid().is_root() {
            println!("skipped: only root can put a socket in the place of the journal's");
            return None;
        }
        let path = folder.join("journal");
        let socket = UnixDatagram::bind(&path).expect("a socket in the folder");
        socket.set_nonblocking(true).expect("it does not block");
        Some(Self { socket, path, entries: Vec::new() })
    }

    /// Starts a service as a unit would: with the journal in its place, and behind standard error.
    pub fn start(&self, builder: Builder) -> Builder {
        let place = "/run/systemd/journal/socket";
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && touch {place} && \
             mount --bind {} {place} && \
             export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) && exec \"$@\"",
            self.path.display()
        );
        builder
            .set("/observability/log_format", "auto".into())
            .started_by(&["unshare", "--mount", "bash", "-c", &script, "bash"])
    }

    /// Takes in what has come since.
    pub fn hear(&mut self) -> &[Entry] {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let mut control = nix::cmsg_space!([RawFd; 1]);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let (number, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let Ok(received) = recvmsg::<()>(number, &mut slices, Some(&mut control), flags) else {
                return &self.entries;
            };
            let mut large = Vec::new();
            for message in received.cmsgs().expect("room for what comes along") {
                let ControlMessageOwned::ScmRights(numbers) = message else { continue };
                for number in numbers {
                    let file = File::open(format!("/proc/self/fd/{number}"));
                    file.and_then(|mut file| file.read_to_end(&mut large)).expect("memory");
                    let _ = close(number);
                }
            }
            let bytes = received.bytes;
            let datagram = if large.is_empty() { &buffer[..bytes] } else { &large };
            let text = String::from_utf8(datagram.to_vec()).expect("fields are UTF-8");
            let fields = text.lines().map(|line| line.split_once('=').expect("NAME=value"));
            self.entries.push(fields.map(|(name, it)| (name.to_owned(), it.to_owned())).collect());
        }
    }
}
