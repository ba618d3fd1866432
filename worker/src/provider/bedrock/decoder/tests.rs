use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue as FrameValue, Message};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::chat::Part;

fn frame(message_type: &'static str, name: &'static str, kind: &str, payload: &Value) -> Vec<u8> {
    let value = |text: &str| FrameValue::String(text.to_owned().into());
    let message = Message::new(payload.to_string())
        .add_header(Header::new(":message-type", value(message_type)))
        .add_header(Header::new(name, value(kind)))
        .add_header(Header::new(":content-type", value("application/json")));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

fn event(kind: &str, payload: Value) -> Vec<u8> {
    frame("event", ":event-type", kind, &payload)
}

fn read(stream: &[u8], portion_bytes: usize) -> Result<Vec<Event>, UpstreamError> {
    let (mut decoder, mut events) = (ConverseDecoder::default(), Vec::new());
    for portion in stream.chunks(portion_bytes) {
        decoder.portion(portion, &mut events)?;
    }
    decoder.end(&mut events)?;
    Ok(events)
}

fn everything() -> Vec<u8> {
    let delta = |at: u64, delta: Value| {
        event("contentBlockDelta", json!({"contentBlockIndex": at, "delta": delta}))
    };
    let call = json!({"toolUse": {"toolUseId": "t1", "name": "f"}});
    let usage = json!({
        "inputTokens": 3, "outputTokens": 4, "totalTokens": 20,
        "cacheReadInputTokens": 6, "cacheWriteInputTokens": 7,
    });
    [
        event("messageStart", json!({"role": "assistant"})),
        delta(0, json!({"reasoningContent": {"text": "hm"}})),
        delta(0, json!({"reasoningContent": {"signature": "sig"}})),
        delta(1, json!({"reasoningContent": {"redactedContent": "aGk="}})),
        delta(2, json!({"text": "hé"})),
        event("contentBlockStop", json!({"contentBlockIndex": 2})),
        event("contentBlockStart", json!({"contentBlockIndex": 3, "start": call})),
        delta(3, json!({"toolUse": {"input": "{\"x\":"}})),
        delta(3, json!({"toolUse": {"input": "1}"}})),
        event("somethingNew", json!({})),
        event("messageStop", json!({"stopReason": "tool_use"})),
        event("metadata", json!({"usage": usage, "metrics": {"latencyMs": 1}})),
    ]
    .concat()
}

fn counted() -> TokenUsage {
    TokenUsage {
        prompt: 3,
        completion: 4,
        cache_read: 6,
        cache_creation: 7,
        ..TokenUsage::default()
    }
}

fn everything_told() -> Vec<Event> {
    let word = "tool_use".to_owned();
    vec![
        start(),
        Event::Reasoning("hm".into()),
        Event::Signature("sig".into()),
        Event::HiddenReasoning("aGk=".into()),
        Event::Text("hé".into()),
        Event::ToolCall { id: "t1".into(), name: "f".into() },
        Event::Arguments("{\"x\":".into()),
        Event::Arguments("1}".into()),
        Event::Stop(Stop { reason: StopReason::ToolCalls, word, sequence: None }),
        Event::Usage(counted()),
        Event::End,
    ]
}

#[test]
fn a_stream_tells_everything_in_order() {
    let stream = everything();
    assert_eq!(read(&stream, stream.len()).unwrap(), everything_told());
}

#[test]
fn a_whole_answer_tells_everything() {
    let content = json!([
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
        {"reasoningContent": {"redactedContent": "aGk="}},
        {"text": "hello"},
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"x": 1}}},
    ]);
    let body = json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use",
        "usage": {"inputTokens": 3, "outputTokens": 4, "cacheReadInputTokens": 6, "cacheWriteInputTokens": 7},
    });
    let answer = ConverseDecoder::default().whole(body.to_string().as_bytes()).unwrap();
    assert_eq!((answer.stop.reason, answer.usage), (StopReason::ToolCalls, Some(counted())));
    assert_eq!(
        answer.parts,
        [
            Part::Reasoning { text: "hm".into(), signature: Some("sig".into()) },
            Part::HiddenReasoning("aGk=".into()),
            Part::Text { text: "hello".into(), cache: None },
            Part::ToolCall {
                id: "t1".into(),
                name: "f".into(),
                arguments: "{\"x\":1}".into(),
                cache: None
            },
        ]
    );
}

#[test]
fn an_exception_in_the_stream_has_the_gateway_s_code() {
    let payload = json!({"message": "slow down"});
    let stream = frame("exception", ":exception-type", "throttlingException", &payload);
    let events = read(&stream, 7).unwrap();
    let expected = ProviderError {
        message: "slow down".into(),
        code: Some("rate_limit_exceeded".into()),
        param: None,
        status: Some(429),
    };
    assert_eq!(events, [Event::Error(expected)]);
}

#[test]
fn an_error_tells_its_message_and_the_gateway_s_code_where_it_names_its_kind() {
    let error = |body: &str| ConverseDecoder::default().error(body.as_bytes());
    let told = error(r#"{"__type":"x#AccessDeniedException","Message":"no"}"#).unwrap();
    assert_eq!((told.message.as_str(), told.code.as_deref()), ("no", Some("permission_denied")));
    assert_eq!(error(r#"{"message":"bad"}"#).unwrap().code, None);
    assert_eq!(error("<html>"), None);
}

#[test]
fn a_frame_whose_sum_is_wrong_or_that_is_too_long_is_not_read() {
    let mut stream = everything();
    stream[20] ^= 1;
    assert!(matches!(read(&stream, 1000), Err(UpstreamError::Decode(_))));
    let long = [0xff; 16];
    assert!(matches!(read(&long, 16), Err(UpstreamError::Decode(_))));
}

proptest! {
    #[test]
    fn what_a_stream_tells_does_not_depend_on_how_it_was_split(portion_bytes in 1..200usize) {
        prop_assert_eq!(read(&everything(), portion_bytes).unwrap(), everything_told());
    }

    #[test]
    fn no_bytes_can_panic_it(
        bytes: Vec<u8>,
        at in 0..2000usize,
        byte: u8,
        text in r#"([\[\]{}",:a-z0-9]|"(output|message|content|toolUse|text|input)":){0,40}"#,
    ) {
        let mut stream = everything();
        if let Some(old) = stream.get_mut(at) {
            *old = byte;
        }
        for stream in [&bytes[..], &stream[..], text.as_bytes()] {
            let _ = read(stream, 13);
            let _ = ConverseDecoder::default().whole(stream);
            let _ = ConverseDecoder::default().error(stream);
        }
        let payload = serde_json::from_str(&text).unwrap_or(Value::String(text));
        for kind in ["contentBlockStart", "contentBlockDelta", "messageStop", "metadata"] {
            let _ = read(&event(kind, payload.clone()), 1000);
        }
    }
}
