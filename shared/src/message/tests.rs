use proptest::prelude::*;

use super::*;
use crate::signing::{KeyForm, KeyKind};
use crate::version::PROTOCOLS;

fn key_set() -> KeySet {
    KeySet {
        provider_id: "o".to_owned(),
        source: "i u".to_owned(),
        fetched_at_unix_ms: 300,
        keys: b"{}".to_vec(),
    }
}

fn from_worker() -> Vec<ToSupervisor> {
    let hello = Hello {
        worker: WorkerId(7),
        role: Role::Proxy,
        protocols: PROTOCOLS,
        version: "1.0".to_owned(),
        confinement: Confinement { seccomp: true, landlock_abi: 7, missing: vec!["x".to_owned()] },
    };
    vec![
        ToSupervisor::Hello(hello),
        ToSupervisor::Ready,
        ToSupervisor::Applied(Revision(300)),
        ToSupervisor::Refused(Revision(-1), "no".to_owned()),
        ToSupervisor::Usage(300),
        ToSupervisor::Series(Series { family: 2, first_slot: 9, labels: vec!["a".to_owned()] }),
        ToSupervisor::Pong(1, 2),
        ToSupervisor::Fetch(Page::Config),
        ToSupervisor::KeysInUse(vec![("k".to_owned(), 3)]),
        ToSupervisor::KeyTaken(4),
        ToSupervisor::KeySet(key_set()),
        ToSupervisor::ExporterHealth(vec![Health {
            number: 3,
            delivered: 4,
            failed: 300,
            failed_in_a_row: 2,
            last_error: Some("no".to_owned()),
            last_failure_unix: Some(5),
            last_success_unix: None,
        }]),
    ]
}

fn from_supervisor() -> Vec<ToWorker> {
    vec![
        ToWorker::Welcome,
        ToWorker::Configuration { revision: Revision(5), whole: true },
        ToWorker::Ping(3),
        ToWorker::Retire,
        ToWorker::Drain,
        ToWorker::Page(503, "text/plain".to_owned()),
        ToWorker::Activate,
        ToWorker::UsageTaken(9),
        ToWorker::Budgets { whole: true },
        ToWorker::Peer(Role::Egress),
        ToWorker::Client(Client::Worker(WorkerId(7))),
        ToWorker::Destinations { whole: true },
        ToWorker::Resolver,
        ToWorker::SigningKey(SigningKey {
            number: 4,
            id: [7; 32],
            kind: KeyKind::EcdsaP384,
            form: KeyForm::Sec1,
            tls12: true,
        }),
        ToWorker::Certificate,
        ToWorker::Counters { lane: 3 },
        ToWorker::Outlive,
        ToWorker::KeySet(key_set()),
        ToWorker::LogFilter("debug".to_owned()),
        ToWorker::Client(Client::Exporter(WorkerId(7))),
        ToWorker::Exporters,
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

/// An old worker and a new supervisor meet during an upgrade: these bytes never change.
#[test]
fn the_bytes_of_every_message_are_the_released_ones() {
    assert_eq!(
        golden(from_worker()),
        [
            "1 0700020203312e300107010178".to_owned(),
            "2 ".to_owned(),
            "3 fb5802".to_owned(),
            "4 01026e6f".to_owned(),
            "5 fb2c01".to_owned(),
            "6 0209010161".to_owned(),
            "7 0102".to_owned(),
            "8 01".to_owned(),
            "9 01016b03".to_owned(),
            "12 04".to_owned(),
            "10 016f03692075fb2c01027b7d".to_owned(),
            "11 010304fb2c010201026e6f010a00".to_owned(),
        ]
    );
    assert_eq!(
        golden(from_supervisor()),
        [
            "1 ",
            "2 0a01",
            "3 03",
            "4 ",
            "5 ",
            "6 fbf7010a746578742f706c61696e",
            "7 ",
            "8 09",
            "9 01",
            "10 02",
            "11 0107",
            "12 01",
            "13 ",
            &format!("14 04{}010101", "07".repeat(32)),
            "15 ",
            "16 03",
            "17 ",
            "18 016f03692075fb2c01027b7d",
            "19 056465627567",
            "11 0207",
            "20 ",
        ]
    );
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
    survives_every_damage(from_worker());
    survives_every_damage(from_supervisor());
}

#[test]
fn an_unknown_kind_is_refused() {
    for kind in [0, 13, u16::MAX] {
        assert!(matches!(ToSupervisor::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
    }
    for kind in [0, 21, u16::MAX] {
        assert!(matches!(ToWorker::decode(kind, &[]), Err(MessageError::UnknownKind(_))));
    }
}

#[test]
fn a_length_that_a_hostile_worker_made_up_reserves_nothing() {
    let endless = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(ToSupervisor::decode(4, &endless).is_err());
}

/// A variant that this build does not know, where one is encoded: the first one behind the last.
#[test]
fn an_unknown_tag_within_a_body_is_refused() {
    let unknown_page = [6];
    assert!(ToSupervisor::decode(8, &unknown_page).is_err());
    let unknown_role = [6];
    assert!(ToWorker::decode(10, &unknown_role).is_err());
    let unknown_client = [3];
    assert!(ToWorker::decode(11, &unknown_client).is_err());
    let neither_yes_nor_no = [2];
    assert!(ToWorker::decode(9, &neither_yes_nor_no).is_err());
    let hello_of_an_unknown_role = [7, 6, 1, 1, 0, 1, 7, 0];
    assert!(ToSupervisor::decode(1, &hello_of_an_unknown_role).is_err());
}

#[test]
fn a_body_of_a_frame_claims_no_more_memory_than_four_bodies() {
    // So many empty keys fit into a body, and would be eight times as large as it is.
    let count = 30_000_usize;
    let keys: Vec<(String, u32)> = vec![(String::new(), 0); count];
    let body = ToSupervisor::KeysInUse(keys).encode().unwrap();
    assert!(body.len() <= BODY_BYTES_MAX);
    assert!(ToSupervisor::decode(9, &body).is_err());
}

proptest! {
    #[test]
    fn no_body_of_any_kind_can_panic_the_decoder(kind: u16, body: Vec<u8>) {
        let _ = ToSupervisor::decode(kind, &body);
        let _ = ToWorker::decode(kind, &body);
    }
}
