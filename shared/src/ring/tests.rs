//! Both ends of a ring against each other, and its bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC,
};
use proptest::prelude::*;

use super::writer::keeps_blocks;
use super::*;
use crate::codec;
use crate::crc32::checksum;
use crate::memory::fixed_size;

const SMALL: u64 = 4096;

fn ring() -> (Writer, Reader) {
    let file = File::from(fixed_size("ring", SMALL).unwrap());
    let other = file.try_clone().unwrap();
    (Writer::new(file, SMALL), Reader::new(other, SMALL, Place::default()))
}

/// A ring of which every byte has its block.
fn mapped_ring() -> Writer {
    let file = File::from(fixed_size("ring", SMALL).unwrap());
    file.write_all_at(&[0; SMALL as usize], 0).unwrap();
    let writer = Writer::mapped(file, SMALL);
    assert!(writer.is_mapped());
    writer
}

fn content(writer: &Writer) -> Vec<u8> {
    let mut bytes = vec![0; SMALL as usize];
    writer.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn event(id: usize, padding: usize) -> Record {
    Record::Event(Box::new(UsageEvent {
        event_id: id.to_string(),
        error_message: "x".repeat(padding),
        ..UsageEvent::default()
    }))
}

#[test]
fn the_layout_is_the_documented_one() {
    let (mut writer, _) = ring();
    let total = UsageTotal { hour: "h".to_owned(), events: 7, ..UsageTotal::default() };
    assert_eq!(writer.push(&Record::Total(total)).unwrap(), 1);
    let mut bytes = [0; 32];
    writer.file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..4], 13_u32.to_le_bytes());
    assert_eq!(bytes[8..16], 1_u64.to_le_bytes());
    assert_eq!(bytes[16..29], [1, 0, 0, 1, b'h', 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[4..8], checksum(&[&bytes[8..29]]).to_le_bytes());
}

#[test]
fn a_full_ring_takes_nothing_until_records_are_freed() {
    let (mut writer, mut reader) = ring();
    let mut written = 0;
    while writer.push(&event(written, 100)).is_ok() {
        written += 1;
    }
    assert!(matches!(writer.push(&event(0, 100)), Err(WriteError::Full)));
    assert!(!writer.release(writer.last() + 1));
    assert_eq!(reader.next_record().unwrap(), event(0, 100));
    assert!(writer.release(1));
    writer.push(&event(written, 100)).unwrap();
    for expected in 1..=written {
        assert_eq!(reader.next_record().unwrap(), event(expected, 100));
    }
    assert!(matches!(reader.next_record(), Err(ReadError::Absent(_))));
}

#[test]
fn an_event_is_seen_as_it_was_encoded_whatever_form_its_number_has() {
    let (mut writer, mut reader) = ring();
    let Record::Event(written) = event(7, 3) else { panic!() };
    writer.push(&Record::Event(written.clone())).unwrap();
    writer.push_event(&*written).unwrap();
    let body = codec::encode(&written).unwrap();
    let otherwise = |bytes: &mut Vec<u8>| {
        bytes.extend([&[251, 0, 0], &body[..]].concat());
        Ok(())
    };
    writer.append(otherwise).unwrap();
    for _ in 0..3 {
        let seen = reader.next_seen(|seen| match seen {
            Seen::Event(_, encoded) => encoded.to_owned(),
            Seen::Total(_) => panic!(),
        });
        assert_eq!(seen.unwrap(), body);
    }
    let total = UsageTotal { events: 7, ..UsageTotal::default() };
    writer.push(&Record::Total(total.clone())).unwrap();
    reader.next_seen(|seen| assert!(matches!(seen, Seen::Total(it) if it == total))).unwrap();
}

#[test]
fn what_was_written_since_the_reader_read_ahead_is_read() {
    let (mut writer, mut reader) = ring();
    for number in 0..100 {
        writer.push(&event(number, number)).unwrap();
        assert_eq!(reader.next_record().unwrap(), event(number, number));
        assert!(matches!(reader.next_record(), Err(ReadError::Absent(_))));
        writer.release(reader.place().sequence);
    }
}

#[test]
fn a_record_that_is_too_long_is_refused() {
    let (mut writer, _) = ring();
    let long = event(1, BODY_BYTES_MAX);
    assert!(matches!(writer.push(&long), Err(WriteError::TooLong)));
}

