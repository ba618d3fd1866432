//! Requests that were answered before, under a cache policy.

use std::cell::RefCell;
use std::rc::Rc;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json as value};
use shared::channel;
use shared::resource::{CachePolicy, CacheSubject, Resource};

use super::gateway::{Caller, Gateway, Told, api_key, chat_request, model, test_settings};
use super::run;
use super::upstream::{Step, Upstream, json};
use crate::cache::{self, store::Store};

const ANSWER: &str = r#"{"id":"c-1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},
    "finish_reason":"stop"}],"usage":{"prompt_tokens":11,"completion_tokens":7}}"#;

fn policy() -> CachePolicy {
    CachePolicy {
        id: "c-1".to_owned(),
        name: "faq".to_owned(),
        applies_to: CacheSubject::Everything,
        in_redis: false,
        generation: 0,
        is_shared: false,
        ttl_seconds: 60,
    }
}

/// A gateway with a cache beside it, and an upstream that answers so often.
async fn start(answers: Vec<Vec<Step>>) -> (Gateway, Upstream) {
    let upstream = Upstream::start(answers).await;
    let gateway = Gateway::start(test_settings(), upstream.address).await;
    gateway.put(Resource::CachePolicy(policy()));
    let (ours, theirs) = channel::pair().unwrap();
    let store = Rc::new(RefCell::new(Store::default()));
    tokio::task::spawn_local(async move {
        let _ = cache::answer(&store, theirs).await;
    });
    gateway.proxy.cache.reached_over(ours);
    (gateway, upstream)
}

fn answers(count: usize) -> Vec<Vec<Step>> {
    (0..count).map(|_| json("200 OK", ANSWER)).collect()
}

async fn wishing(caller: &mut Caller, wish: &str, extra: Value) -> Told {
    caller.ask(with_header(chat_request(extra), "cache-control", wish)).await
}

fn with_header(
    mut request: Request<Full<bytes::Bytes>>,
    name: &'static str,
    text: &str,
) -> Request<Full<bytes::Bytes>> {
    request.headers_mut().insert(name, text.parse().unwrap());
    request
}

#[test]
fn a_repeat_is_given_the_same_answer_without_an_attempt_and_leaves_one_event() {
    run(async {
        let (gateway, upstream) = start(answers(1)).await;
        let mut caller = gateway.caller().await;
        let first = caller.chat(value!({"temperature": 0.5, "top_p": 1})).await;
        assert_eq!((first.status.as_u16(), first.header("x-aisix-cache")), (200, "miss"));
        assert_eq!(first.header("x-aisix-cache-layer"), "");
        // Written in another way, it says the same.
        let again = caller.chat(value!({"top_p": 1, "temperature": 0.50})).await;
        assert_eq!((again.status.as_u16(), again.body.as_str()), (200, ANSWER));
        assert_eq!(again.header("x-aisix-cache"), "hit");
        assert_eq!(again.header("x-aisix-cache-layer"), "exact");
        assert_eq!(again.header("content-type"), "application/json");
        assert_eq!(again.header("x-aisix-call-id"), again.header("x-aisix-request-id"));
        assert_eq!(upstream.heard().len(), 1);

        let usage = gateway.usage();
        let [miss, hit] = &usage[..] else { panic!("{usage:?}") };
        assert_eq!((miss.cache_status.as_str(), miss.prompt_tokens), ("miss", 11));
        assert_eq!((hit.cache_status.as_str(), hit.cache_hit_layer.as_str()), ("hit", "exact"));
        assert_eq!((hit.prompt_tokens, hit.completion_tokens), (0, 0));
        assert_eq!((hit.cache_hit_saved_input_tokens, hit.cache_hit_saved_output_tokens), (11, 7));
        assert_eq!((hit.status_code, hit.model_id.as_str()), (200, "m-1"));
        assert_eq!((hit.attempt_kind.as_str(), hit.usage_estimated), ("", false));
        assert_eq!(miss.cache_hit_saved_input_tokens, 0);
    });
}

