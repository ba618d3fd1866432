//! Content blocks of Messages: a text, or a list of blocks.

use serde_json::Value;

use super::conversation::arguments;
use crate::chat::{CacheMark, MediaKind, MediaSource, Part};
use crate::dialect::fields::Fields;
use crate::request::RequestError;

/// The parts in the member `name`.
///
/// # Errors
/// [`RequestError::Invalid`] with what is wrong and where.
pub fn parts(fields: &mut Fields, name: &str) -> Result<Vec<Part>, RequestError> {
    if let Some(Value::String(_)) = fields.peek(name) {
        let text = fields.text(name)?.unwrap_or_default();
        return Ok(vec![Part::Text { text, cache: None }]);
    }
    let mut parts = Vec::new();
    for block in fields.objects(name)? {
        add(block, &mut parts)?;
    }
    Ok(parts)
}

fn add(mut block: Fields, parts: &mut Vec<Part>) -> Result<(), RequestError> {
    let cache = block.cache_mark()?;
    let part = match block.required_text("type")?.as_str() {
        "text" => Part::Text { text: block.required_text("text")?, cache },
        "image" => {
            let source = source(&mut block)?;
            Part::Media { kind: MediaKind::Image, source, name: None, cache }
        }
        "document" => return document(block, cache, parts),
        "search_result" => {
            let mut text = block.text("title")?.unwrap_or_default();
            if let Some(source) = block.text("source")? {
                text = format!("{text} ({source})");
            }
            parts.push(Part::Text { text, cache: None });
            parts.extend(self::parts(&mut block, "content")?);
            return Ok(());
        }
        "tool_use" => Part::ToolCall {
            id: block.required_text("id")?,
            name: block.required_text("name")?,
            arguments: arguments(block.object_value("input")?),
            cache,
        },
        "tool_result" => Part::ToolResult {
            id: block.required_text("tool_use_id")?,
            parts: self::parts(&mut block, "content")?,
            is_error: block.boolean("is_error")?.unwrap_or(false),
            cache,
        },
        "thinking" => Part::Reasoning {
            text: block.text("thinking")?.unwrap_or_default(),
            signature: block.text("signature")?.filter(|signature| !signature.is_empty()),
        },
        "redacted_thinking" => Part::HiddenReasoning(block.required_text("data")?),
        _ => {
            let expected = "text, image, document, search_result, tool_use, tool_result, thinking or \
                            redacted_thinking for this model";
            return Err(block.wrong("type", expected));
        }
    };
    parts.push(part);
    Ok(())
}

/// A document that is text already is text; its title and context go before it.
fn document(
    mut block: Fields,
    cache: Option<CacheMark>,
    parts: &mut Vec<Part>,
) -> Result<(), RequestError> {
    let name = block.text("title")?;
    let context = block.text("context")?;
    let kind = match block.peek("source") {
        Some(source) => source.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(),
        None => String::new(),
    };
    if let Some(text) = &context {
        parts.push(Part::Text { text: text.clone(), cache: None });
    }
    if !matches!(kind.as_str(), "text" | "content") {
        let source = source(&mut block)?;
        parts.push(Part::Media { kind: MediaKind::Document, source, name, cache });
        return Ok(());
    }
    if let Some(text) = name {
        parts.push(Part::Text { text, cache: None });
    }
    let Some(mut source) = block.object("source")? else { return Ok(()) };
    if kind == "text" {
        parts.push(Part::Text { text: source.required_text("data")?, cache });
    } else {
        parts.extend(self::parts(&mut source, "content")?);
    }
    Ok(())
}

fn source(block: &mut Fields) -> Result<MediaSource, RequestError> {
    let Some(mut source) = block.object("source")? else {
        return Err(block.wrong("source", "an object"));
    };
    match source.required_text("type")?.as_str() {
        "base64" => Ok(MediaSource::Base64 {
            media_type: source.required_text("media_type")?,
            data: source.required_text("data")?,
        }),
        "url" => Ok(MediaSource::Url(source.required_text("url")?)),
        "file" => Ok(MediaSource::FileId(source.required_text("file_id")?)),
        _ => Err(source.wrong("type", "base64, url or file")),
    }
}
