//! Attempts that are repeated, and those that are not.

use serde_json::json as value;
use shared::resource::Resource;
use shared::worker_settings::ProxySettings;

use super::gateway::{Gateway, provider_key, test_settings};
use super::run;
use super::upstream::{Step, Upstream, json};

const ANSWER: &str = r#"{"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

fn settings(retries: u32) -> ProxySettings {
    ProxySettings { retries, ..test_settings() }
}

#[test]
fn an_upstream_that_says_it_failed_is_asked_again_and_every_attempt_leaves_its_event() {
    run(async {
        let failed = || json("503 Service Unavailable", "");
        let upstream = Upstream::start([failed(), failed(), json("200 OK", ANSWER)]).await;
        let gateway = Gateway::start(settings(2), upstream.address).await;
        let told = gateway.chat(value!({})).await;
        assert_eq!((told.status.as_u16(), told.body.as_str()), (200, ANSWER));
        let usage = gateway.usage();
        let attempts: Vec<_> = usage
            .iter()
            .map(|event| (event.attempt_index, event.attempt_kind.as_str(), event.status_code))
            .collect();
        assert_eq!(attempts, [(0, "initial", 502), (1, "retry", 502), (2, "retry", 200)]);
        assert!(usage.iter().all(|event| event.request_id == usage[0].request_id));
        assert_eq!((usage[0].error_class.as_str(), usage[0].prompt_tokens), ("upstream_status", 0));
        assert_eq!((usage[2].error_class.as_str(), usage[2].completion_tokens), ("", 2));
        assert_eq!((usage[0].downstream_latency_ms, usage[1].downstream_latency_ms), (0, 0));
        let ids: std::collections::HashSet<_> = usage.iter().map(|event| &event.event_id).collect();
        assert_eq!(ids.len(), 3);
    });
}

#[test]
fn the_last_failure_is_told_when_the_attempts_are_used_up() {
    run(async {
        let gateway = Gateway::start(settings(1), "127.0.0.1:1".parse().unwrap()).await;
        let told = gateway.chat(value!({})).await;
        assert_eq!(told.status, 502);
        assert!(told.body.contains("transport_error"), "{}", told.body);
        let usage = gateway.usage();
        let [first, second] = &usage[..] else { panic!("{usage:?}") };
        assert_eq!(
            (first.error_class.as_str(), second.error_class.as_str()),
            ("transport", "transport")
        );
        assert_eq!((second.attempt_index, second.attempt_kind.as_str()), (1, "retry"));
    });
}

#[test]
fn what_the_upstream_may_have_worked_on_or_refused_is_not_sent_again() {
    run(async {
        for script in [
            json("429 Too Many Requests", ""),
            json("400 Bad Request", ""),
            json("200 OK", "nonsense"),
            vec![Step::Close],
            vec![
                Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned()),
                Step::Close,
            ],
        ] {
            let upstream = Upstream::start([script]).await;
            let gateway = Gateway::start(settings(2), upstream.address).await;
            assert_ne!(gateway.chat(value!({})).await.status, 200);
            assert_eq!((upstream.heard().len(), gateway.usage().len()), (1, 1));
        }
    });
}

#[test]
fn the_next_attempt_of_a_stream_is_made_before_anything_is_sent_to_the_caller() {
    run(async {
        let chunks = ["data: {\"choices\":[]}\n\n", "data: [DONE]\n\n"];
        let scripts = [json("500 Internal Server Error", ""), super::upstream::stream(&chunks)];
        let upstream = Upstream::start(scripts).await;
        let gateway = Gateway::start(settings(1), upstream.address).await;
        gateway.put(Resource::ProviderKey(provider_key(
            "pk-1",
            &format!("http://{}/v1", upstream.address),
        )));
        let told = gateway.chat(value!({"stream": true})).await;
        assert_eq!(told.status, 200);
        assert!(told.body.ends_with("data: [DONE]\n\n"), "{}", told.body);
        assert_eq!(gateway.usage().len(), 2);
    });
}
