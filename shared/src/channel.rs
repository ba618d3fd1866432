//! The socket between the supervisor and one worker: whole messages, each with at most one descriptor.
//!
//! `SOCK_SEQPACKET`: the kernel keeps message borders and tells when the other side has died. What arrives is checked before
//! it is believed: length, header, kind, body, descriptors.
//!
//! Versions: until the two sides have agreed, frames are written in the oldest version that the writer speaks, so that whoever
//! speaks any version in common can read the hello. From then on ([`Channel::agree`], [`Channel::follow`]) every frame of either
//! side is of the agreed version, and one of another ends the channel. A frame of an unknown kind is skipped if its header
//! allows that, with what came along, and ends the channel otherwise.
//!
//! Bounds: the socket holds [`SOCKET_BUFFER_BYTES`] per direction; then `send` waits, and `try_send` says so. One descriptor
//! per message: more are never received, and end the channel.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    send, sendmsg, setsockopt, socketpair, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::codec::CodecError;
use crate::frame::{self, FRAME_BYTES_MAX, FrameError, Header};
use crate::message::{Message, MessageError};
use crate::sys;
use crate::version::{PROTOCOLS, Protocols};

/// Room in the socket, in bytes, per direction: some hundred usage events while the other side is busy.
const SOCKET_BUFFER_BYTES: usize = 1024 * 1024;

/// Frames in a row that may be skipped: more is no newer peer, but one that keeps us busy.
const SKIPPED_MAX: usize = 256;

/// Why the channel cannot be used any more, or not for this message.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side has closed its end.
    #[error("the other side has closed the channel")]
    Closed,
    /// The system refused a call.
    #[error("cannot use the channel")]
    Io(#[from] io::Error),
    /// Not a frame.
    #[error("malformed frame: {0}")]
    Frame(#[from] FrameError),
    /// Not a message of this direction.
    #[error("malformed message: {0}")]
    Message(#[from] MessageError),
    /// Written in a protocol version that was not agreed on.
    #[error(
        "frame of protocol version {found}, where {expected} is spoken; install both programs from one package"
    )]
    Version {
        /// What the header says.
        found: u16,
        /// What would have been understood.
        expected: Protocols,
    },
    /// Nothing but frames to be skipped.
    #[error("more than {SKIPPED_MAX} frames in a row of unknown kinds")]
    Skipped,
    /// More descriptors than a message may carry, or some that were lost on the way.
    #[error("unexpected descriptors")]
    Descriptors,
    /// More than anybody has to say, in too short a time.
    #[error("messages without end")]
    Flood,
    /// The message cannot be encoded.
    #[error("cannot encode the message: {0}")]
    Encode(#[from] CodecError),
}

/// A message with what came along.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// Links an answer to its question; 0 where there is none.
    pub request_id: u64,
    /// The descriptor that came with it.
    pub descriptor: Option<OwnedFd>,
}

/// One end of the socket: sends `Out`, receives `In`.
#[derive(Debug)]
pub struct Channel<Out, In> {
    socket: AsyncFd<OwnedFd>,
    /// One byte more than any frame: a longer datagram shows as such instead of being cut.
    buffer: RefCell<Box<[u8]>>,
    /// What may be spoken: a range until the two sides have agreed, one version from then on.
    protocols: Cell<Protocols>,
    /// Version of the frame received last.
    heard: Cell<u16>,
    messages: PhantomData<fn(Out) -> In>,
}

/// Both ends of a new socket, close-on-exec and non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&one, &other] {
        setsockopt(end, sockopt::SndBuf, &SOCKET_BUFFER_BYTES)?;
    }
    Ok((one, other))
}

/// Lets whoever uses this end wait in its calls, for a thread that has nothing else to do. The other end is not changed.
pub fn make_waiting(end: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL)?);
    fcntl(end, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK)))?;
    Ok(())
}

