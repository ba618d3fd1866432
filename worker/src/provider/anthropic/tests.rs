//! Requests as they are written, answers as they are understood, in both dialects.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::chat::{Decoder, Event};
use crate::provider::{Progress, Seen};

fn call(operation: Operation, body: &Value) -> Call {
    let body = JsonBody::parse(Bytes::from(body.to_string())).unwrap();
    match operation {
        Operation::Messages => dialect::anthropic::messages_like(operation, body),
        _ => dialect::openai::completions_like(operation, "messages", body),
    }
    .unwrap()
}

/// What Anthropic is sent for a body of chat completions.
fn written(model: &str, more: Value) -> Result<Value, String> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let members = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    let call = call(Operation::ChatCompletions, &body);
    let conversation = dialect::conversation(&call).map_err(|error| error.to_string())?;
    let written = request::write(conversation, model, false).map_err(|error| error.to_string())?;
    Ok(written.body)
}

fn messages(messages: Value) -> Value {
    written("claude-sonnet-4-5", json!({"messages": messages})).unwrap()["messages"].take()
}

#[test]
fn the_version_of_the_api_is_in_the_path_once() {
    assert_eq!(path("", Operation::Messages), "/v1/messages");
    assert_eq!(path("/v1", Operation::ChatCompletions), "/messages");
    assert_eq!(path("/anthropic", Operation::CountTokens), "/v1/messages/count_tokens");
}

#[test]
fn instructions_go_before_the_conversation_wherever_they_were() {
    let body = written(
        "m",
        json!({"messages": [
            {"role": "system", "content": "a"}, {"role": "user", "content": "b"},
            {"role": "developer", "content": [{"type": "text", "text": "c"}]},
            {"role": "user", "content": "d"}]}),
    )
    .unwrap();
    assert_eq!(
        body["system"],
        json!([{"type": "text", "text": "a"}, {"type": "text", "text": "c"}])
    );
    // Two in a row of one role are one turn.
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(body["messages"], json!([{"role": "user", "content": [text("b"), text("d")]}]));
}

#[test]
fn media_are_told_by_where_they_are() {
    let told = messages(json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://host/a.png"},
            "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGk="}},
    ]}]));
    assert_eq!(
        told[0]["content"],
        json!([
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "image", "source": {"type": "url", "url": "https://host/a.png"},
                "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "document", "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}},
        ])
    );
    for (part, reason) in [
        (json!({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), "image_url"),
        (json!({"type": "input_audio", "input_audio": {"format": "wav", "data": "A"}}), "sounds"),
        (json!({"type": "video"}), "`messages[0].content[0].type` must be"),
    ] {
        let error = written("m", json!({"messages": [{"role": "user", "content": [part]}]}));
        assert!(error.clone().unwrap_err().contains(reason), "{error:?}");
    }
}

#[test]
fn calls_and_results_are_turns_that_anthropic_takes() {
    let told = messages(json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "user", "content": "go on"}]));
    assert_eq!(
        told[1]["content"],
        json!([{"type": "tool_use", "id": "functions_f_0", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "b", "name": "g", "input": {}}])
    );
    assert_eq!(
        told[2],
        json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "functions_f_0",
                "content": [{"type": "text", "text": "one"}]},
            {"type": "tool_result", "tool_use_id": "b"},
            {"type": "text", "text": "go on"}]})
    );
}

#[test]
fn parameters_are_told_in_anthropic_s_words() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let body = written(
        "claude-sonnet-4-5",
        json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false,
            "stop": ["END", " "], "temperature": 1.7, "top_p": 0.5, "seed": 1, "user": "u",
            "max_completion_tokens": 7, "n": 1, "frequency_penalty": 0.1}),
    )
    .unwrap();
    let expected = json!({
        "model": "claude-sonnet-4-5", "max_tokens": 7, "temperature": 1.0,
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "stop_sequences": ["END"], "metadata": {"user_id": "u"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    });
    assert_eq!(body, expected);
    assert!(written("m", json!({"n": 2})).unwrap_err().contains("`n` must be 1"));
    assert!(written("m", json!({"functions": []})).unwrap_err().contains("use `tools`"));
}

