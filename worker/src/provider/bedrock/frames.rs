//! Cuts AWS's binary event stream into frames. What is in a frame, and whether its sums are right, is read by AWS's own
//! crate.

use aws_smithy_eventstream::frame::read_message_from;
use bytes::{Bytes, BytesMut};

/// The largest frame taken from an upstream. AWS sends none of more than 16 MiB.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 + 1024;
/// Two lengths and three sums.
const FRAME_BYTES_MIN: usize = 16;

/// What one frame tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// `event`, `exception` or `error`.
    pub message_type: String,
    /// Which event, exception or error.
    pub kind: String,
    /// What is said beside the payload, of an error.
    pub message: String,
    /// JSON.
    pub payload: Bytes,
}

/// Takes bytes in any portions.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// What is wrong; then nothing that follows can be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, String> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&bytes) {
            return Err(format!("a frame of {length} bytes in the event stream"));
        }
        if self.buffer.len() < bytes {
            return Ok(None);
        }
        let bytes = self.buffer.split_to(bytes).freeze();
        let message = read_message_from(bytes)
            .map_err(|error| format!("a frame of the event stream cannot be read: {error}"))?;
        let mut frame = Frame { payload: message.payload().clone(), ..Frame::default() };
        for header in message.headers() {
            let Ok(value) = header.value().as_string() else { continue };
            let value = value.as_str().to_owned();
            match header.name().as_str() {
                ":message-type" => frame.message_type = value,
                ":event-type" | ":exception-type" | ":error-code" => frame.kind = value,
                ":error-message" => frame.message = value,
                _ => {}
            }
        }
        Ok(Some(frame))
    }
}
