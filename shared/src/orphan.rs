//! What a proxy worker and the next supervisor say to each other if the worker's own supervisor was killed.
//!
//! An orphan goes on serving from memory. It was born with a listening socket in the runtime folder
//! ([`crate::descriptor::ADOPTION`]) and takes connections there once its control socket has closed, from nobody but root and
//! the user it was born under. The next supervisor asks for the listener, which comes as a descriptor with the answer, and
//! tells the worker to drain when its own workers serve. Nothing an orphan says is believed: the descriptor is looked at, its
//! process id comes from the kernel.
//!
//! | from → to | kind | body | descriptor |
//! |---|---|---|---|
//! | supervisor → orphan | 1 `Adopt` | | |
//! | | 2 `Drain` | | |
//! | orphan → supervisor | 1 `Listener` | its id, the version of its build | the listening socket |
//!
//! The frames and the socket are those of the control socket. Kinds are numbered for ever.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, send, setsockopt, sockopt,
};

use crate::codec;
use crate::frame::{self, BODY_BYTES_MAX, FRAME_BYTES_MAX, Header};
use crate::id::WorkerId;
use crate::message::{Message, MessageError};
use crate::sys;
use crate::version::PROTOCOLS;

/// What the next supervisor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToOrphan {
    /// Hand over the listener.
    Adopt,
    /// Stop accepting, finish what is in flight, leave.
    Drain,
}

/// What an orphan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromOrphan {
    /// The listener comes along.
    Listener {
        /// What the supervisor before called it.
        worker: WorkerId,
        /// Version text of its build.
        version: String,
    },
}

impl Message for ToOrphan {
    fn kind(&self) -> u16 {
        match self {
            Self::Adopt => 1,
            Self::Drain => 2,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        codec::encode(&())
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        let message = match kind {
            1 => Self::Adopt,
            2 => Self::Drain,
            _ => return Err(MessageError::UnknownKind(kind)),
        };
        body(kind, bytes).map(|()| message)
    }
}

impl Message for FromOrphan {
    fn kind(&self) -> u16 {
        match self {
            Self::Listener { .. } => 1,
        }
    }

    fn encode(&self) -> Result<Vec<u8>, codec::CodecError> {
        match self {
            Self::Listener { worker, version } => codec::encode(&(worker, version)),
        }
    }

    fn decode(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        match kind {
            1 => body(kind, bytes).map(|(worker, version)| Self::Listener { worker, version }),
            _ => Err(MessageError::UnknownKind(kind)),
        }
    }
}

/// What an orphan answered, and what the kernel says of it.
#[derive(Debug)]
pub struct Answer {
    /// What it said.
    pub said: FromOrphan,
    /// What came along; not looked at.
    pub descriptor: OwnedFd,
    /// Its process and user, of which it cannot lie.
    pub sender: UnixCredentials,
}

/// Asks the orphan at the other end for its listener. Blocks for as long as the socket's own limits say.
pub fn ask(socket: BorrowedFd<'_>) -> io::Result<Answer> {
    // From now on the kernel writes beside every message who sent it.
    setsockopt(&socket, sockopt::PassCred, &true)?;
    tell(socket, &ToOrphan::Adopt)?;
    let mut buffer = vec![0; FRAME_BYTES_MAX.saturating_add(1)];
    let mut control = nix::cmsg_space!([RawFd; 1], UnixCredentials);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let (mut descriptors, mut sender) = (Vec::new(), None);
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::ScmRights(numbers) => descriptors.extend(sys::received(&numbers)),
            ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials),
            _ => {}
        }
    }
    let (bytes, cut) = (received.bytes, received.flags);
    if cut.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || descriptors.len() > 1 {
        return Err(io::Error::other("it sent more than an answer"));
    }
    let (header, body) =
        frame::decode(buffer.get(..bytes).unwrap_or_default()).map_err(io::Error::other)?;
    if !(PROTOCOLS.oldest..=PROTOCOLS.newest).contains(&header.major) {
        return Err(io::Error::other(format!("it speaks protocol version {}", header.major)));
    }
    let said = FromOrphan::decode(header.kind, body).map_err(io::Error::other)?;
    let without = |what| io::Error::other(format!("its answer came without {what}"));
    let descriptor = descriptors.pop().ok_or_else(|| without("a descriptor"))?;
    let sender = sender.ok_or_else(|| without("its process"))?;
    Ok(Answer { said, descriptor, sender })
}

