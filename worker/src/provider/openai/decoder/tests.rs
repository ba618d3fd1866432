use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(stream: &[u8], portion_bytes: usize) -> Result<Vec<Event>, UpstreamError> {
    let mut decoder = ChatDecoder::new(None, false);
    let mut events = Vec::new();
    for portion in stream.chunks(portion_bytes) {
        decoder.portion(portion, &mut events)?;
    }
    decoder.end(&mut events)?;
    Ok(events)
}

fn stream(chunks: &[Value]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect()
}

fn delta(delta: Value) -> Value {
    json!({"id": "c-1", "model": "m", "choices": [{"index": 0, "delta": delta}]})
}

fn call(index: u64, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
    let function = json!({"name": name, "arguments": arguments});
    json!({"index": index, "id": id, "function": function})
}

fn finish(word: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": word}]})
}

fn everything() -> String {
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 7});
    let mut text = stream(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"content": "hé"})),
        json!({"choices": [{"index": 1, "delta": {"content": "of another answer"}}]}),
        delta(json!({"tool_calls": [call(0, Some("a"), Some("f"), "")]})),
        delta(json!({"tool_calls": [call(0, None, None, "{\"x\":")]})),
        delta(json!({"tool_calls": [call(1, Some("b"), Some("g"), "{")]})),
        delta(json!({"tool_calls": [call(0, None, None, "1}"), call(1, None, None, "}")]})),
        finish("tool_calls"),
        json!({"choices": [], "usage": usage}),
    ]);
    text.push_str("data: [DONE]\n\ndata: what follows is not read\n\n");
    text
}

fn everything_told() -> Vec<Event> {
    let call = |id: &str, name: &str| Event::ToolCall { id: id.into(), name: name.into() };
    let word = "tool_calls".to_owned();
    vec![
        Event::Start { id: "c-1".into(), model: "m".into() },
        Event::Reasoning("hm".into()),
        Event::Text("hé".into()),
        call("a", "f"),
        Event::Arguments("{\"x\":".into()),
        Event::Arguments("1}".into()),
        call("b", "g"),
        Event::Arguments("{}".into()),
        Event::Stop(Stop { reason: StopReason::ToolCalls, word, sequence: None }),
        Event::Usage(TokenUsage { prompt: 5, completion: 7, ..TokenUsage::default() }),
        Event::End,
    ]
}

#[test]
fn a_stream_tells_everything_in_order_and_interleaved_calls_one_after_the_other() {
    let stream = everything();
    assert_eq!(read(stream.as_bytes(), stream.len()).unwrap(), everything_told());
}

#[test]
fn a_new_id_at_the_same_index_is_another_call() {
    let text = stream(&[
        delta(json!({"tool_calls": [call(0, Some("a"), Some("f"), "{}")]})),
        delta(json!({"tool_calls": [call(0, Some("b"), Some("f"), "{}")]})),
        finish("stop"),
    ]);
    let events = read(text.as_bytes(), 10).unwrap();
    let calls: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::ToolCall { id, .. } => Some(id.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(calls, ["a", "b"]);
    let Some(Event::Stop(stop)) = events.last() else { panic!("{events:?}") };
    assert_eq!((stop.reason, stop.word.as_str()), (StopReason::ToolCalls, "stop"));
}

#[test]
fn a_stream_may_end_with_done_and_no_reason_or_with_a_reason_and_no_done() {
    let begun = stream(&[delta(json!({"content": "a"}))]);
    let events = read(format!("{begun}data: [DONE]\n\n").as_bytes(), 9).unwrap();
    assert!(matches!(&events[2..], [Event::Stop(_), Event::End]), "{events:?}");
    let events = read(format!("{begun}{}", stream(&[finish("length")])).as_bytes(), 9).unwrap();
    let Some(Event::Stop(stop)) = events.last() else { panic!("{events:?}") };
    assert_eq!(stop.reason, StopReason::Length);
    // And what ends in the middle tells neither.
    let events = read(begun.as_bytes(), 9).unwrap();
    assert_eq!(events.len(), 2);
}

#[test]
fn a_refusal_is_told_as_text_and_as_the_reason() {
    let text = stream(&[delta(json!({"refusal": "no"})), finish("stop")]);
    let events = read(text.as_bytes(), 100).unwrap();
    assert_eq!(events[1], Event::Text("no".into()));
    assert!(matches!(&events[2], Event::Stop(stop) if stop.reason == StopReason::Refusal));
}

#[test]
fn an_error_in_the_stream_is_one_and_garbage_cannot_be_read() {
    let text = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";
    let events = read(text.as_bytes(), 100).unwrap();
    assert!(matches!(&events[..], [Event::Error(error)] if error.message == "overloaded"));
    assert!(matches!(read(b"data: {not\n\n", 100), Err(UpstreamError::Decode(_))));
}

#[test]
fn a_whole_answer_tells_everything() {
    let body = json!({
        "id": "c-1", "model": "m",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "reasoning": "hm", "content": [{"type": "text", "text": "hello"}],
            "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}],
        }}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}},
    });
    let answer = ChatDecoder::new(None, false).whole(body.to_string().as_bytes()).unwrap();
    assert_eq!((answer.id.as_str(), answer.model.as_str()), ("c-1", "m"));
    assert_eq!(answer.stop.reason, StopReason::ToolCalls);
    assert_eq!(answer.usage.unwrap().cached_prompt, 3);
    assert_eq!(
        answer.parts,
        [
            Part::Reasoning { text: "hm".into(), signature: None },
            Part::Text { text: "hello".into(), cache: None },
            Part::ToolCall {
                id: "a".into(),
                name: "f".into(),
                arguments: "{\"x\":1}".into(),
                cache: None
            },
        ]
    );
}

#[test]
fn reasoning_is_where_the_provider_key_says() {
    let body =
        br#"{"choices":[{"message":{"content":"a","reasoning":"no","thoughts":{"text":"yes"}}}]}"#;
    let answer = ChatDecoder::new(Some("message.thoughts.text"), false).whole(body).unwrap();
    assert_eq!(answer.parts[0], Part::Reasoning { text: "yes".into(), signature: None });
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    for body in ["", "[]", "{}", "<html>"] {
        let read = ChatDecoder::new(None, false).whole(body.as_bytes());
        assert!(matches!(read, Err(UpstreamError::Decode(_))), "{body}");
    }
    let read = ChatDecoder::new(None, false).whole(br#"{"error":{"message":"no"}}"#);
    assert!(matches!(read, Err(UpstreamError::InBand(error)) if error.message == "no"));
}

proptest! {
    #[test]
    fn what_a_stream_tells_does_not_depend_on_how_it_was_split(portion_bytes in 1..200usize) {
        prop_assert_eq!(read(everything().as_bytes(), portion_bytes).unwrap(), everything_told());
    }

    #[test]
    fn no_bytes_can_panic_it(
        bytes: Vec<u8>,
        text in r#"(data: |[\[\]{}",:a-z0-9\\ \n]|"(choices|delta|tool_calls|index|function|arguments)":){0,40}"#,
        portion_bytes in 1..20usize,
    ) {
        for body in [&bytes[..], text.as_bytes()] {
            let _ = read(body, portion_bytes);
            let _ = ChatDecoder::new(Some(&text), true).whole(body);
        }
    }
}
