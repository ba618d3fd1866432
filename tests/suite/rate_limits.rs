//! Rate limits: a limit of N lets N through, whoever of the workers is asked, and with Redis whichever node.

use std::process::Command;

use harness::process::Process;
use harness::projection::{self, api_key, model};
use harness::worker::Worker;
use harness::{Builder, Caller, Cloud, Gateway, Projection, Upstream, port, upstream, wait};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Calls at once.
const CALLS: usize = 1_000;

fn with(mut document: Value, member: &str, value: Value) -> Value {
    document[member] = value;
    document
}

fn limited(limits: Value) -> Value {
    with(api_key(projection::CALLER_KEY, &["*"]), "rate_limit", limits)
}

async fn start(projection: &Projection) -> (Cloud, Gateway) {
    let cloud = Cloud::start(projection).await;
    let gateway = Builder::managed(&cloud).start().await;
    (cloud, gateway)
}

/// Asks so many times at once; returns how many were served and how many refused.
async fn at_once(callers: &[Caller], model: &'static str, calls: usize) -> (usize, usize) {
    let mut asking = JoinSet::new();
    for caller in callers.iter().cycle().take(calls) {
        let caller = caller.clone();
        asking.spawn(async move { caller.ask(model, "hello").await.status.as_u16() });
    }
    let answers = asking.join_all().await;
    let count = |status| answers.iter().filter(|it| **it == status).count();
    let (served, refused) = (count(200), count(429));
    assert_eq!(served + refused, calls, "{answers:?}");
    (served, refused)
}

async fn refusal(caller: &Caller, model: &str) -> (Value, String) {
    let answer = caller.ask(model, "hello").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "");
    let retry_after = answer.header("retry-after").to_owned();
    (answer.json().await.unwrap(), retry_after)
}

#[tokio::test]
async fn of_a_thousand_at_once_exactly_as_many_are_served_as_the_limit_says() {
    let upstream = upstream().await;
    let projection =
        Projection::of(&upstream).with("api_keys", "k-1", limited(json!({"rpd": 137})));
    let (_cloud, gateway) = start(&projection).await;
    let (served, refused) = at_once(&[gateway.caller()], "small-1", CALLS).await;
    assert_eq!((served, refused), (137, CALLS - 137));
    assert_eq!(upstream.ledger().len(), 137);
    let (body, retry_after) = refusal(&gateway.caller(), "small-1").await;
    let expected = json!({"error": {"message": "request limit exceeded (requests)", "type": "rate_limit_exceeded"}});
    assert_eq!(body, expected);
    assert!((1..=86_400).contains(&retry_after.parse::<u32>().unwrap()), "{retry_after}");
    let labels = [("scope", "requests"), ("layer", "api_key"), ("policy_id", "unknown")];
    let rejections = gateway.metrics().await.sum("aisix_ratelimit_rejections_total", &labels);
    assert_eq!(rejections, (CALLS - 137 + 1) as f64);
    let status = gateway.status_config().await;
    assert_eq!(status["state"], "synced", "{status}");
}

