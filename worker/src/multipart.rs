//! `multipart/form-data` (RFC 7578), as far as the gateway acts on it: fields are found, one is replaced, and every other byte
//! stays as it came.
//!
//! Whatever two readers could cut into different parts is refused: a line that begins like a boundary and goes on, a field
//! that comes twice, a part without a name. Else the provider could find another model in it than the gateway has.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;

/// Most parts of a form.
const PARTS_MAX: usize = 256;
/// Longest head of a part, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest boundary (RFC 2046, 5.1.1).
const BOUNDARY_CHARS_MAX: usize = 70;

/// Where the fields of a form are.
#[derive(Debug)]
pub struct Fields<'a> {
    bytes: &'a Bytes,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    is_file: bool,
    value_at: Range<usize>,
}

impl<'a> Fields<'a> {
    /// Finds the fields of a form of that content type.
    ///
    /// # Errors
    /// What is wrong, in words for the caller.
    pub fn parse(content_type: &str, bytes: &'a Bytes) -> Result<Self, String> {
        let boundary = boundary(content_type)?;
        let delimiter = format!("\r\n--{boundary}");
        let finder = memmem::Finder::new(&delimiter);
        let mut fields: Vec<Field> = Vec::new();
        // The first delimiter may stand at the very beginning, without a line end before it.
        let first = delimiter.trim_start();
        let mut at = if bytes.starts_with(first.as_bytes()) {
            first.len()
        } else {
            finder.find(bytes).ok_or("the form has no parts")? + delimiter.len()
        };
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.starts_with(b"--") {
                break;
            }
            let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let head = rest.get(padding..).unwrap_or_default();
            if !head.starts_with(b"\r\n") {
                return Err("the boundary of the form is ambiguous".to_owned());
            }
            if fields.len() == PARTS_MAX {
                return Err(format!("the form has more than {PARTS_MAX} parts"));
            }
            // With the line end that ends the boundary's line, which is that of an empty head too.
            let head_end = memmem::find(head.get(..HEAD_BYTES_MAX).unwrap_or(head), b"\r\n\r\n")
                .ok_or("a part of the form has no head, or one that is too large")?;
            let (name, is_file) = describe(head.get(2..head_end).unwrap_or_default())?;
            let value_start = at + padding + head_end + 4;
            let value = bytes.get(value_start..).unwrap_or_default();
            let length = if value.starts_with(first.as_bytes()) {
                return Err("a part of the form has no value".to_owned());
            } else {
                finder.find(value).ok_or("the form is not complete")?
            };
            if fields.iter().any(|field| field.name == name && !name.ends_with("[]")) {
                return Err("a field of the form comes twice".to_owned());
            }
            fields.push(Field { name, is_file, value_at: value_start..value_start + length });
            at = value_start + length + delimiter.len();
        }
        Ok(Self { bytes, fields })
    }

    /// The value of a field that is no file; `None` if there is none.
    ///
    /// # Errors
    /// If it is a file or no UTF-8, in words for the caller.
    pub fn text(&self, name: &str) -> Result<Option<&str>, String> {
        let Some(field) = self.find(name) else { return Ok(None) };
        let bytes = self.bytes.get(field.value_at.clone()).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) if !field.is_file => Ok(Some(text)),
            _ => Err(format!("the field `{name}` of the form must be text")),
        }
    }

    /// The form with another value of a field; as it is if it has no such field.
    pub fn with(&self, name: &str, value: &str) -> Bytes {
        let Some(field) = self.find(name) else { return self.bytes.clone() };
        let before = self.bytes.get(..field.value_at.start).unwrap_or_default();
        let after = self.bytes.get(field.value_at.end..).unwrap_or_default();
        let mut out = BytesMut::with_capacity(before.len() + value.len() + after.len());
        out.put(before);
        out.put(value.as_bytes());
        out.put(after);
        out.freeze()
    }

    fn find(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Whether a value can be written into a form: one that holds a line end could end its part.
pub fn is_value(text: &str) -> bool {
    !text.contains(['\r', '\n'])
}

/// The boundary in a content type.
fn boundary(content_type: &str) -> Result<&str, String> {
    const WRONG: &str = "the content type must be multipart/form-data with a boundary";
    let mut parts = content_type.split(';');
    let essence = parts.next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("multipart/form-data") {
        return Err(WRONG.to_owned());
    }
    let mut boundaries = parts.filter_map(|part| {
        let (name, value) = part.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then_some(value.trim())
    });
    let boundary = boundaries.next().ok_or(WRONG)?;
    let boundary = match boundary.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or(WRONG)?,
        None => boundary,
    };
    let in_boundary = |c: char| c.is_ascii_alphanumeric() || "'()+_,-./:=? ".contains(c);
    let is_valid = (1..=BOUNDARY_CHARS_MAX).contains(&boundary.len())
        && boundary.chars().all(in_boundary)
        && !boundary.ends_with(' ');
    if is_valid && boundaries.next().is_none() { Ok(boundary) } else { Err(WRONG.to_owned()) }
}