#[test]
fn only_a_file_that_has_its_blocks_and_keeps_them_is_mapped() {
    let blocks = SMALL / 512;
    for system in [TMPFS_MAGIC, EXT4_SUPER_MAGIC] {
        assert!(keeps_blocks(system, blocks, SMALL));
        assert!(!keeps_blocks(system, blocks - 1, SMALL), "a full disk would show too late");
    }
    let others = [BTRFS_SUPER_MAGIC, XFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, NFS_SUPER_MAGIC];
    for system in others.into_iter().chain([FsType(0x2fc1_2fc1)]) {
        assert!(!keeps_blocks(system, blocks, SMALL), "{system:?}");
    }
    let (pages, mut reader) = (File::from(fixed_size("ring", SMALL).unwrap()), ring().1);
    reader.file = pages.try_clone().unwrap().into();
    let mut writer = Writer::mapped(pages, SMALL);
    assert!(!writer.is_mapped(), "it has no page yet");
    writer.push(&event(1, 3)).unwrap();
    assert_eq!(reader.next_record().unwrap(), event(1, 3));
}

#[test]
fn nothing_is_lost_when_a_mapped_ring_rests() {
    let mut writer = mapped_ring();
    let mut reader = Reader::new(writer.file.try_clone().unwrap(), SMALL, Place::default());
    for number in 0..100 {
        writer.push(&event(number, number)).unwrap();
        writer.rest();
        assert_eq!(reader.next_record().unwrap(), event(number, number));
        writer.release(reader.place().sequence);
    }
}

#[test]
fn every_truncation_and_every_damage_of_a_record_ends_the_reading_before_it() {
    let (mut writer, mut reader) = ring();
    writer.push(&event(1, 3)).unwrap();
    let first = writer.end;
    writer.push(&event(2, 3)).unwrap();
    let mut whole = vec![0; writer.end as usize];
    writer.file.read_exact_at(&mut whole, 0).unwrap();
    for at in first as usize..whole.len() {
        for damaged in [
            [&whole[..at], &vec![0; whole.len() - at][..]].concat(),
            [&whole[..at], &[whole[at] ^ 0x10], &whole[at + 1..]].concat(),
            // Its end came first.
            [&whole[..first as usize], &vec![0; at - first as usize], &whole[at..]].concat(),
        ] {
            writer.file.write_all_at(&damaged, 0).unwrap();
            reader.place = Place::default();
            reader.rest();
            assert_eq!(reader.next_record().unwrap(), event(1, 3));
            let second = reader.next_record();
            assert!(second.is_err() || damaged == whole, "damage at byte {at}: {second:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_order_over_many_laps(
        steps in proptest::collection::vec((0..900usize, 0..6usize), 1..200)
    ) {
        let (mut writer, mut reader) = ring();
        let (mut written, mut read) = (0, 0);
        for (padding, reads) in steps {
            if writer.push(&event(written, padding)).is_ok() {
                written += 1;
            }
            for _ in 0..reads.min(written - read) {
                let Record::Event(event) = reader.next_record().unwrap() else { panic!() };
                prop_assert_eq!(event.event_id, read.to_string());
                read += 1;
            }
            prop_assert!(writer.release(reader.place().sequence));
        }
    }

    #[test]
    fn a_mapped_ring_has_the_bytes_of_one_that_is_written_with_calls(
        steps in proptest::collection::vec((0..900usize, 0..4u64), 1..100)
    ) {
        let ((mut writer, _), mut mapped) = (ring(), mapped_ring());
        for (padding, kept) in steps {
            let one = writer.push(&event(padding, padding)).ok();
            prop_assert_eq!(one, mapped.push(&event(padding, padding)).ok());
            prop_assert_eq!(content(&writer), content(&mapped));
            for writer in [&mut writer, &mut mapped] {
                writer.release(writer.last().saturating_sub(kept));
            }
        }
    }

    #[test]
    fn no_content_can_panic_the_reader_or_make_it_go_on_for_ever(
        bytes in proptest::collection::vec(any::<u8>(), SMALL as usize),
        sequence: u64,
        position: u64,
    ) {
        let (writer, mut reader) = ring();
        writer.file.write_all_at(&bytes, 0).unwrap();
        reader.place = Place { sequence, position };
        let mut taken = 0;
        while reader.next_record().is_ok() {
            taken += 1;
            prop_assert!(taken <= SMALL);
        }
    }
}
