//! Callers with tokens of an identity provider.

use harness::cloud::ENVIRONMENT;
use harness::identity::{Behaviour, IdentityProvider, SigningKey, unix_seconds};
use harness::{
    Answer, Builder, Cloud, Etcd, Gateway, Projection, Upstream, WORKERS, projection, upstream,
    wait,
};
use serde_json::{Value, json};

/// A gateway that a Cloud over a real etcd manages, and an identity provider whose subject `alice` is the key `k-alice`.
struct Tokens {
    _upstream: Upstream,
    provider: IdentityProvider,
    key: SigningKey,
    etcd: Etcd,
    cloud: Cloud,
    gateway: Gateway,
}

impl Tokens {
    async fn start() -> Self {
        let key = SigningKey::rsa("first");
        let provider = IdentityProvider::start(&[&key]).await;
        Self::with(provider, key, WORKERS, |document| document).await
    }

    async fn with(
        provider: IdentityProvider,
        key: SigningKey,
        workers: usize,
        change: impl FnOnce(Value) -> Value,
    ) -> Self {
        let upstream = upstream().await;
        let etcd = Etcd::start().await;
        let projection = Projection::of(&upstream)
            .with("oidc_providers", "o-1", change(provider.document("corp")))
            .with("api_keys", "k-alice", bound("sk-alice", "corp", "alice"));
        etcd.project(&path("", ""), &projection).await;
        let cloud = Cloud::over(&etcd).await;
        let gateway = Builder::managed(&cloud);
        let gateway = gateway.set("/proxy/workers", json!(workers)).start().await;
        Self { _upstream: upstream, provider, key, etcd, cloud, gateway }
    }

    /// A good token of that subject.
    fn token(&self, subject: &str) -> String {
        self.key.sign(&self.provider.claims(subject))
    }

    /// The same with other claims.
    fn token_with(&self, changes: Value) -> String {
        let mut claims = self.provider.claims("alice");
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.key.sign(&claims)
    }

    async fn ask(&self, token: &str) -> Answer {
        self.gateway.caller_with(token).ask("small-1", "hello").await
    }

    /// Status and code of the answer.
    async fn outcome(&self, token: &str) -> String {
        outcome(self.ask(token).await).await
    }

    /// Waits until several requests in a row, which any worker may get, have that outcome.
    async fn settled(&self, token: &str, expected: &str) {
        wait::until(&format!("the answer is {expected}"), async || {
            for _ in 0..6 {
                let outcome = self.outcome(token).await;
                if outcome != expected {
                    return Err(outcome);
                }
            }
            Ok(())
        })
        .await;
    }

    async fn put(&self, kind: &str, id: &str, document: &Value) {
        self.etcd.put(&path(kind, id), document).await;
    }

    async fn usage_of(&self, request_id: &str) -> Value {
        wait::until("the usage event arrives", async || {
            let events = self.cloud.usage().await;
            let event = events.into_iter().find(|event| event["request_id"] == request_id);
            event.ok_or("none so far")
        })
        .await
    }
}

fn path(kind: &str, id: &str) -> String {
    match kind {
        "" => format!("/aisix/{ENVIRONMENT}/"),
        kind => format!("/aisix/{ENVIRONMENT}/{kind}/{id}"),
    }
}

fn bound(key: &str, provider: &str, subject: &str) -> Value {
    let mut document = projection::api_key(key, &["*"]);
    document["jwt_provider"] = json!(provider);
    document["jwt_subject"] = json!(subject);
    document
}

fn mapping(name: &str, priority: u32, group: &str, key: &str) -> Value {
    json!({
        "name": name, "jwt_provider": "corp", "priority": priority,
        "match": [{"claim": "groups", "op": "contains", "values": [group]}],
        "resolve": {"api_key_id": key},
    })
}

async fn outcome(answer: Answer) -> String {
    let status = answer.status.as_u16();
    let body = answer.json().await.unwrap();
    let error = &body["error"];
    let word = |name: &str| error[name].as_str().unwrap_or("-").to_owned();
    if error.is_null() {
        status.to_string()
    } else {
        format!("{status} {} {}", word("type"), word("code"))
    }
}

