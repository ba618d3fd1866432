//! A line that is written with every request. Its parts are copied as they are, and looked at afterwards, all at once: only one
//! in which something has to be escaped or cut is written anew, by [`encode`](super::encode).

use super::{
    BEGIN, FIELDS_MAX, LINE_BYTES_MAX, Level, Line, SEPARATOR, TARGET_BYTES_MAX, Value, encode,
    head_of, is_escaped, is_name,
};

/// The name of a field as it is written before its value, which is a `text`, or `shown`, or a `number`: see [`Fields`].
#[macro_export]
macro_rules! log_field_name {
    (text $name:literal) => {
        concat!("\x1f", $name, "\"")
    };
    (shown $name:literal) => {
        concat!("\x1f", $name, "=")
    };
    (number $name:literal) => {
        concat!("\x1f", $name, "#")
    };
}
pub use log_field_name as name;

/// The fields of a line: see [`append`]. A name is one that a field may have, as [`name!`](name) writes it.
#[derive(Debug)]
pub struct Fields<'a>(To<'a>);

#[derive(Debug)]
enum To<'a> {
    /// Behind what is written, as they are.
    Written { written: &'a mut String, fields: usize },
    /// Into a line that is encoded then.
    Line(&'a mut Line),
}

impl Fields<'_> {
    /// Adds a text.
    #[inline(always)]
    pub fn text(&mut self, name: &'static str, text: &str) {
        self.add(name, text, Value::Text);
    }

    /// Adds anything else that was written out.
    #[inline(always)]
    pub fn shown(&mut self, name: &'static str, text: &str) {
        self.add(name, text, Value::Shown);
    }

    /// Adds a number.
    #[inline(always)]
    pub fn number(&mut self, name: &'static str, number: u64) {
        self.add(name, itoa::Buffer::new().format(number), Value::Plain);
    }

    // What is known of a field is known where it is added: nothing of it is looked at in passing.
    #[inline(always)]
    fn add(&mut self, name: &'static str, text: &str, value: fn(String) -> Value) {
        debug_assert!(
            is_written_name(name, &value(String::new())),
            "{name:?} is no name of a field"
        );
        match &mut self.0 {
            To::Written { written, fields } => {
                written.push_str(name);
                written.push_str(text);
                *fields = fields.wrapping_add(1);
            }
            To::Line(line) => push(line, name, text, value),
        }
    }
}

fn is_written_name(written: &str, value: &Value) -> bool {
    let name = written.strip_prefix(SEPARATOR).and_then(|rest| rest.strip_suffix(value.kind()));
    name.is_some_and(is_name)
}

#[cold]
fn push(line: &mut Line, written: &str, text: &str, value: fn(String) -> Value) {
    let name = written.get(1..written.len().saturating_sub(1)).unwrap_or_default();
    line.fields.push((name.to_owned(), value(text.to_owned())));
}

