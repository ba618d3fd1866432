//! No secret leaves the gateway: not in its log, whatever its form and level, not on a page, not in a report, not on a command
//! line, and not on disk in clear. Everything that is secret is planted in a form that can be searched for.

use std::fs;
use std::path::Path;
use std::process::Output;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use harness::caller::{chat, chat_stream};
use harness::cloud::ENVIRONMENT;
use harness::journal::{Entry, Journal};
use harness::provider::bedrock::{self, Bedrock};
use harness::provider::gemini::{Gemini, TOKEN};
use harness::provider::mock::{Asked, Mock, Said};
use harness::{
    Builder, Cloud, Etcd, Gateway, Projection, binaries, client, port, projection, wait,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const OPENAI: &str = "sk-planted-openai-kI4l8";
const ANTHROPIC: &str = "sk-ant-planted-anthropic-pQ2";
const HEADER: &str = "planted-header-override-7Zx";
const CALLER: &str = "sk-planted-caller-9Vb";
const WRONG: &str = "sk-planted-wrong-caller-3Tn";
const TOKEN_WORDS: &str = "planted-signature-of-a-token-5Hd";
const REDIS: &str = "planted-redis-password-2Wq";
const PROXY: &str = "planted-proxy-password-8Ks";
const ETCD: &str = "planted-etcd-password-4Lm";
const IN_ADDRESS: &str = "planted-in-the-address-6Gf";
const PROMPT: &str = "planted words of a prompt";
const ANSWER: &str = "planted words of an answer";

/// What the upstream of a script says. It repeats all that it was told wherever it fails.
fn upstream(asked: &Asked) -> Said {
    let body = asked.json();
    let echo = format!("{:?} {}", asked.headers, String::from_utf8_lossy(&asked.body));
    let error = json!({"error": {"message": echo, "type": "error", "code": OPENAI}});
    let script = body["model"].as_str().unwrap_or_default().trim_start_matches("claude-");
    let status = match script {
        "echo-401" => 401,
        "echo-400" => 400,
        "echo-500" => 500,
        "redirect" => 307,
        _ => 200,
    };
    if status != 200 {
        return Said::json(status, &error);
    }
    if script == "garbage" {
        return Said::json(200, &json!({"id": [echo], "choices": PROMPT, "content": OPENAI}));
    }
    if body["stream"] == true {
        let piece = json!({"choices": [{"index": 0, "delta": {"content": ANSWER}}]});
        // What ends it is no event of any dialect.
        let text = format!("data: {piece}\n\ndata: {{\"broken\": \"{OPENAI}\n\n");
        let pieces = vec![text.into()];
        return Said { status: 200, content_type: "text/event-stream", pieces, is_cut: true };
    }
    let message = json!({"role": "assistant", "content": ANSWER});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    Said::json(
        200,
        &json!({
            "id": "answer-1", "object": "chat.completion", "created": 1, "model": script,
            "type": "message", "role": "assistant", "stop_reason": "end_turn",
            "choices": [choice], "content": [{"type": "text", "text": ANSWER}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2,
                "input_tokens": 1, "output_tokens": 1},
        }),
    )
}

/// Everything that is to be found nowhere.
struct Planted(Vec<(String, String)>);

impl Planted {
    fn plant(&mut self, name: &str, secret: &str) {
        let percent: String = secret
            .bytes()
            .map(|byte| match byte {
                byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let mut forms = vec![("as it is", secret.to_owned()), ("percent-encoded", percent)];
        for (form, engine) in [
            ("in base64", BASE64_STANDARD),
            ("in base64 without padding", BASE64_STANDARD_NO_PAD),
            ("in base64 for URLs", BASE64_URL_SAFE_NO_PAD),
        ] {
            forms.push((form, engine.encode(secret)));
        }
        self.0.extend(forms.into_iter().map(|(form, text)| (format!("{name} {form}"), text)));
    }

    /// The longest line within a PEM text, which nobody writes by chance.
    fn plant_pem(&mut self, name: &str, pem: &str) {
        let mut lines = pem.lines().map(str::trim).filter(|line| !line.starts_with('-'));
        let line = lines.find(|line| line.len() >= 40).expect("a line of a key");
        self.0.push((name.to_owned(), line.to_owned()));
    }

    fn are_not_in(&self, place: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        for (name, secret) in &self.0 {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "{name} is in {place}");
        }
        println!("{place}: {} bytes were searched", bytes.len());
    }

    fn are_not_below(&self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_ours = path.file_name().is_some_and(|name| name == "mtls");
            if path.is_dir() && !is_ours {
                self.are_not_below(&path);
            } else if let Ok(bytes) = fs::read(&path) {
                self.are_not_in(&path.display().to_string(), &bytes);
            }
        }
    }
}

async fn aisix(gateway: &Gateway, arguments: &[&str]) -> Output {
    let config = gateway.folder().join("config.managed.yaml");
    let mut command = tokio::process::Command::new(binaries::find("aisix").unwrap());
    command.args(arguments).arg("--config").arg(config).output().await.expect("aisix runs")
}

struct Site {
    planted: Planted,
    models: Vec<&'static str>,
    _upstreams: (Mock, Gemini, Bedrock),
    projection: Projection,
}

impl Site {
    async fn start() -> Self {
        let mut planted = Planted(Vec::new());
        for (name, secret) in [
            ("the key of openai", OPENAI),
            ("the key of anthropic", ANTHROPIC),
            ("a header of a provider key", HEADER),
            ("the key of a caller", CALLER),
            ("a wrong key of a caller", WRONG),
            ("a token", TOKEN_WORDS),
            ("the password of Redis", REDIS),
            ("the password of the proxy", PROXY),
            ("the password of etcd", ETCD),
            ("a key in an address", IN_ADDRESS),
            ("the token of vertex", TOKEN),
            ("the secret of bedrock", bedrock::SECRET),
        ] {
            planted.plant(name, secret);
        }
        let (mock, gemini, aws) =
            (Mock::start(upstream).await, Gemini::start().await, Bedrock::start().await);
        let account: Value = serde_json::from_str(&gemini.account()).unwrap();
        planted.plant_pem("the key of vertex", account["private_key"].as_str().unwrap());
        let mut openai = projection::provider_key(&format!("{}/v1", mock.url()), OPENAI);
        openai["request"] = json!({"default_headers": {"x-planted": HEADER}});
        let key = |provider: &str, url: &str, secret: &str| {
            json!({"display_name": provider, "provider": provider, "adapter": provider,
                "api_base": url, "api_key": secret})
        };
        // It speaks no TLS.
        let refused = mock.url().replace("http://", "https://");
        let mut projection = Projection::default()
            .with("provider_keys", "pk-openai", openai)
            .with("provider_keys", "pk-claude", projection::anthropic_key(&mock.url(), ANTHROPIC))
            .with("provider_keys", "pk-vertex", key("vertex", &gemini.url(), &gemini.account()))
            .with("provider_keys", "pk-bedrock", key("bedrock", &aws.url(), &Bedrock::secret()))
            .with("provider_keys", "pk-tls", projection::provider_key(&refused, OPENAI))
            .with("api_keys", "k-1", projection::api_key(CALLER, &["*"]));
        let models = [
            ("good", "pk-openai"),
            ("echo-400", "pk-openai"),
            ("echo-401", "pk-openai"),
            ("echo-500", "pk-openai"),
            ("redirect", "pk-openai"),
            ("garbage", "pk-openai"),
            ("claude-good", "pk-claude"),
            ("claude-echo-401", "pk-claude"),
            ("claude-garbage", "pk-claude"),
            ("gemini-plain", "pk-vertex"),
            ("gemini-broken", "pk-vertex"),
            ("plain", "pk-bedrock"),
            ("exception", "pk-bedrock"),
            ("away", "pk-tls"),
        ];
        for (name, key) in models {
            let mut model = projection::model(name, key);
            match key {
                "pk-claude" => model["provider"] = json!("anthropic"),
                "pk-vertex" => model["provider"] = json!("vertex"),
                "pk-bedrock" => {
                    model["provider"] = json!("bedrock");
                    model["model_name"] = json!(format!("eu.anthropic.{name}:0"));
                }
                _ => {}
            }
            projection = projection.with("models", &format!("m-{name}"), model);
        }
        let models = models.iter().map(|(name, _)| *name).collect();
        Self { planted, models, _upstreams: (mock, gemini, aws), projection }
    }

    /// Every kind of request that succeeds or fails.
    async fn traffic(&self, gateway: &Gateway) {
        let caller = gateway.caller_with(CALLER);
        for model in &self.models {
            for body in [chat(model, PROMPT), chat_stream(model, PROMPT)] {
                for path in ["/v1/chat/completions", "/v1/messages"] {
                    let mut body = body.clone();
                    body["max_tokens"] = json!(10);
                    // What comes of it is of no interest.
                    if let Ok(answer) =
                        client::send(gateway.proxy(), caller.request(path, &body)).await
                    {
                        let _ = answer.bytes().await;
                    }
                }
            }
        }
        let token = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k"}"#);
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"iss":"https://idp","sub":"a"}"#);
        for wrong in [WRONG.to_owned(), format!("{token}.{claims}.{TOKEN_WORDS}")] {
            let answer = gateway.caller_with(&wrong).ask("good", PROMPT).await;
            assert!(answer.status == 401 || answer.status == 403, "{}", answer.status);
        }
        let address = format!("/v1/models?api_key={IN_ADDRESS}");
        client::fetch(gateway.proxy(), &address).await.unwrap();
        for malformed in [
            json!({"model": "good", "messages": PROMPT}),
            json!({"model": "good", "messages": [{"role": PROMPT, "content": [OPENAI]}]}),
            json!([PROMPT]),
        ] {
            for path in ["/v1/chat/completions", "/v1/messages"] {
                client::send(gateway.proxy(), caller.request(path, &malformed)).await.unwrap();
            }
        }
    }
}