#[test]
fn effort_is_a_budget_below_the_limit_or_what_the_newest_models_call_it() {
    let of = |model: &str, more: Value| {
        let body = written(model, more).unwrap();
        (body["thinking"].clone(), body["max_tokens"].as_u64().unwrap())
    };
    let budget = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    let model = "claude-sonnet-4-5";
    assert_eq!(of(model, json!({"reasoning_effort": "medium"})), (budget(8192), 32_000));
    let short = json!({"reasoning_effort": "high", "max_tokens": 4000});
    assert_eq!(of(model, short), (budget(2000), 4000));
    let shorter = json!({"reasoning_effort": "high", "max_tokens": 1000});
    assert_eq!(of(model, shorter), (Value::Null, 1000));
    assert_eq!(of(model, json!({"reasoning_effort": "none"})).0, Value::Null);
    let own = json!({"thinking": {"type": "enabled", "budget_tokens": 3000}});
    assert_eq!(of(model, own).0, budget(3000));
    let adaptive = json!({"reasoning_effort": "minimal", "temperature": 0.5});
    let body = written("claude-opus-4-7", adaptive).unwrap();
    assert_eq!(body["thinking"]["type"], "adaptive");
    assert_eq!(body["output_config"], json!({"effort": "low"}));
    assert_eq!(body["temperature"], Value::Null);
}

const STREAM: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"c\",",
    "\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":2,\"output_tokens\":1}}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,",
    "\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,",
    "\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,",
    "\"delta\":{\"type\":\"signature_delta\",\"signature\":\"s\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,",
    "\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"json_answer\",\"input\":{}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,",
    "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,",
    "\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},",
    "\"usage\":{\"output_tokens\":9}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

fn decoded(stream: &[u8], portions: &[usize], forces_json: bool) -> Vec<Event> {
    let mut decoder = Messages::new(forces_json);
    let (mut events, mut rest, mut sizes) = (Vec::new(), stream, portions.iter().cycle());
    while !rest.is_empty() {
        let size = (*sizes.next().unwrap()).clamp(1, rest.len());
        decoder.portion(&rest[..size], &mut events).unwrap();
        rest = &rest[size..];
    }
    decoder.end(&mut events).unwrap();
    events
}

/// What a caller of `operation` is sent.
fn relayed(operation: Operation, stream: &[u8], portions: &[usize]) -> (String, Seen) {
    let body = json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [1]});
    let call = call(operation, &body);
    let mut reading: Box<dyn Reading> = match operation {
        Operation::Messages => Box::new(Native::default()),
        _ => {
            let encoder = dialect::encoder(&call).unwrap();
            Box::new(Translation::new(Box::new(Messages::new(false)), encoder))
        }
    };
    let (mut out, mut seen) = (BytesMut::new(), Seen::default());
    let (mut rest, mut sizes) = (stream, portions.iter().cycle());
    while !rest.is_empty() {
        let size = (*sizes.next().unwrap()).clamp(1, rest.len());
        if reading.portion(&rest[..size], &mut seen, &mut out).unwrap() == Progress::Done {
            break;
        }
        rest = &rest[size..];
    }
    (String::from_utf8(out.to_vec()).unwrap(), seen)
}

#[test]
fn a_forced_tool_is_the_answer_and_any_other_a_call() {
    let told = |forces_json| decoded(STREAM.as_bytes(), &[usize::MAX], forces_json);
    let text: Vec<_> = told(true)
        .into_iter()
        .filter_map(|event| match event {
            Event::Text(text) => Some(text),
            _ => None,
        })
        .collect();
    assert_eq!(text.concat(), "{\"a\":1}");
    let events = told(false);
    assert!(events.contains(&Event::ToolCall { id: "t".into(), name: "json_answer".into() }));
    assert!(events.contains(&Event::Signature("s".to_owned())));
    assert_eq!(events.last(), Some(&Event::End));
}

