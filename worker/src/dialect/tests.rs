//! What both dialects make of the same answer.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::*;
use crate::chat::{Answer, Event, Part, Stop, StopReason};
use crate::json::JsonBody;
use crate::provider::TokenUsage;

fn encoder_of(operation: Operation) -> Box<dyn Encoder> {
    let body = json!({"model": "m", "stream": true, "messages": [1],
        "stream_options": {"include_usage": true}});
    let body = JsonBody::parse(Bytes::from(body.to_string())).unwrap();
    let call = match operation {
        Operation::Messages => anthropic::messages_like(operation, body),
        _ => openai::completions_like(operation, "messages", body),
    };
    encoder(&call.unwrap()).unwrap()
}

fn whole(operation: Operation, answer: &Answer) -> Value {
    serde_json::from_slice(&encoder_of(operation).whole(answer)).unwrap()
}

/// The data of the events that a caller is sent.
fn streamed(operation: Operation, events: &[Event]) -> Vec<Value> {
    let (mut encoder, mut out) = (encoder_of(operation), BytesMut::new());
    events.iter().for_each(|event| encoder.event(event, &mut out));
    let text = String::from_utf8(out.to_vec()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
}

fn stop(reason: StopReason) -> Stop {
    Stop { reason, word: "word".to_owned(), sequence: None }
}

#[test]
fn the_prompt_is_counted_as_each_dialect_counts_it() {
    let usage = TokenUsage {
        prompt: 10,
        cached_prompt: 4,
        cache_creation: 3,
        cache_read: 2,
        completion: 5,
        reasoning: 1,
        ..TokenUsage::default()
    };
    let answer = Answer { usage: Some(usage), ..Answer::default() };
    let told = &whole(Operation::ChatCompletions, &answer)["usage"];
    assert_eq!((&told["prompt_tokens"], &told["total_tokens"]), (&json!(15), &json!(20)));
    assert_eq!(told["prompt_tokens_details"]["cached_tokens"], 6);
    assert_eq!(told["completion_tokens_details"]["reasoning_tokens"], 1);
    assert_eq!(
        whole(Operation::Messages, &answer)["usage"],
        json!({"input_tokens": 6, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 6,
            "output_tokens": 5})
    );
}

#[test]
fn why_an_answer_ended_is_told_in_each_dialect_s_words() {
    for (reason, chat, messages) in [
        (StopReason::End, "stop", "end_turn"),
        (StopReason::Length, "length", "max_tokens"),
        (StopReason::Sequence, "stop", "stop_sequence"),
        (StopReason::ToolCalls, "tool_calls", "tool_use"),
        (StopReason::Refusal, "content_filter", "refusal"),
        (StopReason::Pause, "stop", "pause_turn"),
    ] {
        let answer = Answer { stop: stop(reason), ..Answer::default() };
        let told = whole(Operation::ChatCompletions, &answer);
        assert_eq!(told["choices"][0]["finish_reason"], chat);
        assert_eq!(whole(Operation::Messages, &answer)["stop_reason"], messages);
    }
    // A provider that forgets to say it.
    let call = Part::ToolCall {
        id: "a".to_owned(),
        name: "f".to_owned(),
        arguments: "nonsense".to_owned(),
        cache: None,
    };
    let answer = Answer { parts: vec![call], ..Answer::default() };
    let told = whole(Operation::ChatCompletions, &answer);
    assert_eq!(told["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(told["choices"][0]["message"]["content"], Value::Null);
    let told = whole(Operation::Messages, &answer);
    assert_eq!(told["stop_reason"], "tool_use");
    assert_eq!(told["content"][0]["input"], json!({}));
}

#[test]
fn blocks_of_messages_are_closed_before_the_next_begins_and_the_count_comes_last() {
    let events = [
        Event::Reasoning("hm".to_owned()),
        Event::Signature("s".to_owned()),
        Event::Reasoning("and".to_owned()),
        Event::Text("a".to_owned()),
        Event::ToolCall { id: "1".to_owned(), name: "f".to_owned() },
        Event::Arguments("{}".to_owned()),
        Event::ToolCall { id: "2".to_owned(), name: "g".to_owned() },
        Event::Stop(stop(StopReason::End)),
        Event::Usage(TokenUsage { prompt: 7, completion: 8, ..TokenUsage::default() }),
        Event::End,
    ];
    let told = streamed(Operation::Messages, &events);
    let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected = [
        &["message_start", "content_block_start", "content_block_delta", "content_block_delta"][..],
        &["content_block_stop", "content_block_start", "content_block_delta"],
        &["content_block_stop", "content_block_start", "content_block_delta"],
        &["content_block_stop", "content_block_start", "content_block_delta"],
        &["content_block_stop", "content_block_start", "content_block_stop"],
        &["message_delta", "message_stop"],
    ];
    assert_eq!(kinds, expected.concat());
    let starts = told.iter().filter(|event| event["type"] == "content_block_start");
    assert!(starts.enumerate().all(|(index, event)| event["index"] == index));
    let delta = &told[told.len() - 2];
    assert_eq!(
        (&delta["delta"]["stop_reason"], &delta["usage"]["input_tokens"]),
        (&json!("tool_use"), &json!(7))
    );
    let told = streamed(Operation::ChatCompletions, &events);
    let indexes: Vec<_> = told
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["index"].as_u64())
        .collect();
    assert_eq!(indexes, [0, 0, 1]);
    assert_eq!(told[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(told[told.len() - 2]["usage"]["completion_tokens"], 8);
    assert_eq!(told[told.len() - 1], "[DONE]");
}