/// Name of a part, and whether it is a file, from its head.
fn describe(head: &[u8]) -> Result<(String, bool), String> {
    let unnamed = || "a part of the form has no name".to_owned();
    let head = std::str::from_utf8(head).map_err(|_| unnamed())?;
    let mut dispositions = head.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-disposition").then_some(value.trim())
    });
    let disposition = dispositions.next().ok_or_else(unnamed)?;
    if dispositions.next().is_some() || head.contains(['\0']) {
        return Err(unnamed());
    }
    let (kind, mut rest) = disposition.split_once(';').ok_or_else(unnamed)?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(unnamed());
    }
    let (mut found, mut is_file) = (None, false);
    while !rest.trim().is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(unnamed)?;
        let (value, after) = parameter(after).ok_or_else(unnamed)?;
        match name.trim().to_ascii_lowercase().as_str() {
            "name" if found.is_none() => found = Some(value),
            "name" | "name*" => return Err(unnamed()),
            "filename" | "filename*" => is_file = true,
            _ => {}
        }
        rest = after;
    }
    let name = found.filter(|name| !name.is_empty()).ok_or_else(unnamed)?;
    Ok((name, is_file))
}

/// The value of a parameter, quoted or not, and what follows its semicolon.
fn parameter(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = text.split_once(';').unwrap_or((text, ""));
        return Some((value.trim().to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    loop {
        match chars.next()? {
            (_, '\\') => value.push(chars.next()?.1),
            (end, '"') => {
                let after = quoted.get(end + 1..)?.trim_start();
                return match after.strip_prefix(';') {
                    Some(after) => Some((value, after)),
                    None if after.is_empty() => Some((value, "")),
                    None => None,
                };
            }
            (_, character) => value.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xYz";

    fn form(parts: &[(&str, &[u8])]) -> Bytes {
        let mut out = Vec::new();
        for (head, value) in parts {
            out.extend_from_slice(b"--xYz\r\nContent-Disposition: form-data; ");
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"--xYz--\r\n");
        out.into()
    }

    #[test]
    fn a_field_is_found_and_replaced_and_everything_else_stays() {
        let file: &[u8] = b"\x00\xff\r\n--xY\r\nmodel";
        let parts = [("name=\"model\"", &b"m"[..]), ("name=file; filename=\"a\\\".wav\"", file)];
        let bytes = form(&parts);
        let fields = Fields::parse(TYPE, &bytes).unwrap();
        assert_eq!(fields.text("model").unwrap(), Some("m"));
        assert_eq!(fields.text("other").unwrap(), None);
        assert!(fields.text("file").is_err());
        let expected = form(&[("name=\"model\"", b"upstream"), parts[1]]);
        assert_eq!(fields.with("model", "upstream"), expected);
        assert_eq!(fields.with("other", "x"), bytes);
    }

    #[test]
    fn what_could_be_cut_in_two_ways_is_refused() {
        let named = "name=\"model\"";
        for (bytes, reason) in [
            (form(&[(named, b"a"), (named, b"b")]), "comes twice"),
            (form(&[("name=\"model\"; name=\"x\"", b"a")]), "no name"),
            (form(&[("name*=UTF-8''model", b"a")]), "no name"),
            (form(&[("filename=\"x\"", b"a")]), "no name"),
            (form(&[(named, b"a\r\n--xYzz\r\n")]), "ambiguous"),
            (Bytes::from_static(b"--xYz\r\n\r\nx\r\n--xYz--"), "no name"),
            (
                Bytes::from_static(b"--xYz\nContent-Disposition: form-data; name=a\n\nx"),
                "ambiguous",
            ),
            (Bytes::from_static(b"nothing"), "no parts"),
            (form(&[(named, b"a")]).slice(..60), "not complete"),
        ] {
            let error = Fields::parse(TYPE, &bytes).unwrap_err();
            assert!(error.contains(reason), "{error} for {bytes:?}");
        }
        for content_type in [
            "application/json",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=a\u{e9}",
        ] {
            assert!(Fields::parse(content_type, &form(&[])).is_err(), "{content_type}");
        }
        assert!(
            Fields::parse("Multipart/Form-Data; charset=x; Boundary=\"xYz\"", &form(&[])).is_ok()
        );
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_it_and_a_replaced_field_reads_as_it_was_written(
            bytes: Vec<u8>,
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..4),
            model in "[a-z]{0,8}",
        ) {
            let _ = Fields::parse(TYPE, &bytes.clone().into());
            let heads = ["name=\"a\"", "name=\"b\"; filename=x", "name=\"c\""];
            let mut parts: Vec<_> =
                heads.iter().copied().zip(values.iter().map(Vec::as_slice)).collect();
            parts.insert(parts.len() / 2, ("name=\"model\"", b"old"));
            let whole = form(&parts);
            if let Ok(fields) = Fields::parse(TYPE, &whole) {
                let changed = fields.with("model", &model);
                let again = Fields::parse(TYPE, &changed).unwrap();
                prop_assert_eq!(again.text("model").unwrap(), Some(model.as_str()));
                prop_assert_eq!(again.with("model", "old"), whole.clone());
            }
            // Cut anywhere, it is a form no more, or the same.
            let cut = whole.len() / 2;
            let _ = Fields::parse(TYPE, &whole.slice(..cut));
        }
    }
}
