use proptest::prelude::*;

use super::*;
use crate::frame;

fn to_cache() -> Vec<ToCache> {
    vec![
        ToCache::Find([7; 32]),
        ToCache::Keep { key: [7; 32], seconds: 3600, length: 3, first: vec![1, 2] },
        ToCache::Part(Part { number: 1, bytes: vec![3] }),
    ]
}

fn from_cache() -> Vec<FromCache> {
    vec![
        FromCache::Found { length: 3, first: vec![1, 2] },
        FromCache::Missing,
        FromCache::Part(Part { number: 1, bytes: vec![3] }),
    ]
}

fn golden<M: Message>(messages: Vec<M>) -> Vec<String> {
    messages
        .iter()
        .map(|message| {
            let body: Vec<_> =
                message.encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{} {}", message.kind(), body.concat())
        })
        .collect()
}

/// An old worker and a new helper meet during an upgrade: these bytes never change.
#[test]
fn the_bytes_of_every_message_are_the_released_ones() {
    let key = "07".repeat(32);
    let keep = format!("2 {key}fb100e03020102");
    assert_eq!(golden(to_cache()), [format!("1 {key}"), keep, "3 010103".to_owned()]);
    assert_eq!(golden(from_cache()), ["1 03020102", "2 ", "3 010103"]);
}

fn survives_every_damage<M: Message + PartialEq + std::fmt::Debug>(messages: Vec<M>) {
    for message in messages {
        let mut bytes = message.encode().unwrap();
        assert_eq!(M::decode(message.kind(), &bytes).unwrap(), message);
        for length in 0..bytes.len() {
            assert!(M::decode(message.kind(), &bytes[..length]).is_err(), "{message:?}");
        }
        bytes.push(0);
        assert!(M::decode(message.kind(), &bytes).is_err(), "{message:?} and a byte");
    }
}

#[test]
fn a_message_that_was_cut_or_extended_is_refused() {
    survives_every_damage(to_cache());
    survives_every_damage(from_cache());
}

#[test]
fn an_unknown_kind_is_refused() {
    for kind in [0, 4, u16::MAX] {
        assert!(matches!(ToCache::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
        assert!(matches!(FromCache::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
    }
}

#[test]
fn the_largest_of_every_message_is_a_frame() {
    let bytes = vec![0; PART_BYTES_MAX];
    let length = u32::MAX;
    let keep = ToCache::Keep { key: [0; 32], seconds: u32::MAX, length, first: bytes.clone() };
    let found = FromCache::Found { length, first: bytes.clone() };
    let part = Part { number: u32::MAX, bytes };
    let bodies = [
        keep.encode().unwrap(),
        found.encode().unwrap(),
        ToCache::Part(part.clone()).encode().unwrap(),
        FromCache::Part(part).encode().unwrap(),
    ];
    for body in bodies {
        assert!(frame::encode(frame::Header::new(2, 1, 1), &body).is_ok(), "{}", body.len());
    }
}

proptest! {
    #[test]
    fn no_body_can_panic_the_decoder(kind in 0..6u16, body: Vec<u8>) {
        let _ = ToCache::decode(kind, &body);
        let _ = FromCache::decode(kind, &body);
    }
}
