//! The status page: what it shows is what is so, in a real browser too, and it asks nobody else for anything.

use std::path::PathBuf;

use harness::browser::Browser;
use harness::{Builder, Cloud, Gateway, Projection, World, client, projection, upstream, wait};
use http::Method;
use serde_json::{Value, json};

/// A name that is markup, for whoever takes it for that.
const MARKUP: &str = "<img src=x onerror=alert(1)> & \"co\"";

async fn overview(gateway: &Gateway) -> Value {
    let answer = client::fetch(gateway.status(), "/status/overview").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json().await.unwrap()
}

/// What the history tells of a model: requests, errors, failures, tokens; each the sum of its steps, and the same as its sum.
fn told(overview: &Value, model: &str) -> [u64; 4] {
    let history = &overview["history"];
    let models = history["models"].as_array().unwrap();
    let all = [&history["all"]];
    let Some(line) = models.iter().chain(all).find(|line| line["name"] == model) else {
        return [0; 4];
    };
    ["requests", "errors", "failures", "tokens"].map(|what| {
        let steps = line[what].as_array().unwrap();
        assert_eq!(steps.len(), 90, "fifteen minutes in steps of ten seconds");
        let sum = steps.iter().map(|step| step.as_u64().unwrap()).sum();
        assert_eq!(line["sum"][what], sum, "{line}");
        sum
    })
}

async fn until_told(gateway: &Gateway, expected: &[(&str, [u64; 4])]) {
    wait::until("the page tells the load that was sent", async || {
        let overview = overview(gateway).await;
        let seen: Vec<_> =
            expected.iter().map(|(name, _)| (*name, told(&overview, name))).collect();
        if seen == expected { Ok(()) } else { Err(format!("{seen:?} of {expected:?}")) }
    })
    .await;
}