#[test]
fn what_differs_in_anything_that_an_answer_depends_on_is_another_request() {
    run(async {
        let (gateway, upstream) = start(answers(9)).await;
        gateway.put(Resource::Model(model("m-2", "other", "pk-1")));
        gateway.put(Resource::ApiKey(api_key("k-2", "sk-two")));
        let mut caller = gateway.caller().await;
        let missed = |told: Told| assert_eq!(told.header("x-aisix-cache"), "miss");
        missed(caller.chat(value!({})).await);
        missed(caller.chat(value!({"temperature": 0.1})).await);
        missed(caller.chat(value!({"model": "other"})).await);
        let two = with_header(chat_request(value!({})), "authorization", "Bearer sk-two");
        missed(caller.ask(two).await);
        let tagged = with_header(chat_request(value!({})), "x-aisix-routing-tags", "eu");
        missed(caller.ask(tagged).await);
        // Every earlier answer is under the number before.
        gateway.put(Resource::CachePolicy(CachePolicy { generation: 1, ..policy() }));
        missed(caller.chat(value!({})).await);
        let other = CachePolicy { id: "c-0".to_owned(), ..policy() };
        gateway.put(Resource::CachePolicy(other));
        missed(caller.chat(value!({})).await);
        assert_eq!(upstream.heard().len(), 7);
        assert_eq!(caller.chat(value!({})).await.header("x-aisix-cache"), "hit");
        assert_eq!(upstream.heard().len(), 7);
    });
}

#[test]
fn an_answer_is_shared_between_callers_only_where_the_policy_says_so() {
    run(async {
        let (gateway, upstream) = start(answers(2)).await;
        gateway.put(Resource::ApiKey(api_key("k-2", "sk-two")));
        gateway.put(Resource::CachePolicy(CachePolicy { is_shared: true, ..policy() }));
        let mut caller = gateway.caller().await;
        let of_two = || with_header(chat_request(value!({})), "authorization", "Bearer sk-two");
        assert_eq!(caller.chat(value!({})).await.header("x-aisix-cache"), "miss");
        assert_eq!(caller.ask(of_two()).await.header("x-aisix-cache"), "hit");
        gateway.put(Resource::CachePolicy(policy()));
        assert_eq!(caller.ask(of_two()).await.header("x-aisix-cache"), "miss");
        assert_eq!(upstream.heard().len(), 2);
    });
}

#[test]
fn a_caller_may_ask_for_a_fresh_answer_and_that_none_be_kept() {
    run(async {
        let (gateway, upstream) = start(answers(4)).await;
        let mut caller = gateway.caller().await;
        let is = |told: &Told| told.header("x-aisix-cache").to_owned();
        assert_eq!(is(&wishing(&mut caller, "no-store", value!({})).await), "bypass");
        assert_eq!(is(&caller.chat(value!({})).await), "miss", "nothing was kept");
        assert_eq!(is(&wishing(&mut caller, "no-cache", value!({})).await), "bypass");
        assert_eq!(is(&wishing(&mut caller, "no-cache", value!({"n": 1})).await), "bypass");
        assert_eq!(is(&caller.chat(value!({"n": 1})).await), "hit", "that one was kept");
        assert_eq!(upstream.heard().len(), 4);
        let statuses: Vec<_> = gateway.usage().into_iter().map(|it| it.cache_status).collect();
        assert_eq!(statuses, ["bypass", "miss", "bypass", "bypass", "hit"]);
    });
}

#[test]
fn only_complete_answers_are_kept() {
    run(async {
        let steps = vec![
            json("500 Internal Server Error", "{}"),
            json("400 Bad Request", r#"{"error":{"message":"no"}}"#),
            json("200 OK", "no answer"),
            json("200 OK", ANSWER),
        ];
        let (gateway, upstream) = start(steps).await;
        let mut caller = gateway.caller().await;
        for status in [502, 400, 502] {
            let told = caller.chat(value!({})).await;
            assert_eq!((told.status.as_u16(), told.header("x-aisix-cache")), (status, ""));
        }
        assert_eq!(caller.chat(value!({})).await.header("x-aisix-cache"), "miss");
        assert_eq!(caller.chat(value!({})).await.header("x-aisix-cache"), "hit");
        assert_eq!(upstream.heard().len(), 4);
    });
}

#[test]
fn without_a_policy_for_it_a_request_has_nothing_to_do_with_the_cache() {
    run(async {
        let (gateway, upstream) = start(answers(3)).await;
        for applies_to in [CacheSubject::Nothing, CacheSubject::Model("other".to_owned())] {
            gateway.put(Resource::CachePolicy(CachePolicy { applies_to, ..policy() }));
            let told = gateway.chat(value!({})).await;
            assert_eq!((told.status.as_u16(), told.header("x-aisix-cache")), (200, ""));
        }
        gateway.put(Resource::CachePolicy(policy()));
        // What is read in two ways is never taken for a repeat.
        let told = gateway.chat(value!({"x": 1})).await;
        assert_eq!(told.header("x-aisix-cache"), "miss");
        assert_eq!(upstream.heard().len(), 3);
        assert!(gateway.usage()[..2].iter().all(|event| event.cache_status.is_empty()));
    });
}