#[tokio::test]
async fn a_token_stands_for_the_key_that_is_bound_to_its_subject_and_usage_says_so() {
    let (rsa, ec, ed) = (SigningKey::rsa("rsa"), SigningKey::p256("ec"), SigningKey::ed25519("ed"));
    let provider = IdentityProvider::start(&[&rsa, &ec, &ed]).await;
    let world = Tokens::with(provider, rsa, WORKERS, |document| document).await;
    // The very first request: its keys were fetched before it came, or come while it waits.
    let answer = world.ask(&world.token("alice")).await;
    assert_eq!(answer.status, 200);
    let request_id = answer.header("x-aisix-request-id").to_owned();
    let event = world.usage_of(&request_id).await;
    let told = ["api_key_id", "jwt_subject", "jwt_provider"].map(|name| event[name].clone());
    assert_eq!(told, [json!("k-alice"), json!("alice"), json!("corp")], "{event}");
    assert_eq!(event.get("jwt_claim_mapping"), None, "{event}");
    let claims = world.provider.claims("alice");
    for key in [&ec, &ed] {
        assert_eq!(world.outcome(&key.sign(&claims)).await, "200");
    }
    // An id says which key; without one every key is tried.
    let without_id = ec.sign_as(&json!({"alg": "ES256"}), &claims);
    assert_eq!(world.outcome(&without_id).await, "200");
    // The key itself is still one, also beside tokens.
    assert_eq!(world.outcome("sk-alice").await, "200");
    let metrics = world.gateway.metrics().await;
    let allowed = [("method", "jwt"), ("result", "allowed"), ("reason", "none")];
    assert_eq!(metrics.sum("aisix_auth_decisions_total", &allowed), 4.0);
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_with_the_published_words_and_never_taken_for_a_key() {
    let key = SigningKey::rsa("first");
    let provider = IdentityProvider::start(&[&key]).await;
    let world = Tokens::with(provider, key, WORKERS, |mut document| {
        document["leeway_secs"] = json!(5);
        document["required_scopes"] = json!(["llm"]);
        document["bound_claims"] = json!({"realm_access.roles": ["dev"]});
        document
    })
    .await;
    let good = json!({"scope": "openid llm", "realm_access": {"roles": ["dev"]}});
    world.settled(&world.token_with(good.clone()), "200").await;
    let with = |changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        world.token_with(claims)
    };
    let now = unix_seconds();
    let stranger = SigningKey::rsa("first");
    let mut claims = world.provider.claims("alice");
    claims["scope"] = json!("llm");
    let header = |algorithm: &str, id: &str| json!({"alg": algorithm, "kid": id});
    let invalid = "401 invalid_api_key jwt_invalid";
    let rejected = "403 permission_denied jwt_claims_rejected";
    for (reason, token, expected) in [
        ("jwt_expired", with(json!({"exp": now - 10})), "401 invalid_api_key jwt_expired"),
        ("jwt_not_yet_valid", with(json!({"nbf": now + 600})), invalid),
        ("jwt_audience_mismatch", with(json!({"aud": "another"})), invalid),
        ("jwt_missing_claim", with(json!({"aud": null})), invalid),
        ("jwt_missing_issuer", with(json!({"iss": null})), invalid),
        (
            "jwt_untrusted_issuer",
            with(json!({"iss": format!("{}/", world.provider.issuer())})),
            invalid,
        ),
        ("jwt_scope_missing", with(json!({"scope": "openid"})), rejected),
        ("jwt_bound_claim_mismatch", with(json!({"realm_access": {"roles": ["x"]}})), rejected),
        ("jwt_bad_signature", stranger.sign(&claims), invalid),
        ("jwt_alg_not_allowed", world.key.sign_as(&header("HS256", "first"), &claims), invalid),
        ("jwt_alg_not_allowed", world.key.sign_as(&header("none", "first"), &claims), invalid),
        ("jwt_alg_not_allowed", world.key.sign_as(&header("PS256", "first"), &claims), invalid),
        ("jwt_unknown_kid", world.key.sign_as(&header("RS256", "gone"), &claims), invalid),
        (
            "jwt_identity_claim_missing",
            with(json!({"sub": 7})),
            "401 invalid_api_key jwt_identity_unmapped",
        ),
        (
            "jwt_identity_unmapped",
            with(json!({"sub": "bob"})),
            "401 invalid_api_key jwt_identity_unmapped",
        ),
    ] {
        let labels = [("method", "jwt"), ("result", "denied"), ("reason", reason)];
        let count =
            async || world.gateway.metrics().await.sum("aisix_auth_decisions_total", &labels);
        let before = count().await;
        assert_eq!(world.outcome(&token).await, expected, "{reason}");
        assert_eq!(count().await - before, 1.0, "{reason}");
    }
    // In the words of the other dialect on its path, and for a token in its header.
    let caller = world.gateway.caller_with("unused");
    let mut request = caller.request("/v1/messages", &json!({"model": "small-1"}));
    let token = with(json!({"exp": now - 10})).parse().unwrap();
    request.headers_mut().remove("authorization");
    request.headers_mut().insert("x-api-key", token);
    let answer = harness::client::send(world.gateway.proxy(), request).await.unwrap();
    assert_eq!(answer.status, 401);
    let body = answer.json().await.unwrap();
    assert_eq!(body["error"]["type"], "authentication_error", "{body}");
}

