//! An answer of an endpoint other than chat, for a caller who speaks the same dialect: every byte as it came. A stream of it
//! consists of events that say of what type they are, or of sound.
//!
//! The events are those of <https://platform.openai.com/docs/api-reference/responses-streaming>, and of the streams of
//! pictures, speech and transcripts beside it.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::response::{audio_seconds, lenient, object, short_text, token_usage};
use super::{provider_error, read_plain};
use crate::call::{Call, Operation};
use crate::provider::alike::{Alike, Hole};
use crate::provider::{Progress, ProviderError, Reading, Seen, Whole};
use crate::request::UpstreamError;
use crate::sse::{Decoder, Event};

/// Events after which an answer is complete. Pictures may come several, so that the last of them does not end the stream.
const LAST: [&str; 7] = [
    "response.completed",
    "response.incomplete",
    "response.failed",
    "transcript.text.done",
    "speech.audio.done",
    "image_generation.completed",
    "image_edit.completed",
];

/// Relays one answer.
pub struct Events {
    decoder: Decoder,
    alike: Alike,
    /// Whether an answer that is no stream must be a JSON object.
    is_json: bool,
    /// Whether a stream is sound, and no events.
    is_sound: bool,
    is_complete: bool,
    is_done: bool,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    param: Option<&'a RawValue>,
}

/// What differs from event to event beside the text.
#[derive(Default, Deserialize)]
struct Varying<'a> {
    #[serde(borrow)]
    sequence_number: Option<&'a RawValue>,
    #[serde(borrow)]
    obfuscation: Option<&'a RawValue>,
}

impl Events {
    /// For the answer to that call.
    pub fn new(call: &Call) -> Self {
        let is_sound = call.operation == Operation::Speech && !asks_for_events(call);
        let is_json = !matches!(
            call.operation,
            Operation::Speech | Operation::Transcriptions | Operation::Translations
        );
        Self {
            decoder: Decoder::default(),
            alike: Alike::default(),
            is_json,
            is_sound,
            is_complete: false,
            is_done: false,
        }
    }

    fn relay(
        &mut self,
        event: &Event,
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<(), UpstreamError> {
        if let Some(data) = &event.data {
            seen.has_begun = true;
            if data.trim_ascii() == b"[DONE]" {
                (self.is_complete, self.is_done) = (true, true);
            } else {
                self.look(&event.name, data, seen)?;
                if self.alike.is_learning() {
                    self.alike.learn(event, holes(data));
                }
            }
        }
        out.extend_from_slice(&event.raw);
        Ok(())
    }

    /// Adds what the data of an event tells. What is not understood is a part of the answer.
    fn look(&mut self, name: &[u8], data: &[u8], seen: &mut Seen) -> Result<(), UpstreamError> {
        let Some(fields) = object::<Fields<'_>>(data) else { return Ok(()) };
        let kind = fields.kind.map(short_text).unwrap_or_default();
        if name == b"error" || kind == "error" {
            return Err(UpstreamError::InBand(error_of(&fields, data)));
        }
        if kind.is_empty()
            && let Some(error) = provider_error(data)
        {
            return Err(UpstreamError::InBand(error));
        }
        if let Some(told) =
            fields.response.and_then(|response| read_plain(response.get().as_bytes()))
        {
            seen.id = told.id;
            seen.model = told.model;
            seen.usage = told.usage.or(seen.usage);
            if LAST.contains(&kind.as_str()) {
                seen.finish_reason = told.finish_reason;
            }
        }
        if let Some(usage) = fields.usage {
            seen.usage = token_usage(usage).or(seen.usage);
            seen.audio_seconds = audio_seconds(usage).unwrap_or(seen.audio_seconds);
        }
        let is_text = !kind.contains("audio");
        if let Some(delta) = fields.delta.filter(|_| is_text) {
            seen.text_bytes += lenient::<std::borrow::Cow<'_, str>>(delta).map_or(0, |it| it.len());
        }
        self.is_complete |= LAST.contains(&kind.as_str());
        Ok(())
    }
}

impl Reading for Events {
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        let value = content_type.to_str().unwrap_or_default().trim_start().to_ascii_lowercase();
        if self.is_sound {
            // Whatever is no answer of its own.
            return !value.starts_with("application/json");
        }
        value.starts_with("text/event-stream")
    }

    fn is_events(&self) -> bool {
        !self.is_sound
    }

    fn whole(&mut self, body: Bytes, seen: &mut Seen) -> Result<Whole, UpstreamError> {
        match read_plain(&body) {
            Some(told) => *seen = told,
            None if self.is_json => {
                return Err(UpstreamError::Decode("the answer is not a JSON object".to_owned()));
            }
            // A transcript as text, or subtitles.
            None => *seen = Seen { text_bytes: body.len(), has_begun: true, ..Seen::default() },
        }
        Ok(Whole { body, content_type: None })
    }

