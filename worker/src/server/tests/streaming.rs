//! Streams.

use std::rc::Rc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json as value};
use tokio::sync::Notify;

use super::gateway::{Gateway, chat_request, test_settings};
use super::run;
use super::upstream::{Step, Upstream, json, stream, stream_head};

const FIRST: &str = "data: {\"id\":\"c-1\",\"model\":\"up\",\"usage\":null,\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n";
const LAST: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

async fn next(body: &mut Incoming) -> String {
    let frame = body.frame().await.expect("the stream has ended").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

fn wait(notify: &Rc<Notify>) -> Step {
    Step::Wait(notify.clone())
}

fn chunk(text: &str) -> Step {
    Step::Chunk(text.to_owned())
}

#[test]
fn a_stream_is_relayed_as_it_came_without_the_usage_that_only_we_asked_for() {
    run(async {
        // Cut in the middle of events, of characters and of line ends.
        let whole = [FIRST, ": comment\n\n", LAST, USAGE, DONE].concat();
        let portions: Vec<_> = whole.as_bytes().chunks(7).collect();
        let portions: Vec<_> = portions.iter().map(|part| str::from_utf8(part).unwrap()).collect();
        let upstream = Upstream::start([stream(&portions)]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let told = gateway.chat(value!({"stream": true})).await;
        assert_eq!(told.body, [FIRST, ": comment\n\n", LAST, DONE].concat());
        assert_eq!((told.status.as_u16(), told.header("content-type")), (200, "text/event-stream"));
        assert_eq!(told.header("x-aisix-call-id"), told.header("x-aisix-request-id"));
        let heard: Value = serde_json::from_str(&upstream.heard()[0].body).unwrap();
        assert_eq!(heard["stream_options"], value!({"include_usage": true}));
        let usage = gateway.usage();
        let [event] = &usage[..] else { panic!("{usage:?}") };
        assert_eq!((event.prompt_tokens, event.completion_tokens), (5, 2));
        assert_eq!((event.status_code, event.usage_estimated), (200, false));
        assert_eq!(
            (event.provider_request_id.as_str(), event.finish_reason.as_str()),
            ("c-1", "stop")
        );
    });
}

#[test]
fn usage_that_the_caller_asked_for_is_relayed() {
    run(async {
        let upstream = Upstream::start([stream(&[FIRST, LAST, USAGE, DONE])]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let options = value!({"stream": true, "stream_options": {"include_usage": true}});
        assert_eq!(gateway.chat(options).await.body, [FIRST, LAST, USAGE, DONE].concat());
    });
}

#[test]
fn an_event_does_not_wait_for_the_next_and_usage_is_recorded_before_the_last_byte() {
    run(async {
        let (one, two) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let steps = vec![
            stream_head(),
            chunk(FIRST),
            wait(&one),
            chunk(LAST),
            wait(&two),
            chunk(USAGE),
            chunk(DONE),
            Step::AwaitEnd,
        ];
        let upstream = Upstream::start([steps]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut caller = gateway.caller().await;
        let mut body = caller.send(chat_request(value!({"stream": true}))).await.into_body();
        assert_eq!(next(&mut body).await, FIRST);
        assert_eq!(gateway.proxy.health.in_flight(), 1);
        one.notify_one();
        assert_eq!(next(&mut body).await, LAST);
        assert!(gateway.usage().is_empty());
        two.notify_one();
        assert_eq!(next(&mut body).await, DONE);
        assert_eq!(gateway.usage()[0].completion_tokens, 2);
        // The caller's stream ends, although the upstream's does not.
        assert!(body.frame().await.is_none());
        assert_eq!(gateway.proxy.health.in_flight(), 0);
    });
}

#[test]
fn a_stream_that_is_cut_ends_with_an_error_and_without_done() {
    for end in [vec![Step::Close], vec![chunk("")], vec![chunk("data: {\"cho"), Step::Close]] {
        run(async {
            let go = Rc::new(Notify::new());
            let steps = [vec![stream_head(), chunk(FIRST), wait(&go)], end].concat();
            let upstream = Upstream::start([steps]).await;
            let gateway = Gateway::start(test_settings(), upstream.address).await;
            let mut caller = gateway.caller().await;
            let mut body = caller.send(chat_request(value!({"stream": true}))).await.into_body();
            assert_eq!(next(&mut body).await, FIRST);
            go.notify_one();
            let error = next(&mut body).await;
            let envelope = error.strip_prefix("event: error\ndata: ").unwrap();
            let envelope: Value = serde_json::from_str(envelope).unwrap();
            assert_eq!(envelope["error"]["type"], "stream_aborted");
            assert!(body.frame().await.is_none());
            let event = &gateway.usage()[0];
            assert_eq!((event.status_code, event.error_class.as_str()), (502, "stream_aborted"));
            assert_eq!((event.completion_tokens, event.usage_estimated), (2, true));
        });
    }
}

#[test]
fn a_fragment_at_the_cut_does_not_swallow_the_error() {
    run(async {
        let upstream = Upstream::start([stream(&[FIRST, "data: {\"choi"])]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let told = gateway.chat(value!({"stream": true})).await;
        let rest = told.body.strip_prefix(FIRST).unwrap();
        assert!(rest.starts_with("event: error\ndata: {"), "{rest}");
    });
}

#[test]
fn a_stream_that_ends_after_its_finish_reason_is_complete_without_done() {
    run(async {
        let upstream = Upstream::start([stream(&[FIRST, LAST.trim_end()])]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let told = gateway.chat(value!({"stream": true})).await;
        // With the end of its last event, which the upstream left out.
        assert_eq!(told.body, [FIRST, LAST].concat());
        assert_eq!(
            (gateway.usage()[0].status_code, gateway.usage()[0].error_class.as_str()),
            (200, "")
        );
    });
}

#[test]
fn an_error_before_the_first_event_still_has_a_status_and_a_later_one_is_an_event() {
    let error = "data: {\"error\":{\"message\":\"too many\",\"code\":429}}\n\n";
    run(async {
        let upstream = Upstream::start([stream(&[error])]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let told = gateway.chat(value!({"stream": true})).await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["error"]["message"]),
            (429, &value!("too many"))
        );
        assert_eq!(gateway.usage()[0].error_class, "upstream_in_band");
    });
    run(async {
        let go = Rc::new(Notify::new());
        let steps = vec![stream_head(), chunk(FIRST), wait(&go), chunk(error), chunk(DONE)];
        let upstream = Upstream::start([steps]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut caller = gateway.caller().await;
        let mut body = caller.send(chat_request(value!({"stream": true}))).await.into_body();
        assert_eq!(next(&mut body).await, FIRST);
        go.notify_one();
        let event = next(&mut body).await;
        assert!(event.starts_with("event: error\ndata: ") && event.contains("too many"), "{event}");
        assert!(body.frame().await.is_none());
    });
}

#[test]
fn errors_before_the_stream_are_told_as_for_any_request() {
    run(async {
        let upstream =
            Upstream::start([json("400 Bad Request", "no"), vec![stream_head(), Step::Close]])
                .await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        assert_eq!(gateway.chat(value!({"stream": true})).await.status, 400);
        let told = gateway.chat(value!({"stream": true})).await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["error"]["type"]),
            (502, &value!("stream_aborted"))
        );
    });
}

#[test]
fn silence_beyond_the_limit_is_a_timeout_before_and_within_a_stream() {
    for steps in [vec![Step::AwaitEnd], vec![stream_head(), Step::AwaitEnd]] {
        run(async {
            let upstream = Upstream::start([steps]).await;
            let mut settings = test_settings();
            settings.upstream.stream_timeout_ms = 60;
            let gateway = Gateway::start(settings, upstream.address).await;
            let told = gateway.chat(value!({"stream": true})).await;
            assert_eq!(
                (told.status.as_u16(), &told.json()["error"]["type"]),
                (504, &value!("timeout"))
            );
            upstream.gone.notified().await;
        });
    }
    run(async {
        let upstream = Upstream::start([vec![stream_head(), chunk(FIRST), Step::AwaitEnd]]).await;
        let mut settings = test_settings();
        settings.upstream.stream_timeout_ms = 500;
        let gateway = Gateway::start(settings, upstream.address).await;
        let told = gateway.chat(value!({"stream": true})).await;
        let rest = told.body.strip_prefix(FIRST).unwrap();
        assert!(
            rest.starts_with("event: error\n") && rest.contains("timed out after 500ms"),
            "{rest}"
        );
        assert_eq!((told.status.as_u16(), gateway.usage()[0].status_code), (200, 504));
        upstream.gone.notified().await;
    });
}

#[test]
fn a_silent_stream_carries_comments_also_before_its_first_event() {
    run(async {
        let go = Rc::new(Notify::new());
        let steps =
            vec![stream_head(), wait(&go), chunk(FIRST), wait(&go), chunk(LAST), chunk(DONE)];
        let upstream = Upstream::start([steps]).await;
        let settings =
            shared::worker_settings::ProxySettings { sse_keepalive_ms: 30, ..test_settings() };
        let gateway = Gateway::start(settings, upstream.address).await;
        let mut caller = gateway.caller().await;
        let mut body = caller.send(chat_request(value!({"stream": true}))).await.into_body();
        for event in [FIRST, LAST] {
            assert_eq!(next(&mut body).await, ":\n\n");
            assert_eq!(next(&mut body).await, ":\n\n");
            go.notify_one();
            let mut heard = next(&mut body).await;
            while heard == ":\n\n" {
                heard = next(&mut body).await;
            }
            assert!(heard.starts_with(event), "{heard}");
        }
    });
}

#[test]
fn a_caller_is_kept_company_before_the_upstream_has_said_anything_and_told_what_comes_of_it() {
    run(async {
        let (go, sad) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let good = vec![wait(&go), stream_head(), chunk(FIRST), chunk(LAST), chunk(DONE)];
        let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 28\r\n\r\n{\"error\":{\"message\":\"nope\"}}";
        let bad = vec![wait(&sad), Step::Send(refusal.to_owned())];
        let upstream = Upstream::start([good, bad]).await;
        let settings =
            shared::worker_settings::ProxySettings { sse_keepalive_ms: 30, ..test_settings() };
        let gateway = Gateway::start(settings, upstream.address).await;
        for (go, expected) in [(go, FIRST), (sad, "event: error\ndata: ")] {
            let mut caller = gateway.caller().await;
            let answer = caller.send(chat_request(value!({"stream": true}))).await;
            assert_eq!(answer.status().as_u16(), 200);
            let mut body = answer.into_body();
            assert_eq!(next(&mut body).await, ":\n\n");
            assert_eq!(next(&mut body).await, ":\n\n");
            go.notify_one();
            let mut heard = next(&mut body).await;
            while heard == ":\n\n" {
                heard = next(&mut body).await;
            }
            assert!(heard.starts_with(expected), "{heard}");
        }
        let statuses: Vec<_> = gateway.usage().iter().map(|event| event.status_code).collect();
        assert_eq!(statuses.last(), Some(&400), "{statuses:?}");
    });
}

#[test]
fn a_caller_that_leaves_ends_the_upstream_s_stream_and_pays_for_what_was_delivered() {
    run(async {
        let upstream = Upstream::start([vec![stream_head(), chunk(FIRST), Step::AwaitEnd]]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut caller = gateway.caller().await;
        let mut body = caller.send(chat_request(value!({"stream": true}))).await.into_body();
        assert_eq!(next(&mut body).await, FIRST);
        caller.leave();
        upstream.gone.notified().await;
        let usage = gateway.usage();
        let [event] = &usage[..] else { panic!("{usage:?}") };
        assert_eq!((event.status_code, event.usage_estimated), (499, true));
        assert_eq!((event.completion_tokens, event.provider_request_id.as_str()), (2, "c-1"));
        assert_eq!(gateway.proxy.health.in_flight(), 0);
    });
}

#[test]
fn an_upstream_is_not_read_faster_than_the_caller_takes() {
    run(async {
        let big = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
            "x".repeat(60_000)
        );
        let mut steps = vec![stream_head()];
        steps.extend(std::iter::repeat_n(chunk(&big), 2_000));
        let upstream = Upstream::start([steps]).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut caller = gateway.caller().await;
        let mut body = caller.send(chat_request(value!({"stream": true}))).await.into_body();
        let _ = next(&mut body).await;
        // 120 MB are offered; nobody takes them. What is under way is what sockets and buffers hold.
        tokio::time::sleep(Duration::from_millis(300)).await;
        caller.leave();
        upstream.gone.notified().await;
        let event = &gateway.usage()[0];
        assert!(event.completion_tokens < 120_000_000 / 4 / 4, "{}", event.completion_tokens);
    });
}
