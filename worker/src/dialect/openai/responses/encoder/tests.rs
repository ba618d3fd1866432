//! What a caller of the Responses API is told.

use super::*;
use crate::dialect::openai::response;
use crate::json::JsonBody;

fn encoder() -> Responses {
    let body = r#"{"model":"chat","input":"hi","temperature":0.5,"stream":true}"#;
    let call = response(JsonBody::parse(Bytes::from_static(body.as_bytes())).unwrap()).unwrap();
    Responses::new(&call, "1".to_owned(), 7)
}

fn events() -> Vec<Event> {
    let text = |text: &str| text.to_owned();
    vec![
        Event::Start { id: text("x"), model: text("m-1") },
        Event::Reasoning(text("hm")),
        Event::Signature(text("S")),
        Event::HiddenReasoning(text("H")),
        Event::Text(text("he")),
        Event::Text(text("llo")),
        Event::ToolCall { id: text("c-1"), name: text("f") },
        Event::Arguments(text("{\"a\":")),
        Event::Arguments(text("1}")),
        Event::ToolCall { id: text("c-2"), name: text("g") },
        Event::Usage(TokenUsage {
            prompt: 3,
            cache_read: 4,
            completion: 5,
            ..TokenUsage::default()
        }),
        Event::Stop(Stop { reason: StopReason::ToolCalls, ..Stop::default() }),
        Event::End,
    ]
}

fn told(events: &[Event]) -> Vec<Value> {
    let (mut encoder, mut out) = (encoder(), BytesMut::new());
    events.iter().for_each(|event| encoder.event(event, &mut out));
    let text = String::from_utf8(out.to_vec()).unwrap();
    let blocks = text.split("\n\n").filter(|block| !block.is_empty());
    blocks
        .map(|block| {
            let (name, data) = block.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
            data
        })
        .collect()
}

#[test]
fn a_stream_tells_items_one_after_the_other_and_all_of_them_in_the_end() {
    let told = told(&events());
    for (index, event) in told.iter().enumerate() {
        assert_eq!(event["sequence_number"], index);
    }
    let kinds: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..3],
        ["response.created", "response.in_progress", "response.output_item.added"]
    );
    let count = |kind: &str| kinds.iter().filter(|other| **other == kind).count();
    assert_eq!((count("response.output_item.added"), count("response.output_item.done")), (5, 5));
    assert_eq!(count("response.output_text.delta"), 2);
    let last = &told.last().unwrap()["response"];
    assert_eq!((&last["status"], &last["model"]), (&json!("completed"), &json!("m-1")));
    assert_eq!((&last["temperature"], &last["usage"]["input_tokens"]), (&json!(0.5), &json!(7)));
    let output = last["output"].as_array().unwrap();
    let of = |index: usize, name: &str| output[index][name].clone();
    assert_eq!(of(0, "encrypted_content"), "signed:S");
    assert_eq!((of(1, "encrypted_content"), of(1, "summary")), (json!("hidden:H"), json!([])));
    assert_eq!(output[2]["content"][0]["text"], "hello");
    assert_eq!((of(3, "call_id"), of(3, "arguments")), (json!("c-1"), json!("{\"a\":1}")));
    assert_eq!(of(4, "arguments"), "{}");
}

#[test]
fn an_answer_is_the_same_whether_it_came_as_a_stream_or_as_a_whole() {
    let cache = None;
    let call = |id: &str, name: &str, arguments: &str| Part::ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
        cache,
    };
    let answer = Answer {
        id: "x".to_owned(),
        model: "m-1".to_owned(),
        parts: vec![
            Part::Reasoning { text: "hm".to_owned(), signature: Some("S".to_owned()) },
            Part::HiddenReasoning("H".to_owned()),
            Part::Text { text: "he".to_owned(), cache },
            Part::Text { text: "llo".to_owned(), cache },
            call("c-1", "f", "{\"a\":1}"),
            call("c-2", "g", ""),
        ],
        stop: Stop { reason: StopReason::ToolCalls, ..Stop::default() },
        usage: Some(TokenUsage {
            prompt: 3,
            cache_read: 4,
            completion: 5,
            ..TokenUsage::default()
        }),
    };
    let whole: Value = serde_json::from_slice(&encoder().whole(&answer)).unwrap();
    assert_eq!(whole, told(&events()).last().unwrap()["response"]);
}

#[test]
fn an_answer_that_was_too_long_is_incomplete() {
    let stop = Stop { reason: StopReason::Length, ..Stop::default() };
    let told = told(&[Event::Text("a".to_owned()), Event::Stop(stop), Event::End]);
    let last = told.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
}
