//! The cache: a repeat is answered without a provider, whichever worker gets it, and nothing crosses the border of its policy.

use std::process::Command;

use harness::caller::{chat, chat_stream};
use harness::process::Process;
use harness::worker::Worker;
use harness::{
    Answer, Builder, Caller, Connection, Gateway, Projection, World, load, port, projection, wait,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

const ONE: &str = "sk-one";
const TWO: &str = "sk-two";

/// The cache is killed so often.
const KILLS: usize = 5;

/// What callers of two keys may have, and no policy.
fn resources(world: &World) -> Projection {
    Projection::of(&world.upstream)
        .with("api_keys", "k-one", projection::api_key(ONE, &["*"]))
        .with("api_keys", "k-two", projection::api_key(TWO, &["*"]))
}

fn policy(more: Value) -> Value {
    let mut policy = json!({"name": "faq"});
    for (name, value) in more.as_object().into_iter().flatten() {
        policy[name] = value.clone();
    }
    policy
}

/// A world with one policy.
async fn world(more: Value) -> World {
    let world = World::start().await;
    world.cloud.project(&resources(&world).with("cache_policies", "c-1", policy(more)));
    world
}

fn cache(gateway: &Gateway) -> Option<Worker> {
    gateway.workers().into_iter().find(|worker| worker.role == "cache")
}

/// A connection to each of both proxy workers: to two of any, unless we are root and can tell.
async fn connections(gateway: &Gateway) -> [Connection; 2] {
    let proxies = gateway.proxies();
    let mut found: [Option<Connection>; 2] = [None, None];
    wait::until("both workers have a connection", async || {
        let mut connection = Connection::open(gateway.proxy()).await.unwrap();
        // Accepted at the latest when it is answered.
        gateway.caller().models_over(&mut connection).await.unwrap().bytes().await.unwrap();
        let holder = proxies.iter().position(|worker| worker.holds(&connection));
        let place = holder.unwrap_or(usize::from(found[0].is_some()));
        found[place].get_or_insert(connection);
        if found.iter().all(Option::is_some) { Ok(()) } else { Err("one has none") }
    })
    .await;
    found.map(Option::unwrap)
}

/// What became of a request at the cache.
async fn outcome(answer: Answer) -> String {
    if answer.status != 200 {
        return format!("status {}", answer.status);
    }
    let outcome = answer.header("x-aisix-cache").to_owned();
    let layer = if outcome == "hit" { "exact" } else { "" };
    assert_eq!(answer.header("x-aisix-cache-layer"), layer);
    answer.bytes().await.unwrap();
    outcome
}

async fn ask(caller: &Caller, connection: &mut Connection, text: &str) -> String {
    outcome(caller.chat_over(connection, &chat("small-1", text)).await.unwrap()).await
}

/// Asks until that is what becomes of it.
async fn until(caller: &Caller, connection: &mut Connection, text: &str, expected: &str) {
    wait::until(&format!("'{text}' is a {expected}"), async || {
        let outcome = ask(caller, connection, text).await;
        if outcome == expected { Ok(()) } else { Err(outcome) }
    })
    .await;
}

/// Both workers have the policy and the cache.
async fn warm(caller: &Caller, connections: &mut [Connection; 2]) {
    for connection in connections {
        until(caller, connection, "warm up", "hit").await;
    }
}

#[tokio::test]
async fn a_repeat_is_a_hit_at_the_worker_that_has_never_seen_it_and_leaves_one_event() {
    let world = world(json!({})).await;
    let caller = world.gateway.caller_with(ONE);
    let mut both = connections(&world.gateway).await;
    warm(&caller, &mut both).await;
    let [one, other] = &mut both;
    until(&caller, one, "what is it", "hit").await;
    let asked = world.upstream.ledger().len();
    let answer = caller.chat_over(other, &chat("small-1", "what is it")).await.unwrap();
    assert_eq!(answer.header("x-aisix-cache"), "hit", "at the first go");
    let id = answer.header("x-aisix-request-id").to_owned();
    assert_eq!(answer.header("x-aisix-call-id"), id);
    let body = answer.json().await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "You said: what is it", "{body}");
    assert_eq!(world.upstream.ledger().len(), asked);

    let metrics = world.gateway.metrics().await;
    let counted = |outcome| {
        let labels = [("policy", "faq"), ("outcome", outcome)];
        metrics.sum("aisix_cache_requests_total", &labels)
    };
    assert!(counted("hit_exact") >= 4.0 && counted("miss") >= 2.0);

    let event = wait::until("the hit is told", async || {
        let events = world.cloud.usage().await;
        let mut of_it = events.into_iter().filter(|event| event["request_id"] == id.as_str());
        match (of_it.next(), of_it.next()) {
            (Some(event), None) => Ok(event),
            (one, another) => Err(format!("{one:?} {another:?}")),
        }
    })
    .await;
    assert_eq!(
        (&event["cache_status"], &event["cache_hit_layer"]),
        (&json!("hit"), &json!("exact"))
    );
    assert_eq!(event["cache_hit_saved_input_tokens"], 3, "{event}");
    assert_eq!(event["cache_hit_saved_output_tokens"], 5, "{event}");
    assert_eq!((&event["prompt_tokens"], &event["completion_tokens"]), (&json!(0), &json!(0)));
    assert_eq!((&event["status_code"], &event["cost_usd"]), (&json!(200), &json!(0.0)));
}