#[tokio::test]
async fn the_numbers_are_the_load_that_was_sent_whichever_worker_served_it() {
    let world = World::start().await;
    let caller = world.caller();
    let send = async || {
        for number in 0..7 {
            caller.ask("small-1", "one two three").await.bytes().await.unwrap();
            caller.ask_stream("small-1", "one two three").await.bytes().await.unwrap();
            if number < 3 {
                let _ = caller.ask("status-404", "hello").await.bytes().await;
                let _ = caller.ask("status-503", "hello").await.bytes().await;
            }
        }
        // No caller, no model: counted, but for no model.
        let _ = world.gateway.caller_with("sk-nobody").ask("small-1", "hello").await.bytes().await;
    };
    send().await;
    let metrics = world.gateway.metrics().await;
    let tokens = metrics.sum("aisix_tokens_consumed_total", &[("model", "small-1")]) as u64;
    assert!(tokens > 0);
    until_told(
        &world.gateway,
        &[
            ("small-1", [14, 0, 0, tokens]),
            ("status-404", [3, 3, 0, 0]),
            ("status-503", [3, 3, 3, 0]),
        ],
    )
    .await;

    // What a worker has counted outlives it.
    let before = world.gateway.proxies();
    before.iter().for_each(harness::worker::Worker::kill);
    wait::until("other workers serve", async || {
        let up = world.gateway.metrics().await.sum("aisix_workers_up", &[("role", "proxy")]);
        let gone = before.iter().all(|worker| !worker.runs());
        if gone && up >= before.len() as f64 { Ok(()) } else { Err(up) }
    })
    .await;
    send().await;
    let all = world.gateway.metrics().await.sum("aisix_requests_total", &[]) as u64;
    assert_eq!(all, 2 * (14 + 3 + 3 + 1));
    until_told(
        &world.gateway,
        &[
            ("small-1", [28, 0, 0, 2 * tokens]),
            ("status-404", [6, 6, 0, 0]),
            ("status-503", [6, 6, 6, 0]),
            ("all", [all, 14, 6, 2 * tokens]),
        ],
    )
    .await;
    let overview = overview(&world.gateway).await;
    let latency = &overview["history"]["all"]["p95_ms"];
    assert!(latency.as_array().unwrap().iter().any(|step| step.as_f64() > Some(0.0)), "{latency}");
    assert_eq!(overview["status"]["checks"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn the_page_is_one_document_that_a_browser_keeps_to_itself() {
    let world = World::start().await;
    let status = world.gateway.status();
    let answer = client::fetch(status, "/").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert_eq!(answer.header("cache-control"), "no-store");
    let policy = answer.header("content-security-policy").to_owned();
    for part in
        ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let text = answer.text().await.unwrap();
    let text = text.replace("http://www.w3.org/2000/svg", "a name, not an address");
    for outside in ["http://", "https://", "url(", "@import", "import(", " src=", "\"//", "'//"] {
        assert!(!text.contains(outside), "{outside} is in the page");
    }
    // Nothing of this node is in the page itself, only in what it asks for.
    for own in [harness::provider::KEY, projection::CALLER_KEY, "small-1", "k-1"] {
        assert!(!text.contains(own), "{own}");
    }
    let data = overview(&world.gateway).await.to_string();
    for secret in [harness::provider::KEY, projection::CALLER_KEY, "PRIVATE KEY", "BEGIN"] {
        assert!(!data.contains(secret), "{secret}");
    }
    for (method, path, expected) in [
        (Method::HEAD, "/", 200),
        (Method::POST, "/", 405),
        (Method::POST, "/status/overview", 405),
    ] {
        let mut request = http::Request::new(bytes::Bytes::new());
        *request.uri_mut() = path.parse().unwrap();
        *request.method_mut() = method.clone();
        let answer = client::send(status, request).await.unwrap();
        assert_eq!(answer.status, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn without_the_page_only_the_published_routes_are_there() {
    let without = |gateway: Builder| gateway.set("/observability/status_page", json!(false));
    let world = World::start_with(without).await;
    for (path, expected) in [
        ("/", 404),
        ("/status/overview", 404),
        ("/status/managed", 404),
        ("/metrics", 200),
        ("/status/config", 200),
        ("/status/ready", 200),
        ("/status/models", 200),
    ] {
        let answer = client::fetch(world.gateway.status(), path).await.unwrap();
        assert_eq!(answer.status, expected, "{path}");
    }
}

/// Nothing is cut off or has to be scrolled to sideways.
const FITS: &str = "document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll('header, main > section, .card, figure, .check')].every(it => it.getBoundingClientRect().right <= innerWidth + 0.5)";

#[tokio::test]
async fn a_browser_shows_what_is_so_on_a_phone_and_on_a_wall_by_day_and_by_night() {
    let Some(mut browser) = Browser::start().await else { return };
    let upstream = upstream().await;
    let projection =
        Projection::of(&upstream).with("models", "m-markup", projection::model(MARKUP, "pk-1"));
    let cloud = Cloud::start(&projection).await;
    let mut gateway = Builder::managed(&cloud).start().await;
    let caller = gateway.caller();
    for model in ["small-1", "small-1", "slow-50", "status-503", MARKUP] {
        let _ = caller.ask(model, "one two three").await.bytes().await;
    }
    wait::until("the request check holds", async || {
        let told = overview(&gateway).await;
        let checks = told["status"]["checks"].as_array().unwrap().clone();
        let ok = checks.iter().filter(|check| check["state"] == "ok").count();
        if ok == 5 { Ok(()) } else { Err(told["status"]["checks"].clone()) }
    })
    .await;

    browser.look_like(360, 740, "light").await;
    browser.go_to(&format!("http://{}/", gateway.status())).await;
    browser.until("document.querySelectorAll('#checks > li[data-tone=ok]').length === 5").await;
    let told = overview(&gateway).await;
    let workers = told["status"]["workers"].as_array().unwrap();
    let processes = browser
        .value("[...document.querySelectorAll('#processes > li')].map(it => it.innerText)")
        .await;
    assert_eq!(processes.as_array().map(Vec::len), Some(workers.len() + 1), "and the supervisor");
    let processes = processes.to_string();
    for worker in workers {
        assert!(processes.contains(&worker["pid"].to_string()), "{worker} in {processes}");
    }
    let revision = &told["status"]["configuration"]["applied_revision"];
    assert!(processes.contains(&revision.to_string()), "{revision} in {processes}");
    let certificate = browser.value("document.getElementById('certificate').innerText").await;
    let expires = told["status"]["certificate"]["expires_at"].as_str().unwrap();
    assert!(certificate.to_string().contains(expires), "{certificate}");
    let models = "[...document.querySelectorAll('#models > tr')].map(it => [it.querySelector('[data-f=name]').textContent, it.querySelector('[data-f=requests]').textContent])";
    let models = browser.value(models).await;
    let shown = |name: &str| {
        models
            .as_array()
            .unwrap()
            .contains(&json!([name, if name == "small-1" { "2" } else { "1" }]))
    };
    for name in ["small-1", "slow-50", "status-503", MARKUP] {
        assert!(shown(name), "{name} in {models}");
    }
    assert_eq!(browser.value("document.images.length").await, 0, "names are text");
    let headings = "[...document.querySelectorAll('h1, h2')].length > 4 && document.querySelectorAll('main, header, footer, nav').length === 4 && document.documentElement.lang === 'en'";
    assert_eq!(browser.value(headings).await, true, "landmarks and headings");
    let silent =
        "[...document.querySelectorAll('figure svg')].every(it => it.getAttribute('aria-label'))";
    assert_eq!(browser.value(silent).await, true, "charts are told in words");

    let mut backgrounds = Vec::new();
    for (width, height, scheme) in [(360, 740, "light"), (1280, 900, "dark"), (3840, 2160, "light")]
    {
        browser.look_like(width, height, scheme).await;
        browser.until(FITS).await;
        backgrounds.push(browser.value("getComputedStyle(document.body).backgroundColor").await);
        let size = browser
            .value("parseFloat(getComputedStyle(document.querySelector('.evidence')).fontSize)")
            .await;
        assert!(size.as_f64() >= Some(if width > 3000 { 20.0 } else { 12.0 }), "{size} at {width}");
    }
    assert!(
        backgrounds[0] == backgrounds[2] && backgrounds[0] != backgrounds[1],
        "{backgrounds:?}"
    );
    assert_eq!(browser.problems(), [""; 0], "no error, no violation of the policy");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        keep_pictures(&mut browser, &gateway).await;
    }

    // Old facts are not shown as if they were new.
    gateway.terminate();
    gateway.end().await;
    browser.until("document.getElementById('verdict').textContent === 'No answer' && document.body.classList.contains('stale')").await;
}

/// The pictures beside the tests, of a gateway that has had some traffic.
async fn keep_pictures(browser: &mut Browser, gateway: &Gateway) {
    let caller = gateway.caller();
    wait::up_to(std::time::Duration::from_secs(300), async || {
        for (model, count) in [("small-1", 9), ("slow-50", 4), ("slow-250", 2), ("status-503", 1)] {
            for _ in 0..count {
                let _ = caller.ask(model, "one two three").await.bytes().await;
            }
        }
        let told = overview(gateway).await;
        let steps = told["history"]["all"]["requests"].as_array().unwrap().clone();
        let steps = steps.iter().filter(|step| **step != json!(0)).count();
        if steps >= 14 { Ok(()) } else { Err(steps) }
    })
    .await
    .unwrap();
    browser.until("Number(document.querySelector('#chart-requests figcaption span').textContent.replaceAll(',', '')) > 100").await;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("status-page");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, width, height, scheme) in
        [("phone", 360, 1500, "light"), ("wide", 1280, 900, "light"), ("dark", 1280, 900, "dark")]
    {
        browser.look_like(width, height, scheme).await;
        browser.until(FITS).await;
        let picture = browser.picture(false).await;
        assert!(picture.len() < 200_000, "{name}: {} bytes", picture.len());
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }
}