    fn alike(&mut self, bytes: &[u8], seen: &mut Seen) -> usize {
        if self.is_sound {
            seen.has_begun = true;
            return bytes.len();
        }
        if !self.decoder.is_between_events() {
            return 0;
        }
        let run = self.alike.run(bytes);
        seen.text_bytes += run.text;
        run.length
    }

    fn portion(
        &mut self,
        bytes: &[u8],
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<Progress, UpstreamError> {
        if self.is_sound {
            seen.has_begun = true;
            out.extend_from_slice(bytes);
            return Ok(Progress::More);
        }
        self.decoder.push(bytes);
        while !self.is_done
            && let Some(event) = self
                .decoder
                .next_event()
                .map_err(|error| UpstreamError::Decode(error.to_string()))?
        {
            self.relay(&event, seen, out)?;
        }
        Ok(if self.is_done { Progress::Done } else { Progress::More })
    }

    fn end(&mut self, seen: &mut Seen, out: &mut BytesMut) -> Result<(), UpstreamError> {
        if self.is_sound {
            return Ok(());
        }
        if let Some(event) = self.decoder.finish() {
            let before = out.len();
            self.relay(&event, seen, out)?;
            if self.is_complete && out.len() > before {
                // What the upstream left out, without which the event is none.
                out.extend_from_slice(b"\n\n");
            } else {
                out.truncate(before);
            }
        }
        if self.is_complete {
            return Ok(());
        }
        Err(UpstreamError::Cut("the answer ended before its last event".to_owned()))
    }
}

/// What of an event may differ in the next one, if it tells nothing but generated text.
fn holes(data: &[u8]) -> Vec<(&str, Hole)> {
    let Some(fields) = object::<Fields<'_>>(data) else { return Vec::new() };
    let kind = fields.kind.map(short_text).unwrap_or_default();
    let overwrites = fields.response.is_some() || fields.usage.is_some();
    if overwrites || kind.is_empty() || LAST.contains(&kind.as_str()) {
        return Vec::new();
    }
    let delta = fields.delta.map(RawValue::get).filter(|delta| delta.starts_with('"'));
    let Some(delta) = delta else { return Vec::new() };
    let varying = object::<Varying<'_>>(data).unwrap_or_default();
    let filler = varying.obfuscation.map(RawValue::get).filter(|filler| filler.starts_with('"'));
    let number = varying.sequence_number.map(RawValue::get);
    let is_text = !kind.contains("audio");
    let delta = [(delta, if is_text { Hole::Text } else { Hole::Filler })].into_iter();
    let filler = filler.map(|filler| (filler, Hole::Filler));
    delta.chain(filler).chain(number.map(|number| (number, Hole::Number))).collect()
}

/// Whether speech is asked for as events.
fn asks_for_events(call: &Call) -> bool {
    call.json().and_then(|body| body.get("stream_format")) == Some("\"sse\"")
}

/// The error in an event: its own words, or those of the envelope in it.
fn error_of(fields: &Fields<'_>, data: &[u8]) -> ProviderError {
    let text = |value: Option<&RawValue>| value.map(short_text).filter(|text| !text.is_empty());
    provider_error(data).unwrap_or_else(|| ProviderError {
        message: text(fields.message)
            .unwrap_or_else(|| "the upstream told an error without a message".to_owned()),
        code: text(fields.code),
        param: text(fields.param),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::call::Form;
    use crate::json::JsonBody;
    use crate::provider::alike::tests::{any_portions, is_taken_the_same_way};

    fn reading(operation: Operation, body: &'static str) -> Events {
        let form = Form::Json(JsonBody::parse(Bytes::from_static(body.as_bytes())).unwrap());
        Events::new(&Call {
            operation,
            model: "m".to_owned(),
            is_stream: true,
            wants_usage: false,
            prompt_bytes: 0,
            form,
        })
    }

    fn relayed(stream: &str, portion: usize) -> (String, Seen, Result<(), UpstreamError>) {
        let mut reading = reading(Operation::Responses, "{}");
        let (mut seen, mut out) = (Seen::default(), BytesMut::new());
        let mut result = Ok(());
        for bytes in stream.as_bytes().chunks(portion) {
            if let Err(error) = reading.portion(bytes, &mut seen, &mut out) {
                result = Err(error);
                break;
            }
        }
        let result = result.and_then(|()| reading.end(&mut seen, &mut out));
        (String::from_utf8(out.to_vec()).unwrap(), seen, result)
    }

    #[test]
    fn a_stream_of_a_response_is_relayed_to_the_byte_and_counted() {
        let stream = concat!(
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":\"m-1\",\"status\":\"in_progress\",\"usage\":null}}\n\n",
            "event: response.output_text.delta\r\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hello\"}\r\n\r\n",
            ": comment\n\n",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"model\":\"m-1\",\"status\":\"completed\",\"usage\":{\"input_tokens\":7,\"input_tokens_details\":{\"cached_tokens\":2},\"output_tokens\":5,\"output_tokens_details\":{\"reasoning_tokens\":3}}}}\n\n",
        );
        for portion in [1, 7, stream.len()] {
            let (out, seen, result) = relayed(stream, portion);
            assert!(result.is_ok());
            assert_eq!(out, stream);
            let usage = seen.usage.unwrap();
            assert_eq!((usage.prompt, usage.cached_prompt), (7, 2));
            assert_eq!((usage.completion, usage.reasoning, seen.text_bytes), (5, 3, 5));
            assert_eq!((seen.id.as_str(), seen.model.as_str()), ("r", "m-1"));
            assert_eq!(seen.finish_reason, "completed");
        }
    }

    #[test]
    fn a_stream_that_ends_before_its_last_event_is_cut_and_an_error_in_it_is_one() {
        let stream = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"h\"}\n\n";
        assert!(matches!(relayed(stream, 9).2, Err(UpstreamError::Cut(_))));
        let stream =
            "data: {\"type\":\"error\",\"code\":\"c\",\"message\":\"no\",\"param\":null}\n\n";
        let Err(UpstreamError::InBand(error)) = relayed(stream, 9).2 else { panic!() };
        assert_eq!((error.message.as_str(), error.code.as_deref()), ("no", Some("c")));
    }

    #[test]
    fn sound_is_relayed_as_it_comes_unless_events_were_asked_for() {
        let mp3 = HeaderValue::from_static("audio/mpeg");
        let mut sound = reading(Operation::Speech, "{}");
        assert!(sound.is_stream(&mp3) && !sound.is_events());
        let (mut seen, mut out) = (Seen::default(), BytesMut::new());
        sound.portion(b"\xff\x00data: x\n\n", &mut seen, &mut out).unwrap();
        assert_eq!(&out[..], b"\xff\x00data: x\n\n");
        sound.end(&mut seen, &mut out).unwrap();
        let events = reading(Operation::Speech, r#"{"stream_format":"sse"}"#);
        assert!(!events.is_stream(&mp3) && events.is_events());
    }

    #[test]
    fn counts_are_found_wherever_a_provider_has_them() {
        let plain = |body: &str| read_plain(body.as_bytes()).unwrap();
        let prompt = |body: &str| plain(body).usage.unwrap().prompt;
        assert_eq!(prompt(r#"{"usage":{"prompt_tokens":4,"total_tokens":4}}"#), 4);
        assert_eq!(prompt(r#"{"usage":{"total_tokens":6}}"#), 6);
        assert_eq!(prompt(r#"{"meta":{"tokens":{"input_tokens":8}}}"#), 8);
        assert_eq!(prompt(r#"{"usage":{"input_tokens":5,"output_tokens":9}}"#), 5);
        let duration = plain(r#"{"text":"abc","usage":{"type":"duration","seconds":12.5}}"#);
        assert_eq!((duration.usage, duration.audio_seconds, duration.text_bytes), (None, 12.5, 3));
        assert_eq!(plain(r#"{"duration":"3.5"}"#).audio_seconds, 3.5);
        assert_eq!(plain(r#"{"duration":-1}"#).audio_seconds, 0.0);
    }

    fn event() -> impl Strategy<Value = String> {
        let text = prop_oneof!["[a-z é]{0,6}", Just("\\n".to_owned()), Just("\\ud800".to_owned())];
        let shape = prop_oneof![
            8 => Just("event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":7#,\"delta\":\"@\",\"obfuscation\":\"@x\"}\n\n"),
            4 => Just("data: {\"type\":\"response.audio.delta\",\"delta\":\"@\"}\n\n"),
            1 => Just("data: {\"type\":\"response.output_text.done\",\"text\":\"@\"}\n\n"),
            1 => Just("data: {\"type\":\"x\",\"delta\":\"@\",\"usage\":{\"input_tokens\":#}}\n\n"),
            1 => Just("data: {\"type\":\"transcript.text.done\",\"delta\":\"@\"}\n\n"),
            1 => Just("data: {\"delta\":\"@\"}\n\n"),
        ];
        (shape, text, 0..200u32)
            .prop_map(|(shape, text, n)| shape.replace('@', &text).replace('#', &n.to_string()))
    }

    proptest! {
        #[test]
        fn events_that_are_alike_are_taken_as_if_they_were_read(
            events in prop::collection::vec(event(), 0..12),
            portions in any_portions(),
        ) {
            is_taken_the_same_way(&events, &portions, || reading(Operation::Responses, "{}"))?;
        }

        #[test]
        fn no_bytes_can_panic_it(bytes: Vec<u8>, portion in 1..9usize) {
            let mut reading = reading(Operation::Responses, "{}");
            let (mut seen, mut out) = (Seen::default(), BytesMut::new());
            for bytes in bytes.chunks(portion) {
                if reading.portion(bytes, &mut seen, &mut out).is_err() {
                    break;
                }
            }
            let _ = reading.end(&mut seen, &mut out);
            let _ = reading.whole(bytes.into(), &mut seen);
        }
    }
}
