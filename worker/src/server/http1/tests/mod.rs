//! What callers see of HTTP/1.1.

mod alike;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{spawn_local, yield_now};

use super::head::{self, HEAD_BYTES_MAX, Unreadable};
use super::*;
use crate::http1::Framing;
use crate::server::Broken;
use crate::server::socket::Socket;
use crate::server::tests::run;

/// What is answered here to a request that may be cut in two places.
const AMBIGUOUS: StatusCode = StatusCode::IM_A_TEAPOT;

/// What is answered here to a request whose body cannot be read.
const UNREAD: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// What was understood of a request.
async fn told<B: http_body::Body<Data = Bytes>>(head: &Parts, body: B) -> Response<Body> {
    let Ok(body) = body.collect().await else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = UNREAD;
        return response;
    };
    let body = body.to_bytes();
    let headers: Vec<_> = head.headers.iter().collect();
    let text = format!("{} {} {:?} {headers:?} {body:?}", head.method, head.uri, head.version);
    let mut response = match head.uri.path() {
        "/stream" => {
            let pieces = [Ok(Bytes::from(text)), Ok(Bytes::from_static(b"end"))];
            Response::new(Body::stream(Box::pin(futures_util::stream::iter(pieces))))
        }
        _ => Response::new(Body::from(text)),
    };
    match head.uri.path() {
        "/none" => *response.status_mut() = StatusCode::NO_CONTENT,
        "/same" => *response.status_mut() = StatusCode::NOT_MODIFIED,
        "/last" => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    if head.method == "HEAD" && response.status() == StatusCode::OK {
        let length = response.body().size_hint().exact().unwrap_or(7);
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Body::empty();
    }
    response
}

async fn ours(stream: DuplexStream) -> io::Result<()> {
    let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
    let wire = Rc::new(Wire::new(Socket::new(stream, activity.clone()), None));
    let answer = async |asking: Asking| {
        if asking.is_ambiguous {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = AMBIGUOUS;
            return response;
        }
        told(&asking.head, asking.body).await
    };
    talk(wire, activity, answer).await
}

#[test]
fn only_the_length_of_the_body_may_differ_from_the_head_before() {
    let head = |length: &str, other: &str| {
        format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\nx: {other}\r\n\r\n")
    };
    let (_, kept) = head::read(&head("5", "y").into()).unwrap();
    let mut kept = kept.unwrap();
    for (length, other, expected) in [
        ("5", "y", Some(5)),
        ("123", "y", Some(123)),
        ("7", "y", Some(7)),
        ("7", "z", None),
        ("", "y", None),
        ("+7", "y", None),
        ("7 8", "y", None),
        ("7, 7", "y", None),
        ("99999999999999999999", "y", None),
        ("8", "y", Some(8)),
    ] {
        let text = format!("{}body", head(length, other));
        let mut inbox = BytesMut::from(text.as_bytes());
        let again = kept.again(&mut inbox);
        let told = again.as_ref().map(|head| head.framing.clone());
        assert_eq!(told, expected.map(Framing::Length), "{length} {other}");
        if let Some(again) = again {
            assert_eq!(
                (&again.parts.headers[CONTENT_LENGTH], &inbox[..]),
                (&HeaderValue::from_str(length).unwrap(), &b"body"[..])
            );
        }
    }
    let mut half = BytesMut::from(&head("8", "y").as_bytes()[..40]);
    assert!(kept.again(&mut half).is_none());
}

#[test]
fn what_is_no_request_is_told_so_as_soon_as_that_is_seen() {
    run(async {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        for (bytes, status) in [
            ("\x16\x03\x01\x02\x00", "400 Bad Request"),
            ("GET / HTTP/3.0\r\n", "400 Bad Request"),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "400 Bad Request"),
            (&long, "431 Request Header Fields Too Large"),
            (&many, "431 Request Header Fields Too Large"),
        ] {
            let (mut near, far) = duplex(1024 * 1024);
            spawn_local(ours(far));
            near.write_all(bytes.as_bytes()).await.unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\nconnection: close\r\n")),
                "{answer}"
            );
            assert!(answer.contains("\r\ncontent-length: 0\r\ndate: "), "{answer}");
        }
        assert_eq!(head::begins(b"GET /"), Ok(()));
        assert_eq!(head::begins(b"GET / HTTP/1.1\r\na : b"), Err(Unreadable::Malformed));
    });
}

#[test]
fn a_body_that_is_announced_is_asked_for_when_it_is_wanted_and_only_then() {
    run(async {
        let (mut near, far) = duplex(1024);
        spawn_local(ours(far));
        let head = "POST / HTTP/1.1\r\nexpect: 100-Continue\r\ncontent-length: 5\r\n\r\n";
        near.write_all(head.as_bytes()).await.unwrap();
        let mut go_on = [0; 25];
        near.read_exact(&mut go_on).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        near.write_all(b"hello").await.unwrap();
        // Who has sent it already is not asked.
        near.write_all(
            format!("{head}hello").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let mut answers = String::new();
        near.read_to_string(&mut answers).await.unwrap();
        assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
        assert_eq!(answers.matches("b\"hello\"").count(), 2, "{answers}");
        assert_eq!(answers.matches("100 Continue").count(), 0, "{answers}");
    });
}

/// Answers with this, and reads nothing of the body.
async fn with(stream: DuplexStream, answer: impl Fn() -> Response<Body>) -> io::Result<()> {
    let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
    let wire = Rc::new(Wire::new(Socket::new(stream, activity.clone()), None));
    talk(wire, activity, async |_| answer()).await
}

#[test]
fn a_body_that_nobody_reads_is_skipped_if_it_is_there_and_ends_the_connection_otherwise() {
    run(async {
        for (fields, body, keeps) in [
            ("content-length: 5", "hello", true),
            ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", true),
            ("content-length: 6", "hello", false),
            ("content-length: 5\r\nexpect: 100-continue", "", false),
        ] {
            let (mut near, far) = duplex(1024);
            let served = spawn_local(with(far, || Response::new(Body::from("ok"))));
            let request = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n{body}");
            near.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 1024];
            let length = near.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            assert_eq!(!answer.contains("\r\nconnection: close\r\n"), keeps, "{answer}");
            if keeps {
                near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                assert_ne!(near.read(&mut [0; 1024]).await.unwrap(), 0);
            } else {
                assert_eq!(near.read(&mut [0; 1024]).await.unwrap(), 0);
                served.await.unwrap().unwrap();
            }
        }
    });
}