#[tokio::test]
async fn an_answer_is_the_key_s_own_unless_the_policy_shares_it() {
    let world = world(json!({})).await;
    let [one, two] = [ONE, TWO].map(|key| world.gateway.caller_with(key));
    let mut both = connections(&world.gateway).await;
    warm(&one, &mut both).await;
    let [a, b] = &mut both;
    until(&one, a, "whose is it", "hit").await;
    for connection in [&mut *a, &mut *b] {
        let text = format!("private {:?}", connection.local());
        until(&one, connection, &text, "hit").await;
        assert_eq!(ask(&two, connection, &text).await, "miss", "never another key's");
    }

    let shared = policy(json!({"scope": "env"}));
    world.cloud.project(&resources(&world).with("cache_policies", "c-1", shared));
    wait::until("both workers share", async || {
        for connection in [&mut *a, &mut *b] {
            let text = format!("shared {:?}", connection.local());
            ask(&one, connection, &text).await;
            if ask(&two, connection, &text).await != "hit" {
                return Err("one does not");
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_is_about_what_it_applies_to() {
    let world = World::start().await;
    let of = |applies_to: &str| policy(json!({"applies_to": applies_to}));
    world.cloud.project(
        &resources(&world)
            .with("cache_policies", "c-1", of("model:small-1"))
            .with("cache_policies", "c-2", of("api_key:k-two"))
            .with("cache_policies", "c-3", policy(json!({"enabled": false}))),
    );
    let [one, two] = [ONE, TWO].map(|key| world.gateway.caller_with(key));
    let mut both = connections(&world.gateway).await;
    for connection in &mut both {
        until(&one, connection, "hello", "hit").await;
        let of_split = async |caller: &Caller, connection: &mut Connection| {
            outcome(caller.chat_over(connection, &chat("split", "hello")).await.unwrap()).await
        };
        assert_eq!(of_split(&one, connection).await, "", "another model");
        wait::until("the key's policy holds", async || {
            let outcome = of_split(&two, connection).await;
            if outcome == "hit" { Ok(()) } else { Err(outcome) }
        })
        .await;
        let stream = one.chat_over(connection, &chat_stream("small-1", "hello")).await.unwrap();
        assert_eq!(outcome(stream).await, "", "a stream is none of its business");
    }
}

#[tokio::test]
async fn an_answer_is_given_again_until_its_time_is_over() {
    let world = world(json!({"ttl_seconds": 1})).await;
    let caller = world.gateway.caller_with(ONE);
    let [mut one, mut other] = connections(&world.gateway).await;
    until(&caller, &mut one, "for a second", "hit").await;
    until(&caller, &mut other, "for a second", "hit").await;
    until(&caller, &mut one, "for a second", "miss").await;
}

#[tokio::test]
async fn a_purge_holds_at_every_worker() {
    let world = world(json!({})).await;
    let caller = world.gateway.caller_with(ONE);
    let mut both = connections(&world.gateway).await;
    let texts = ["first text", "second text"];
    for (connection, text) in both.iter_mut().zip(texts) {
        until(&caller, connection, text, "hit").await;
    }
    let purged = policy(json!({"purge_generation": 1}));
    world.cloud.project(&resources(&world).with("cache_policies", "c-1", purged));
    for (connection, text) in both.iter_mut().zip(texts) {
        until(&caller, connection, text, "miss").await;
    }
}

#[tokio::test]
async fn a_caller_s_cache_control_is_honoured() {
    let world = world(json!({})).await;
    let caller = world.gateway.caller_with(ONE);
    let mut both = connections(&world.gateway).await;
    warm(&caller, &mut both).await;
    let [connection, _] = &mut both;
    let wishing = async |connection: &mut Connection, wish: &'static str, text: &str| {
        let mut request = caller.request("/v1/chat/completions", &chat("small-1", text));
        let wish = http::HeaderValue::from_static(wish);
        request.headers_mut().insert(http::header::CACHE_CONTROL, wish);
        outcome(connection.send(request).await.unwrap()).await
    };
    assert_eq!(wishing(connection, "no-cache", "warm up").await, "bypass");
    assert_eq!(wishing(connection, "no-cache", "fresh").await, "bypass");
    assert_eq!(ask(&caller, connection, "fresh").await, "hit", "it was kept");
    assert_eq!(wishing(connection, "no-store", "secret").await, "bypass");
    assert_eq!(ask(&caller, connection, "secret").await, "miss", "it was not kept");
}

#[tokio::test]
async fn the_cache_comes_with_the_first_policy_that_needs_it_and_goes_with_the_last() {
    let world = World::start().await;
    assert_eq!(cache(&world.gateway), None);
    let with = |more: Value| resources(&world).with("cache_policies", "c-1", policy(more));
    world.cloud.project(&with(json!({})));
    let worker =
        wait::until("it has come", async || cache(&world.gateway).ok_or("it is not there")).await;
    let caller = world.gateway.caller_with(ONE);
    let mut both = connections(&world.gateway).await;
    warm(&caller, &mut both).await;
    let metrics = world.gateway.metrics().await;
    assert_eq!(metrics.sum("aisix_workers_up", &[("role", "cache")]), 1.0);
    if geteuid().is_root() {
        let uid = |worker: &Worker| {
            let status = std::fs::read_to_string(worker.proc("status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let others = world.gateway.workers();
        let others = others.iter().filter(|other| other.role != "cache");
        assert!(others.map(uid).all(|other| other != uid(&worker)), "it has a user of its own");
    }
    for gone in [with(json!({"enabled": false})), resources(&world)] {
        world.cloud.project(&gone);
        wait::until("it has left", async || match cache(&world.gateway) {
            None => Ok(()),
            Some(worker) => Err(format!("{worker:?}")),
        })
        .await;
        for connection in &mut both {
            until(&caller, connection, "warm up", "").await;
        }
        world.cloud.project(&with(json!({})));
        warm(&caller, &mut both).await;
    }
    assert!(!world.gateway.log().contains("broke the protocol"), "{}", world.gateway.log());
}

#[tokio::test]
async fn a_cache_that_is_killed_again_and_again_fails_no_request() {
    let world = world(json!({})).await;
    let caller = world.gateway.caller_with(ONE);
    let mut both = connections(&world.gateway).await;
    warm(&caller, &mut both).await;
    let gateway = &world.gateway;
    let (seen, ()) = load::during(caller.clone(), 6, async |seen| {
        for _ in 0..KILLS {
            let victim = cache(gateway).expect("a cache");
            victim.kill();
            seen.more().await;
            wait::until("another cache is there", async || match cache(gateway) {
                Some(other) if other != victim => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
    })
    .await;
    seen.nothing_failed();
    warm(&caller, &mut both).await;
}

#[tokio::test]
async fn a_cache_that_hangs_fails_no_request_and_is_replaced() {
    let world = world(json!({})).await;
    let caller = world.gateway.caller_with(ONE);
    let mut both = connections(&world.gateway).await;
    warm(&caller, &mut both).await;
    let gateway = &world.gateway;
    let hanging = cache(gateway).expect("a cache");
    let (seen, ()) = load::during(caller.clone(), 6, async |_| {
        kill(hanging.pid, Signal::SIGSTOP).unwrap();
        wait::until("another cache is there", async || match cache(gateway) {
            Some(other) if other != hanging => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    })
    .await;
    seen.nothing_failed();
    warm(&caller, &mut both).await;
}

/// A Redis of its own for one test.
struct Redis {
    url: String,
    process: Process,
    _folder: TempDir,
}

impl Redis {
    async fn start() -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), port::reserve());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
        command.args(["--save", "", "--dir"]).arg(folder.path());
        let process = Process::spawn("redis", command, &folder.path().join("redis.log"))
            .unwrap_or_else(|error| panic!("{error}; install it: apt-get install redis-server"));
        wait::until("redis accepts connections", async || {
            tokio::net::TcpStream::connect(address).await.map(drop)
        })
        .await;
        Self { url: format!("redis://{address}/1"), process, _folder: folder }
    }
}

#[tokio::test]
async fn what_one_gateway_keeps_in_redis_another_gives_again_and_a_redis_that_is_gone_is_a_miss() {
    let mut redis = Redis::start().await;
    let url = json!(redis.url);
    let world = World::start_with(|builder| {
        builder.set("/cache", json!({"backend": "redis", "redis": {"url": url}}))
    })
    .await;
    let other = Builder::managed(&world.cloud)
        .set("/cache", json!({"redis": {"url": redis.url}}))
        .start()
        .await;
    let shared = policy(json!({"backend": "redis"}));
    world.cloud.project(&resources(&world).with("cache_policies", "c-1", shared));
    let gateways = [&world.gateway, &other];
    let [one, two] = gateways.map(|gateway| gateway.caller_with(ONE));
    let text = "kept for everybody";
    for (caller, gateway) in [(&one, gateways[0]), (&two, gateways[1])] {
        for connection in &mut connections(gateway).await {
            until(caller, connection, "warm up", "hit").await;
        }
    }
    let mut connection = Connection::open(one.address).await.unwrap();
    until(&one, &mut connection, text, "hit").await;
    let asked = world.upstream.ledger().len();
    let mut connection = Connection::open(two.address).await.unwrap();
    assert_eq!(ask(&two, &mut connection, text).await, "hit", "at the other gateway, at once");
    assert_eq!(world.upstream.ledger().len(), asked);
    assert!(gateways.iter().all(|gateway| cache(gateway).is_none()), "no policy needs the cache");

    redis.process.kill();
    let (seen, ()) = load::during(one.clone(), 4, async |seen| seen.more().await).await;
    seen.nothing_failed();
    until(&one, &mut Connection::open(one.address).await.unwrap(), text, "miss").await;
    let metrics = world.gateway.metrics().await;
    assert!(metrics.sum("aisix_cache_redis_failures_total", &[]) > 0.0);
    assert!(world.gateway.log().contains("cache.redis cannot be used"));
}

#[tokio::test]
async fn without_a_redis_a_policy_that_wants_one_keeps_nothing() {
    let world = world(json!({"backend": "redis"})).await;
    let caller = world.gateway.caller_with(ONE);
    wait::until("usage tells that the policy is not carried out", async || {
        let outcome = outcome(caller.ask("small-1", "hello").await).await;
        assert!(!["hit", "miss"].contains(&outcome.as_str()), "{outcome}");
        let usage = world.cloud.usage().await;
        let is_so = usage.iter().any(|event| event["cache_status"] == "disabled");
        if is_so { Ok(()) } else { Err("none so far") }
    })
    .await;
}