/// Runs a gateway with that level and form of the log, and searches everywhere.
async fn search(level: &str, form: &str) {
    let folder = tempfile::tempdir().unwrap();
    let journal = match form {
        "journald" => match Journal::at(folder.path()) {
            None => return,
            journal => journal,
        },
        _ => None,
    };
    let mut site = Site::start().await;
    let cloud = Cloud::start(&site.projection).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let pem = [&bundle.certificate, &bundle.key, &bundle.issuers]
        .map(|path| fs::read_to_string(path).unwrap());
    site.planted.plant_pem("the client's key", &pem[1].replace('\r', ""));
    let (proxy, _) = crate::settings::forward_proxy().await;
    let builder = Builder::unprovisioned(&cloud)
        .env("AISIX_MANAGED__CP_CERT_PEM", &pem[0])
        .env("AISIX_MANAGED__CP_KEY_PEM", &pem[1])
        .env("AISIX_MANAGED__CP_CA_PEM", &pem[2])
        .env("AISIX_MANAGED__PROXY_URL", &format!("http://gw:{PROXY}@127.0.0.1:{proxy}"))
        .env("AISIX_RATELIMIT__BACKEND", "redis")
        .env("AISIX_RATELIMIT__REDIS__URL", &format!("redis://gw:{REDIS}@{}", port::reserve()))
        .env("AISIX_UPSTREAM__RETRIES", "1")
        .set("/observability/log_level", json!(level))
        .set("/observability/log_format", json!(form))
        .set("/supervisor/control_socket", json!(folder.path().join("aisix.sock")));
    let builder = match &journal {
        Some(journal) => journal.start(builder),
        None => builder,
    };
    let mut gateway = builder.start().await;
    site.traffic(&gateway).await;
    gateway.proxies()[0].kill();
    gateway.signal(Signal::SIGHUP);
    gateway.wait_until_ready().await;
    site.traffic(&gateway).await;

    let planted = &site.planted;
    for path in
        ["/", "/metrics", "/status/config", "/status/ready", "/status/managed", "/status/models"]
    {
        let answer = client::fetch(gateway.status(), path).await.unwrap();
        planted.are_not_in(path, &answer.bytes().await.unwrap());
    }
    for arguments in [&["status", "--json"][..], &["status"], &["doctor", "--json"], &["doctor"]] {
        let output = aisix(&gateway, arguments).await;
        if arguments[0] == "status" {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        planted.are_not_in(&arguments.join(" "), &[output.stdout, output.stderr].concat());
    }
    let archive = folder.path().join("report.tar.gz");
    let output = aisix(&gateway, &["bundle-report", "-o", archive.to_str().unwrap()]).await;
    planted.are_not_in("bundle-report", &[output.stdout, output.stderr].concat());
    if output.status.success() {
        let unpacked = folder.path().join("report");
        fs::create_dir(&unpacked).unwrap();
        let mut tar = tokio::process::Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("-C").arg(&unpacked);
        assert!(tar.status().await.unwrap().success(), "the archive can be unpacked");
        planted.are_not_below(&unpacked);
    } else {
        println!("skipped: this build makes no report");
    }
    let workers = gateway.workers();
    for pid in workers.iter().map(|worker| worker.pid).chain([gateway.pid()]) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        planted.are_not_in(&format!("the command line of {pid}"), &line);
    }
    gateway.terminate();
    gateway.end().await;
    planted.are_not_below(&gateway.state());
    let mut log = gateway.log();
    if let Some(journal) = &journal {
        wait::until("the last line is in the journal", async || {
            let last = ["ended in order", "ended; "];
            let is_last =
                |entry: &Entry| last.iter().any(|words| entry["MESSAGE"].starts_with(words));
            if journal.entries().iter().any(is_last) { Ok(()) } else { Err("not yet") }
        })
        .await;
    }
    for entry in journal.iter().flat_map(Journal::entries) {
        entry.iter().for_each(|(name, value)| log.push_str(&format!("{name}={value}\n")));
    }
    assert!(log.contains("proxy request completed"), "the search is blind");
    planted.are_not_in("the log", log.as_bytes());
    if level == "info" {
        for words in [PROMPT, ANSWER] {
            let line = log.lines().find(|line| line.contains(words));
            assert_eq!(line, None, "what callers say is not logged");
        }
    }
}

#[tokio::test]
async fn no_secret_is_in_the_log_or_on_a_page_however_much_is_logged() {
    search("trace", "text").await;
}

#[tokio::test]
async fn no_secret_and_nothing_that_callers_say_is_in_a_log_of_json() {
    search("info", "json").await;
}

#[tokio::test]
async fn no_secret_is_in_the_journal() {
    search("info", "journald").await;
}

#[tokio::test]
async fn the_password_of_an_etcd_is_not_in_the_log() {
    let etcd = Etcd::start().await;
    let gateway = Builder::standalone(&etcd, "/aisix")
        .set("/etcd/user", json!("gateway"))
        .set("/etcd/password_env", json!("PLANTED"))
        .env("PLANTED", ETCD)
        .set("/observability/log_level", json!("trace"))
        .start_alive()
        .await;
    wait::until("the etcd has refused it", async || {
        if gateway.log().contains("is not followed") { Ok(()) } else { Err("not yet") }
    })
    .await;
    let mut planted = Planted(Vec::new());
    planted.plant("the password of etcd", ETCD);
    planted.are_not_in("the log", gateway.log().as_bytes());
}
