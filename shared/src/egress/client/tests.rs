use std::os::fd::AsFd;

use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::task::LocalSet;

use super::super::Key;
use super::*;
use crate::channel;

type ToClient = Channel<FromEgress, ToEgress>;

const WAIT: Duration = Duration::from_millis(300);

fn run(test: impl AsyncFnOnce(EgressDial)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (dial, driver) = new(WAIT);
        tokio::task::spawn_local(driver.run());
        test(dial).await;
    });
}

fn somewhere() -> Destination {
    Destination { key: Key::provider("p"), host: "h".to_owned(), port: 1 }
}

fn channel_to(dial: &EgressDial) -> ToClient {
    let (ours, theirs) = channel::pair().unwrap();
    dial.reached_over(ours);
    Channel::new(theirs).unwrap()
}

async fn answer(egress: &ToClient, socket: impl AsFd) {
    let question = egress.receive().await.unwrap();
    assert_eq!(question.message, ToEgress::Connect(Key::provider("p")));
    let connected = FromEgress::Connected { host: "h".to_owned(), port: 1 };
    egress.send(&connected, question.request_id, Some(socket.as_fd())).await.unwrap();
}

/// A connected stream socket.
async fn stream() -> (TcpListener, net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener, stream.into_std().unwrap())
}

#[test]
fn a_question_waits_for_a_channel_and_fails_when_none_comes() {
    run(async |dial| {
        let error = dial.dial(&somewhere()).await.unwrap_err();
        assert!(matches!(error, DialError::NoEgress { .. }), "{error}");
        let (_listener, socket) = stream().await;
        let later = async {
            let egress = channel_to(&dial);
            answer(&egress, socket).await;
            egress
        };
        let place = somewhere();
        let (dialled, _egress) = tokio::join!(biased; dial.dial(&place), later);
        dialled.unwrap();
    });
}

#[test]
fn what_was_asked_of_an_egress_that_died_is_asked_again() {
    run(async |dial| {
        let first = channel_to(&dial);
        let (_listener, socket) = stream().await;
        let serving = async {
            first.receive().await.unwrap();
            drop(first);
            let second = channel_to(&dial);
            answer(&second, socket).await;
            second
        };
        let place = somewhere();
        let (dialled, _egress) = tokio::join!(dial.dial(&place), serving);
        dialled.unwrap();
    });
}

#[test]
fn egress_is_told_of_a_question_that_nobody_waits_for_any_more() {
    run(async |dial| {
        let egress = channel_to(&dial);
        let impatient = dial.within(Duration::from_millis(20));
        let asking = tokio::task::spawn_local(async move {
            assert!(matches!(impatient.dial(&somewhere()).await, Err(DialError::Timeout { .. })));
        });
        let question = egress.receive().await.unwrap();
        asking.await.unwrap();
        let forget = egress.receive().await.unwrap();
        assert_eq!((forget.message, forget.request_id), (ToEgress::Forget, question.request_id));
    });
}

#[test]
fn only_a_connected_tcp_socket_that_does_not_block_is_taken() {
    run(async |dial| {
        let egress = channel_to(&dial);
        let (_listener, blocking) = stream().await;
        blocking.set_nonblocking(false).unwrap();
        let (_listener, good) = stream().await;
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        udp.connect("127.0.0.1:9").await.unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bad: [OwnedFd; 4] = [
            blocking.into(),
            udp.into_std().unwrap().into(),
            unix.into_std().unwrap().into(),
            listening.into_std().unwrap().into(),
        ];
        for socket in bad {
            let place = somewhere();
            let (dialled, ()) = tokio::join!(dial.dial(&place), answer(&egress, socket));
            assert!(matches!(dialled, Err(DialError::Connect { .. })), "{dialled:?}");
        }
        let place = somewhere();
        let (dialled, ()) = tokio::join!(dial.dial(&place), answer(&egress, good));
        dialled.unwrap();
    });
}

#[test]
fn no_more_questions_are_open_than_may_be_and_the_others_get_their_turn() {
    run(async |dial| {
        let egress = channel_to(&dial);
        for _ in 0..CONNECTS_MAX.saturating_add(1) {
            let dial = dial.clone();
            tokio::task::spawn_local(async move { dial.dial(&somewhere()).await });
        }
        let mut first = 0;
        for _ in 0..CONNECTS_MAX {
            first = egress.receive().await.unwrap().request_id;
        }
        let another = timeout(Duration::from_millis(20), egress.receive()).await;
        assert!(another.is_err(), "{another:?}");
        let refused = FromEgress::Refused { refusal: Refusal::Busy, place: None };
        egress.send(&refused, first, None).await.unwrap();
        egress.receive().await.unwrap();
    });
}
