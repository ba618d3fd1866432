//! A small Gemini, on Vertex and behind an API key, with a token endpoint that checks who asks.
//!
//! The model's name is the script: `gemini-plain`, `gemini-think`, `gemini-tool`, `gemini-blocked`, `gemini-full` (429),
//! `gemini-cut`. Tokens are words.

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde_json::{Value, json};

use super::mock::{Asked, Mock, Said};

/// The API key that it takes, beside its own tokens.
pub const API_KEY: &str = "AIza-upstream";
/// The token that it hands out and takes.
pub const TOKEN: &str = "ya29.upstream";
/// The signature of its thoughts.
pub const SIGNATURE: &str = "c2lnbmF0dXJl";
/// Its project.
pub const PROJECT: &str = "project-1";
const ACCOUNT: &str = "gateway@project-1.iam.gserviceaccount.com";

/// A running Gemini.
#[derive(Debug)]
pub struct Gemini {
    mock: Mock,
    pem: String,
}

impl Gemini {
    /// Starts it, with an account that may ask it for tokens.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        let der = pair.as_der().expect("the RSA key");
        let pem = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n");
        let public = Arc::new(pair.public_key().as_ref().to_vec());
        let mock = Mock::start(move |asked| match asked.target.as_str() {
            "/token" => token(asked, &public),
            _ => generate(asked),
        });
        Self { mock: mock.await, pem }
    }

    /// Where it listens, without a path.
    pub fn url(&self) -> String {
        self.mock.url()
    }

    /// The key of its account, as Google's console hands it out.
    pub fn account(&self) -> String {
        self.account_of(ACCOUNT)
    }

    /// The key of an account with that name.
    pub fn account_of(&self, name: &str) -> String {
        json!({
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "k",
            "private_key": self.pem,
            "client_email": name,
            "token_uri": format!("{}/token", self.url()),
        })
        .to_string()
    }

    /// The requests for answers.
    pub fn asked(&self) -> Vec<Asked> {
        self.mock.asked().into_iter().filter(|asked| asked.target != "/token").collect()
    }

    /// How often a token was asked for.
    pub fn tokens(&self) -> usize {
        self.mock.asked().iter().filter(|asked| asked.target == "/token").count()
    }
}

fn token(asked: &Asked, public: &[u8]) -> Said {
    let form = String::from_utf8_lossy(&asked.body).into_owned();
    let assertion = form
        .strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
        .unwrap_or_default();
    let (message, signature) = assertion.rsplit_once('.').unwrap_or_default();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    let is_signed = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
        .verify(message.as_bytes(), &signature)
        .is_ok();
    let claims = message.split_once('.').unwrap_or_default().1;
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap_or_default();
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    let own = format!("http://{}/token", asked.header("host"));
    if !is_signed || claims["iss"] != ACCOUNT || claims["aud"] != own {
        return Said::json(400, &json!({"error": "invalid_grant"}));
    }
    Said::json(200, &json!({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}))
}

fn generate(asked: &Asked) -> Said {
    let is_known = asked.header("authorization") == format!("Bearer {TOKEN}")
        || asked.header("x-goog-api-key") == API_KEY;
    if !is_known {
        return error(401, "UNAUTHENTICATED", "who are you?");
    }
    let (path, method) = asked.target.rsplit_once(':').unwrap_or_default();
    let model = path.rsplit('/').next().unwrap_or_default();
    let request = asked.json();
    let chunks = match model {
        "gemini-full" => return error(429, "RESOURCE_EXHAUSTED", "quota exceeded"),
        "gemini-broken" => return error(500, "INTERNAL", "secret insides"),
        model => chunks(model, &request),
    };
    if method != "streamGenerateContent?alt=sse" {
        return Said::json(200, &joined(&chunks));
    }
    let is_cut = model == "gemini-cut";
    let chunks = &chunks[..if is_cut { 1 } else { chunks.len() }];
    let pieces = chunks.iter().map(|chunk| Bytes::from(format!("data: {chunk}\r\n\r\n"))).collect();
    Said { status: 200, content_type: "text/event-stream", pieces, is_cut }
}

fn chunks(model: &str, request: &Value) -> Vec<Value> {
    let last = request["contents"].as_array().and_then(|contents| contents.last());
    let parts = last.and_then(|content| content["parts"].as_array()).cloned().unwrap_or_default();
    let result = parts.iter().find_map(|part| part.get("functionResponse"));
    let text = parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ");
    let said = match result {
        Some(result) => format!("{} says {}", result["name"], result["response"]),
        None => format!("You said: {text}"),
    };
    let of = |parts: Value, finish: Option<&str>| {
        json!({
            "candidates": [{"index": 0, "content": {"role": "model", "parts": parts}, "finishReason": finish}],
            "modelVersion": model, "responseId": "r-1",
            "usageMetadata": {
                "promptTokenCount": 20, "cachedContentTokenCount": 8, "candidatesTokenCount": 5,
                "thoughtsTokenCount": if model == "gemini-think" { 7 } else { 0 },
            },
        })
    };
    match model {
        "gemini-blocked" => vec![json!({
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 20}, "modelVersion": model, "responseId": "r-1",
        })],
        "gemini-tool" if result.is_none() => vec![
            of(json!([{"text": "let me see"}]), None),
            of(
                json!([{"functionCall": {"name": "find", "args": {"x": 1}}, "thoughtSignature": SIGNATURE}]),
                Some("STOP"),
            ),
        ],
        "gemini-think" => vec![
            of(json!([{"text": "hm", "thought": true}]), None),
            of(json!([{"text": said}]), Some("STOP")),
        ],
        _ => {
            let words: Vec<_> = said.split_inclusive(' ').collect();
            let last = words.len().saturating_sub(1);
            let word = |(number, word): (usize, &&str)| {
                of(json!([{"text": word}]), (number == last).then_some("STOP"))
            };
            words.iter().enumerate().map(word).collect()
        }
    }
}

/// The same as one answer.
fn joined(chunks: &[Value]) -> Value {
    let mut whole = chunks.last().cloned().unwrap_or_default();
    let parts: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["candidates"][0]["content"]["parts"].as_array())
        .flatten()
        .cloned()
        .collect();
    if whole.get("candidates").is_some() {
        whole["candidates"][0]["content"]["parts"] = parts.into();
    }
    whole
}

fn error(code: u16, status: &str, message: &str) -> Said {
    let error = json!({"code": code, "status": status, "message": message});
    Said::json(code, &json!({"error": error}))
}