#[tokio::test]
async fn every_layer_counts_for_itself_and_a_refusal_of_one_takes_nothing_from_another() {
    let upstream = upstream().await;
    let of_team = |key: &str, user: &str| {
        with(with(api_key(key, &["*"]), "team_id", json!("t-1")), "user_id", json!(user))
    };
    let policy = json!({"name": "few", "scope": "team_member", "scope_ref": "t-1", "window": "day",
        "max_requests": 3});
    let by_key = json!({"name": "each", "limits": {"rpd": 7}, "group_by": ["api_key"],
        "conditions": [{"dimension": "model_name", "operator": "~~", "value": "^big"}]});
    let projection = Projection::of(&upstream)
        .with("models", "m-split", with(model("split", "pk-1"), "rate_limit", json!({"rpd": 5})))
        .with("api_keys", "k-1", limited(json!({"rpd": 40})))
        .with("api_keys", "k-2", of_team("sk-two", "u-1"))
        .with("api_keys", "k-3", of_team("sk-three", "u-2"))
        .with("rate_limit_policies", "p-1", policy)
        .with("rate_limit_policies", "p-2", by_key);
    let (_cloud, gateway) = start(&projection).await;
    let caller = gateway.caller();
    assert_eq!(at_once(std::slice::from_ref(&caller), "split", 50).await, (5, 45));
    let (body, _) = refusal(&caller, "split").await;
    assert_eq!(body["error"].get("policy"), None);
    assert_eq!(at_once(std::slice::from_ref(&caller), "big", 20).await, (7, 13));
    let (body, _) = refusal(&caller, "big").await;
    let error = json!({"message": "request limit exceeded (requests) (policy 'each')",
        "type": "rate_limit_exceeded", "policy": {"id": "p-2", "name": "each"}});
    assert_eq!(body["error"], error);
    // What model and policy have refused the key has not counted.
    assert_eq!(at_once(std::slice::from_ref(&caller), "small-1", 50).await, (40 - 5 - 7, 50 - 28));
    // Each member of the team on its own.
    for key in ["sk-two", "sk-three"] {
        assert_eq!(at_once(&[gateway.caller_with(key)], "small-1", 12).await, (3, 9));
    }
}

#[tokio::test]
async fn tokens_count_after_the_answer_and_refuse_once_they_are_above_the_limit() {
    let upstream = upstream().await;
    let limits = json!({"rpm": 1000, "tpm": 100_000, "tpd": 1, "concurrency": 5});
    let projection = Projection::of(&upstream).with("api_keys", "k-1", limited(limits));
    let (_cloud, gateway) = start(&projection).await;
    let caller = gateway.caller();
    let answer = caller.ask("small-1", "hello").await;
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("limit-requests", "1000"),
        ("remaining-requests", "999"),
        ("limit-tokens", "100000"),
        ("limit-concurrent", "5"),
        ("remaining-concurrent", "4"),
    ] {
        assert_eq!(answer.header(&format!("x-ratelimit-{name}")), value, "{name}");
    }
    assert!(answer.header("x-ratelimit-reset-requests").ends_with('s'));
    let left: u64 = answer.header("x-ratelimit-remaining-tokens").parse().unwrap();
    let used = answer.json().await.unwrap()["usage"]["total_tokens"].as_u64().unwrap();
    assert_eq!(left, 100_000 - used);
    let (body, retry_after) = refusal(&caller, "small-1").await;
    assert_eq!(body["error"]["message"], "token limit exceeded (tokens)");
    assert!(retry_after.parse::<u32>().unwrap() >= 1);
    let left =
        gateway.metrics().await.sum("aisix_ratelimit_remaining_requests", &[("api_key_id", "k-1")]);
    assert_eq!(left, 999.0);
}