#[test]
fn a_call_without_pieces_has_the_input_that_it_began_with() {
    let arguments = |input: &str| {
        let block = format!(
            "data: {{\"type\":\"content_block_start\",\"content_block\":{{\"type\":\"tool_use\",\"input\":{input}}}}}\n\n\
             data: {{\"type\":\"content_block_stop\"}}\n\n"
        );
        match decoded(block.as_bytes(), &[usize::MAX], false).pop() {
            Some(Event::Arguments(arguments)) => arguments,
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(arguments("{}"), "{}");
    assert_eq!(arguments("{\"a\":1}"), "{\"a\":1}");
}

#[test]
fn what_is_relayed_is_what_came_and_what_is_accounted_is_the_same_in_both_dialects() {
    let (native, seen) = relayed(Operation::Messages, STREAM.as_bytes(), &[usize::MAX]);
    assert_eq!(native, STREAM);
    let usage = seen.usage.unwrap();
    assert_eq!((usage.prompt, usage.cache_read, usage.completion), (5, 2, 9));
    let (told, other) = relayed(Operation::ChatCompletions, STREAM.as_bytes(), &[usize::MAX]);
    assert!(told.ends_with("data: [DONE]\n\n"), "{told}");
    assert_eq!((other.usage, &other.id, &other.model), (seen.usage, &seen.id, &seen.model));
    assert_eq!(other.finish_reason, seen.finish_reason);
}

#[test]
fn an_error_in_a_stream_is_told_with_its_status() {
    let stream = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n";
    let mut seen = Seen::default();
    let error = Native::default().portion(stream, &mut seen, &mut BytesMut::new()).unwrap_err();
    let crate::request::UpstreamError::InBand(error) = error else { panic!("{error}") };
    assert_eq!((error.message.as_str(), error.status), ("busy", Some(529)));
    let events = decoded(stream, &[usize::MAX], false);
    assert!(matches!(&events[..], [Event::Error(told)] if *told == error));
}

#[test]
fn a_stream_that_ends_early_is_cut_unless_it_has_told_why_it_ended() {
    let end = |stream: &str| {
        let (mut native, mut seen, mut out) = (Native::default(), Seen::default(), BytesMut::new());
        native.portion(stream.as_bytes(), &mut seen, &mut out).unwrap();
        native.end(&mut seen, &mut out).map(|()| String::from_utf8(out.to_vec()).unwrap())
    };
    let last = STREAM.find("event: message_stop").unwrap();
    assert_eq!(end(&STREAM[..last]).unwrap(), STREAM);
    let delta = STREAM.find("event: message_delta").unwrap();
    assert!(matches!(end(&STREAM[..delta]), Err(crate::request::UpstreamError::Cut(_))));
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_tells_the_same(portions in prop::collection::vec(1..40usize, 1..6)) {
        let stream = STREAM.replace('\n', "\r\n");
        for forces_json in [false, true] {
            let whole = decoded(stream.as_bytes(), &[usize::MAX], forces_json);
            prop_assert_eq!(decoded(stream.as_bytes(), &portions, forces_json), whole);
        }
        let whole = relayed(Operation::Messages, STREAM.as_bytes(), &[usize::MAX]);
        prop_assert_eq!(relayed(Operation::Messages, STREAM.as_bytes(), &portions), whole);
    }

    #[test]
    fn no_bytes_can_panic_the_readers(
        bytes: Vec<u8>,
        kinds in prop::collection::vec(("(message_start|content_block_(start|delta|stop)|message_delta|error)", any::<bool>()), 0..6),
        value in r#"(\{\}|null|"x"|7|\[1\]|\{"type":"tool_use","input":[0-9]\}|\{"type":"text","text":1\})"#,
    ) {
        let mut stream = bytes.clone();
        for (kind, is_named) in kinds {
            let name = if is_named { format!("event: {kind}\n") } else { String::new() };
            let data = format!(r#"{{"type":"{kind}","message":{value},"content_block":{value},"delta":{value},"error":{value},"usage":{value}}}"#);
            stream.extend_from_slice(format!("\n\n{name}data: {data}\n\n").as_bytes());
        }
        let (mut events, mut seen, mut out) = (Vec::new(), Seen::default(), BytesMut::new());
        let _ = Messages::new(true).portion(&stream, &mut events);
        let _ = Native::default().portion(&stream, &mut seen, &mut out);
        let _ = Messages::new(true).whole(&bytes);
        let _ = Messages::new(true).whole(format!(r#"{{"content":[{value}],"usage":{value}}}"#).as_bytes());
        let _ = Native::default().whole(bytes.into(), &mut seen);
    }

    #[test]
    fn no_body_of_a_caller_can_panic_the_translation(
        content in r#"("a"|null|7|\[\{"type":"text"\}\]|\[\{"type":"image_url","image_url":"data:,"\}\]|\[\{"type":"tool_use","id":"a","name":"b"\}\])"#,
        role in "(user|assistant|tool|system|developer)",
        extra in r#"(tools|tool_choice|response_format|stop|thinking|output_config|metadata|system|n)"#,
        value in r#"(\[\{\}\]|\{"type":"enabled"\}|"x"|7|\{"type":"json_schema"\}|\[\{"type":"function","function":\{"name":"f"\}\}\])"#,
    ) {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"{role}","content":{content},"tool_call_id":"x"}}],"{extra}":{value}}}"#);
        let body: Value = serde_json::from_str(&body).unwrap();
        for operation in [Operation::ChatCompletions, Operation::Messages] {
            if let Ok(conversation) = dialect::conversation(&call(operation, &body)) {
                let _ = request::write(conversation, "claude-sonnet-4-5", true);
            }
        }
    }
}
