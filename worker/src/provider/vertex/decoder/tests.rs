use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::chat::Part;

fn decoder() -> GeminiDecoder {
    GeminiDecoder::new("p".to_owned())
}

fn read(stream: &[u8], portion_bytes: usize) -> Result<Vec<Event>, UpstreamError> {
    let (mut decoder, mut events) = (decoder(), Vec::new());
    for portion in stream.chunks(portion_bytes) {
        decoder.portion(portion, &mut events)?;
    }
    decoder.end(&mut events)?;
    Ok(events)
}

fn chunk(parts: Value, finish: Option<&str>, usage: Value) -> Value {
    json!({
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": finish}],
        "usageMetadata": usage, "modelVersion": "gemini-x", "responseId": "r-1",
    })
}

fn usage() -> Value {
    json!({
        "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 5,
        "thoughtsTokenCount": 7, "toolUsePromptTokenCount": 1, "totalTokenCount": 23,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 7}, {"modality": "AUDIO", "tokenCount": 3}],
    })
}

fn counted() -> TokenUsage {
    TokenUsage {
        prompt: 11,
        completion: 12,
        cached_prompt: 4,
        reasoning: 7,
        audio_prompt: 3,
        ..TokenUsage::default()
    }
}

fn everything() -> String {
    let calls = json!([
        {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "sig"},
        {"functionCall": {"name": "g"}},
    ]);
    let chunks = [
        chunk(json!([{"text": "hm", "thought": true}]), None, json!({"promptTokenCount": 10})),
        chunk(json!([{"text": "hé"}]), None, Value::Null),
        chunk(calls, Some("STOP"), usage()),
    ];
    chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect()
}

fn everything_told() -> Vec<Event> {
    let call = |number: usize, name: &str| Event::ToolCall {
        id: format!("call_p_{number}"),
        name: name.to_owned(),
    };
    let word = "STOP".to_owned();
    vec![
        Event::Start { id: "r-1".into(), model: "gemini-x".into() },
        Event::Reasoning("hm".into()),
        Event::Usage(TokenUsage { prompt: 10, ..TokenUsage::default() }),
        Event::Text("hé".into()),
        Event::Signature("sig".into()),
        call(0, "f"),
        Event::Arguments("{\"x\":1}".into()),
        call(1, "g"),
        Event::Arguments("{}".into()),
        Event::Stop(Stop { reason: StopReason::ToolCalls, word, sequence: None }),
        Event::Usage(counted()),
    ]
}

#[test]
fn a_stream_tells_everything_in_order() {
    let stream = everything();
    assert_eq!(read(stream.as_bytes(), stream.len()).unwrap(), everything_told());
}

#[test]
fn a_whole_answer_tells_everything() {
    let parts = json!([
        {"text": "hm", "thought": true, "thoughtSignature": "sig"}, {"text": "hel"}, {"text": "lo"},
        {"functionCall": {"id": "own", "name": "f", "args": {}}},
    ]);
    let body = chunk(parts, Some("STOP"), usage()).to_string();
    let answer = decoder().whole(body.as_bytes()).unwrap();
    assert_eq!((answer.id.as_str(), answer.model.as_str()), ("r-1", "gemini-x"));
    assert_eq!((answer.stop.reason, answer.usage), (StopReason::ToolCalls, Some(counted())));
    assert_eq!(
        answer.parts,
        [
            Part::Reasoning { text: "hm".into(), signature: Some("sig".into()) },
            Part::Text { text: "hello".into(), cache: None },
            Part::ToolCall {
                id: "own".into(),
                name: "f".into(),
                arguments: "{}".into(),
                cache: None
            },
        ]
    );
}

#[test]
fn what_is_blocked_is_a_refusal_and_not_an_error() {
    for body in [
        json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}}),
        json!({"candidates": [{"finishReason": "SAFETY"}]}),
    ] {
        let answer = decoder().whole(body.to_string().as_bytes()).unwrap();
        assert_eq!((answer.stop.reason, answer.parts.len()), (StopReason::Refusal, 0), "{body}");
    }
}

#[test]
fn an_error_has_the_gateway_s_code() {
    let body =
        json!([{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}]);
    let error = decoder().error(body.to_string().as_bytes()).unwrap();
    let expected = ProviderError {
        message: "quota".into(),
        code: Some("rate_limit_exceeded".into()),
        param: None,
        status: Some(429),
    };
    assert_eq!(error, expected);
    let stream =
        "data: {\"error\":{\"code\":503,\"message\":\"m\",\"status\":\"UNAVAILABLE\"}}\n\n";
    let events = read(stream.as_bytes(), 5).unwrap();
    assert!(matches!(&events[..], [Event::Error(error)] if error.status == Some(503)));
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    for body in ["", "[]", "{}", "<html>"] {
        let read = decoder().whole(body.as_bytes());
        assert!(matches!(read, Err(UpstreamError::Decode(_))), "{body}");
    }
}

proptest! {
    #[test]
    fn what_a_stream_tells_does_not_depend_on_how_it_was_split(portion_bytes in 1..200usize) {
        prop_assert_eq!(read(everything().as_bytes(), portion_bytes).unwrap(), everything_told());
    }

    #[test]
    fn no_bytes_can_panic_it(
        bytes: Vec<u8>,
        text in r#"(data: |[\[\]{}",:a-z0-9\\ \n]|"(candidates|content|parts|functionCall|error|text)":){0,40}"#,
        portion_bytes in 1..20usize,
    ) {
        for body in [&bytes[..], text.as_bytes()] {
            let _ = read(body, portion_bytes);
            let _ = decoder().whole(body);
            let _ = decoder().error(body);
        }
    }
}
