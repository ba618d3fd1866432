//! Going on behind a gap: records that were freed and written over before the reader had noted that it has them.
//!
//! That happens where the reader's notes could not be written down for a while. What is still in the ring is the newest
//! records, without a gap among them, so the one with the lowest sequence is where to go on.

use std::io;

use super::{BODY_BYTES_MAX, HEADER_BYTES, Place, Reader};
use crate::crc32::checksum;

/// The most bytes that are checked for each byte of the ring: what looks like a record everywhere was made to.
const CHECKED_MAX: u64 = 4;
/// The longest record.
const RECORD_BYTES_MAX: usize = HEADER_BYTES as usize + BODY_BYTES_MAX;

impl Reader {
    /// Where the next record should be is none: goes to the one with the lowest sequence behind it, if there is one. Says
    /// how many were passed over.
    pub fn pass_gap(&mut self) -> io::Result<Option<u64>> {
        let bytes = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        // The beginning twice, so that no record is cut by the end of the file.
        let mut ring = vec![0; bytes];
        self.read(&mut ring, 0)?;
        ring.extend_from_within(..bytes.min(RECORD_BYTES_MAX));
        let mut checks = self.bytes.saturating_mul(CHECKED_MAX);
        let mut lowest: Option<(u64, usize)> = None;
        for offset in 0..bytes {
            let Some(record) = ring.get(offset..) else { break };
            let Some((length, sum, sequence)) = header(record) else { break };
            let is_lower = lowest.is_none_or(|(lowest, _)| sequence < lowest);
            if length > BODY_BYTES_MAX || sequence <= self.place.sequence || !is_lower {
                continue;
            }
            let Some(body) =
                record.get(HEADER_BYTES as usize..).and_then(|rest| rest.get(..length))
            else {
                continue;
            };
            let Some(left) = checks.checked_sub(length as u64) else { break };
            checks = left;
            if checksum(&[&sequence.to_le_bytes(), body]) == sum {
                lowest = Some((sequence, offset));
            }
        }
        let Some((sequence, offset)) = lowest else { return Ok(None) };
        let before = sequence.saturating_sub(1);
        let passed = before.saturating_sub(self.place.sequence);
        self.rest();
        self.place = Place { sequence: before, position: offset as u64 };
        Ok(Some(passed))
    }
}

/// Length, checksum and sequence of what may be a record.
fn header(record: &[u8]) -> Option<(usize, u32, u64)> {
    let (length, rest) = record.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let (sequence, _) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    Some((length, u32::from_le_bytes(*sum), u64::from_le_bytes(*sequence)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::{Record, Writer};
    use super::*;
    use crate::memory::fixed_size;
    use crate::usage::UsageEvent;

    const SMALL: u64 = 4096;

    fn event(id: u64) -> Record {
        let event_id = id.to_string();
        Record::Event(Box::new(UsageEvent { event_id, ..UsageEvent::default() }))
    }

    #[test]
    fn behind_records_that_were_written_over_reading_goes_on_at_the_oldest_that_is_left() {
        let file = File::from(fixed_size("ring", SMALL).unwrap());
        let mut writer = Writer::new(file.try_clone().unwrap(), SMALL);
        let mut reader = Reader::new(file, SMALL, Place::default());
        for id in 1..=200 {
            writer.push(&event(id)).unwrap();
            if id <= 10 {
                reader.next_record().unwrap();
            }
            // Answered, and never noted.
            writer.release(id);
        }
        assert!(reader.next_record().is_err());
        let passed = reader.pass_gap().unwrap().unwrap();
        let first = 10 + passed + 1;
        assert!(passed > 0 && first < 190, "{passed} passed");
        for id in first..=200 {
            assert_eq!(reader.next_record().unwrap(), event(id));
        }
        assert!(reader.next_record().is_err());
        assert_eq!(reader.pass_gap().unwrap(), None, "nothing is behind the last record");
    }
}
