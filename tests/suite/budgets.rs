//! Budgets while the Cloud answers: who may spend, what a refused caller is told, and how far a burst can go.

use harness::client;
use harness::projection::{self, api_key};
use harness::{Builder, Caller, Cloud, Connection, Gateway, Projection, upstream, wait};
use serde_json::{Value, json};

/// Callers at a time in a burst.
const CALLERS: usize = 8;

async fn start(projection: &Projection) -> (Cloud, Gateway) {
    let cloud = Cloud::start(projection).await;
    let gateway = Builder::managed(&cloud).start().await;
    (cloud, gateway)
}

fn published() -> Value {
    json!({"allow": false, "fail_mode": "closed", "reason": {
        "type": "billing_error", "code": "budget_exceeded",
        "message": "team budget 'research' exceeded ($50.00/month).", "scope": "team",
        "scope_ref": "t-42", "limit_usd": "50.00", "spent_usd": "50.17", "period": "month",
        "period_resets_at": "2026-10-01T00:00:00Z", "retry_after_seconds": 3600}})
}

/// Asks until the answer has that status.
async fn becomes(caller: &Caller, status: u16) {
    wait::until(&format!("the answer has status {status}"), async || {
        let answer = caller.ask("small-1", "hello").await;
        if answer.status == status { Ok(()) } else { Err(answer.status) }
    })
    .await;
}

#[tokio::test]
async fn a_denied_key_is_told_why_in_both_dialects_and_an_allowed_one_is_served() {
    let upstream = upstream().await;
    let projection = Projection::of(&upstream)
        .with("api_keys", "k-2", api_key("sk-two", &["*"]))
        .with("budgets", "k-1", json!({"allow": true}))
        .with("budgets", "k-2", published());
    let (cloud, gateway) = start(&projection).await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    let denied = gateway.caller_with("sk-two");
    let answer = denied.ask("small-1", "hello").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "3600"));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(
        answer.text().await.unwrap(),
        concat!(
            r#"{"error":{"message":"team budget 'research' exceeded ($50.00/month).","type":"billing_error","#,
            r#""code":"budget_exceeded","scope":"team","scope_ref":"t-42","limit_usd":"50.00","spent_usd":"50.17","#,
            r#""period":"month","period_resets_at":"2026-10-01T00:00:00Z","retry_after_seconds":3600}}"#,
        )
    );
    let body = json!({"model": "small-1", "max_tokens": 5,
        "messages": [{"role": "user", "content": "hello"}]});
    let answer =
        client::send(gateway.proxy(), denied.request("/v1/messages", &body)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "3600"));
    assert_eq!(
        answer.json().await.unwrap(),
        json!({"type": "error", "error": {"type": "rate_limit_error",
            "message": "team budget 'research' exceeded ($50.00/month)."}})
    );
    let events = cloud.usage_of(3).await;
    let denied: Vec<_> = events.iter().filter(|event| event["api_key_id"] == "k-2").collect();
    assert_eq!(denied.len(), 2);
    for event in denied {
        assert_eq!(
            (&event["status_code"], &event["error_class"]),
            (&json!(429), &json!("billing_error"))
        );
        assert_eq!(event["prompt_tokens"], 0);
    }
    assert_eq!(upstream.ledger().len(), 1);
}

#[tokio::test]
async fn a_changed_budget_is_in_force_for_a_key_in_use_within_moments() {
    let upstream = upstream().await;
    let projection = Projection::of(&upstream);
    let (cloud, gateway) = start(&projection).await;
    let caller = gateway.caller();
    becomes(&caller, 200).await;
    cloud.project(&projection.clone().with("budgets", "k-1", published()));
    let started = std::time::Instant::now();
    becomes(&caller, 429).await;
    println!("denied after {:?}", started.elapsed());
    cloud.project(&projection.with("budgets", "k-1", json!({"allow": true})));
    let started = std::time::Instant::now();
    becomes(&caller, 200).await;
    println!("allowed after {:?}", started.elapsed());
}

#[tokio::test]
async fn lists_and_health_routes_need_no_budget() {
    let upstream = upstream().await;
    let projection = Projection::of(&upstream)
        .with("api_keys", "k-2", api_key("sk-two", &["*"]))
        .with("budgets", "k-2", published());
    let (_cloud, gateway) = start(&projection).await;
    for _ in 0..20 {
        assert_eq!(gateway.caller_with("sk-two").models().await.unwrap().status, 200);
        assert_eq!(client::fetch(gateway.proxy(), "/livez").await.unwrap().status, 200);
    }
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    let in_use = wait::until("the key in use is known", async || {
        let budgets = gateway.status_managed().await["budgets"].clone();
        budgets["in_use"].as_u64().filter(|count| *count > 0).ok_or(budgets)
    })
    .await;
    assert_eq!(in_use, 1, "the key that was only used for lists is not in use");
}