#[tokio::test]
async fn the_rules_of_the_key_hold_and_what_leads_to_two_keys_or_none_is_refused() {
    let world = Tokens::start().await;
    let (alice, dev) =
        (world.token("alice"), world.token_with(json!({"sub": "d", "groups": ["dev"]})));
    let unmapped = "401 invalid_api_key jwt_identity_unmapped";
    world.settled(&alice, "200").await;
    world.settled(&dev, unmapped).await;

    // Mappings by priority, then by name; one that leads nowhere refuses.
    world.put("claim_mappings", "c-1", &mapping("z", 5, "dev", "k-1")).await;
    world.settled(&dev, "200").await;
    let answer = world.ask(&dev).await;
    let event = world.usage_of(answer.header("x-aisix-request-id")).await;
    let told = ["api_key_id", "jwt_subject", "jwt_claim_mapping"].map(|name| event[name].clone());
    assert_eq!(told, [json!("k-1"), json!("d"), json!("z")], "{event}");
    world.put("claim_mappings", "c-2", &mapping("a", 5, "dev", "k-gone")).await;
    world.settled(&dev, unmapped).await;
    let mut off = mapping("a", 5, "dev", "k-gone");
    off["enabled"] = json!(false);
    world.put("claim_mappings", "c-2", &off).await;
    world.settled(&dev, "200").await;
    // Nothing of these kinds is reported as not enforced.
    let status = world.gateway.status_config().await;
    let partial = status["partially_compatible"].as_array().cloned().unwrap_or_default();
    assert!(partial.is_empty(), "{partial:?}");

    // The bound key's own rules.
    let mut document = bound("sk-alice", "corp", "alice");
    document["allowed_models"] = json!(["split"]);
    world.put("api_keys", "k-alice", &document).await;
    world.settled(&alice, "403 permission_denied -").await;
    document["disabled"] = json!(true);
    world.put("api_keys", "k-alice", &document).await;
    world.settled(&alice, "401 invalid_api_key api_key_disabled").await;
    document["disabled"] = json!(false);
    document["expires_at"] = json!("2020-01-01T00:00:00Z");
    world.put("api_keys", "k-alice", &document).await;
    world.settled(&alice, "401 invalid_api_key api_key_expired").await;
    world.put("api_keys", "k-alice", &bound("sk-alice", "corp", "alice")).await;
    world.settled(&alice, "200").await;
    world.put("api_keys", "k-other", &bound("sk-other", "corp", "alice")).await;
    world.settled(&alice, unmapped).await;
    // A subject of another provider is somebody else.
    world.put("api_keys", "k-other", &bound("sk-other", "partner", "alice")).await;
    world.settled(&alice, "200").await;

    // Without a provider that is switched on, it is a bearer like any other.
    let mut off = world.provider.document("corp");
    off["enabled"] = json!(false);
    world.put("oidc_providers", "o-1", &off).await;
    world.settled(&alice, "401 invalid_api_key -").await;
}

