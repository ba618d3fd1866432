//! A small Bedrock: Converse and its stream, for requests with a signature that it computes itself.
//!
//! The model's name is the script: `plain`, `think`, `tool`, `full` (429), `exception` (in the stream), `cut`; with `anthropic.`
//! in front of it, as Bedrock names models.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::Bytes;
use serde_json::{Value, json};

use super::mock::{Asked, Mock, Said};

/// Its access key.
pub const KEY_ID: &str = "AKIDUPSTREAM";
/// The secret of it.
pub const SECRET: &str = "upstream/secret+key";
/// An API key that it takes, too.
pub const API_KEY: &str = "bedrock-api-key-upstream";
/// Its region.
pub const REGION: &str = "eu-test-1";
/// The signature of its thoughts.
pub const SIGNATURE: &str = "c2lnbmF0dXJl";

/// A running Bedrock.
#[derive(Debug)]
pub struct Bedrock(Mock);

impl Bedrock {
    /// Starts it.
    pub async fn start() -> Self {
        Self(Mock::start(converse).await)
    }

    /// Where it listens, without a path.
    pub fn url(&self) -> String {
        self.0.url()
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.0.asked()
    }

    /// The secret of a provider key for it.
    pub fn secret() -> String {
        json!({"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": REGION}).to_string()
    }
}

fn converse(asked: &Asked) -> Said {
    let is_signed = asked.header("authorization") == signature(asked);
    if !is_signed && asked.header("authorization") != format!("Bearer {API_KEY}") {
        let message = "The request signature we calculated does not match";
        let body = json!({"__type": "InvalidSignatureException", "message": message});
        return Said::json(403, &body);
    }
    let mut path = asked.target.split('/').skip(2);
    let model = path.next().unwrap_or_default().replace("%3A", ":");
    let is_stream = path.next() == Some("converse-stream");
    let script = model.rsplit('.').next().unwrap_or_default().to_owned();
    let script = script.split(':').next().unwrap_or_default();
    let request = asked.json();
    if script == "full" {
        let body = json!({"__type": "ThrottlingException", "message": "too many requests"});
        return Said::json(429, &body);
    }
    let (blocks, reason) = blocks(script, &request);
    let usage = json!({
        "inputTokens": 20, "outputTokens": 5, "totalTokens": 40,
        "cacheReadInputTokens": 8, "cacheWriteInputTokens": 7,
    });
    if !is_stream {
        let message = json!({"role": "assistant", "content": blocks});
        let answer = json!({"output": {"message": message}, "stopReason": reason, "usage": usage});
        return Said::json(200, &answer);
    }
    let mut frames = vec![event("messageStart", &json!({"role": "assistant"}))];
    for (at, block) in blocks.iter().enumerate() {
        frames.extend(told(at, block));
        frames.push(event("contentBlockStop", &json!({"contentBlockIndex": at})));
    }
    match script {
        "exception" => {
            let payload = json!({"message": "the model is overloaded"});
            frames.push(frame(
                "exception",
                ":exception-type",
                "serviceUnavailableException",
                &payload,
            ));
        }
        "cut" => {}
        _ => {
            frames.push(event("messageStop", &json!({"stopReason": reason})));
            frames.push(event("metadata", &json!({"usage": usage, "metrics": {"latencyMs": 1}})));
        }
    }
    // Frames do not end where packets do.
    let bytes = frames.concat();
    let pieces = bytes.chunks(97).map(Bytes::copy_from_slice).collect();
    let content_type = "application/vnd.amazon.eventstream";
    Said { status: 200, content_type, pieces, is_cut: script == "cut" }
}

fn blocks(script: &str, request: &Value) -> (Vec<Value>, &'static str) {
    let last = request["messages"].as_array().and_then(|messages| messages.last());
    let content = last.and_then(|message| message["content"].as_array()).cloned();
    let content = content.unwrap_or_default();
    let result = content.iter().find_map(|block| block.get("toolResult"));
    let text = content.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>();
    let said = match result {
        Some(result) => format!("The tool says {}", result["content"][0]["text"]),
        None => format!("You said: {}", text.join(" ")),
    };
    let thought =
        json!({"reasoningContent": {"reasoningText": {"text": "hm", "signature": SIGNATURE}}});
    match script {
        "tool" if result.is_none() => {
            let call =
                json!({"toolUse": {"toolUseId": "tooluse_1", "name": "find", "input": {"x": 1}}});
            (vec![thought, call], "tool_use")
        }
        "think" => (vec![thought, json!({"text": said})], "end_turn"),
        _ => (vec![json!({"text": said})], "end_turn"),
    }
}

/// The frames of one block.
fn told(at: usize, block: &Value) -> Vec<Vec<u8>> {
    let delta = |delta: Value| {
        event("contentBlockDelta", &json!({"contentBlockIndex": at, "delta": delta}))
    };
    if let Some(call) = block.get("toolUse") {
        let start = json!({"toolUse": {"toolUseId": call["toolUseId"], "name": call["name"]}});
        let input = call["input"].to_string();
        let (one, two) = input.split_at(3);
        return vec![
            event("contentBlockStart", &json!({"contentBlockIndex": at, "start": start})),
            delta(json!({"toolUse": {"input": one}})),
            delta(json!({"toolUse": {"input": two}})),
        ];
    }
    if let Some(thought) = block.pointer("/reasoningContent/reasoningText") {
        return vec![
            delta(json!({"reasoningContent": {"text": thought["text"]}})),
            delta(json!({"reasoningContent": {"signature": thought["signature"]}})),
        ];
    }
    let text = block["text"].as_str().unwrap_or_default();
    text.split_inclusive(' ').map(|word| delta(json!({"text": word}))).collect()
}

fn event(kind: &str, payload: &Value) -> Vec<u8> {
    frame("event", ":event-type", kind, payload)
}

fn frame(message_type: &'static str, name: &'static str, kind: &str, payload: &Value) -> Vec<u8> {
    let value = |text: &str| HeaderValue::String(text.to_owned().into());
    let message = Message::new(payload.to_string())
        .add_header(Header::new(":message-type", value(message_type)))
        .add_header(Header::new(name, value(kind)))
        .add_header(Header::new(":content-type", value("application/json")));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).expect("a frame");
    bytes
}

/// What `Authorization` must be, by the steps of AWS's documentation ("Create a signed AWS API request").
fn signature(asked: &Asked) -> String {
    let authorization = asked.header("authorization");
    let after = |name: &str| {
        let rest = authorization.split_once(name).unwrap_or_default().1;
        rest.split(',').next().unwrap_or_default().trim().to_owned()
    };
    let names = after("SignedHeaders=");
    let headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", asked.header(name).trim())).collect();
    // The path, encoded once more, as for every service but S3.
    let path = asked.target.replace('%', "%25");
    let payload = hex(digest(&SHA256, &asked.body).as_ref());
    let canonical = format!("POST\n{path}\n\n{headers}\n{names}\n{payload}");
    let date = asked.header("x-amz-date");
    let day = date.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{REGION}/bedrock/aws4_request");
    let canonical = hex(digest(&SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{canonical}");
    let mac = |key: &[u8], text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let key = [day, REGION, "bedrock", "aws4_request"]
        .iter()
        .fold(format!("AWS4{SECRET}").into_bytes(), |key, text| mac(&key, text));
    let signature = hex(&mac(&key, &to_sign));
    format!(
        "AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
