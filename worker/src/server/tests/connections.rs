//! Connections of callers and to upstreams: kept, used again, ended.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use serde_json::json as value;
use shared::worker_settings::ProxySettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::gateway::{Gateway, chat_request, request, test_settings};
use super::upstream::{Step, Upstream, json, stream, stream_head};
use super::{run, until};
use crate::server::connection::LocalExecutor;
use crate::server::is_exhausted;

const DONE: &str = "data: [DONE]\n\n";

#[test]
fn connections_are_used_again_after_answers_and_after_streams() {
    run(async {
        let answers = [
            json("200 OK", "{}"),
            stream(&[DONE]),
            json("400 Bad Request", "no"),
            json("200 OK", "{}"),
        ];
        let upstream = Upstream::start(answers).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut caller = gateway.caller().await;
        for (is_stream, status) in [(false, 200), (true, 200), (false, 400), (false, 200)] {
            let told = caller.chat(value!({"stream": is_stream})).await;
            assert_eq!(told.status.as_u16(), status);
            // The upstream's last byte may come after ours.
            until(|| gateway.proxy.upstreams.idle_connections() == 1).await;
        }
        assert_eq!(upstream.connections(), 1);
    });
}

#[test]
fn a_kept_connection_that_dies_without_a_byte_is_replaced_unnoticed() {
    run(async {
        let answers = [json("200 OK", "{}"), vec![Step::Close], json("200 OK", "{}")];
        let upstream = Upstream::start(answers).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        assert_eq!(gateway.chat(value!({})).await.status, 200);
        assert_eq!(gateway.chat(value!({})).await.status, 200);
        assert_eq!((upstream.connections(), upstream.heard().len()), (2, 3));
        assert_eq!(gateway.usage().len(), 2);
    });
}

#[test]
fn an_idle_connection_to_an_upstream_is_closed_after_its_time() {
    run(async {
        let upstream = Upstream::start([json("200 OK", "{}")]).await;
        let mut settings = test_settings();
        settings.upstream.pool_idle_ms = 50;
        let gateway = Gateway::start(settings, upstream.address).await;
        assert_eq!(gateway.chat(value!({})).await.status, 200);
        upstream.gone.notified().await;
    });
}

#[test]
fn an_idle_connection_that_the_upstream_ends_is_closed_at_once() {
    run(async {
        let end = Rc::new(Notify::new());
        let steps = [json("200 OK", "{}"), vec![Step::Wait(end.clone()), Step::Close]].concat();
        let upstream = Upstream::start([steps]).await;
        let mut settings = test_settings();
        settings.upstream.pool_idle_ms = 0;
        let gateway = Gateway::start(settings, upstream.address).await;
        assert_eq!(gateway.chat(value!({})).await.status, 200);
        until(|| gateway.proxy.upstreams.idle_connections() == 1).await;
        end.notify_one();
        until(|| gateway.proxy.upstreams.idle_connections() == 0).await;
    });
}

#[test]
fn a_caller_s_idle_connection_is_closed_after_its_time() {
    run(async {
        let upstream = Upstream::start([json("200 OK", "{}")]).await;
        let settings = ProxySettings { downstream_idle_ms: 50, ..test_settings() };
        let gateway = Gateway::start(settings, upstream.address).await;
        let mut caller = gateway.caller().await;
        assert_eq!(caller.chat(value!({})).await.status, 200);
        caller.closed().await;
    });
}

/// Waits until a connection that is in use now rests: then it no longer holds what a request needs.
async fn rests(gateway: &Gateway) {
    let in_use = Rc::strong_count(&gateway.proxy);
    until(|| Rc::strong_count(&gateway.proxy) < in_use).await;
}

#[test]
fn a_connection_that_rests_serves_the_next_request_and_is_closed_after_its_time() {
    run(async {
        let upstream = Upstream::start([json("200 OK", "{}"), json("200 OK", "{}")]).await;
        let settings = ProxySettings { downstream_idle_ms: 600, ..test_settings() };
        let gateway = Gateway::start(settings, upstream.address).await;
        let mut caller = gateway.caller().await;
        assert_eq!(caller.chat(value!({})).await.status, 200);
        rests(&gateway).await;
        assert_eq!(caller.chat(value!({})).await.status, 200);
        rests(&gateway).await;
        caller.closed().await;
    });
}

#[test]
fn a_connection_that_rests_ends_when_the_server_stops() {
    run(async {
        let gateway = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        let mut caller = gateway.caller().await;
        caller.ask(request("GET", "/livez", &[], "")).await;
        rests(&gateway).await;
        gateway.stop.notify_one();
        caller.closed().await;
        gateway.serving.await.unwrap();
    });
}

