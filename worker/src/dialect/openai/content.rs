//! The `content` of a message of chat completions: a text, or a list of parts.

use serde_json::Value;

use crate::chat::{CacheMark, MediaKind, MediaSource, Part};
use crate::dialect::fields::Fields;
use crate::request::RequestError;

/// The parts of a message; none if it has no content.
///
/// # Errors
/// [`RequestError::Invalid`] with what is wrong and where.
pub fn parts(message: &mut Fields) -> Result<Vec<Part>, RequestError> {
    let cache = message.cache_mark()?;
    let mut parts = match message.peek("content") {
        Some(Value::String(_)) => {
            let text = message.text("content")?.unwrap_or_default();
            vec![Part::Text { text, cache: None }]
        }
        _ => message.objects("content")?.into_iter().map(part).collect::<Result<_, _>>()?,
    };
    // A mark on the message is one behind its last part.
    if let (Some(mark), Some(last)) = (cache, parts.last_mut()) {
        set_mark(last, mark);
    }
    Ok(parts)
}

fn part(mut part: Fields) -> Result<Part, RequestError> {
    let cache = part.cache_mark()?;
    let kind = part.required_text("type")?;
    match kind.as_str() {
        "text" => Ok(Part::Text { text: part.required_text("text")?, cache }),
        "refusal" => Ok(Part::Text { text: part.required_text("refusal")?, cache }),
        "image_url" => {
            let url = match part.take("image_url") {
                Some(Value::String(url)) => url,
                Some(value) => Fields::at(part.path("image_url"), value)?.required_text("url")?,
                None => return Err(part.wrong("image_url", "an object with a `url`")),
            };
            let Some(source) = source(url) else {
                return Err(part.wrong("image_url", "an http, https or base64 data URL"));
            };
            Ok(Part::Media { kind: MediaKind::Image, source, name: None, cache })
        }
        "input_audio" => {
            let Some(mut audio) = part.object("input_audio")? else {
                return Err(part.wrong("input_audio", "an object"));
            };
            let media_type = match audio.required_text("format")?.as_str() {
                "mp3" => "audio/mpeg".to_owned(),
                format => format!("audio/{format}"),
            };
            let source = MediaSource::Base64 { media_type, data: audio.required_text("data")? };
            Ok(Part::Media { kind: MediaKind::Audio, source, name: None, cache })
        }
        "file" => {
            let Some(mut file) = part.object("file")? else {
                return Err(part.wrong("file", "an object"));
            };
            let name = file.text("filename")?;
            let source = match (file.text("file_data")?, file.text("file_id")?) {
                (Some(data), _) => source(data).ok_or_else(|| {
                    file.wrong(
                        "file_data",
                        "a base64 data URL such as data:application/pdf;base64,…",
                    )
                })?,
                (None, Some(id)) => MediaSource::FileId(id),
                (None, None) => return Err(file.wrong("file_data", "a base64 data URL")),
            };
            Ok(Part::Media { kind: MediaKind::Document, source, name, cache })
        }
        _ => Err(part.wrong("type", "text, refusal, image_url, input_audio or file")),
    }
}

/// What a URL stands for; `None` if it is of no kind that any provider takes.
pub(super) fn source(url: String) -> Option<MediaSource> {
    let Some(rest) = url.strip_prefix("data:") else {
        let is_web = url.starts_with("https://") || url.starts_with("http://");
        return is_web.then_some(MediaSource::Url(url));
    };
    let (head, data) = rest.split_once(',')?;
    let head = head.strip_suffix(";base64")?;
    let media_type = head.split(';').next().unwrap_or_default().to_owned();
    Some(MediaSource::Base64 { media_type, data: data.to_owned() })
}

fn set_mark(part: &mut Part, mark: CacheMark) {
    match part {
        Part::Text { cache, .. }
        | Part::Media { cache, .. }
        | Part::ToolCall { cache, .. }
        | Part::ToolResult { cache, .. } => {
            cache.get_or_insert(mark);
        }
        Part::Reasoning { .. } | Part::HiddenReasoning(_) => {}
    }
}
