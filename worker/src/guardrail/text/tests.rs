//! Bodies and streams past guardrails.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::resource::{Check, Guardrail, KeywordPattern, PiiAction, PiiCheck};
use std::rc::Rc;

use super::*;
use crate::call::Operation;
use crate::guardrail::{Record, Rule};

fn rule(id: &str, check: Check, is_monitor: bool) -> Rc<Rule> {
    Rc::new(Rule::new(&Guardrail {
        id: id.to_owned(),
        name: id.to_owned(),
        kind: "pii".to_owned(),
        on_input: true,
        on_output: true,
        is_monitor,
        created_at_unix_ms: None,
        check,
    }))
}

fn email(buffer_bytes_max: u64, opens_when_full: bool) -> Check {
    let detectors = vec![("email".to_owned(), PiiAction::Mask)];
    Check::Pii(PiiCheck { detectors, patterns: Vec::new(), buffer_bytes_max, opens_when_full })
}

fn keyword(text: &str) -> Check {
    Check::Keyword(vec![KeywordPattern::Literal(text.to_owned())])
}

fn both() -> Vec<Rc<Rule>> {
    vec![rule("mail", email(4096, false), false), rule("word", keyword("top secret"), false)]
}

/// What the caller is sent, and by which guardrail the stream was refused.
fn filtered(
    rules: &[Rc<Rule>],
    shape: Shape,
    stream: &str,
    lengths: &[usize],
) -> (String, Option<usize>, Vec<Record>) {
    let mut filter = StreamFilter::new(rules.to_vec(), shape);
    let mut out = BytesMut::new();
    let mut rest = stream.as_bytes();
    let mut seen = Ok(());
    for length in lengths.iter().cycle() {
        if rest.is_empty() || seen.is_err() {
            break;
        }
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        seen = filter.push(piece, &mut out);
        rest = after;
    }
    let seen = seen.and_then(|()| filter.finish(&mut out));
    let text = String::from_utf8(out.to_vec()).unwrap();
    (text, seen.err(), filter.report().1.to_vec())
}

fn data(stream: &str) -> Vec<Value> {
    stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// The text at a place of all events, in order.
fn joined(stream: &str, pointer: &str) -> String {
    data(stream)
        .iter()
        .filter_map(|event| event.pointer(pointer)?.as_str().map(str::to_owned))
        .collect()
}

fn chunks(words: &[&str]) -> String {
    let chunk = |delta: Value, finish: Value| {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        format!(
            "data: {}\n\n",
            json!({"id": "c", "object": "chat.completion.chunk", "choices": choices})
        )
    };
    let mut stream = chunk(json!({"role": "assistant", "content": ""}), Value::Null);
    words.iter().for_each(|word| stream += &chunk(json!({"content": word}), Value::Null));
    stream + &chunk(json!({}), json!("stop")) + "data: [DONE]\n\n"
}

#[test]
fn what_nothing_is_found_in_passes_as_it_came() {
    let stream = format!(": hello\n\n{}", chunks(&["all ", "is ", "well "]));
    assert_eq!(filtered(&both(), Shape::Choices, &stream, &[7]).0, stream);
}

#[test]
fn a_text_in_pieces_is_masked_and_all_of_it_comes_before_its_end() {
    let stream = chunks(&["mail ", "jo", "e@x", ".co", "m or top", " sec", "ular"]);
    let (out, refused, records) = filtered(&both(), Shape::Choices, &stream, &[1]);
    assert_eq!(refused, None);
    let text = joined(&out, "/choices/0/delta/content");
    assert_eq!(text, "mail [EMAIL_REDACTED] or top secular");
    assert!(!out.contains("joe"), "{out}");
    assert!(out.ends_with("data: [DONE]\n\n"));
    let finish = out.find("\"stop\"").unwrap();
    assert!(out[..finish].contains("secular") || out[..finish].contains("ular"));
    assert_eq!(records[0].tally.0["email"], 1);
}

#[test]
fn what_is_held_back_at_the_end_comes_in_an_event_of_its_own_before_the_finish() {
    let (out, refused, _) = filtered(&both(), Shape::Choices, &chunks(&["see joe@x.com"]), &[64]);
    assert_eq!(
        (refused, joined(&out, "/choices/0/delta/content").as_str()),
        (None, "see [EMAIL_REDACTED]")
    );
    let events = data(&out);
    let finish = events.iter().position(|event| event["choices"][0]["finish_reason"] == "stop");
    assert_eq!(finish, Some(events.len() - 1));
    assert_eq!(events[events.len() - 2]["id"], "c");
}

#[test]
fn texts_of_different_choices_and_fields_are_not_mixed() {
    let event = |choice: usize, delta: Value| {
        format!("data: {}\n\n", json!({"choices": [{"index": choice, "delta": delta}]}))
    };
    let call = |arguments: &str| json!({"tool_calls": [{"index": 1, "function": {"arguments": arguments}}]});
    let stream = [
        event(0, json!({"content": "top"})),
        event(1, json!({"content": " secret"})),
        event(0, json!({"reasoning_content": " secret"})),
        event(0, call("{\"to\":\"a@b")),
        event(0, json!({"content": " hat"})),
        event(0, call(".com\"}")),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let (out, refused, _) = filtered(&both(), Shape::Choices, &stream, &[5]);
    assert_eq!(refused, None);
    assert_eq!(
        joined(&out, "/choices/0/delta/tool_calls/0/function/arguments"),
        r#"{"to":"[EMAIL_REDACTED]"}"#
    );
    let content = data(&out).into_iter().filter(|event| event["choices"][0]["index"] == 0);
    let content: String = content
        .filter_map(|it| it["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(content, "top hat");
}

#[test]
fn blocks_of_messages_are_masked_and_flushed_before_they_stop() {
    let event = |name: &str, data: Value| format!("event: {name}\ndata: {data}\n\n");
    let delta = |text: &str| {
        let delta = json!({"type": "text_delta", "text": text});
        event(
            "content_block_delta",
            json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        )
    };
    let start = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "to jo"}});
    let stream = [
        event("content_block_start", start),
        delta("e@x"),
        delta(".com"),
        event("content_block_stop", json!({"type": "content_block_stop", "index": 0})),
        event("message_stop", json!({"type": "message_stop"})),
    ]
    .concat();
    let (out, refused, _) = filtered(&both(), Shape::Messages, &stream, &[3]);
    assert_eq!(refused, None);
    let text = joined(&out, "/content_block/text") + &joined(&out, "/delta/text");
    assert_eq!(text, "to [EMAIL_REDACTED]");
    let names: Vec<_> = out.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names[names.len() - 2..], ["content_block_stop", "message_stop"]);
}