#[tokio::test]
async fn keys_are_fetched_once_for_all_workers_and_a_new_one_is_found_when_it_is_used() {
    let key = SigningKey::rsa("first");
    let provider = IdentityProvider::start(&[&key]).await;
    let world = Tokens::with(provider, key, 6, |document| document).await;
    world.settled(&world.token("alice"), "200").await;
    let fetches = world.provider.fetches();
    // One is what it takes; on a slow machine somebody may not hear of it in time.
    assert!(fetches <= 2, "{fetches} fetches by 6 workers");
    assert_eq!(world.provider.discoveries(), fetches);
    let next = SigningKey::p256("second");
    world.provider.publish(&[&next]);
    // Keys that nobody has ever had do not become a stream of questions.
    let strangers: Vec<_> =
        (0..40).map(|number| SigningKey::ed25519(&format!("s-{number}"))).collect();
    for stranger in &strangers {
        let outcome = world.outcome(&stranger.sign(&world.provider.claims("alice"))).await;
        assert_eq!(outcome, "401 invalid_api_key jwt_invalid");
    }
    let asked = world.provider.fetches() - fetches;
    assert!(asked < strangers.len() / 4, "{asked} fetches for {} strangers", strangers.len());
    world.settled(&next.sign(&world.provider.claims("alice")), "200").await;
    // The one before was withdrawn.
    world.settled(&world.token("alice"), "401 invalid_api_key jwt_invalid").await;
}

#[tokio::test]
async fn without_keys_tokens_are_answered_with_503_until_there_are_some() {
    let key = SigningKey::rsa("first");
    let provider = IdentityProvider::start(&[&key]).await;
    let unavailable = "503 api_error jwks_unavailable";
    provider.behave(Behaviour::Hangs);
    let world = Tokens::with(provider, key, WORKERS, |document| document).await;
    let token = world.token("alice");
    assert_eq!(world.outcome(&token).await, unavailable);
    // Callers with keys do not notice.
    assert_eq!(world.outcome("sk-alice").await, "200");
    for behaviour in [Behaviour::Fails, Behaviour::Redirects, Behaviour::Bloated] {
        let before = world.provider.fetches();
        world.provider.behave(behaviour);
        wait::until("the keys are asked for again", async || {
            let _ = world.outcome(&token).await;
            let fetches = world.provider.fetches();
            if fetches > before { Ok(()) } else { Err(fetches) }
        })
        .await;
        assert_eq!(world.outcome(&token).await, unavailable, "{behaviour:?}");
    }
    world.provider.behave(Behaviour::Plain);
    world.settled(&token, "200").await;
}

#[tokio::test]
async fn keys_outlive_their_provider_and_the_workers_that_fetched_them() {
    let mut world = Tokens::start().await;
    let token = world.token("alice");
    world.settled(&token, "200").await;
    world.provider.behave(Behaviour::Fails);
    let before = world.gateway.proxies();
    for worker in &before {
        worker.kill();
    }
    world.gateway.wait_until_ready().await;
    wait::until("other workers serve", async || {
        let now = world.gateway.proxies();
        let is_old = |pid| before.iter().any(|worker| worker.pid == pid);
        if now.len() == WORKERS && now.iter().all(|worker| !is_old(worker.pid)) {
            Ok(())
        } else {
            Err(now.len())
        }
    })
    .await;
    world.settled(&token, "200").await;
}

#[tokio::test]
async fn a_provider_that_changes_is_asked_anew_and_discovery_leads_nowhere_else() {
    let world = Tokens::start().await;
    let token = world.token("alice");
    world.settled(&token, "200").await;
    // A document of a hostile or mistaken provider: its keys must not be fetched from another place.
    let other = IdentityProvider::start(&[&world.key]).await;
    world.provider.discover_at(&other.jwks_uri());
    world.provider.publish(&[]);
    let mut document = world.provider.document("corp");
    document["jwks_uri"] = json!(world.provider.jwks_uri());
    world.put("oidc_providers", "o-1", &document).await;
    world.settled(&token, "503 api_error jwks_unavailable").await;
    world.put("oidc_providers", "o-1", &world.provider.document("corp")).await;
    wait::until("the discovery document is looked at", async || {
        let _ = world.outcome(&token).await;
        let log = world.gateway.log();
        if log.contains("jwks_uri on another host") { Ok(()) } else { Err("it was not so far") }
    })
    .await;
    assert_eq!(world.outcome(&token).await, "503 api_error jwks_unavailable");
    assert_eq!(other.fetches(), 0);
    // Named by the operator it is another matter.
    let mut document = world.provider.document("corp");
    document["jwks_uri"] = json!(other.jwks_uri());
    world.put("oidc_providers", "o-1", &document).await;
    world.settled(&token, "200").await;
    assert!(other.fetches() > 0 && other.discoveries() == 0);
}