/// Appends a line with the fields that `tell` adds, which is called again if something has to be escaped or cut.
pub fn append(
    written: &mut String,
    level: Level,
    target: &str,
    message: &str,
    tell: impl Fn(&mut Fields<'_>),
) {
    let start = written.len();
    written.push(BEGIN);
    written.push_str(level.letter());
    written.push(SEPARATOR);
    written.push_str(head_of(target, TARGET_BYTES_MAX));
    written.push(SEPARATOR);
    written.push_str(message);
    let mut fields = Fields(To::Written { written, fields: 0 });
    tell(&mut fields);
    if let Fields(To::Written { written, fields }) = fields
        && fields <= FIELDS_MAX
        && is_as_it_must_be(written.as_bytes().get(start..).unwrap_or_default(), fields)
    {
        return written.push('\n');
    }
    written.truncate(start);
    let mut line = Line::new(level, target, message);
    tell(&mut Fields(To::Line(&mut line)));
    written.push_str(&String::from_utf8_lossy(&encode(&line)));
}

/// Whether a line, without its end, is short enough, and nothing in it must be escaped but what separates its parts.
fn is_as_it_must_be(line: &[u8], fields: usize) -> bool {
    // What begins it, and what is before its target and its message.
    const OTHERS: usize = 3;
    line.len() < LINE_BYTES_MAX && escapes(line) == fields.saturating_add(OTHERS)
}

/// How many bytes would have to be escaped, of at most [`LINE_BYTES_MAX`].
fn escapes(bytes: &[u8]) -> usize {
    const LANES: usize = 32;
    const _: () = assert!(LINE_BYTES_MAX / LANES < u8::MAX as usize, "a lane must hold its sum");
    let mut sums = [0_u8; LANES];
    let mut look = |some: &[u8; LANES]| {
        for (sum, byte) in sums.iter_mut().zip(some) {
            *sum = sum.wrapping_add(u8::from(is_escaped(*byte)));
        }
    };
    let (many, rest) = bytes.as_chunks::<LANES>();
    many.iter().for_each(&mut look);
    let mut last = [b' '; LANES];
    if let Some(last) = last.get_mut(..rest.len()) {
        last.copy_from_slice(rest);
    }
    look(&last);
    sums.into_iter().map(usize::from).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_byte_that_must_be_escaped_is_counted_wherever_it_is() {
        for byte in 0..=u8::MAX {
            for length in [0, 1, 31, 32, 33, 95, LINE_BYTES_MAX] {
                let mut bytes = vec![b'~'; length];
                assert_eq!(escapes(&bytes), 0, "{length}");
                let expected = usize::from(byte < b' ' || byte == 0x7f || byte == b'\\');
                for place in (0..length).step_by(7) {
                    bytes[place] = byte;
                    assert_eq!(escapes(&bytes), expected, "{byte} at {place} of {length}");
                    bytes[place] = b'~';
                }
                bytes.fill(byte);
                assert_eq!(escapes(&bytes), expected * length, "{byte} × {length}");
            }
        }
    }

    fn names(count: usize) -> impl Iterator<Item = &'static str> {
        const NAMES: [&str; 4] =
            [name!(text "a"), name!(text "b.c"), name!(text "d_e"), name!(text "f1")];
        NAMES.into_iter().cycle().take(count)
    }

    #[test]
    fn a_name_is_one_of_its_kind() {
        assert!(is_written_name(name!(text "a.b_1"), &Value::Text(String::new())));
        assert!(is_written_name(name!(shown "a"), &Value::Shown(String::new())));
        assert!(is_written_name(name!(number "a"), &Value::Plain(String::new())));
        for wrong in ["a", "\x1fa", "a\"", "\x1f\"", "\x1fA\"", "\x1fa#"] {
            assert!(!is_written_name(wrong, &Value::Text(String::new())), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_appended_is_the_line_that_it_is(
            target in "[a-z:]{1,200}",
            message in any::<String>(),
            texts in prop::collection::vec(prop_oneof!["[ -~]{0,40}", any::<String>(), "[a-z\\\\]{3000}"], 0..40),
            number: u64,
        ) {
            let mut written = "before".to_owned();
            append(&mut written, Level::Info, &target, &message, |fields| {
                for (name, text) in names(texts.len()).zip(&texts) {
                    fields.text(name, text);
                    fields.shown(name!(shown "shown"), text);
                }
                fields.number(name!(number "number"), number);
            });
            let mut line = Line::new(Level::Info, &target, message);
            for (name, text) in names(texts.len()).zip(texts) {
                let name = name.trim_matches(['\x1f', '"']).to_owned();
                line.fields.push((name, Value::Text(text.clone())));
                line.fields.push(("shown".to_owned(), Value::Shown(text)));
            }
            let expected = encode(&line.with("number", number));
            prop_assert_eq!(written, format!("before{}", String::from_utf8(expected).unwrap()));
        }
    }
}