#[test]
fn half_a_head_that_came_with_the_request_before_is_kept_for_as_long_as_it_takes() {
    run(async {
        let gateway = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: g\r\n\r\nGET /li").await.unwrap();
        let mut bytes = [0; 1024];
        assert_ne!(stream.read(&mut bytes).await.unwrap(), 0);
        // As long as it takes another one, which becomes idle later, to rest.
        let mut caller = gateway.caller().await;
        assert_eq!(caller.send(request("GET", "/livez", &[], "")).await.status().as_u16(), 200);
        rests(&gateway).await;
        let rest = b"vez HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n";
        stream.write_all(rest).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"), "{answer}");
    });
}

#[test]
fn http_2_is_spoken_by_prior_knowledge_and_a_reset_stream_ends_the_upstream_s() {
    run(async {
        let endless = vec![stream_head(), Step::Chunk(": begun\n\n".to_owned()), Step::AwaitEnd];
        let upstream = Upstream::start([stream(&[DONE]), endless]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let (mut sender, connection) =
            http2::handshake::<_, _, Full<Bytes>>(LocalExecutor, TokioIo::new(stream))
                .await
                .unwrap();
        tokio::task::spawn_local(connection);
        let mut request = chat_request(value!({"stream": true}));
        *request.uri_mut() = "http://gateway/v1/chat/completions".parse().unwrap();
        request.headers_mut().remove("host");
        let response = sender.send_request(request.clone()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), DONE);
        let mut response = sender.send_request(request).await.unwrap();
        assert!(response.body_mut().frame().await.unwrap().unwrap().is_data());
        drop(response);
        upstream.gone.notified().await;
        assert_eq!(gateway.usage()[1].status_code, 499);
    });
}

#[test]
fn when_the_server_stops_answers_are_finished_and_idle_connections_closed() {
    run(async {
        let go = Rc::new(Notify::new());
        let first = "data: {\"choices\":[{\"delta\":{}}]}\n\n".to_owned();
        let steps = vec![
            stream_head(),
            Step::Chunk(first),
            Step::Wait(go.clone()),
            Step::Chunk(DONE.to_owned()),
        ];
        let upstream = Upstream::start([json("200 OK", "{}"), steps]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let (mut idle, mut busy) = (gateway.caller().await, gateway.caller().await);
        idle.ask(request("GET", "/livez", &[], "")).await;
        assert_eq!(busy.chat(value!({})).await.status, 200);
        let mut body = busy.send(chat_request(value!({"stream": true}))).await.into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        gateway.stop.notify_one();
        idle.closed().await;
        assert!(!gateway.serving.is_finished());
        go.notify_one();
        assert_eq!(body.collect().await.unwrap().to_bytes(), DONE);
        busy.closed().await;
        gateway.serving.await.unwrap();
    });
}

#[test]
fn a_request_that_was_on_its_way_over_an_idle_connection_when_the_server_stopped_is_served_as_the_last()
 {
    run(async {
        let gateway = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        let mut idle = gateway.caller().await;
        let livez = || request("GET", "/livez", &[], "");
        assert_eq!(idle.ask(livez()).await.header("connection"), "");
        gateway.stop.notify_one();
        // One thread: the server has seen it when every task has had its turn.
        tokio::task::yield_now().await;
        let last = idle.ask(livez()).await;
        assert_eq!((last.status.as_u16(), last.header("connection")), (200, "close"));
        idle.closed().await;
        gateway.serving.await.unwrap();
    });
}

#[test]
fn a_connection_that_was_accepted_before_the_stop_is_still_served_once() {
    run(async {
        let gateway = Gateway::start(test_settings(), "127.0.0.1:1".parse().unwrap()).await;
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        // Accepted, when its task holds the proxy beside the server and this test; nothing is sent yet.
        until(|| Rc::strong_count(&gateway.proxy) > 2).await;
        gateway.stop.notify_one();
        // One thread: the server has seen it when every task has had its turn.
        tokio::task::yield_now().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"), "{answer}");
        gateway.serving.await.unwrap();
    });
}

#[test]
fn only_want_of_descriptors_or_memory_pauses_accepting() {
    let error = |code| std::io::Error::from_raw_os_error(code);
    assert!([libc::EMFILE, libc::ENFILE, libc::ENOMEM].map(error).iter().all(is_exhausted));
    assert!(![libc::ECONNABORTED, libc::EAGAIN, libc::EINTR].map(error).iter().any(is_exhausted));
}

#[test]
fn half_of_the_descriptors_are_for_callers_and_half_for_upstreams() {
    let max = crate::server::connections_max;
    assert_eq!(max(20_000), 9_872);
    assert_eq!(max(1024), 384);
    assert_eq!(max(0), 1);
}
