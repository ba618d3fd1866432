//! What is kept of an answer: enough to give it again, and to tell what that has saved.

use bytes::Bytes;
use http::HeaderValue;
use shared::codec;

/// An answer that was given, and may be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it is.
    pub content_type: HeaderValue,
    /// Its body, as the caller was sent it.
    pub body: Bytes,
    /// Tokens of the prompt, as the provider has counted them.
    pub input_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

/// Layout, content type, tokens of prompt and answer, body.
type Written = (u8, Vec<u8>, u32, u32, Vec<u8>);

/// The first number of what is written: another layout is not read.
const LAYOUT: u8 = 1;

impl Kept {
    /// As bytes. `None` if it cannot be written.
    pub fn write(&self) -> Option<Vec<u8>> {
        let (content_type, body) = (self.content_type.as_bytes(), self.body.as_ref());
        codec::encode(&(LAYOUT, content_type, self.input_tokens, self.output_tokens, body)).ok()
    }

    /// What these bytes hold. `None` if that is no answer: another process, or a Redis, had them meanwhile.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (layout, content_type, input_tokens, output_tokens, body): Written =
            codec::decode::<_, { codec::VALUE_BYTES_MAX }>(bytes).ok()?;
        if layout != LAYOUT {
            return None;
        }
        let content_type = HeaderValue::from_bytes(&content_type).ok()?;
        Some(Self { content_type, body: body.into(), input_tokens, output_tokens })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept() -> Kept {
        Kept {
            content_type: HeaderValue::from_static("application/json"),
            body: Bytes::from_static(b"{}"),
            input_tokens: 7,
            output_tokens: 70_000,
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_and_nothing_of_another_layout_is() {
        let mut bytes = kept().write().unwrap();
        assert_eq!(Kept::read(&bytes), Some(kept()));
        bytes[0] = LAYOUT + 1;
        assert_eq!(Kept::read(&bytes), None);
    }

    #[test]
    fn a_content_type_that_no_header_can_carry_is_not_read() {
        let mut bytes = kept().write().unwrap();
        let at = bytes.windows(4).position(|window| window == b"json").unwrap();
        bytes[at] = b'\n';
        assert_eq!(Kept::read(&bytes), None);
    }

    proptest! {
        #[test]
        fn no_bytes_can_panic_it(bytes: Vec<u8>) {
            let _ = Kept::read(&bytes);
        }
    }
}