#[test]
fn an_answer_that_does_not_come_to_its_end_is_never_taken_for_whole() {
    run(async {
        let broken = || {
            let pieces = [Ok(Bytes::from_static(b"begun")), Err(Broken)];
            Response::new(Body::stream(Box::pin(futures_util::stream::iter(pieces))))
        };
        let short = || {
            let pieces = [Ok(Bytes::from_static(b"begun"))];
            let mut response =
                Response::new(Body::stream(Box::pin(futures_util::stream::iter(pieces))));
            response.headers_mut().insert(CONTENT_LENGTH, 6.into());
            response
        };
        for answer in [broken as fn() -> Response<Body>, short] {
            let (mut near, far) = duplex(1024);
            let served = spawn_local(with(far, answer));
            near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut told = String::new();
            near.read_to_string(&mut told).await.unwrap();
            assert!(!told.ends_with("0\r\n\r\n"), "{told}");
            assert!(served.await.unwrap().is_err());
        }
    });
}

#[test]
fn a_head_that_came_in_two_pieces_and_was_known_does_not_hide_the_next() {
    run(async {
        let (mut near, far) = duplex(4096);
        spawn_local(ours(far));
        let long = format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "a".repeat(60));
        near.write_all(long.as_bytes()).await.unwrap();
        assert_ne!(near.read(&mut [0; 4096]).await.unwrap(), 0);
        near.write_all(&long.as_bytes()[..60]).await.unwrap();
        yield_now().await;
        let rest = format!("{}GET / HTTP/1.1\r\nconnection: close\r\n\r\n", &long[60..]);
        near.write_all(rest.as_bytes()).await.unwrap();
        let mut answers = String::new();
        near.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    });
}

#[test]
fn what_a_caller_that_is_held_has_sent_already_is_not_heard_but_for_health() {
    run(async {
        for (next, count) in [("GET /a HTTP/1.1\r\n\r\n", 1), ("GET /livez HTTP/1.1\r\n\r\n", 2)] {
            let (mut near, far) = duplex(4096);
            let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
            let wire = Rc::new(Wire::new(Socket::new(far, activity.clone()), None));
            let answered = Rc::new(std::cell::Cell::new(0));
            let (counted, holds) = (answered.clone(), activity.clone());
            let served = spawn_local(talk(wire, activity, move |_| {
                counted.set(counted.get() + 1);
                holds.hold(std::future::pending());
                std::future::ready(Response::new(Body::from("ok")))
            }));
            near.write_all(format!("GET / HTTP/1.1\r\n\r\n{next}").as_bytes()).await.unwrap();
            for _ in 0..20 {
                yield_now().await;
            }
            assert_eq!(answered.get(), count, "{next}");
            served.abort();
        }
    });
}

#[test]
fn whoever_goes_before_the_answer_is_there_takes_the_request_along() {
    run(async {
        let (mut near, far) = duplex(1024);
        let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
        let wire = Rc::new(Wire::new(Socket::new(far, activity.clone()), None));
        let served = spawn_local(talk(wire, activity, |_| std::future::pending()));
        near.write_all(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
        yield_now().await;
        assert!(!served.is_finished());
        drop(near);
        assert!(served.await.unwrap().is_err());
    });
}

#[test]
fn a_head_that_was_known_when_a_connection_began_to_wait_is_known_when_it_goes_on() {
    run(async {
        let (mut near, far) = duplex(1024);
        let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
        let (mut socket, mut kept) = (Socket::new(far, activity), None);
        let mut heads = Vec::new();
        for _ in 0..2 {
            near.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
            let wire = Wire::new(socket, kept);
            let head = poll_fn(|context| wire.poll_head(context)).await.unwrap().unwrap();
            heads.push(head.parts);
            (socket, kept) = wire.into_socket();
        }
        assert!(Rc::ptr_eq(&heads[0], &heads[1]), "it was read again");
    });
}

#[test]
fn nobody_is_answered_before_all_that_have_asked_are_worked_on() {
    run(async {
        let ((mut near, far), (mut other, other_far)) = (duplex(1024), duplex(1024));
        for caller in [&mut near, &mut other] {
            caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        spawn_local(with(far, || Response::new(Body::from("ok"))));
        let near = std::cell::RefCell::new(near);
        spawn_local(with(other_far, move || {
            let is_answered = near.borrow_mut().read(&mut [0]).now_or_never().is_some();
            Response::new(Body::from(format!("the first one is answered: {is_answered}")))
        }));
        let mut answer = [0; 1024];
        let length = other.read(&mut answer).await.unwrap();
        assert!(answer[..length].ends_with(b": false"), "{}", answer[..length].escape_ascii());
    });
}
