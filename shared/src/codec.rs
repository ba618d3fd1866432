//! The one place that knows the encoding: bincode 2 in its standard configuration, always with a limit.

use bincode::config::standard;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
pub use bincode::{BorrowDecode, Decode, Encode};

/// The most that one decoded value may take, in bytes: of a frame's body, and of one entry in sealed memory.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why bytes were not taken for a value.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not an encoding of the expected type, or larger than its limit.
    #[error("not a valid encoding: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// The value cannot be written.
    #[error("cannot be encoded: {0}")]
    Encode(#[from] EncodeError),
    /// A valid value with something behind it.
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
}

/// `value` as bytes.
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(bincode::encode_to_vec(value, standard())?)
}

/// Appends `value` as bytes.
pub fn encode_onto<T: Encode>(bytes: &mut Vec<u8>, value: &T) -> Result<(), CodecError> {
    struct Onto<'a>(&'a mut Vec<u8>);
    impl Writer for Onto<'_> {
        #[inline(always)]
        fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
            match bytes {
                // Most of what is written is a small number.
                [byte] => self.0.push(*byte),
                _ => self.0.extend_from_slice(bytes),
            }
            Ok(())
        }
    }
    Ok(bincode::encode_into_writer(value, Onto(bytes), standard())?)
}

/// As [`decode`], for a value whose texts are those of `bytes`.
pub fn borrow_decode<'a, T: BorrowDecode<'a, ()>, const LIMIT: usize>(
    bytes: &'a [u8],
) -> Result<T, CodecError> {
    let (value, used) = bincode::borrow_decode_from_slice(bytes, standard().with_limit::<LIMIT>())?;
    match bytes.len().saturating_sub(used) {
        0 => Ok(value),
        trailing => Err(CodecError::TrailingBytes(trailing)),
    }
}

/// The value that `bytes` begin with, and what is behind it.
pub fn borrow_decode_first<'a, T: BorrowDecode<'a, ()>, const LIMIT: usize>(
    bytes: &'a [u8],
) -> Result<(T, &'a [u8]), CodecError> {
    let (value, used) = bincode::borrow_decode_from_slice(bytes, standard().with_limit::<LIMIT>())?;
    Ok((value, bytes.get(used..).unwrap_or_default()))
}

/// The value that `bytes` hold, all of them. `LIMIT` bounds what a hostile length can make us reserve.
pub fn decode<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::decode_from_slice(bytes, standard().with_limit::<LIMIT>())?;
    match bytes.len().saturating_sub(used) {
        0 => Ok(value),
        trailing => Err(CodecError::TrailingBytes(trailing)),
    }
}

/// The next value from a reader, for sequences that are too long for one frame.
pub fn decode_next<T: Decode<()>>(reader: &mut impl std::io::Read) -> Result<T, CodecError> {
    Ok(bincode::decode_from_std_read(reader, standard().with_limit::<VALUE_BYTES_MAX>())?)
}
