//! The five checks of the managed guide. Each returns the evidence, or what was seen instead and where to look.

use std::time::Duration;

use harness::{Answer, Caller, ClientError, caller, client, wait, worker};
use serde_json::Value;

use crate::site::{CALLER_KEY, ENVIRONMENT, MODEL, Site};

/// How long a fact may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was seen, line by line; or what was seen instead.
type Outcome = Result<Vec<String>, String>;

/// The live requests.
#[derive(Debug, Default)]
pub struct Visit {
    /// Their ids, as the gateway has told them.
    request_ids: Vec<String>,
}

/// Check 1: it lives, and its log knows no trouble with certificates.
pub async fn started(site: &mut Site) -> Outcome {
    let proxy = site.settings.proxy.address;
    wait::up_to(PATIENCE, async || {
        if site.gateway.ended().is_some() {
            return Ok(());
        }
        let status = client::fetch(proxy, "/livez").await.map_err(words)?.status;
        if status == 200 { Ok(()) } else { Err(format!("/livez answers {status}")) }
    })
    .await?;
    if let Some(status) = site.gateway.ended() {
        return Err(format!("aisix ended ({status}):\n{}", site.gateway.log_tail()));
    }
    let log = site.gateway.log();
    let is_trouble = |line: &&str| {
        let line = line.to_lowercase();
        (line.contains("error") || line.contains("warn")) && line.contains("certificate")
    };
    if let Some(trouble) = log.lines().find(is_trouble) {
        return Err(format!("{trouble}\ncheck the bundle, and that it was issued by this Cloud"));
    }
    let workers: Vec<_> = worker::of(site.gateway.pid())
        .iter()
        .map(|worker| format!("{} {} (pid {})", worker.role, worker.id, worker.pid))
        .collect();
    Ok(vec![
        format!(
            "/livez answered after {} ms; pid {}",
            site.started.elapsed().as_millis(),
            site.gateway.pid()
        ),
        format!("workers: {}", workers.join(", ")),
    ])
}

/// Check 2: a heartbeat under the environment of the bundle.
pub async fn heartbeat(site: &Site) -> Outcome {
    let beat = heartbeat_that(site, |_| true).await.map_err(|seen| {
        format!("{seen}\ncheck the manager URL, the bundle, its trust root and file permissions, the state directory")
    })?;
    Ok(vec![
        format!("environment {}", text(&beat, "env_id")),
        format!("data plane {}, instance {}", text(&beat, "dp_id"), text(&beat, "instance_id")),
        format!("host {}, version {}", text(&beat, "hostname"), text(&beat, "version")),
    ])
}

/// Check 3: the heartbeat says which revision is in force, and the gateway itself what it holds.
pub async fn resources(site: &Site) -> Outcome {
    let beat = heartbeat_that(site, |beat| beat["applied_revision"].as_i64() > Some(0)).await?;
    let status =
        client::fetch(site.settings.status.address, "/status/config").await.map_err(words)?;
    let status = status.json().await.map_err(words)?;
    let applied = &status["applied"];
    if status["state"] != "synced" {
        return Err(format!("the gateway says: {status}"));
    }
    Ok(vec![
        format!(
            "revision {} is applied, in every worker, says the heartbeat",
            beat["applied_revision"]
        ),
        format!("the gateway is {}: {}", text(&status, "state"), applied["resource_counts"]),
        format!("config_hash {}", text(applied, "config_hash")),
    ])
}

/// Check 4: one unary and one streamed request.
pub async fn live_request(site: &Site, visit: &mut Visit) -> Outcome {
    let caller = Caller { address: site.settings.proxy.address, key: CALLER_KEY.to_owned() };
    let mut evidence = Vec::new();

    let body = caller::chat(MODEL, "Say hello to the managed gateway.");
    evidence.push(curl(&caller, &body));
    let answer = accepted(caller.try_chat(&body).await, visit).await?;
    let answer = answer.json().await.map_err(words)?;
    evidence.push(format!("→ 200 {}", answer["choices"][0]["message"]["content"]));
    evidence.push(format!("  usage {}", answer["usage"]));

    let body = caller::chat_stream(MODEL, "Say it again, word by word.");
    evidence.push(curl(&caller, &body));
    let mut answer = accepted(caller.try_chat(&body).await, visit).await?;
    let (mut text, mut chunks, mut is_done) = (String::new(), 0, false);
    while let Some(event) = answer.next_event().await.map_err(words)? {
        is_done = event.data == "[DONE]";
        let chunk: Value = serde_json::from_str(&event.data).unwrap_or_default();
        if let Some(piece) = chunk["choices"][0]["delta"]["content"].as_str() {
            text.push_str(piece);
            chunks += 1;
        }
    }
    if !is_done {
        return Err(format!("the stream broke off after {chunks} chunks: {text}"));
    }
    evidence.push(format!("→ 200 {} in {chunks} chunks, then [DONE]", Value::from(text)));
    Ok(evidence)
}

/// Check 5: the Cloud has the usage of both, under the ids that the gateway has told the caller.
pub async fn usage(site: &Site, visit: &Visit) -> Outcome {
    let mut evidence = Vec::new();
    for id in &visit.request_ids {
        let path = format!("/usage?env={ENVIRONMENT}&request_id={id}");
        let event = wait::up_to(PATIENCE, async || {
            let events = view(site, &path).await?;
            events.into_iter().next().ok_or_else(|| format!("no usage of request {id}"))
        })
        .await?;
        evidence.push(format!(
            "request {id}: {} prompt + {} completion tokens, status {}",
            event["prompt_tokens"], event["completion_tokens"], event["status_code"]
        ));
    }
    Ok(evidence)
}

async fn heartbeat_that(site: &Site, is_it: impl Fn(&Value) -> bool) -> Result<Value, String> {
    wait::up_to(PATIENCE, async || {
        let beats = view(site, &format!("/heartbeats?env={ENVIRONMENT}")).await?;
        match beats.iter().find(|beat| is_it(beat)) {
            Some(beat) => Ok(beat.clone()),
            None if beats.is_empty() => Err("the Cloud has seen no heartbeat".to_owned()),
            None => Err(format!("the Cloud has only seen {}", Value::from(beats))),
        }
    })
    .await
}

/// A list of the Cloud's view.
async fn view(site: &Site, path: &str) -> Result<Vec<Value>, String> {
    let answer = client::fetch(site.settings.view.address, path).await.map_err(words)?;
    match answer.json().await.map_err(words)? {
        Value::Array(list) => Ok(list),
        other => Err(other.to_string()),
    }
}

/// An answer with status 200; its id is noted.
async fn accepted(
    answer: Result<Answer, ClientError>,
    visit: &mut Visit,
) -> Result<Answer, String> {
    let answer = answer.map_err(words)?;
    if answer.status == 200 {
        visit.request_ids.push(answer.header("x-aisix-request-id").to_owned());
        return Ok(answer);
    }
    let status = answer.status;
    Err(format!("→ {status} {}", answer.text().await.map_err(words)?))
}

/// The request as a command to be copied, its body in the order in which people write it.
fn curl(caller: &Caller, body: &Value) -> String {
    let stream = if body["stream"] == true { ", \"stream\": true" } else { "" };
    format!(
        "curl -N http://{}/v1/chat/completions -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \\\n        \
         -d '{{\"model\": {}, \"messages\": [{{\"role\": \"user\", \"content\": {}}}]{stream}}}'",
        caller.address, caller.key, body["model"], body["messages"][0]["content"]
    )
}

fn words(error: ClientError) -> String {
    error.to_string()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
