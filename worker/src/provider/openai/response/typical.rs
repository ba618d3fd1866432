//! The answer as it mostly is, read from front to back with nothing built.
//!
//! `None` is no judgement: what is unusual in any way is left to `read_any`, which says what an answer tells. What is told
//! here is told there too, only later.

use super::{CompletionDetails, PromptDetails, Usage, short_json, text_bytes};
use crate::json::reader::Reader;
use crate::provider::{Seen, short};

/// What a usual answer tells.
pub(super) fn read(body: &[u8]) -> Option<Seen> {
    let mut reader = Reader::new(body)?;
    let mut seen = Seen { has_begun: true, ..Seen::default() };
    let (mut id, mut model, mut choices, mut usage) = (None, None, None, None);
    reader.object(|reader, name| match name.plain()? {
        b"id" => once(&mut id, reader.value()?),
        b"model" => once(&mut model, reader.value()?),
        b"choices" => {
            let read = |reader: &mut Reader<'_>| reader.list(|reader| choice(reader, &mut seen));
            once(&mut choices, reader.optional(read)?)
        }
        b"usage" => once(&mut usage, reader.optional(|reader| counts(reader).map(Usage::tokens))?),
        _ => reader.skip(),
    })?;
    reader.end()?;
    let short = |json: &[u8]| std::str::from_utf8(json).map(short_json).unwrap_or_default();
    seen.id = id.map(short).unwrap_or_default();
    seen.model = model.map(short).unwrap_or_default();
    seen.usage = usage.flatten().flatten();
    Some(seen)
}

fn choice(reader: &mut Reader<'_>, seen: &mut Seen) -> Option<()> {
    let (mut reason, mut message, mut delta, mut text) = (None, None, None, None);
    reader.object(|reader, name| match name.plain()? {
        b"finish_reason" => once(&mut reason, reader.optional(Reader::plain_string)?),
        b"message" => once(&mut message, reader.optional(message_bytes)?),
        b"delta" => once(&mut delta, reader.optional(message_bytes)?),
        b"text" => once(&mut text, text_bytes(reader.value()?)),
        _ => reader.skip(),
    })?;
    if let Some(reason) = reason.flatten() {
        seen.finish_reason = short(reason);
    }
    let message = delta.flatten().or(message.flatten());
    seen.text_bytes += text.unwrap_or(0) + message.unwrap_or(0);
    Some(())
}

/// The length of the generated parts of a message.
fn message_bytes(reader: &mut Reader<'_>) -> Option<usize> {
    let (mut content, mut reasoning, mut calls) = (None, None, None);
    reader.object(|reader, name| {
        let part = match name.plain()? {
            b"content" => &mut content,
            b"reasoning_content" => &mut reasoning,
            b"tool_calls" => &mut calls,
            _ => return reader.skip(),
        };
        once(part, text_bytes(reader.value()?))
    })?;
    Some([content, reasoning, calls].into_iter().flatten().sum())
}

fn counts(reader: &mut Reader<'_>) -> Option<Usage> {
    let (mut prompt, mut completion, mut input, mut output, mut total) =
        (None, None, None, None, None);
    let (mut prompt_details, mut input_details) = (None, None);
    let (mut completion_details, mut output_details) = (None, None);
    reader.object(|reader, name| {
        // Compared as a whole, which a `match` does not.
        let name = name.plain()?;
        let count = if name == b"prompt_tokens" {
            &mut prompt
        } else if name == b"completion_tokens" {
            &mut completion
        } else if name == b"total_tokens" {
            &mut total
        } else if name == b"input_tokens" {
            &mut input
        } else if name == b"output_tokens" {
            &mut output
        } else if name == b"prompt_tokens_details" {
            return once(&mut prompt_details, reader.optional(prompt_counts)?);
        } else if name == b"completion_tokens_details" {
            return once(&mut completion_details, reader.optional(completion_counts)?);
        } else if name == b"input_tokens_details" || name == b"input_token_details" {
            return once(&mut input_details, reader.optional(prompt_counts)?);
        } else if name == b"output_tokens_details" || name == b"output_token_details" {
            return once(&mut output_details, reader.optional(completion_counts)?);
        } else {
            return reader.skip();
        };
        once(count, reader.optional(Reader::count)?)
    })?;
    Some(Usage {
        prompt_tokens: prompt.flatten(),
        completion_tokens: completion.flatten(),
        prompt_tokens_details: prompt_details.flatten(),
        completion_tokens_details: completion_details.flatten(),
        input_tokens: input.flatten(),
        output_tokens: output.flatten(),
        input_tokens_details: input_details.flatten(),
        output_tokens_details: output_details.flatten(),
        total_tokens: total.flatten(),
    })
}

fn prompt_counts(reader: &mut Reader<'_>) -> Option<PromptDetails> {
    let (mut cached, mut audio) = (None, None);
    reader.object(|reader, name| {
        let name = name.plain()?;
        let count = if name == b"cached_tokens" {
            &mut cached
        } else if name == b"audio_tokens" {
            &mut audio
        } else {
            return reader.skip();
        };
        once(count, reader.optional(Reader::count)?)
    })?;
    Some(PromptDetails { cached_tokens: cached.flatten(), audio_tokens: audio.flatten() })
}

fn completion_counts(reader: &mut Reader<'_>) -> Option<CompletionDetails> {
    let (mut reasoning, mut audio) = (None, None);
    reader.object(|reader, name| {
        let name = name.plain()?;
        let count = if name == b"reasoning_tokens" {
            &mut reasoning
        } else if name == b"audio_tokens" {
            &mut audio
        } else {
            return reader.skip();
        };
        once(count, reader.optional(Reader::count)?)
    })?;
    Some(CompletionDetails { reasoning_tokens: reasoning.flatten(), audio_tokens: audio.flatten() })
}

/// Keeps what a member says; one that comes twice says nothing sure.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

#[cfg(test)]
pub(super) mod tests;