impl<Out: Message, In: Message> Channel<Out, In> {
    /// An end of the socket, within a runtime, for whatever this build speaks.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Self::speaking(socket, PROTOCOLS)
    }

    /// The same for other versions.
    pub fn speaking(socket: OwnedFd, protocols: Protocols) -> io::Result<Self> {
        let buffer = vec![0; FRAME_BYTES_MAX.saturating_add(1)].into_boxed_slice();
        let buffer = RefCell::new(buffer);
        Ok(Self {
            socket: sys::watched(socket)?,
            buffer,
            protocols: Cell::new(protocols),
            heard: Cell::new(protocols.oldest),
            messages: PhantomData,
        })
    }

    /// Only this version from now on.
    pub fn agree(&self, version: u16) {
        self.protocols.set(Protocols::only(version));
    }

    /// Only the version of the frame received last: whoever answers a hello has chosen.
    pub fn follow(&self) {
        self.agree(self.heard.get());
    }

    /// The version in which frames are written now.
    pub fn version(&self) -> u16 {
        self.protocols.get().oldest
    }

    /// Sends when there is room.
    pub async fn send(
        &self,
        message: &Out,
        request_id: u64,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        let frame = self.frame_of(message, request_id)?;
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| send_frame(socket.as_fd(), &frame, descriptor))
            .await;
        sent.map_err(closed)
    }

    /// Sends now, or says with `WouldBlock` that there is no room.
    pub fn try_send(
        &self,
        message: &Out,
        request_id: u64,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        let frame = self.frame_of(message, request_id)?;
        send_frame(self.socket.get_ref().as_fd(), &frame, descriptor).map_err(closed)
    }

    /// The next message; one call at a time. Any error is final: the other side broke the protocol or is gone.
    pub async fn receive(&self) -> Result<Received<In>, ChannelError> {
        let mut skipped = 0_usize;
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| {
                    receive_frame(socket.as_fd(), &mut self.buffer.borrow_mut())
                })
                .await;
            let (bytes, mut descriptors) = match received {
                // Told once, if the other side died with something unread; what it said before still waits here.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                received => received.map_err(closed)?,
            };
            let buffer = self.buffer.borrow();
            let datagram = buffer.get(..bytes).unwrap_or_default();
            if datagram.is_empty() {
                return Err(ChannelError::Closed);
            }
            let (header, body) = frame::decode(datagram)?;
            let expected = self.protocols.get();
            if !expected.include(header.major) {
                return Err(ChannelError::Version { found: header.major, expected });
            }
            self.heard.set(header.major);
            if descriptors.len() > 1 {
                return Err(ChannelError::Descriptors);
            }
            match In::decode(header.kind, body) {
                Err(MessageError::UnknownKind(_)) if header.may_skip => {
                    skipped = skipped.saturating_add(1);
                    if skipped > SKIPPED_MAX {
                        return Err(ChannelError::Skipped);
                    }
                }
                Err(error) => return Err(error.into()),
                Ok(message) => {
                    let descriptor = descriptors.pop();
                    return Ok(Received { message, request_id: header.request_id, descriptor });
                }
            }
        }
    }

    fn frame_of(&self, message: &Out, request_id: u64) -> Result<Vec<u8>, ChannelError> {
        let header = Header::new(self.version(), message.kind(), request_id);
        let header = Header { may_skip: message.may_skip(), ..header };
        Ok(frame::encode(header, &message.encode()?)?)
    }
}

/// A peer that has gone shows as one of these, depending on what it had not read.
fn closed(error: io::Error) -> ChannelError {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NotConnected => ChannelError::Closed,
        _ => ChannelError::Io(error),
    }
}

fn send_frame(
    socket: BorrowedFd<'_>,
    frame: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let Some(descriptor) = descriptor else {
        // Not `sendmsg`: a worker may not make that call.
        send(socket.as_raw_fd(), frame, flags)?;
        return Ok(());
    };
    let numbers = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(frame)], &rights, flags, None)?;
    Ok(())
}

/// Reads one datagram; says how long it is and what came along.
fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            descriptors.extend(sys::received(&numbers));
        }
    }
    if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE.into());
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests;
