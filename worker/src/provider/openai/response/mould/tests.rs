//! What is told of an answer that fits is what would be told of it otherwise.

use proptest::prelude::*;

use super::super::read_any;
use super::super::typical::tests::answer;
use super::*;
use crate::json::reader::texts::mutated;

const ANSWER: &str = r#" {"id":"c-1", "object":"chat.completion","created":1741570283,"model":"gpt-4o","choices":[{"index":0,
    "message":{"role":"assistant","content":"Paris.","refusal":null,"tool_calls":null,"annotations":[]},"logprobs":null,
    "finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":18,"total_tokens":37,"prompt_tokens_details":
    {"cached_tokens":3,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"other":-1.5e3}},
    "service_tier":"default","is_kept":false} "#;

fn mould(body: &str) -> Option<Mould> {
    typical::read(body.as_bytes())?;
    Mould::of(body.as_bytes())
}

fn fits(mould: &Mould, body: &[u8]) -> Option<Seen> {
    mould.fit(Reader::new(body)?)
}

#[test]
fn an_answer_fits_its_own_mould_and_another_with_other_strings_and_numbers_too() {
    let mould = mould(ANSWER).unwrap();
    let other =
        ANSWER.replace("c-1", "c-22").replace("Paris.", "a\\n\\\"b\\\" é").replace(":18", ":180");
    let other = other.replace("stop", "length").replace("-1.5e3", "0").replace(":3,", ":2,");
    for body in [ANSWER, &other] {
        let seen = fits(&mould, body.as_bytes());
        assert!(seen.is_some(), "{body}");
        assert_eq!(seen, read_any(body.as_bytes()), "{body}");
    }
}

#[test]
fn what_differs_in_anything_else_does_not_fit() {
    let mould = mould(ANSWER).unwrap();
    for (from, to) in [
        ("\"id\"", "\"ib\""),
        ("null", "nul"),
        ("false", "true"),
        ("\"c-1\"", "null"),
        ("c-1", "c\\u002d1"),
        ("stop", "st\\nop"),
        ("Paris.", "Pa\nris."),
        ("Paris.", "Pa\\xris."),
        ("\"Paris.\"", "[]"),
        (":19", ":019"),
        (":19", ":19.0"),
        (":19", ":99999999999999999999"),
        (":19", ":-19"),
        ("-1.5e3", "-"),
        ("-1.5e3", "\"a\""),
        (",\"is_kept\":false", ""),
        ("} ", "} x"),
        ("} ", " "),
    ] {
        let other = ANSWER.replacen(from, to, 1);
        assert_ne!(other, ANSWER);
        assert_eq!(fits(&mould, other.as_bytes()), None, "{to:?}");
    }
}

#[test]
fn what_is_unusual_makes_no_mould() {
    let many = format!(r#"{{"id":"a","data":[{}1]}}"#, "1,".repeat(HOLES_MAX));
    let long = format!(r#"{{"id":"a","data":[{}null]}}"#, "null,".repeat(AROUND_BYTES_MAX));
    for body in [
        r#"{"id":7}"#,
        r#"{"id":["a"]}"#,
        r#"{"choices":[{"delta":{"content":"a"}}]}"#,
        r#"{"choices":[{"message":{"tool_calls":[{"id":"a"}]}}]}"#,
        r#"{"choices":[{"message":{"content":true}}]}"#,
        r#"{"choices":[{"text":12}]}"#,
        r#"{"choices":[{"text":[ ]}]}"#,
        r#"{"choices":[{"message":{"content":{}}}]}"#,
        r#"{"usage":{"input_tokens":1}}"#,
        r#"{"usage":{"output_token_details":null}}"#,
        &many,
        &long,
    ] {
        assert!(typical::read(body.as_bytes()).is_some(), "{body}");
        assert!(mould(body).is_none(), "{body}");
    }
}

#[test]
fn an_upstream_whose_answers_are_never_alike_is_learnt_from_seldom_and_others_always() {
    let body = |number: u32, form: u32| format!(r#"{{"id":"a-{number}","{form}":null}}"#);
    let mut known = Known { moulds: Vec::new(), funds: FUNDS_MAX };
    let mut read = |body: &str| {
        let seen = known.read(body.as_bytes(), Reader::new(body.as_bytes()).unwrap());
        assert_eq!(seen, read_any(body.as_bytes()));
        (known.moulds.len(), known.funds)
    };
    for number in 0..1_000 {
        assert!(read(&body(number, number)).0 <= MOULDS_MAX);
    }
    let (_, funds) = read(&body(0, 1_000));
    assert!(funds < COST, "{funds}");
    for number in 0..2 * COST {
        read(&body(number, 2_000));
    }
    assert_eq!(read(&body(7, 2_000)).1, FUNDS_MAX);
}

/// An answer with other strings and numbers.
fn other(answer: &str, seed: u64) -> String {
    let mut state = seed;
    let mut other = String::new();
    for character in answer.chars() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match character {
            '0'..='9' if state >> 62 == 0 => {
                other.push(char::from(b'0' + (state >> 32) as u8 % 10))
            }
            _ => other.push(character),
        }
    }
    other
}

proptest! {
    #[test]
    fn what_is_told_of_one_that_fits_is_what_is_told_of_it_otherwise(
        answer in answer(),
        seed: u64,
        broken in mutated(Just(ANSWER.as_bytes().to_vec())),
    ) {
        let other = other(&answer, seed);
        for (learnt, bodies) in [(answer.as_str(), [answer.as_bytes(), other.as_bytes()]), (ANSWER, [&broken, other.as_bytes()])] {
            let Some(mould) = mould(learnt) else { continue };
            // One that it was made of may not fit it: where a name has an escape, for example.
            for body in bodies {
                if let Some(seen) = fits(&mould, body) {
                    prop_assert_eq!(Some(seen), read_any(body), "{}", String::from_utf8_lossy(body));
                }
            }
        }
    }
}
