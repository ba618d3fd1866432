//! Between a provider's answer and a caller of another dialect.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::{Answer, Decoder, Encoder, Event, Part};
use crate::provider::{Progress, ProviderError, Reading, Seen, Whole, short};
use crate::request::UpstreamError;

/// Reads a provider's answer and tells it in the caller's dialect.
pub struct Translation {
    decoder: Box<dyn Decoder>,
    encoder: Box<dyn Encoder>,
    events: Vec<Event>,
    has_ended: bool,
}

impl Translation {
    /// From one side to the other.
    pub fn new(decoder: Box<dyn Decoder>, encoder: Box<dyn Encoder>) -> Self {
        Self { decoder, encoder, events: Vec::new(), has_ended: false }
    }

    fn tell(&mut self, seen: &mut Seen, out: &mut BytesMut) -> Result<Progress, UpstreamError> {
        for event in std::mem::take(&mut self.events) {
            if self.has_ended {
                break;
            }
            note(&event, seen);
            if let Event::Error(error) = event {
                return Err(UpstreamError::InBand(error));
            }
            self.has_ended = event == Event::End;
            self.encoder.event(&event, out);
        }
        Ok(if self.has_ended { Progress::Done } else { Progress::More })
    }
}

impl Reading for Translation {
    fn is_stream(&self, content_type: &HeaderValue) -> bool {
        self.decoder.is_stream(content_type)
    }

    fn stream_type(&self) -> Option<HeaderValue> {
        Some(HeaderValue::from_static("text/event-stream"))
    }

    fn whole(&mut self, body: Bytes, seen: &mut Seen) -> Result<Whole, UpstreamError> {
        let answer = self.decoder.whole(&body)?;
        look(&answer, seen);
        let content_type = HeaderValue::from_static("application/json");
        Ok(Whole { body: self.encoder.whole(&answer), content_type: Some(content_type) })
    }

    fn portion(
        &mut self,
        bytes: &[u8],
        seen: &mut Seen,
        out: &mut BytesMut,
    ) -> Result<Progress, UpstreamError> {
        let understood = self.decoder.portion(bytes, &mut self.events);
        // What came before is told first.
        let progress = self.tell(seen, out)?;
        understood.map(|()| progress)
    }

    fn error(&self, body: &[u8]) -> Option<ProviderError> {
        self.decoder.error(body)
    }

    fn end(&mut self, seen: &mut Seen, out: &mut BytesMut) -> Result<(), UpstreamError> {
        if self.has_ended {
            return Ok(());
        }
        self.decoder.end(&mut self.events)?;
        if self.tell(seen, out)? == Progress::Done {
            return Ok(());
        }
        if seen.finish_reason.is_empty() {
            return Err(UpstreamError::Cut("the answer ended before its last piece".to_owned()));
        }
        self.events.push(Event::End);
        self.tell(seen, out).map(drop)
    }
}

fn look(answer: &Answer, seen: &mut Seen) {
    seen.id = short(&answer.id);
    seen.model = short(&answer.model);
    seen.finish_reason = short(&answer.stop.word);
    seen.usage = answer.usage;
    seen.has_begun = true;
    for part in &answer.parts {
        seen.text_bytes += match part {
            Part::Text { text, .. } | Part::Reasoning { text, .. } => text.len(),
            Part::ToolCall { name, arguments, .. } => name.len() + arguments.len(),
            Part::Media { .. } | Part::ToolResult { .. } | Part::HiddenReasoning(_) => 0,
        };
    }
}

fn note(event: &Event, seen: &mut Seen) {
    seen.has_begun = true;
    match event {
        Event::Start { id, model } => {
            seen.id = short(id);
            seen.model = short(model);
        }
        Event::Text(text) | Event::Reasoning(text) | Event::Arguments(text) => {
            seen.text_bytes += text.len();
        }
        Event::ToolCall { name, .. } => seen.text_bytes += name.len(),
        Event::Stop(stop) => {
            // Empty means that it has not ended.
            seen.finish_reason =
                if stop.word.is_empty() { "stop".to_owned() } else { short(&stop.word) };
        }
        Event::Usage(usage) => seen.usage = Some(*usage),
        Event::Signature(_) | Event::HiddenReasoning(_) | Event::Error(_) | Event::End => {}
    }
}
