//! A stand-in for the journal of systemd: the socket that a service sends its lines to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{close, geteuid};

use crate::Builder;

/// The fields of one line.
pub type Entry = BTreeMap<String, String>;

/// A running journal. A thread reads what it is sent, until it is dropped.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    entries: Arc<Mutex<Vec<Entry>>>,
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
        // Looks now and then whether anybody is still interested.
        let limit = Some(Duration::from_millis(100));
        socket.set_read_timeout(limit).expect("a limit");
        let entries: Arc<Mutex<Vec<Entry>>> = Arc::default();
        let kept = Arc::clone(&entries);
        std::thread::spawn(move || {
            while Arc::strong_count(&kept) > 1 {
                if let Some(entry) = hear(&socket) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                }
            }
        });
        Some(Self { path, entries })
    }

    /// Every line so far, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
}

/// One line, if one comes in time.
fn hear(socket: &UnixDatagram) -> Option<Entry> {
    let mut buffer = vec![0; 256 * 1024];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let (number, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    let received = recvmsg::<()>(number, &mut slices, Some(&mut control), flags).ok()?;
    let mut datagram = Vec::new();
    for message in received.cmsgs().expect("room for what comes along") {
        let ControlMessageOwned::ScmRights(numbers) = message else { continue };
        for number in numbers {
            let file = File::open(format!("/proc/self/fd/{number}"));
            file.and_then(|mut file| file.read_to_end(&mut datagram)).expect("memory");
            let _ = close(number);
        }
    }
    let bytes = received.bytes;
    if datagram.is_empty() {
        datagram.extend_from_slice(buffer.get(..bytes)?);
    }
    let text = String::from_utf8(datagram).expect("fields are UTF-8");
    let fields = text.lines().map(|line| line.split_once('=').expect("NAME=value"));
    Some(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
