//! Requests to one target that are alike: what is kept of one for the next, and when that ends.

use serde_json::json as value;
use shared::resource::{Adapter, Resource};

use super::gateway::{Gateway, model, provider_key, test_settings};
use super::run;
use super::upstream::{Upstream, json};

/// Heads of requests without what names each of them.
fn heads(upstream: &Upstream) -> Vec<String> {
    let without_id = |head: String| {
        let lines = head.lines().filter(|line| !line.starts_with("x-aisix-request-id:"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    upstream.heard().into_iter().map(|heard| without_id(heard.head)).collect()
}

fn answers(count: usize) -> Vec<Vec<super::upstream::Step>> {
    vec![json("200 OK", "{}"); count]
}

#[test]
fn a_request_like_another_differs_in_its_id_alone_and_a_changed_key_is_in_the_next() {
    run(async {
        let upstream = Upstream::start(answers(6)).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let base = format!("http://{}/v1", upstream.address);
        for _ in 0..2 {
            assert_eq!(gateway.chat(value!({})).await.status, 200);
        }
        let ids: Vec<_> = upstream.heard().into_iter().map(|heard| heard.head).collect();
        assert_ne!(ids[0], ids[1]);
        let mut changed = provider_key("pk-1", &base);
        changed.secret = "sk-other".to_owned().into();
        gateway.put(Resource::ProviderKey(changed.clone()));
        for _ in 0..2 {
            assert_eq!(gateway.chat(value!({})).await.status, 200);
        }
        changed.request.default_headers.push(("x-team".to_owned(), "blue".to_owned()));
        gateway.put(Resource::ProviderKey(changed));
        for _ in 0..2 {
            assert_eq!(gateway.chat(value!({})).await.status, 200);
        }
        let heads = heads(&upstream);
        for [first, second] in heads.as_chunks().0 {
            assert_eq!(first, second);
        }
        assert!(heads[0].contains("authorization: bearer sk-upstream\n"), "{}", heads[0]);
        assert!(heads[2].contains("authorization: bearer sk-other\n"), "{}", heads[2]);
        assert!(!heads[3].contains("x-team") && heads[5].contains("x-team: blue\n"), "{heads:?}");
    });
}

#[test]
fn azure_has_its_own_credential_and_version_in_every_request() {
    run(async {
        let upstream = Upstream::start(answers(2)).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut azure = provider_key("pk-1", &format!("http://{}", upstream.address));
        azure.adapter = Some(Adapter::AzureOpenAi);
        gateway.put(Resource::ProviderKey(azure));
        for _ in 0..2 {
            assert_eq!(gateway.chat(value!({})).await.status, 200);
        }
        let heads = heads(&upstream);
        assert_eq!(heads[0], heads[1]);
        let line = "post /openai/deployments/gpt-up/chat/completions?api-version=";
        assert!(heads[1].starts_with(line), "{}", heads[1]);
        assert!(heads[1].contains("api-key: sk-upstream\n"), "{}", heads[1]);
        assert!(!heads[1].contains("authorization"), "{}", heads[1]);
    });
}

#[test]
fn another_model_behind_the_same_key_is_another_target() {
    run(async {
        let upstream = Upstream::start(answers(3)).await;
        let gateway = Gateway::start(test_settings(), upstream.address).await;
        let mut other = model("m-2", "other", "pk-1");
        let shared::resource::ModelKind::Direct(direct) = &mut other.kind else { panic!() };
        direct.model_name = "gpt-other".to_owned();
        gateway.put(Resource::Model(other));
        for name in ["chat", "other", "chat"] {
            assert_eq!(gateway.chat(value!({"model": name})).await.status, 200);
        }
        let models = gateway.usage().into_iter().map(|event| event.model_id);
        assert_eq!(models.collect::<Vec<_>>(), ["m-1", "m-2", "m-1"]);
        let bodies: Vec<_> = upstream.heard().into_iter().map(|heard| heard.body).collect();
        assert!(bodies[1].contains("gpt-other") && bodies[2].contains("gpt-up"), "{bodies:?}");
    });
}
