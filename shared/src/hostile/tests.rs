use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::export::{Attempt, Numbered, Trace};
use crate::frame::Header;
use crate::id::{Revision, WorkerId};
use crate::memory::MemoryReader;
use crate::resource::{Exporter, Kind};
use crate::ring::{Record, Writer};
use crate::usage::UsageEvent;
use crate::usage_total::UsageTotal;
use crate::worker_settings::{RoleSettings, StatusSettings, WorkerSettings};

/// Bytes that each target takes for a value: damage is done to them.
fn valid() -> Vec<(&'static str, Vec<u8>)> {
    let read = |memory| {
        let mut bytes = Vec::new();
        MemoryReader::new(memory).read_to_end(&mut bytes).unwrap();
        bytes
    };
    let said = ToSupervisor::KeysInUse(vec![("key".to_owned(), 3), ("other".to_owned(), 70_000)]);
    let told = ToWorker::Client(message::Client::Worker(WorkerId(70_000)));
    let keep = ToCache::Keep { key: [7; 32], seconds: 60, length: 70_000, first: vec![1; 40] };
    let found = FromCache::Found { length: 70_000, first: vec![1; 40] };
    let attempts = vec![Attempt { provider: "openai".to_owned(), ..Attempt::default() }];
    let trace = ToExport::Trace(Box::new(Trace { attempts, cost_usd: 0.5, ..Trace::default() }));
    let exporter = Exporter {
        id: "o".to_owned(),
        name: "otel".to_owned(),
        endpoint: "https://o.example/v1/traces".parse().unwrap(),
        headers: vec![("x-key".to_owned(), "k".to_owned().into())],
        sample_rate: 1.0,
    };
    let exporters = vec![Numbered { number: 1, exporter }];
    let exporting = Exporting { instance_id: "i".to_owned(), exporters, ..Exporting::default() };
    let of = |kind: u16, body: Vec<u8>| [vec![kind as u8], body].concat();
    let ring = memory::fixed_size("ring", 4096).unwrap();
    let event = Record::Event(Box::<UsageEvent>::default());
    let mut writer = Writer::new(File::from(ring.try_clone().unwrap()), 4096);
    writer.push(&event).unwrap();
    writer.push(&event).unwrap();
    let changes = [Change::Delete(Kind::Model, "m-1".to_owned())];
    let verdicts = [("k-1", &budget::Verdict::Forget)];
    let settings = WorkerSettings {
        role: RoleSettings::Status(StatusSettings {
            metrics_path: "/metrics".to_owned(),
            has_page: true,
        }),
        log_filter: "info".to_owned(),
        e2e_buckets: vec![0.5, 1.0],
        ttft_buckets: Vec::new(),
        guardrail_buckets: vec![0.25],
    };
    vec![
        ("frame", frame::encode(Header::new(1, 2, 3), b"body").unwrap()),
        ("to_supervisor", of(said.kind(), said.encode().unwrap())),
        ("to_worker", of(told.kind(), told.encode().unwrap())),
        ("to_worker", {
            let told = ToWorker::Configuration { revision: Revision(9), whole: true };
            of(told.kind(), told.encode().unwrap())
        }),
        ("ring", read(ring)),
        ("ring", codec::encode(&event).unwrap()),
        ("ring", codec::encode(&Record::Total(UsageTotal::default())).unwrap()),
        ("changes", read(update::write(1, changes.iter()).unwrap())),
        ("settings", read(message::welcome(&settings).unwrap())),
        ("to_cache", of(keep.kind(), keep.encode().unwrap())),
        ("from_cache", of(found.kind(), found.encode().unwrap())),
        ("to_export", of(trace.kind(), trace.encode().unwrap())),
        ("exporters", read(exporting.seal().unwrap())),
        ("budgets", read(budget::write(1, verdicts.into_iter()).unwrap())),
    ]
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn every_target_has_bytes_that_it_takes_and_no_truncation_of_them_can_break_it() {
    let valid = valid();
    for (name, target) in TARGETS {
        assert!(valid.iter().any(|(of, _)| *of == name), "{name}");
        target(&[]);
    }
    for (name, bytes) in valid {
        for length in 0..=bytes.len().min(2048) {
            target(name)(&bytes[..length]);
        }
        target(name)(&bytes);
    }
}

proptest! {
    #[test]
    fn no_bytes_can_break_a_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, target) in TARGETS {
            target(&bytes);
        }
    }

    #[test]
    fn no_damage_to_what_is_valid_can_break_a_decoder(
        which in 0..14_usize,
        damage in prop::collection::vec((0..4096_usize, any::<u8>()), 1..6),
    ) {
        let valid = valid();
        let (name, mut bytes) = valid[which].clone();
        for (at, byte) in damage {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        target(name)(&bytes);
    }

    #[test]
    fn a_length_that_somebody_made_up_reserves_nothing(
        kind in 1..20_u8,
        length in any::<u64>(),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let huge = [&[0xfd][..], &length.to_le_bytes(), &rest].concat();
        for (_, target) in TARGETS {
            target(&[&[kind][..], &huge].concat());
            target(&huge);
        }
    }
}
