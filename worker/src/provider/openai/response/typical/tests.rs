//! What is told of a typical answer is what would be told of it otherwise.

use proptest::prelude::*;

use super::super::read_any;
use super::*;
use crate::json::reader::texts::{mutated, value};

pub(in super::super) const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1741570283,"model":"gpt-4o-2024-08-06",
    "choices":[{"index":0,"message":{"role":"assistant","content":"The capital\n is Paris.","refusal":null,
    "reasoning_content":null,"annotations":[],"tool_calls":[{"id":"a"}]},"logprobs":null,"finish_reason":"stop"},
    {"index":1,"text":"more","delta":null,"finish_reason":"length"}],
    "usage":{"prompt_tokens":19,"completion_tokens":18,"total_tokens":37,"prompt_tokens_details":null,
    "completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0,"accepted_prediction_tokens":0}},
    "service_tier":"default"}"#;

/// Names that mean something somewhere in an answer.
const NAMES: &str = "id|model|choices|usage|finish_reason|message|delta|text|content|reasoning_content|tool_calls|\
    prompt_tokens|completion_tokens|input_tokens|output_tokens|total_tokens|prompt_tokens_details|input_tokens_details|\
    input_token_details|completion_tokens_details|output_tokens_details|output_token_details|cached_tokens|audio_tokens|\
    reasoning_tokens|other|i\\\\u0064";

#[test]
fn a_typical_answer_is_read_here() {
    assert!(read(ANSWER.as_bytes()).is_some());
    assert_eq!(read(ANSWER.as_bytes()), read_any(ANSWER.as_bytes()));
    assert!(read(b"{}").is_some());
}

#[test]
fn what_is_not_typical_is_left_to_the_other_reader() {
    for body in [
        r#"{"id":1,"id":2}"#,
        r#"{"i\u0064":"a"}"#,
        r#"{"choices":{}}"#,
        r#"{"choices":[["stop"]]}"#,
        r#"{"choices":[{"finish_reason":"a\n"}]}"#,
        r#"{"choices":[{"message":null,"message":null}]}"#,
        r#"{"usage":{"prompt_tokens":1.0}}"#,
        r#"{"usage":{"input_tokens_details":null,"input_token_details":null}}"#,
        "{} x",
        "\u{c}{}",
        "[]",
    ] {
        assert_eq!(read(body.as_bytes()), None, "{body}");
    }
}

/// A value as it may stand in an answer: of names that mean something, and of counts, texts and what else there is.
fn part() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        2 => "null",
        3 => "[0-9]{1,3}",
        3 => r#""([a-z]{0,5}|a\\n|\\ud800)""#,
        1 => value(),
    ];
    leaf.prop_recursive(4, 32, 5, |part| {
        let member = (NAMES, part.clone()).prop_map(|(name, value)| format!("\"{name}\": {value}"));
        let object = prop::collection::vec(member, 0..5)
            .prop_map(|members| format!("{{{}}}", members.join(", ")));
        let list =
            prop::collection::vec(part, 0..3).prop_map(|items| format!("[{}]", items.join(",")));
        prop_oneof![3 => object, 1 => list]
    })
}

/// Answers of which each level has the names of its own.
pub(in super::super) fn answer() -> impl Strategy<Value = String> {
    let count = || prop_oneof![4 => "[0-9]{1,21}", 1 => "null", 1 => value()];
    let text = || prop_oneof![4 => "\"[a-z]{0,9}\"", 1 => "null", 1 => value()];
    let details = object("cached_tokens|audio_tokens|reasoning_tokens|other", count().boxed());
    let usage = prop_oneof![
        3 => object("prompt_tokens|completion_tokens|input_tokens|output_tokens|total_tokens|other", count().boxed()),
        2 => object(
            "(prompt|completion|input|output)_tokens_details|(input|output)_token_details",
            prop_oneof![4 => details, 1 => Just("null".to_owned())].boxed(),
        ),
    ];
    let message = object("content|reasoning_content|tool_calls|role", text().boxed());
    let choice = prop_oneof![
        object("finish_reason|text|index", text().boxed()),
        object("message|delta", prop_oneof![4 => message, 1 => Just("null".to_owned())].boxed()),
    ];
    let choices =
        prop::collection::vec(choice, 0..3).prop_map(|choices| format!("[{}]", choices.join(",")));
    (text(), text(), choices, usage).prop_map(|(id, model, choices, usage)| {
        format!("{{\"id\":{id},\"model\":{model},\"choices\":{choices},\"usage\":{usage}}}")
    })
}

fn object(names: &'static str, value: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let member = (names, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let members = prop::collection::vec(member, 0..4);
    members.prop_map(|members| format!("{{{}}}", members.join(","))).boxed()
}

fn agree(body: &[u8]) -> Result<(), TestCaseError> {
    if let Some(seen) = read(body) {
        prop_assert_eq!(Some(seen), read_any(body), "{}", String::from_utf8_lossy(body));
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_told_here_is_told_there(
        answer in answer(),
        broken in mutated(answer().prop_map(String::into_bytes)),
        part in part(),
        typical in mutated(Just(ANSWER.as_bytes().to_vec())),
    ) {
        for body in [answer.as_bytes(), &broken, part.as_bytes(), &typical] {
            agree(body)?;
        }
    }
}
