//! A whole answer from what would be told of it piece by piece.

use crate::chat::{Answer, Event, Part};
use crate::request::UpstreamError;

/// Puts the pieces together.
///
/// # Errors
/// [`UpstreamError::InBand`] if one of them is an error.
pub fn gather(events: Vec<Event>) -> Result<Answer, UpstreamError> {
    let mut answer = Answer::default();
    for event in events {
        match event {
            Event::Start { id, model } => (answer.id, answer.model) = (id, model),
            Event::Text(piece) => match answer.parts.last_mut() {
                Some(Part::Text { text, .. }) => text.push_str(&piece),
                _ => answer.parts.push(Part::Text { text: piece, cache: None }),
            },
            Event::Reasoning(piece) => match answer.parts.last_mut() {
                Some(Part::Reasoning { text, signature: None }) => text.push_str(&piece),
                _ => answer.parts.push(Part::Reasoning { text: piece, signature: None }),
            },
            Event::Signature(new) => match answer.parts.last_mut() {
                Some(Part::Reasoning { signature: signature @ None, .. }) => *signature = Some(new),
                _ => {
                    let text = String::new();
                    answer.parts.push(Part::Reasoning { text, signature: Some(new) });
                }
            },
            Event::HiddenReasoning(data) => answer.parts.push(Part::HiddenReasoning(data)),
            Event::ToolCall { id, name } => {
                let arguments = String::new();
                answer.parts.push(Part::ToolCall { id, name, arguments, cache: None });
            }
            Event::Arguments(piece) => {
                if let Some(Part::ToolCall { arguments, .. }) = answer.parts.last_mut() {
                    arguments.push_str(&piece);
                }
            }
            Event::Stop(stop) => answer.stop = stop,
            Event::Usage(usage) => answer.usage = Some(usage),
            Event::Error(error) => return Err(UpstreamError::InBand(error)),
            Event::End => {}
        }
    }
    Ok(answer)
}
