use std::os::fd::AsFd;

use super::*;
use crate::id::Revision;
use crate::memory;
use crate::message::{ToSupervisor, ToWorker};
use crate::version::PROTOCOLS;

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
        let header = Header { may_skip: true, ..Header::new(PROTOCOLS.newest, 999, 0) };
        send_frame(one.as_fd(), &frame::encode(header, b"news").unwrap(), None).unwrap();
        let worker = Worker::new(one).unwrap();
        worker.send(&ToSupervisor::Ready, 0, None).await.unwrap();
        assert_eq!(supervisor.receive().await.unwrap().message, ToSupervisor::Ready);
    });
}

const fn range(oldest: u16, newest: u16) -> Protocols {
    Protocols { oldest, newest }
}

/// A worker and a supervisor that speak these versions greet each other; says what they speak then.
async fn greeted(ends: (OwnedFd, OwnedFd), worker: Protocols, ours: Protocols) -> Option<u16> {
    let worker = (Worker::speaking(ends.0, worker).unwrap(), worker);
    let supervisor = Supervisor::speaking(ends.1, ours).unwrap();
    // Any message would do: what counts is the version that it is written in.
    worker.0.send(&ToSupervisor::Usage(worker.1.newest.into()), 0, None).await.unwrap();
    supervisor.receive().await.ok()?;
    let version = worker.1.common(ours)?;
    supervisor.agree(version);
    supervisor.send(&ToWorker::Retire, 0, None).await.unwrap();
    worker.0.receive().await.ok()?;
    worker.0.follow();
    assert_eq!(worker.0.version(), supervisor.version());
    worker.0.send(&ToSupervisor::Ready, 0, None).await.unwrap();
    supervisor.receive().await.ok()?;
    Some(version)
}

#[test]
fn neighbouring_versions_speak_the_newest_that_both_know() {
    for (worker, supervisor, spoken) in [
        (range(1, 1), range(1, 1), Some(1)),
        (range(1, 1), range(1, 2), Some(1)),
        (range(1, 2), range(1, 1), Some(1)),
        (range(2, 3), range(2, 3), Some(3)),
        (range(2, 4), range(1, 3), Some(3)),
        // Nothing in common: the hello itself cannot be read, or is answered with no version.
        (range(2, 2), range(1, 1), None),
        (range(1, 1), range(2, 2), None),
    ] {
        in_runtime(async |one, other| {
            assert_eq!(greeted((one, other), worker, supervisor).await, spoken);
        });
    }
}

#[test]
fn once_agreed_a_frame_of_any_other_version_ends_the_channel_and_is_told_with_both() {
    in_runtime(async |one, other| {
        let supervisor = Supervisor::speaking(other, range(1, 3)).unwrap();
        supervisor.agree(2);
        send_frame(one.as_fd(), &frame::encode(Header::new(3, 2, 0), &[]).unwrap(), None).unwrap();
        let told = supervisor.receive().await.unwrap_err().to_string();
        assert!(told.contains("version 3, where 2 is spoken"), "{told}");
    });
}

#[test]
fn what_comes_with_a_skipped_frame_is_closed() {
    in_runtime(async |one, other| {
        let supervisor = Supervisor::new(other).unwrap();
        let header = Header { may_skip: true, ..Header::new(PROTOCOLS.newest, 999, 0) };
        let frame = frame::encode(header, b"news").unwrap();
        let (end, passed) = io::pipe().unwrap();
        send_frame(one.as_fd(), &frame, Some(passed.as_fd())).unwrap();
        drop(passed);
        send_frame(
            one.as_fd(),
            &frame::encode(Header::new(PROTOCOLS.newest, 2, 0), &[]).unwrap(),
            None,
        )
        .unwrap();
        assert_eq!(supervisor.receive().await.unwrap().message, ToSupervisor::Ready);
        let (mut end, mut bytes) = (end, Vec::new());
        io::Read::read_to_end(&mut end, &mut bytes).unwrap();
    });
}

#[test]
fn frames_to_be_skipped_cannot_keep_a_reader_busy_for_ever() {
    in_runtime(async |one, other| {
        let supervisor = Supervisor::new(other).unwrap();
        let header = Header { may_skip: true, ..Header::new(PROTOCOLS.newest, 999, 0) };
        let frame = frame::encode(header, b"").unwrap();
        for _ in 0..=SKIPPED_MAX {
            send_frame(one.as_fd(), &frame, None).unwrap();
        }
        assert!(matches!(supervisor.receive().await, Err(ChannelError::Skipped)));
    });
}
