//! A real browser: Chromium without a window, spoken to over the pipe of its developer protocol.

use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::wait;

/// Where Debian has it.
const PROGRAM: &str = "/usr/bin/chromium";

/// A browser with one page. Dropped, it ends.
#[derive(Debug)]
pub struct Browser {
    _child: Child,
    _profile: TempDir,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    asked: u64,
    problems: Vec<String>,
}

impl Browser {
    /// Starts it; `None`, with a word on the terminal, where it is not installed.
    ///
    /// # Panics
    /// If it is there and does not start.
    pub async fn start() -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            println!(
                "SKIPPED: there is no {PROGRAM}; install Debian's chromium to try the page in a browser"
            );
            return None;
        }
        let profile = tempfile::tempdir().expect("a folder for the browser");
        // Its pipe is at descriptors 3 and 4.
        let script = format!(
            "exec {PROGRAM} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
             --remote-debugging-pipe --user-data-dir={} about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1",
            profile.path().display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env("HOME", profile.path())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let requests = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut browser = Self {
            _child: child,
            _profile: profile,
            requests,
            answers,
            session: None,
            asked: 0,
            problems: Vec::new(),
        };
        let target = browser.ask("Target.createTarget", json!({"url": "about:blank"})).await;
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.ask("Target.attachToTarget", target).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime", "Log", "Page", "Audits"] {
            browser.ask(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    /// Gives the page so many pixels, and the scheme `light` or `dark`.
    pub async fn look_like(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.ask("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask("Emulation.setEmulatedMedia", scheme).await;
    }

    /// Goes to an address.
    pub async fn go_to(&mut self, url: &str) {
        self.ask("Page.navigate", json!({"url": url})).await;
    }

    /// The value of an expression on the page.
    ///
    /// # Panics
    /// If it has none.
    pub async fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let answer = self.ask("Runtime.evaluate", asked).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true on the page.
    pub async fn until(&mut self, expression: &str) {
        wait::until(expression, async || match self.value(expression).await {
            Value::Bool(true) => Ok(()),
            _ => Err(self.value("document.body.innerText").await),
        })
        .await;
    }

    /// The page as a PNG: what is to be seen, or all of it.
    pub async fn picture(&mut self, whole: bool) -> Vec<u8> {
        let asked =
            json!({"format": "png", "captureBeyondViewport": whole, "optimizeForSpeed": false});
        let answer = self.ask("Page.captureScreenshot", asked).await;
        STANDARD.decode(answer["data"].as_str().unwrap_or_default()).expect("a picture")
    }

    /// What has gone wrong on the page so far: errors, warnings, violations of its policy.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let bytes = [message.to_string().as_bytes(), b"\0"].concat();
        self.requests.write_all(&bytes).await.expect("the browser listens");
        wait::within(method, async {
            loop {
                let mut bytes = Vec::new();
                self.answers.read_until(0, &mut bytes).await.expect("the browser answers");
                assert_eq!(bytes.pop(), Some(0), "the browser has ended during {method}");
                let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
                if answer["id"] == id {
                    assert!(answer.get("error").is_none(), "{method}: {answer}");
                    return answer["result"].clone();
                }
                self.note(&answer);
            }
        })
        .await
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let level = match event["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled" => params["type"].as_str(),
            "Log.entryAdded" => params["entry"]["level"].as_str(),
            "Runtime.exceptionThrown" | "Audits.issueAdded" => Some("error"),
            _ => None,
        };
        if matches!(level, Some("error" | "warning" | "assert")) {
            self.problems.push(params.to_string());
        }
    }
}