#[tokio::test]
async fn places_of_callers_that_leave_and_of_killed_workers_come_back() {
    let upstream = upstream().await;
    let projection =
        Projection::of(&upstream).with("api_keys", "k-1", limited(json!({"concurrency": 2})));
    let (_cloud, gateway) = start(&projection).await;
    for is_killed in [false, true] {
        let held: Vec<_> = (0..2)
            .map(|_| {
                let caller = gateway.caller();
                // The one that looks below may have the last place for a moment.
                tokio::spawn(async move {
                    loop {
                        let answer = caller.try_chat(&harness::caller::chat("hold", "x")).await;
                        if !answer.as_ref().is_ok_and(|answer| answer.status == 429) {
                            break answer;
                        }
                    }
                })
            })
            .collect();
        let (body, retry_after) = wait::until("both are in progress", async || {
            let answer = gateway.caller().ask("small-1", "hello").await;
            if answer.status != 429 {
                return Err(answer.status.to_string());
            }
            let retry_after = answer.header("retry-after").to_owned();
            Ok((answer.json().await.unwrap(), retry_after))
        })
        .await;
        let message = body["error"]["message"].as_str().unwrap();
        assert_eq!((message, retry_after.as_str()), ("concurrency limit exceeded", ""));
        if is_killed {
            gateway.proxies().iter().for_each(Worker::kill);
        } else {
            held.iter().for_each(tokio::task::JoinHandle::abort);
        }
        wait::until("the places are free again", async || {
            let answer = gateway.caller().try_chat(&harness::caller::chat("small-1", "x")).await;
            let status = answer.map_err(|error| error.to_string())?.status;
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
}

/// A Redis of its own for one test.
struct Redis {
    url: String,
    process: Process,
    _folder: TempDir,
}

impl Redis {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = port::reserve();
        let mut command = Command::new("redis-server");
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--requirepass", "swordfish"]);
        command.arg("--dir").arg(folder.path());
        let process = Process::spawn("redis", command, &folder.path().join("redis.log"))
            .unwrap_or_else(|error| panic!("{error}; install it: apt-get install redis-server"));
        wait::until("redis accepts connections", async || {
            tokio::net::TcpStream::connect(address).await.map(drop)
        })
        .await;
        let url = format!("redis://:swordfish@{address}/1");
        Self { url, process, _folder: folder }
    }
}

fn sharing(cloud: &Cloud, redis: &str) -> Builder {
    Builder::managed(cloud)
        .set("/ratelimit/backend", json!("redis"))
        .set("/ratelimit/redis/url", json!(redis))
}

async fn two_nodes(upstream: &Upstream, redis: &Redis) -> (Cloud, [Gateway; 2]) {
    let projection = Projection::of(upstream)
        .with("api_keys", "k-1", limited(json!({"rpd": 60, "concurrency": 500})))
        .with("api_keys", "k-2", with(api_key("sk-two", &["*"]), "rate_limit", json!({"rpd": 30})));
    let cloud = Cloud::start(&projection).await;
    let gateways =
        [sharing(&cloud, &redis.url).start().await, sharing(&cloud, &redis.url).start().await];
    (cloud, gateways)
}

#[tokio::test]
async fn two_nodes_with_one_redis_let_through_as_many_as_one_and_count_alone_when_it_is_gone() {
    let upstream = upstream().await;
    let mut redis = Redis::start().await;
    let (_cloud, gateways) = two_nodes(&upstream, &redis).await;
    let callers = gateways.each_ref().map(Gateway::caller);
    assert_eq!(at_once(&callers, "small-1", 300).await, (60, 240));
    let finding = gateways[0].finding("redis").await;
    assert_eq!(finding, "");

    redis.process.kill();
    for gateway in &gateways {
        let finding = wait::until("the loss is shown", async || {
            let finding = gateway.finding("redis").await;
            if finding.is_empty() { Err("no finding") } else { Ok(finding) }
        })
        .await;
        assert!(finding.contains("on this node alone"), "{finding}");
        assert!(!gateway.log().contains("swordfish"), "{}", gateway.log());
        let told = gateway.log().matches("limits are counted on this node alone").count();
        assert!(told >= 1, "{}", gateway.log());
        // Each by itself now.
        assert_eq!(at_once(&[gateway.caller_with("sk-two")], "small-1", 100).await, (30, 70));
    }
}

#[tokio::test]
async fn a_redis_that_is_not_there_at_the_start_is_shown_and_refuses_nobody() {
    let upstream = upstream().await;
    let projection = Projection::of(&upstream).with("api_keys", "k-1", limited(json!({"rpd": 25})));
    let cloud = Cloud::start(&projection).await;
    let nowhere = format!("redis://{}", port::reserve());
    let gateway = sharing(&cloud, &nowhere).start().await;
    wait::until("the loss is shown", async || {
        let finding = gateway.finding("redis").await;
        if finding.is_empty() { Err("no finding") } else { Ok(()) }
    })
    .await;
    assert_eq!(at_once(&[gateway.caller()], "small-1", 100).await, (25, 75));
}
