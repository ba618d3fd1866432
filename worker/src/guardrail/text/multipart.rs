//! The texts of a form: the values of its fields that are no files.

use std::rc::Rc;

use bytes::Bytes;
use memchr::memmem;

use super::body::Stop;
use crate::guardrail::{Record, Rule, whole};

/// A form, past the guardrails. Returns it as it may go on, if it is changed.
///
/// # Errors
/// It must not, or cannot be looked at.
pub fn multipart(
    content_type: &str,
    body: &Bytes,
    rules: &[Rc<Rule>],
    records: &mut [Record],
) -> Result<Option<Bytes>, Stop> {
    let boundary = boundary(content_type).ok_or(Stop::Unreadable("its form has no boundary"))?;
    let delimiter = [b"--", boundary.as_bytes()].concat();
    let places: Vec<usize> = memmem::find_iter(body, &delimiter).collect();
    let (mut out, mut copied) = (Vec::new(), 0);
    for pair in places.windows(2) {
        let [start, end] = pair else { continue };
        let part = body.get(start + delimiter.len()..*end).unwrap_or_default();
        let Some(gap) = memmem::find(part, b"\r\n\r\n") else { continue };
        let (head, value) = part.split_at_checked(gap + 4).unwrap_or((part, &[]));
        let is_file = memmem::find(&head.to_ascii_lowercase(), b"filename").is_some();
        if is_file {
            continue;
        }
        let value = value.strip_suffix(b"\r\n").unwrap_or(value);
        let text = String::from_utf8_lossy(value);
        let changed = whole(rules, &text, false, records).map_err(Stop::Refused)?;
        if let Some(changed) = changed.filter(|changed| *changed != text) {
            let value_at = start + delimiter.len() + gap + 4;
            out.extend_from_slice(body.get(copied..value_at).unwrap_or_default());
            out.extend_from_slice(changed.as_bytes());
            copied = value_at + value.len();
        }
    }
    if copied == 0 {
        return Ok(None);
    }
    out.extend_from_slice(body.get(copied..).unwrap_or_default());
    Ok(Some(out.into()))
}

fn boundary(content_type: &str) -> Option<&str> {
    content_type.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_boundary = name.trim().eq_ignore_ascii_case("boundary");
        let value = value.trim().trim_matches('"');
        (is_boundary && !value.is_empty()).then_some(value)
    })
}