#[tokio::test]
async fn a_key_is_asked_for_once_at_a_time_however_many_use_it() {
    let upstream = upstream().await;
    let (cloud, gateway) = start(&Projection::of(&upstream)).await;
    cloud.delay("/dp/budget_check", std::time::Duration::from_millis(200)).await;
    let before = cloud.budget_checks("k-1").await.0;
    wait::until("the key was asked for three more times", async || {
        let caller = gateway.caller();
        let asked: [_; CALLERS] = std::array::from_fn(|_| caller.ask("small-1", "hello"));
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!(answer.status, 200);
        }
        let (calls, at_a_time) = cloud.budget_checks("k-1").await;
        assert_eq!(at_a_time, 1);
        if calls >= before + 3 { Ok(()) } else { Err(calls) }
    })
    .await;
}

#[tokio::test]
async fn metrics_and_status_tell_of_budgets() {
    let upstream = upstream().await;
    let budget = json!({"allow": true, "budget":
        {"max_usd": "50", "spent_usd": 12.5, "remaining_usd": 37.5, "reset_seconds": 60}});
    let projection = Projection::of(&upstream).with("budgets", "k-1", budget);
    let (_cloud, gateway) = start(&projection).await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    let of_key = [("api_key_id", "k-1"), ("team_id", "unknown"), ("user_id", "unknown")];
    let metrics = wait::until("the budget is in the metrics", async || {
        let metrics = gateway.metrics().await;
        let shown = metrics.sum("aisix_budget_details_present", &of_key);
        if shown == 1.0 { Ok(metrics) } else { Err(shown) }
    })
    .await;
    for (name, value) in
        [("limit_usd", 50.0), ("spent_usd", 12.5), ("remaining_usd", 37.5), ("reset_seconds", 60.0)]
    {
        assert_eq!(metrics.sum(&format!("aisix_budget_{name}"), &of_key), value, "{name}");
    }
    assert!(metrics.sum("aisix_budget_checks_total", &[]) >= 1.0);
    let budgets = gateway.status_managed().await["budgets"].clone();
    assert_eq!((&budgets["keys"], &budgets["decided"]), (&json!(1), &json!(1)), "{budgets}");
}

/// One dollar for each answer to "one two".
fn priced() -> Value {
    let mut model = projection::model("small-1", "pk-1");
    model["cost"] = json!({"input_per_1k": 0.0, "output_per_1k": 250.0});
    model
}

/// Asks one request after the other until one is refused; returns how many were served, and what the refused one was told.
async fn until_refused(gateway: &Gateway) -> (usize, Value) {
    let caller = gateway.caller();
    let mut connection = Connection::open(caller.address).await.unwrap();
    let body = harness::caller::chat("small-1", "one two");
    for served in 0..10_000 {
        let answer = caller.chat_over(&mut connection, &body).await.unwrap();
        let status = answer.status;
        let told = answer.json().await.unwrap();
        if status == 429 {
            return (served, told);
        }
        assert_eq!(status, 200);
    }
    panic!("nothing was ever refused");
}

#[tokio::test]
async fn a_burst_ends_at_the_limit_although_the_cloud_has_not_heard_of_it_and_no_dollar_counts_twice()
 {
    // So many that what is served until the supervisor has heard of it, also on a busy machine, is far from as much again.
    const LIMIT: usize = 2_000;
    let upstream = upstream().await;
    let projection = Projection::of(&upstream).with("models", "m-small-1", priced());
    let limited = |dollars: usize| {
        projection.clone().with("budgets", "k-1", json!({"limit_usd": dollars as f64}))
    };
    let (cloud, gateway) = start(&limited(LIMIT)).await;
    cloud.fail("/dp/telemetry", 503, None).await;
    becomes(&gateway.caller(), 200).await;
    let before = upstream.ledger().len();
    let burst = (0..CALLERS).map(|_| until_refused(&gateway));
    let ended = futures_util::future::join_all(burst).await;
    let served: usize = ended.iter().map(|(served, _)| served).sum();
    println!("{CALLERS} callers were served {served} dollars of {LIMIT}");
    let (_, told) = &ended[0];
    assert_eq!(told["error"]["code"], "budget_exceeded");
    assert_eq!(told["error"]["limit_usd"], "2000.00", "{told}");
    // What was spent before by `becomes` is less than a dollar each.
    assert!(served + before >= LIMIT, "{served}");
    // What is in flight, and what comes before the supervisor has heard of it: far from as much again.
    assert!(served < 2 * LIMIT, "{served}");

    // Once the Cloud knows, it is the Cloud that refuses.
    cloud.heal().await;
    wait::until("the Cloud's own words are told", async || {
        let answer = gateway.caller().ask("small-1", "one two").await;
        assert_eq!(answer.status, 429);
        let told = answer.json().await.unwrap();
        let message = told["error"]["message"].as_str().unwrap_or_default().to_owned();
        if message.starts_with("api_key budget 'k-1' exceeded") { Ok(()) } else { Err(message) }
    })
    .await;
    // Ten more dollars are ten more requests, none less: what the Cloud has counted is not counted here again.
    let spent: f64 = upstream.ledger().iter().map(|it| f64::from(it.completion_tokens) / 4.0).sum();
    cloud.project(&limited(spent.ceil() as usize + 10));
    let more = wait::until("more is served", async || match until_refused(&gateway).await.0 {
        0 => Err("nothing"),
        more => Ok(more),
    })
    .await;
    println!("ten more dollars served {more}");
    assert!((10..LIMIT).contains(&more), "{more}");
}
