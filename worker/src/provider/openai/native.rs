//! An answer in OpenAI's dialect for a caller who speaks it: every byte as it came, as soon as it has come.

use bytes::{Bytes, BytesMut};
use shared::resource::ResponseOverrides;

use super::lift::lifted;
use super::{Chunk, holes, provider_error, read_answer, read_chunk};
use crate::provider::alike::{Alike, Hole};
use crate::provider::{Progress, Reading, Seen, Whole};
use crate::request::UpstreamError;
use crate::sse::{Decoder, Event};

/// Relays one answer.
pub struct Native {
    decoder: Decoder,
    alike: Alike,
    /// What an event like the last one that was learnt tells of beside its holes, in bytes of text.
    text_beside: usize,
    wants_usage: bool,
    is_done: bool,
    /// Where the provider has what the model thinks, if that is a place of its own.
    reasoning_field: Option<String>,
    /// Whether a stream that ends without `[DONE]` is worth a word in the log.
    requires_done: bool,
}

impl Native {
    /// `wants_usage`: whether the caller asked for the chunk that holds nothing but the count.
    pub fn new(wants_usage: bool) -> Self {
        Self {
            decoder: Decoder::default(),
            alike: Alike::default(),
            text_beside: 0,
            wants_usage,
            is_done: false,
            reasoning_field: None,
            requires_done: false,
        }
    }

    /// For a provider with something unusual about its answers.
    #[must_use]
    pub fn of(mut self, overrides: &ResponseOverrides) -> Self {
        self.reasoning_field = overrides.reasoning_field.clone();
        self.requires_done = overrides.requires_done;
        self
    }

    fn lifted(&self, json: &[u8]) -> Option<String> {
        let path = self.reasoning_field.as_deref()?;
        lifted(json, path).map(|answer| answer.to_string())
    }

    /// An event that has told so many bytes of text.
    fn learn(&mut self, event: &Event, data: &[u8], told: usize) {
        if self.reasoning_field.is_some() || !self.alike.is_learning() {
            return;
        }
        let mut holes = holes(data);
        let text = |(value, hole): &(&str, Hole)| match hole {
            Hole::Text => value.len().saturating_sub(2),
            Hole::Filler | Hole::Number => 0,
        };
        match told.checked_sub(holes.iter().map(text).sum()) {
            Some(beside) => self.text_beside = beside,
            None => holes.clear(),
        }
        self.alike.learn(event, holes);
    }

    fn relay(
        &mut self,
        event: &Event,
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<(), UpstreamError> {
        if let Some(data) = &event.data {
            seen.has_begun = true;
            let before = seen.text_bytes;
            match read_chunk(&event.name, data, seen) {
                Chunk::Part => self.learn(event, data, seen.text_bytes - before),
                Chunk::UsageOnly if self.wants_usage => {}
                Chunk::UsageOnly => return Ok(()),
                Chunk::Done => self.is_done = true,
                Chunk::Error(error) => return Err(UpstreamError::InBand(error)),
            }
        }
        match event.data.as_ref().and_then(|data| self.lifted(data)) {
            Some(data) => out.extend_from_slice(format!("data: {data}\n\n").as_bytes()),
            None => out.extend_from_slice(&event.raw),
        }
        Ok(())
    }
}

impl Reading for Native {
    fn whole(&mut self, body: Bytes, seen: &mut Seen) -> Result<Whole, UpstreamError> {
        *seen = read_answer(&body)
            .ok_or_else(|| UpstreamError::Decode("the answer is not a JSON object".to_owned()))?;
        if seen.finish_reason.is_empty()
            && seen.text_bytes == 0
            && let Some(error) = provider_error(&body)
        {
            return Err(UpstreamError::InBand(error));
        }
        let body = self.lifted(&body).map_or(body, Bytes::from);
        Ok(Whole { body, content_type: None })
    }

    fn alike(&mut self, bytes: &[u8], seen: &mut Seen) -> usize {
        if !self.decoder.is_between_events() {
            return 0;
        }
        let run = self.alike.run(bytes);
        seen.text_bytes += run.written + run.events * self.text_beside;
        run.length
    }

    fn portion(
        &mut self,
        bytes: &[u8],
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<Progress, UpstreamError> {
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

    /// Some end without `[DONE]`: then the finish reason tells whether the answer was complete.
    fn end(&mut self, seen: &mut Seen, out: &mut BytesMut) -> Result<(), UpstreamError> {
        if let Some(event) = self.decoder.finish() {
            let before = out.len();
            self.relay(&event, seen, out)?;
            let is_complete = self.is_done || !seen.finish_reason.is_empty();
            if is_complete && out.len() > before {
                // What the upstream left out, without which the event is none.
                out.extend_from_slice(b"\n\n");
            } else {
                // A fragment: what follows must not become part of it.
                out.truncate(before);
            }
        }
        if !self.is_done && self.requires_done {
            tracing::warn!(
                "an upstream ended its stream without [DONE], which its provider key says it sends"
            );
        }
        if !self.is_done && seen.finish_reason.is_empty() {
            return Err(UpstreamError::Cut("the answer ended before its last chunk".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::provider::alike::tests::{any_portions, is_taken_the_same_way};

    fn event() -> impl Strategy<Value = String> {
        let text = prop_oneof![
            "[a-z é]{0,6}",
            Just("\\n".to_owned()),
            Just("\\u00e9\\\\".to_owned()),
            Just("\\x".to_owned()),
            Just("a\"".to_owned()),
        ];
        let shape = prop_oneof![
            8 => Just("data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@\"},\"finish_reason\":null}],\"usage\":null}\n\n"),
            4 => Just("data: {\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"@\"}}],\"p\":\"abc@\"}\r\n\r\n"),
            4 => Just("data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"@\"}}]}}],\"obfuscation\":\"x\"}\n\n"),
            1 => Just("data: {\"choices\":[{\"delta\":{\"content\":\"@\"}}],\"usage\":{\"prompt_tokens\":3}}\n\n"),
            1 => Just("data: {\"choices\":[{\"delta\":{\"content\":\"@\"},\"finish_reason\":\"@\"}]}\n\n"),
            1 => Just("data: {\"id\":\"@\",\"id\":\"\",\"choices\":[{\"delta\":{\"content\":\"@\"}}]}\n\n"),
            1 => Just("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n"),
            1 => Just(": comment\n\n"),
            1 => Just("data: @\r\r"),
            1 => Just("event: x\ndata: {\"choices\":[{\"delta\":\ndata: {\"content\":\"@\"}}]}\n\n"),
            1 => Just("data: {\"error\":{\"message\":\"@\"}}\n\n"),
            1 => Just("data: [DONE]\n\n"),
        ];
        (shape, text).prop_map(|(shape, text)| shape.replace('@', &text))
    }

    proptest! {
        #[test]
        fn events_that_are_alike_are_taken_as_if_they_were_read(
            events in prop::collection::vec(event(), 0..12),
            portions in any_portions(),
            wants_usage: bool,
        ) {
            is_taken_the_same_way(&events, &portions, || Native::new(wants_usage))?;
        }
    }
}