#[test]
fn events_of_responses_stay_numbered_and_their_whole_texts_are_masked_too() {
    let event = |number: u64, mut data: Value| {
        data["sequence_number"] = json!(number);
        format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
    };
    let delta = |number, text: &str| {
        event(
            number,
            json!({"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0, "delta": text}),
        )
    };
    let done = json!({"type": "response.output_text.done", "item_id": "i", "output_index": 0, "content_index": 0, "text": "joe@x.com"});
    let stream = [delta(0, "joe@"), delta(1, "x.com"), event(2, done)].concat();
    let (out, refused, _) = filtered(&both(), Shape::Responses, &stream, &[11]);
    assert_eq!((refused, joined(&out, "/delta").as_str()), (None, "[EMAIL_REDACTED]"));
    assert_eq!(joined(&out, "/text"), "[EMAIL_REDACTED]");
    let numbers: Vec<_> =
        data(&out).iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
}

#[test]
fn more_than_may_be_held_back_refuses_the_stream_or_lets_it_through_unseen() {
    let stream = chunks(&["so a@", &"b".repeat(40), ".com end"]);
    let (out, refused, records) =
        filtered(&[rule("mail", email(16, false), false)], Shape::Choices, &stream, &[9]);
    assert_eq!((refused, records[0].is_overfull), (Some(0), true));
    assert!(!out.contains("bbb"), "{out}");
    let (out, refused, records) =
        filtered(&[rule("mail", email(16, true), false)], Shape::Choices, &stream, &[9]);
    assert_eq!((refused, records[0].is_overfull, records[0].has_refused), (None, true, false));
    let text = format!("so a@{}.com end", "b".repeat(40));
    assert_eq!(joined(&out, "/choices/0/delta/content"), text);
}

#[test]
fn who_only_watches_changes_and_delays_nothing() {
    let rules = [rule("mail", email(4096, false), true), rule("word", keyword("hat"), true)];
    let stream = chunks(&["joe@x", ".com has a h", "at "]);
    let (out, refused, records) = filtered(&rules, Shape::Choices, &stream, &[13]);
    assert_eq!((out.as_str(), refused), (stream.as_str(), None));
    assert_eq!(records[0].tally.0["email"], 1);
    assert!(records[1].has_refused && !records[0].has_refused);
}

#[test]
fn probabilities_of_tokens_do_not_tell_what_is_masked() {
    let choice =
        json!({"message": {"content": "a@b.com"}, "logprobs": {"content": [{"token": "a@b.com"}]}});
    let body = Bytes::from(json!({"id": "a@b.com", "choices": [choice]}).to_string());
    let mut records = vec![Record::default(); 2];
    let seen = answer(Operation::ChatCompletions, &body, &both(), &mut records).unwrap().unwrap();
    let seen: Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!(
        seen,
        json!({"id": "a@b.com", "choices": [{"message": {"content": "[EMAIL_REDACTED]"}, "logprobs": null}]})
    );
}

#[test]
fn every_text_of_a_request_is_looked_at_whatever_it_asks_for() {
    for (operation, body) in [
        (Operation::ChatCompletions, json!({"messages": [{"role": "tool", "content": "a@b.com"}]})),
        (
            Operation::ChatCompletions,
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a@b.com"}]}]}),
        ),
        (
            Operation::ChatCompletions,
            json!({"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": "a@b.com"}}]}),
        ),
        (
            Operation::Messages,
            json!({"system": [{"type": "text", "text": "a@b.com"}], "messages": []}),
        ),
        (
            Operation::CountTokens,
            json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "a@b.com"}]}]}),
        ),
        (Operation::Responses, json!({"input": "a@b.com"})),
        (Operation::Responses, json!({"instructions": "a@b.com", "input": []})),
        (Operation::Completions, json!({"prompt": ["x", "a@b.com"]})),
        (Operation::Embeddings, json!({"input": ["a@b.com"]})),
        (Operation::Rerank, json!({"query": "a@b.com", "documents": []})),
        (Operation::Rerank, json!({"query": "x", "documents": [{"text": "a@b.com"}]})),
        (Operation::ImageGenerations, json!({"prompt": "a@b.com"})),
        (Operation::Speech, json!({"input": "a@b.com"})),
    ] {
        let text = format!(" {body} ");
        let mut records = vec![Record::default(); 2];
        let seen = request(operation, &Bytes::from(text.clone()), &both(), &mut records);
        let seen = String::from_utf8(seen.unwrap().unwrap().to_vec()).unwrap();
        assert_eq!(seen, text.replace("a@b.com", "[EMAIL_REDACTED]"), "{operation:?}");
        let blocked = Bytes::from(text.replace("a@b.com", "TOP secret"));
        let seen = request(operation, &blocked, &both(), &mut records);
        assert_eq!(seen, Err(Stop::Refused(1)), "{operation:?}");
    }
}

