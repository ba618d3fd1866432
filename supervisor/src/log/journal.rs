//! The journal of systemd, in its native protocol: a datagram of fields for each line.
//!
//! Not by `tracing-journald`, which waits for a journal that is busy, and knows only fields that are in the program's text;
//! those of workers are not. <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>: `NAME=value` and a line feed for each field; a
//! datagram that is too large for the socket goes as sealed memory instead. No value has a line feed: see `harmless`.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use shared::log_line::{Level, Line};
use shared::memory;

use super::render::{push_harmless, push_words};
use super::{Said, Speaker};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest name of a field, as the journal has it.
const NAME_BYTES_MAX: usize = 64;

/// The connection to the journal.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects.
    pub fn open() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sends one line, or says with `WouldBlock` that the journal is busy.
    pub fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        match self.try_send(datagram) {
            // It was started anew.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected
                ) =>
            {
                *self = Self::open()?;
                self.try_send(datagram)
            }
            sent => sent,
        }
    }

    fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.0.send(datagram) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let memory =
                    memory::sealed("aisix-log", |writer| io::Write::write_all(writer, datagram))?;
                self.send_memory(&File::from(memory))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            sent => sent.map(drop),
        }
    }

    fn send_memory(&self, memory: &File) -> io::Result<()> {
        let numbers = [memory.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let (flags, none) = (MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT, [IoSlice::new(&[])]);
        sendmsg::<()>(self.0.as_raw_fd(), &none, &rights, flags, None)?;
        Ok(())
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A line as a datagram.
pub fn datagram<S: AsRef<str>>(speaker: &Speaker, said: &Said<S>) -> Vec<u8> {
    let mut text = String::with_capacity(1024);
    text.push_str("MESSAGE=");
    text.push_str(&speaker.prefix());
    match said {
        Said::Line(line) => {
            push_words(&mut text, line);
            push_about(&mut text, speaker, line.level, line.target.as_ref());
            push_fields(&mut text, line);
        }
        Said::Raw(words) => {
            push_harmless(&mut text, &words.as_str());
            push_about(&mut text, speaker, Level::Warn, "raw");
        }
    }
    text.into_bytes()
}

fn push_about(text: &mut String, speaker: &Speaker, level: Level, target: &str) {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let (role, pid, level) = (speaker.role(), speaker.pid, level.name());
    let _ = write!(
        text,
        "\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=aisix\nAISIX_ROLE={role}\nAISIX_PID={pid}\nAISIX_LEVEL={level}\nAISIX_TARGET="
    );
    push_harmless(text, &target);
    text.push('\n');
    if let Some((_, id)) = speaker.worker {
        let _ = writeln!(text, "AISIX_WORKER={id}");
    }
}

fn push_fields<S: AsRef<str>>(text: &mut String, line: &Line<S>) {
    for (name, value) in &line.fields {
        let name = name.as_ref();
        // With its beginning.
        if name.len() + 2 > NAME_BYTES_MAX {
            continue;
        }
        text.push_str("F_");
        let upper = |character: char| if character == '.' { '_' } else { character };
        text.extend(name.chars().map(|character| upper(character.to_ascii_uppercase())));
        text.push('=');
        push_harmless(text, &value.text());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use shared::id::{Role, WorkerId};
    use shared::log_line::Value;

    use super::*;

    const WORKER: Speaker = Speaker { worker: Some((Role::Proxy, WorkerId(3))), pid: 77 };

    #[test]
    fn a_line_is_a_datagram_of_fields_and_a_workers_own_are_behind_a_prefix() {
        let mut line = Line::new(Level::Warn, "worker::x", "it fails\nPRIORITY=0");
        line.fields.push(("role".to_owned(), Value::Text("a\nAISIX_ROLE=supervisor".to_owned())));
        line.fields.push(("a.b".to_owned(), Value::Plain("1".to_owned())));
        let sent = String::from_utf8(datagram(&WORKER, &Said::Line(line))).unwrap();
        assert_eq!(
            sent,
            "MESSAGE=proxy[3] it fails\\nPRIORITY=0 role=\"a\\nAISIX_ROLE=supervisor\" a.b=1\n\
             PRIORITY=4\nSYSLOG_IDENTIFIER=aisix\nAISIX_ROLE=proxy\nAISIX_PID=77\nAISIX_LEVEL=WARN\n\
             AISIX_TARGET=worker::x\nAISIX_WORKER=3\nF_ROLE=a\\nAISIX_ROLE=supervisor\nF_A_B=1\n"
        );
    }

    #[test]
    fn a_datagram_that_is_too_large_goes_as_memory() {
        use std::io::Read;

        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let journal = Journal(ours);
        let large = vec![b'x'; 4 * 1024 * 1024];
        journal.try_send(&large).unwrap();
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let received = nix::sys::socket::recvmsg::<()>(
            theirs.as_raw_fd(),
            &mut [],
            Some(&mut control),
            MsgFlags::empty(),
        )
        .unwrap();
        let Some(nix::sys::socket::ControlMessageOwned::ScmRights(numbers)) =
            received.cmsgs().unwrap().next()
        else {
            panic!("no descriptor came along");
        };
        let mut path = File::open(format!("/proc/self/fd/{}", numbers[0])).unwrap();
        let mut read = Vec::new();
        path.read_to_end(&mut read).unwrap();
        assert!(read == large);
    }

    #[test]
    fn a_journal_that_does_not_read_is_not_waited_for() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let journal = Journal(ours);
        let refused = (0..100_000).find_map(|_| journal.try_send(&[b'x'; 1024]).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
