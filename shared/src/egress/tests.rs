use proptest::prelude::*;

use super::*;

fn to_egress() -> Vec<ToEgress> {
    vec![
        ToEgress::Connect(Key::provider("pk-1")),
        ToEgress::Connect(Key::manager()),
        ToEgress::Connect(Key::store("e:1")),
        ToEgress::Connect(Key::cloud_proxy()),
        ToEgress::Forget,
        ToEgress::Resolve(Key::manager()),
    ]
}

fn from_egress() -> Vec<FromEgress> {
    let refused = |refusal, place| FromEgress::Refused { refusal, place };
    let place = Some(("h".to_owned(), 443));
    vec![
        FromEgress::Connected { host: "h".to_owned(), port: 443 },
        refused(Refusal::Unknown, None),
        refused(Refusal::Resolve("x".to_owned()), place.clone()),
        refused(Refusal::Connect(111, "x".to_owned()), place.clone()),
        refused(Refusal::Timeout(300), place.clone()),
        refused(Refusal::NotPermitted("x".to_owned()), place),
        refused(Refusal::Busy, None),
        FromEgress::Resolved { host: "h".to_owned(), port: 443, addresses: vec!["::1".to_owned()] },
        FromEgress::Unresolved {
            host: "h".to_owned(),
            port: 443,
            kind: Unresolved::NoAnswer,
            words: "x".to_owned(),
        },
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
    assert_eq!(
        golden(to_egress()),
        ["1 0004706b2d31", "1 0100", "1 0203653a31", "1 0300", "2 ", "3 0100"]
    );
    assert_eq!(
        golden(from_egress()),
        [
            "1 0168fbbb01",
            "2 0000",
            "2 010178010168fbbb01",
            "2 02de0178010168fbbb01",
            "2 03fb2c01010168fbbb01",
            "2 040178010168fbbb01",
            "2 0500",
            "3 0168fbbb0101033a3a31",
            "4 0168fbbb01020178",
        ]
    );
}

fn survives_every_damage<M: Message + PartialEq + fmt::Debug>(messages: Vec<M>) {
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
    survives_every_damage(to_egress());
    survives_every_damage(from_egress());
}

#[test]
fn an_unknown_kind_is_refused() {
    for kind in [0, 5, u16::MAX] {
        assert!(matches!(ToEgress::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
        assert!(matches!(FromEgress::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
    }
}

#[test]
fn a_table_is_read_as_it_was_written_and_one_that_ends_early_is_an_error() {
    let entry = Entry { host: "h".to_owned(), port: 1, origin: Origin::Projection };
    let changes = [Change::Put(Key::provider("a"), entry), Change::Delete(Key::provider("b"))];
    assert_eq!(read_table(table(&changes).unwrap()).unwrap(), changes);
    let endless = codec::encode(&u64::MAX).unwrap();
    let memory = crate::memory::sealed("test", |writer| writer.write_all(&endless)).unwrap();
    assert!(read_table(memory).is_err());
}

#[test]
fn the_resolvers_files_are_read_as_they_were_written() {
    let files = Resolver { hosts: "127.0.0.1 a".to_owned(), resolv_conf: String::new() };
    assert_eq!(Resolver::read(files.seal().unwrap()).unwrap(), files);
}

proptest! {
    #[test]
    fn no_body_can_panic_the_decoder(kind in 0..8u16, body: Vec<u8>) {
        let _ = ToEgress::decode(kind, &body);
        let _ = FromEgress::decode(kind, &body);
    }
}
