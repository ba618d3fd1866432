//! An answer in OpenAI's dialect for a caller who speaks it: every byte as it came, as soon as it has come.

use bytes::{Bytes, BytesMut};
use shared::resource::ResponseOverrides;

use super::lift::lifted;
use super::{Chunk, provider_error, read_answer, read_chunk};
use crate::provider::{Progress, Reading, Seen, Whole};
use crate::request::UpstreamError;
use crate::sse::{Decoder, Event};

/// Relays one answer.
pub struct Native {
    decoder: Decoder,
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

    fn relay(
        &mut self,
        event: &Event,
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<(), UpstreamError> {
        if let Some(data) = &event.data {
            seen.has_begun = true;
            match read_chunk(&event.name, data, seen) {
                Chunk::Part => {}
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
