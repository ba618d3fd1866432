//! One frame: a fixed header of 24 bytes, parsed by hand, and a body of at most 64 KiB.
//!
//! ```text
//! offset  0  magic        u32   "AISX"
//!         4  major        u16   protocol version
//!         6  minor        u16   additions that an older reader may ignore
//!         8  kind         u16   which message the body holds
//!        10  flags        u16   bit 0: a reader that does not know the kind may skip the frame
//!        12  body length  u32
//!        16  request id   u64   links an answer to its question; 0 where there is none
//! ```
//! Little-endian. The socket keeps message borders (`SOCK_SEQPACKET`), so a frame is one datagram: a length that is not
//! exactly the rest of the datagram is an error, never a reason to wait for more.

/// Size of the header, in bytes.
pub const HEADER_BYTES: usize = 24;
/// Largest body, in bytes. What is larger travels as sealed memory.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX;

const MAGIC: [u8; 4] = *b"AISX";
const FLAG_MAY_SKIP: u16 = 1;

/// What the header says, apart from the body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol version that the body is written in.
    pub major: u16,
    /// Additions that an older reader may ignore.
    pub minor: u16,
    /// Which message the body holds.
    pub kind: u16,
    /// A reader that does not know the kind may skip the frame.
    pub may_skip: bool,
    /// Links an answer to its question; 0 where there is none.
    pub request_id: u64,
}

impl Header {
    /// A header in a protocol version, of a message that must not be skipped.
    pub const fn new(major: u16, kind: u16, request_id: u64) -> Self {
        Self { major, minor: 0, kind, may_skip: false, request_id }
    }
}

/// Why a datagram was not taken for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than a header.
    #[error("frame of {0} bytes is shorter than a header")]
    TooShort(usize),
    /// Does not begin with the magic bytes.
    #[error("frame does not begin with the magic bytes")]
    Magic,
    /// Longer than any frame may be.
    #[error("frame body of {0} bytes is over the limit of {BODY_BYTES_MAX}")]
    TooLong(usize),
    /// The header's length is not the body's.
    #[error("header promises {promised} bytes, {found} follow")]
    Length {
        /// What the header says.
        promised: usize,
        /// What there is.
        found: usize,
    },
    /// A flag that nobody has defined.
    #[error("unknown flags {0:#x}")]
    Flags(u16),
}

/// `header` and `body` as one datagram.
pub fn encode(header: Header, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(FrameError::TooLong(body.len()));
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong(body.len()))?;
    let mut frame = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&header.major.to_le_bytes());
    frame.extend_from_slice(&header.minor.to_le_bytes());
    frame.extend_from_slice(&header.kind.to_le_bytes());
    frame.extend_from_slice(&if header.may_skip { FLAG_MAY_SKIP } else { 0 }.to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&header.request_id.to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

/// The header and the body of a datagram.
pub fn decode(datagram: &[u8]) -> Result<(Header, &[u8]), FrameError> {
    let too_short = FrameError::TooShort(datagram.len());
    let (magic, rest) = datagram.split_first_chunk::<4>().ok_or(too_short)?;
    let (major, rest) = rest.split_first_chunk::<2>().ok_or(too_short)?;
    let (minor, rest) = rest.split_first_chunk::<2>().ok_or(too_short)?;
    let (kind, rest) = rest.split_first_chunk::<2>().ok_or(too_short)?;
    let (flags, rest) = rest.split_first_chunk::<2>().ok_or(too_short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(too_short)?;
    let (request_id, body) = rest.split_first_chunk::<8>().ok_or(too_short)?;
    if *magic != MAGIC {
        return Err(FrameError::Magic);
    }
    let promised = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if promised > BODY_BYTES_MAX || body.len() > BODY_BYTES_MAX {
        return Err(FrameError::TooLong(promised.max(body.len())));
    }
    if promised != body.len() {
        return Err(FrameError::Length { promised, found: body.len() });
    }
    let flags = u16::from_le_bytes(*flags);
    if flags & !FLAG_MAY_SKIP != 0 {
        return Err(FrameError::Flags(flags));
    }
    let header = Header {
        major: u16::from_le_bytes(*major),
        minor: u16::from_le_bytes(*minor),
        kind: u16::from_le_bytes(*kind),
        may_skip: flags & FLAG_MAY_SKIP != 0,
        request_id: u64::from_le_bytes(*request_id),
    };
    Ok((header, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header { major: 1, minor: 2, kind: 3, may_skip: true, request_id: 0x0405_0607_0809_0a0b }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let frame = encode(header(), b"body").unwrap();
        let golden = b"AISX\x01\0\x02\0\x03\0\x01\0\x04\0\0\0\x0b\x0a\x09\x08\x07\x06\x05\x04body";
        assert_eq!(frame, golden);
        assert_eq!(decode(&frame), Ok((header(), &b"body"[..])));
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let mut frame = encode(header(), b"body").unwrap();
        for length in 0..frame.len() {
            assert!(decode(&frame[..length]).is_err(), "{length} bytes");
        }
        frame.push(0);
        assert_eq!(decode(&frame), Err(FrameError::Length { promised: 4, found: 5 }));
    }

    #[test]
    fn a_body_over_the_limit_is_neither_written_nor_read() {
        let body = vec![0; BODY_BYTES_MAX + 1];
        assert_eq!(encode(header(), &body), Err(FrameError::TooLong(BODY_BYTES_MAX + 1)));
        let mut frame = encode(header(), b"").unwrap();
        frame[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(decode(&frame), Err(FrameError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(major: u16, kind: u16, request_id: u64, body: Vec<u8>) {
            let header = Header::new(major, kind, request_id);
            let frame = encode(header, &body).unwrap();
            prop_assert_eq!(decode(&frame), Ok((header, &body[..])));
        }
    }
}