/// Says something to the orphan at the other end.
pub fn tell(socket: BorrowedFd<'_>, message: &ToOrphan) -> io::Result<()> {
    let body = message.encode().map_err(io::Error::other)?;
    let header = Header::new(PROTOCOLS.newest, message.kind(), 0);
    let frame = frame::encode(header, &body).map_err(io::Error::other)?;
    send(socket.as_fd().as_raw_fd(), &frame, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

fn body<T: codec::Decode<()>>(kind: u16, bytes: &[u8]) -> Result<T, MessageError> {
    codec::decode::<T, { BODY_BYTES_MAX * 4 }>(bytes)
        .map_err(|source| MessageError::Body { kind, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_every_message_are_the_released_ones() {
        let listener = FromOrphan::Listener { worker: WorkerId(7), version: "0.1.0".to_owned() };
        assert_eq!(listener.encode().unwrap(), b"\x07\x050.1.0");
        for (message, kind) in [(ToOrphan::Adopt, 1), (ToOrphan::Drain, 2)] {
            assert_eq!((message.kind(), message.encode().unwrap()), (kind, Vec::new()));
            assert_eq!(ToOrphan::decode(kind, &[]).unwrap(), message);
        }
    }

    /// What is made of datagrams that were sent before, each with so many descriptors.
    fn asked(datagram: &[u8], descriptors: usize) -> io::Result<Answer> {
        use nix::sys::socket::{ControlMessage, sendmsg};
        let (ours, theirs) = crate::channel::pair().unwrap();
        setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        let numbers = vec![theirs.as_raw_fd(); descriptors];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if descriptors == 0 { &[][..] } else { &rights[..] };
        let slices = [io::IoSlice::new(datagram)];
        let flags = MsgFlags::empty();
        sendmsg::<()>(theirs.as_raw_fd(), &slices, rights, flags, None).unwrap();
        ask(ours.as_fd())
    }

    #[test]
    fn an_answer_counts_with_one_descriptor_and_with_the_process_that_the_kernel_tells() {
        let said = FromOrphan::Listener { worker: WorkerId(7), version: "0.1.0".to_owned() };
        let frame =
            frame::encode(Header::new(PROTOCOLS.newest, 1, 0), &said.encode().unwrap()).unwrap();
        let answer = asked(&frame, 1).unwrap();
        assert_eq!(answer.said, said);
        assert_eq!(answer.sender.pid(), std::process::id().cast_signed());
        for descriptors in [0, 2, 100] {
            assert!(asked(&frame, descriptors).is_err(), "{descriptors} descriptors");
        }
        let other_version = Header { major: 9, ..Header::new(PROTOCOLS.newest, 1, 0) };
        let too_long = vec![b'A'; FRAME_BYTES_MAX + 10];
        for datagram in [
            b"x".to_vec(),
            too_long,
            frame::encode(other_version, &said.encode().unwrap()).unwrap(),
            frame::encode(Header::new(PROTOCOLS.newest, 9, 0), &[]).unwrap(),
        ] {
            assert!(asked(&datagram, 1).is_err());
        }
    }

    #[test]
    fn what_was_cut_or_extended_or_is_unknown_is_refused() {
        for length in 0..7 {
            assert!(FromOrphan::decode(1, &b"\x07\x050.1.0"[..length]).is_err());
        }
        assert!(FromOrphan::decode(1, b"\x07\x050.1.0x").is_err());
        assert!(FromOrphan::decode(2, b"\x07\x050.1.0").is_err());
        assert!(ToOrphan::decode(1, b"x").is_err());
        assert!(ToOrphan::decode(3, b"").is_err());
    }
}