#[test]
fn tokens_by_number_are_not_let_past_guardrails_that_cannot_read_them() {
    let body = Bytes::from_static(br#"{"model":"m","prompt":[1,2,3]}"#);
    let mut records = vec![Record::default(); 2];
    let seen = request(Operation::Completions, &body, &both(), &mut records);
    assert!(matches!(seen, Err(Stop::Unreadable(_))));
    let watching = [rule("mail", email(1, false), true)];
    assert_eq!(request(Operation::Completions, &body, &watching, &mut records), Ok(None));
}

#[test]
fn fields_of_a_form_are_looked_at_and_files_are_not() {
    let form = |prompt: &str| {
        let text = format!(
            "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\na@b.com\r\n--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n{prompt}\r\n--x--\r\n"
        );
        Bytes::from(text)
    };
    let mut records = vec![Record::default(); 2];
    let mut seen = |prompt: &str| {
        multipart("multipart/form-data; boundary=x", &form(prompt), &both(), &mut records)
    };
    assert_eq!(seen("hello"), Ok(None));
    assert_eq!(seen("a@b.com"), Ok(Some(form("[EMAIL_REDACTED]"))));
    assert_eq!(seen("Top Secret"), Err(Stop::Refused(1)));
}

proptest! {
    #[test]
    fn however_words_and_bytes_are_cut_a_keyword_never_comes_and_other_text_is_the_same(
        words in proptest::collection::vec("(top|se|cret| |secret|x|a@b|\\.com|é){0,3}", 0..10),
        lengths in proptest::collection::vec(1_usize..200, 1..5),
    ) {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let text = words.concat();
        let (out, refused, _) = filtered(&both(), Shape::Choices, &chunks(&words), &lengths);
        let told = joined(&out, "/choices/0/delta/content");
        let mut records = vec![Record::default(); 2];
        match crate::guardrail::whole(&both(), &text, false, &mut records) {
            Ok(expected) => {
                prop_assert_eq!(refused, None);
                prop_assert_eq!(told, expected.unwrap_or(text));
            }
            Err(index) => {
                prop_assert_eq!(refused, Some(index));
                prop_assert!(!told.contains("top secret") && !out.contains("[DONE]"), "{}", told);
            }
        }
    }

    #[test]
    fn no_bytes_can_panic_the_filter(bytes: Vec<u8>, event in "\\PC{0,80}") {
        let mut out = BytesMut::new();
        for shape in [Shape::Choices, Shape::Messages, Shape::Responses] {
            let mut filter = StreamFilter::new(both(), shape);
            let _ = filter.push(&bytes, &mut out);
            let _ = filter.push(format!("\n\ndata: {event}\n\ndata: {{\"choices\":[{event}]}}\n\n").as_bytes(), &mut out);
            let _ = filter.finish(&mut out);
        }
        let _ = answer(Operation::Messages, &bytes.clone().into(), &both(), &mut [Record::default(), Record::default()]);
        let _ = multipart("x; boundary=a", &bytes.into(), &both(), &mut [Record::default(), Record::default()]);
    }
}
