//! The socket between the supervisor and one worker: whole messages, each with at most one descriptor.
//!
//! `SOCK_SEQPACKET`: the kernel keeps message borders and tells when the other side has died. What arrives is checked before
//! it is believed: length, header, kind, body, descriptors.

use std::cell::RefCell;
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
use crate::version::PROTOCOLS;

/// Room in the socket, in bytes, per direction: some hundred usage events while the other side is busy.
const SOCKET_BUFFER_BYTES: usize = 1024 * 1024;

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
    #[error("frame of protocol version {0}")]
    Version(u16),
    /// More descriptors than a message may carry, or some that were lost on the way.
    #[error("unexpected descriptors")]
    Descriptors,
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
    /// An end of the socket, within a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let buffer = vec![0; FRAME_BYTES_MAX.saturating_add(1)].into_boxed_slice();
        let buffer = RefCell::new(buffer);
        Ok(Self { socket: sys::watched(socket)?, buffer, messages: PhantomData })
    }

    /// Sends when there is room.
    pub async fn send(
        &self,
        message: &Out,
        request_id: u64,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        let frame = frame_of(message, request_id)?;
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
        let frame = frame_of(message, request_id)?;
        send_frame(self.socket.get_ref().as_fd(), &frame, descriptor).map_err(closed)
    }

    /// The next message; one call at a time. Any error is final: the other side broke the protocol or is gone.
    pub async fn receive(&self) -> Result<Received<In>, ChannelError> {
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
            if !(PROTOCOLS.oldest..=PROTOCOLS.newest).contains(&header.major) {
                return Err(ChannelError::Version(header.major));
            }
            if descriptors.len() > 1 {
                return Err(ChannelError::Descriptors);
            }
            match In::decode(header.kind, body) {
                Err(MessageError::UnknownKind(_)) if header.may_skip => {}
                Err(error) => return Err(error.into()),
                Ok(message) => {
                    let descriptor = descriptors.pop();
                    return Ok(Received { message, request_id: header.request_id, descriptor });
                }
            }
        }
    }
}

fn frame_of<M: Message>(message: &M, request_id: u64) -> Result<Vec<u8>, ChannelError> {
    Ok(frame::encode(Header::new(message.kind(), request_id), &message.encode()?)?)
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
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::id::Revision;
    use crate::memory;
    use crate::message::{ToSupervisor, ToWorker};

    type Worker = Channel<ToSupervisor, ToWorker>;
    type Supervisor = Channel<ToWorker, ToSupervisor>;

    fn in_runtime(test: impl AsyncFnOnce(OwnedFd, OwnedFd)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (one, other) = pair().unwrap();
        runtime.block_on(test(one, other));
    }

    #[test]
    fn messages_arrive_whole_in_order_and_with_their_descriptor() {
        in_runtime(async |one, other| {
            let (worker, supervisor) = (Worker::new(one).unwrap(), Supervisor::new(other).unwrap());
            let memory = memory::sealed("test", |writer| writer.write_all(b"content")).unwrap();
            let configuration = ToWorker::Configuration { revision: Revision(1), whole: true };
            supervisor.send(&configuration, 4, Some(memory.as_fd())).await.unwrap();
            supervisor.send(&ToWorker::Drain, 0, None).await.unwrap();
            let first = worker.receive().await.unwrap();
            assert_eq!((first.message, first.request_id), (configuration, 4));
            let mut reader = memory::MemoryReader::new(first.descriptor.unwrap());
            assert_eq!(io::read_to_string(&mut reader).unwrap(), "content");
            assert_eq!(worker.receive().await.unwrap().message, ToWorker::Drain);
        });
    }

    #[test]
    fn what_was_sent_before_the_end_is_still_received() {
        in_runtime(async |one, other| {
            let (worker, supervisor) = (Worker::new(one).unwrap(), Supervisor::new(other).unwrap());
            worker.send(&ToSupervisor::Pong(7, 0), 0, None).await.unwrap();
            // Unread by the worker: the kernel then tells of a reset before it tells of the message.
            supervisor.send(&ToWorker::Ping(7), 0, None).await.unwrap();
            drop(worker);
            assert_eq!(supervisor.receive().await.unwrap().message, ToSupervisor::Pong(7, 0));
            assert!(matches!(supervisor.receive().await, Err(ChannelError::Closed)));
        });
    }

    #[test]
    fn a_full_socket_is_said_to_be_full_and_takes_more_when_it_was_read() {
        in_runtime(async |one, other| {
            let (worker, supervisor) = (Worker::new(one).unwrap(), Supervisor::new(other).unwrap());
            let mut sent = 0u64;
            while worker.try_send(&ToSupervisor::Pong(sent, 0), 0, None).is_ok() {
                sent += 1;
            }
            assert!(sent > 0);
            for number in 0..sent {
                let received = supervisor.receive().await.unwrap().message;
                assert_eq!(received, ToSupervisor::Pong(number, 0));
            }
            worker.send(&ToSupervisor::Ready, 0, None).await.unwrap();
            assert_eq!(supervisor.receive().await.unwrap().message, ToSupervisor::Ready);
        });
    }

    #[test]
    fn raw_bytes_of_a_hostile_peer_are_an_error() {
        let header = |major: u16, kind: u16| {
            let header = Header { major, minor: 0, kind, may_skip: false, request_id: 0 };
            frame::encode(header, &[]).unwrap()
        };
        let too_long = vec![b'A'; FRAME_BYTES_MAX + 10];
        for datagram in [b"x".to_vec(), too_long, header(9, 2), header(1, 999)] {
            in_runtime(async |one, other| {
                let supervisor = Supervisor::new(other).unwrap();
                send_frame(one.as_fd(), &datagram, None).unwrap();
                assert!(supervisor.receive().await.is_err());
            });
        }
    }

    #[test]
    fn a_frame_that_may_be_skipped_is_skipped() {
        in_runtime(async |one, other| {
            let supervisor = Supervisor::new(other).unwrap();
            let header = Header { may_skip: true, ..Header::new(999, 0) };
            send_frame(one.as_fd(), &frame::encode(header, b"news").unwrap(), None).unwrap();
            let worker = Worker::new(one).unwrap();
            worker.send(&ToSupervisor::Ready, 0, None).await.unwrap();
            assert_eq!(supervisor.receive().await.unwrap().message, ToSupervisor::Ready);
        });
    }
}
