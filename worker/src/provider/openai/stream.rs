//! What one event of a stream tells. The event itself is relayed as it came.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::response::{Choice, lenient, object, provider_error, short_text, token_usage};
use crate::json::is_empty_after;
use crate::provider::alike::Hole;
use crate::provider::{ProviderError, Seen};

/// What an event is, for who relays it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// A part of the answer.
    Part,
    /// Nothing but the usage, which comes because the gateway has asked for it.
    UsageOnly,
    /// The end of the stream, `[DONE]`.
    Done,
    /// An error in the middle of the stream.
    Error(ProviderError),
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Filler against those who watch the sizes of packets; of Mistral, `p`.
#[derive(Default, Deserialize)]
struct Fillers<'a> {
    #[serde(borrow)]
    obfuscation: Option<&'a RawValue>,
    #[serde(borrow)]
    p: Option<&'a RawValue>,
}

/// A choice with nothing unusual about it.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<Vec<Call<'a>>>,
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
}

#[derive(Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Reads the data of one event and adds what it tells to `seen`. What is not understood is a part of the answer.
pub fn read_chunk(name: &[u8], data: &Bytes, seen: &mut Seen) -> Chunk {
    if data.trim_ascii() == b"[DONE]" {
        return Chunk::Done;
    }
    let Some(fields) = object::<Fields<'_>>(data) else { return Chunk::Part };
    if fields.error.is_some() || name == b"error" {
        return Chunk::Error(provider_error(data).unwrap_or_else(|| ProviderError {
            message: "the upstream told an error without a message".to_owned(),
            ..ProviderError::default()
        }));
    }
    if seen.id.is_empty() {
        seen.id = fields.id.map(short_text).unwrap_or_default();
    }
    if seen.model.is_empty() {
        seen.model = fields.model.map(short_text).unwrap_or_default();
    }
    let usage = fields.usage.and_then(token_usage);
    seen.usage = usage.or(seen.usage);
    let choices: Option<Vec<Choice<'_>>> = fields.choices.and_then(lenient);
    // No choices at all, or `null`, says as little as an empty list; what is not understood may say something.
    let is_without = fields.choices.is_none_or(|choices| is_empty_after(choices.get(), '[', ']'));
    if is_without && usage.is_some() {
        return Chunk::UsageOnly;
    }
    choices.iter().flatten().for_each(|choice| choice.add_to(seen));
    Chunk::Part
}

/// What of a chunk may differ in the next one, if it is one that tells nothing but generated text: what overwrites something
/// has to be read each time.
pub fn holes(data: &[u8]) -> Vec<(&str, Hole)> {
    let Some(fields) = object::<Fields<'_>>(data) else { return Vec::new() };
    let parts: Option<Vec<Part<'_>>> = fields.choices.and_then(lenient);
    let [Part { finish_reason: None, delta: Some(delta), text: None, message: None }] =
        parts.as_deref().unwrap_or_default()
    else {
        return Vec::new();
    };
    if fields.error.is_some() || fields.usage.and_then(token_usage).is_some() {
        return Vec::new();
    }
    let calls = delta.tool_calls.iter().flatten();
    let arguments = calls.filter_map(|call| call.function.as_ref()?.arguments);
    let texts = [delta.content, delta.reasoning_content].into_iter().flatten().chain(arguments);
    let fillers = object::<Fillers<'_>>(data).unwrap_or_default();
    let fillers = [fillers.obfuscation, fillers.p].into_iter().flatten();
    let texts = texts.map(|text| (text.get(), Hole::Text));
    let all = texts.chain(fillers.map(|filler| (filler.get(), Hole::Filler)));
    all.filter(|(value, _)| value.starts_with('"')).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(data: &str, seen: &mut Seen) -> Chunk {
        read_chunk(b"", &Bytes::copy_from_slice(data.as_bytes()), seen)
    }

    #[test]
    fn chunks_tell_what_is_accounted() {
        let mut seen = Seen::default();
        let first = r#"{"id":"c","model":"m","usage":null,"choices":[{"delta":{"role":"assistant","content":"he"}}]}"#;
        assert_eq!(read(first, &mut seen), Chunk::Part);
        let last =
            r#"{"id":"other","choices":[{"delta":{"content":"llo"},"finish_reason":"stop"}]}"#;
        assert_eq!(read(last, &mut seen), Chunk::Part);
        assert_eq!((seen.id.as_str(), seen.text_bytes, seen.usage), ("c", 5, None));
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
        assert_eq!(read(usage, &mut seen), Chunk::UsageOnly);
        assert_eq!((seen.finish_reason.as_str(), seen.usage.unwrap().completion), ("stop", 2));
        assert_eq!(read(" [DONE] ", &mut seen), Chunk::Done);
    }

    #[test]
    fn usage_beside_choices_is_counted_and_a_chunk_without_either_is_a_part() {
        let mut seen = Seen::default();
        let both = r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":3}}"#;
        assert_eq!(read(both, &mut seen), Chunk::Part);
        assert_eq!(seen.usage.unwrap().prompt, 3);
        assert_eq!(read(r#"{"choices":[],"prompt_filter_results":[]}"#, &mut seen), Chunk::Part);
        assert_eq!(read("not json", &mut seen), Chunk::Part);
    }

    #[test]
    fn a_chunk_that_tells_the_message_so_far_beside_its_delta_is_a_part() {
        let mut seen = Seen::default();
        let chunk = r#"{"choices":[{"delta":{"content":"hi"},"message":{"content":"hi"},"finish_reason":"stop"}],
            "usage":{"prompt_tokens":3}}"#;
        assert_eq!(read(chunk, &mut seen), Chunk::Part);
        assert_eq!((seen.text_bytes, seen.finish_reason.as_str()), (2, "stop"));
        let odd = r#"{"choices":[{"finish_reason":7}],"usage":{"prompt_tokens":3}}"#;
        assert_eq!(read(odd, &mut seen), Chunk::Part);
    }

    #[test]
    fn an_error_is_told_apart_by_its_field_or_the_name_of_the_event() {
        let mut seen = Seen::default();
        let data = r#"{"error":{"message":"overloaded"}}"#;
        assert!(
            matches!(read(data, &mut seen), Chunk::Error(error) if error.message == "overloaded")
        );
        assert_eq!(read(r#"{"error":null,"choices":[{}]}"#, &mut seen), Chunk::Part);
        let chunk = read_chunk(b"error", &Bytes::from_static(b"{}"), &mut seen);
        assert!(matches!(chunk, Chunk::Error(_)));
    }

    proptest! {
        #[test]
        fn no_data_can_panic_the_reader(data: Vec<u8>) {
            read_chunk(b"", &data.into(), &mut Seen::default());
        }
    }
}
