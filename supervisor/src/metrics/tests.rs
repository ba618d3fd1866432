use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use shared::metric::family::{
    AUTH_DECISIONS, E2E_LATENCY, PROXY_IN_FLIGHT, REQUEST_DURATION, TOKENS_CONSUMED,
};
use shared::metric::log_linear::{Bucket, CHUNK_SLOTS, CHUNKS};
use shared::metric::{FAMILIES, Family, LABEL_BYTES_MAX, SERIES_MAX, SLOTS};

use super::*;

/// A worker that counts as the layout says, or as it likes.
struct Pen {
    id: WorkerId,
    memory: File,
    used: u64,
}

impl Pen {
    fn new(collector: &mut Collector, id: u32) -> Self {
        let memory = new_memory().unwrap();
        collector.worker_started(WorkerId(id), memory.try_clone().unwrap());
        Self { id: WorkerId(id), memory: memory.into(), used: 2 }
    }

    fn write(&self, slot: u64, value: u64) {
        self.memory.write_all_at(&value.to_ne_bytes(), slot * 8).unwrap();
    }

    fn add(&self, slot: u64, more: u64) {
        let mut value = [0; 8];
        self.memory.read_exact_at(&mut value, slot * 8).unwrap();
        self.write(slot, u64::from_ne_bytes(value) + more);
    }

    fn take(&mut self, count: usize) -> u64 {
        let first = self.used;
        self.used += count as u64;
        self.write(0, self.used);
        first
    }

    fn series(&mut self, collector: &mut Collector, family: &Family, labels: &[&str]) -> u64 {
        let first = self.take(family.kind.slots());
        collector.announce(self.id, series(family, first, labels)).unwrap();
        first
    }

    /// Counts durations in a new summary, in microseconds.
    fn summary(&mut self, collector: &mut Collector, labels: &[&str], micros: &[u64]) -> u64 {
        let first = self.series(collector, &REQUEST_DURATION, labels);
        let mut chunks = [0; CHUNKS];
        for value in micros {
            let bucket = Bucket::of(*value);
            if chunks[bucket.chunk] == 0 {
                chunks[bucket.chunk] = self.take(CHUNK_SLOTS);
                self.write(first + 1 + bucket.chunk as u64, chunks[bucket.chunk]);
            }
            self.add(first, *value);
            self.add(chunks[bucket.chunk] + bucket.position as u64, 1);
        }
        first
    }
}

fn series(family: &Family, first_slot: u64, labels: &[&str]) -> Series {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    Series { family: family.number, first_slot: first_slot as u32, labels }
}

fn collector() -> Collector {
    Collector::new(&[0.005, 1.0], &[0.05], &[0.001])
}

/// The value of the sample that the text names `name`, with its labels.
fn sample(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

const TOKENS: &str = r#"aisix_tokens_consumed_total{provider="openai",model="gpt-4o"}"#;

#[test]
fn the_text_is_the_documented_one() {
    let mut collector = collector();
    let mut pen = Pen::new(&mut collector, 1);
    let tokens = pen.series(&mut collector, &TOKENS_CONSUMED, &["a\"b\\c\nd", "gpt-4o"]);
    pen.write(tokens, 7);
    let in_flight = pen.series(&mut collector, &PROXY_IN_FLIGHT, &["/v1/models", "openai"]);
    pen.write(in_flight, (-2i64).cast_unsigned());
    let labels = ["env-1", "/v1/models", "gpt-4o", "openai", "2xx", "true"];
    let latency = pen.series(&mut collector, &E2E_LATENCY, &labels);
    for (offset, value) in [(0, 2_504_000), (1, 1), (2, 2), (3, 3)] {
        pen.write(latency + offset, value);
    }
    pen.summary(&mut collector, &["openai", "gpt-4o", "200"], &[50, 60]);
    let own = NodeFacts {
        workers: vec![WorkerFacts {
            role: shared::id::Role::Proxy,
            up: 2,
            restarts: vec![("crashed", 1), ("hung", 0)],
        }],
        certificate: Some((1_780_000_000, 1_790_000_000)),
        config: ConfigFacts { hash: Some("ab".to_owned()), ..ConfigFacts::default() },
        ..NodeFacts::default()
    };
    let protocol = shared::version::PROTOCOLS.newest.to_string();
    let golden = include_str!("golden.txt").replace("@PROTOCOL@", &protocol);
    let golden = golden.replace("@VERSION@", shared::version::VERSION);
    assert_eq!(collector.render(&own.families()), golden);
}

#[test]
fn workers_are_added_up() {
    let mut collector = collector();
    for id in [1, 2] {
        let mut pen = Pen::new(&mut collector, id);
        let slot = pen.series(&mut collector, &TOKENS_CONSUMED, &["openai", "gpt-4o"]);
        pen.write(slot, 10);
        let slot = pen.series(&mut collector, &PROXY_IN_FLIGHT, &["/v1/models", "openai"]);
        pen.write(slot, 3);
    }
    let text = collector.render(&[]);
    assert_eq!(sample(&text, TOKENS), Some(20.0));
    let in_flight =
        r#"aisix_proxy_in_flight_requests{endpoint="/v1/models",inbound_protocol="openai"}"#;
    assert_eq!(sample(&text, in_flight), Some(6.0));
}

#[test]
fn the_totals_of_a_dead_worker_persist_and_its_gauges_vanish() {
    let mut collector = collector();
    let mut first = Pen::new(&mut collector, 1);
    let slot = first.series(&mut collector, &TOKENS_CONSUMED, &["openai", "gpt-4o"]);
    first.series(&mut collector, &PROXY_IN_FLIGHT, &["/v1/models", "openai"]);
    first.summary(&mut collector, &["openai", "gpt-4o", "200"], &[1_000; 9]);
    first.write(slot, 10);
    collector.worker_gone(WorkerId(1));
    let mut second = Pen::new(&mut collector, 2);
    let slot = second.series(&mut collector, &TOKENS_CONSUMED, &["openai", "gpt-4o"]);
    second.summary(&mut collector, &["openai", "gpt-4o", "200"], &[5_000]);
    second.write(slot, 4);
    for _ in 0..2 {
        let text = collector.render(&[]);
        assert_eq!(sample(&text, TOKENS), Some(14.0));
        assert!(!text.contains("in_flight"));
        let labels = r#"{provider="openai",model="gpt-4o",status="200""#;
        let count = format!("aisix_request_duration_seconds_count{labels}}}");
        assert_eq!(sample(&text, &count), Some(10.0));
        let median = format!("aisix_request_duration_seconds{labels},quantile=\"0.5\"}}");
        let highest = format!("aisix_request_duration_seconds{labels},quantile=\"1\"}}");
        assert!((sample(&text, &median).unwrap() - 0.001).abs() <= 0.000_01);
        assert!((sample(&text, &highest).unwrap() - 0.005).abs() <= 0.000_05);
    }
    assert_eq!(
        collector.announce(WorkerId(1), series(&TOKENS_CONSUMED, 500, &["a", "b"])),
        Err(Refusal::Worker(WorkerId(1)))
    );
}

#[test]
fn a_total_that_goes_backwards_stays_where_it_was() {
    let mut collector = collector();
    let mut pen = Pen::new(&mut collector, 1);
    let slot = pen.series(&mut collector, &TOKENS_CONSUMED, &["openai", "gpt-4o"]);
    for (written, published) in [(10, 10.0), (3, 10.0), (11, 11.0)] {
        pen.write(slot, written);
        assert_eq!(sample(&collector.render(&[]), TOKENS), Some(published));
    }
    // A worker that says it uses nothing is read as zeroes.
    pen.write(0, 0);
    assert_eq!(sample(&collector.render(&[]), TOKENS), Some(11.0));
    pen.write(0, u64::MAX);
    assert_eq!(sample(&collector.render(&[]), TOKENS), Some(11.0));
}

#[test]
fn an_announcement_that_breaks_a_rule_is_refused() {
    let mut collector = collector();
    let pen = Pen::new(&mut collector, 1);
    let mut announce = |series| collector.announce(pen.id, series);
    let family = TOKENS_CONSUMED.name;
    let tokens = |slot, labels: &[&str]| series(&TOKENS_CONSUMED, slot, labels);

    let unknown = Series { family: 999, ..tokens(5, &["a", "b"]) };
    assert_eq!(announce(unknown), Err(Refusal::Family(999)));
    let count = Refusal::LabelCount { family, expected: 2, found: 1 };
    assert_eq!(announce(tokens(5, &["a"])), Err(count));
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    assert_eq!(announce(tokens(5, &["a", &long])), Err(Refusal::LabelLength { family }));
    for first_slot in [0, SLOTS as u32, u32::MAX] {
        let refusal = Err(Refusal::Range { family, first_slot });
        assert_eq!(announce(tokens(first_slot.into(), &["a", "b"])), refusal);
    }
    announce(series(&REQUEST_DURATION, 100, &["a", "b", "c"])).unwrap();
    for first_slot in [100, 101, 100 + CHUNKS as u32] {
        let refusal = Err(Refusal::Overlap { family, first_slot });
        assert_eq!(announce(tokens(first_slot.into(), &["a", "b"])), refusal);
    }
    let before = series(&REQUEST_DURATION, 99, &["a", "b", "c"]);
    assert!(matches!(announce(before), Err(Refusal::Overlap { .. })));
    announce(tokens(99, &["a", "b"])).unwrap();
    announce(tokens(101 + CHUNKS as u64, &["a", "b"])).unwrap();
}

#[test]
fn the_number_and_the_length_of_labels_are_limited() {
    let mut collector = collector();
    let mut pen = Pen::new(&mut collector, 1);
    for n in 0..=SERIES_MAX {
        pen.series(&mut collector, &TOKENS_CONSUMED, &["openai", &n.to_string()]);
    }
    let more = series(&TOKENS_CONSUMED, pen.take(1), &["openai", "one more"]);
    let refusal = Refusal::TooMany { family: TOKENS_CONSUMED.name };
    assert_eq!(collector.announce(pen.id, more), Err(refusal));

    let mut pen = Pen::new(&mut collector, 2);
    let long = "x".repeat(LABEL_BYTES_MAX);
    let refused = FAMILIES.iter().flat_map(|family| [*family; SERIES_MAX]).find_map(|family| {
        let first = pen.take(family.kind.slots());
        let labels = vec![long.as_str(); family.labels.len()];
        collector.announce(pen.id, series(family, first, &labels)).err()
    });
    assert_eq!(refused, Some(Refusal::LabelsBytes));
}

#[test]
fn dying_again_and_again_with_new_labels_fills_no_memory_and_loses_no_total() {
    let mut collector = collector();
    let mut expected = 0.0;
    for life in 0..3 {
        let mut pen = Pen::new(&mut collector, life);
        for n in 0..SERIES_MAX {
            let labels = ["denied", "x", &format!("{life}-{n}")];
            let slot = pen.series(&mut collector, &AUTH_DECISIONS, &labels);
            pen.write(slot, 1);
            expected += 1.0;
        }
        collector.worker_gone(WorkerId(life));
    }
    let text = collector.render(&[]);
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), SERIES_MAX + 1);
    let totals = lines.iter().map(|line| line.rsplit(' ').next().unwrap());
    assert_eq!(totals.map(|total| total.parse::<f64>().unwrap()).sum::<f64>(), expected);
}

#[test]
fn a_worker_cannot_make_us_keep_more_buckets_than_its_memory_holds() {
    let mut source = {
        let memory = new_memory().unwrap();
        let file = File::from(memory.try_clone().unwrap());
        // Every slot points at the one chunk behind the first slots.
        let slots: Vec<u8> = std::iter::repeat_n(1_000u64.to_ne_bytes(), SLOTS).flatten().collect();
        file.write_all_at(&slots, 0).unwrap();
        file.write_all_at(&u64::MAX.to_ne_bytes(), 0).unwrap();
        Source::new(memory)
    };
    let slots = REQUEST_DURATION.kind.slots();
    for n in 0..SERIES_MAX {
        let labels = ["a", "b", &n.to_string()];
        source.announce(series(&REQUEST_DURATION, (1 + n * slots) as u64, &labels)).unwrap();
    }
    source.refresh().unwrap();
    let kept: usize = source.series().iter().map(|series| series.values.chunks_kept()).sum();
    assert_eq!(kept, SLOTS / CHUNK_SLOTS);
}

fn any_series() -> impl Strategy<Value = Series> {
    let labels = prop::collection::vec(".{0,8}", 0..16);
    (0..32u16, prop_oneof![0..2_000u32, any::<u32>()], labels)
        .prop_map(|(family, first_slot, labels)| Series { family, first_slot, labels })
}

/// As [`any_series`], with as many labels as the family has.
fn fitting_series() -> impl Strategy<Value = Series> {
    (0..FAMILIES.len(), 0..2_000u32).prop_map(|(number, first_slot)| {
        let family = FAMILIES[number];
        series(family, first_slot.into(), &vec!["x"; family.labels.len()])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_announcement_and_no_memory_can_panic_us(
        announced in prop::collection::vec(prop_oneof![any_series(), fitting_series()], 0..40),
        memory in prop::collection::vec(prop_oneof![0..3_000u64, any::<u64>()], 1..3_000),
    ) {
        let mut collector = collector();
        let pen = Pen::new(&mut collector, 1);
        let bytes: Vec<u8> = memory.iter().flat_map(|slot| slot.to_ne_bytes()).collect();
        pen.memory.write_all_at(&bytes, 0).unwrap();
        for series in announced {
            let _ = collector.announce(pen.id, series);
        }
        let _ = collector.render(&[]);
        collector.worker_gone(pen.id);
        for line in collector.render(&[]).lines().filter(|line| !line.starts_with('#')) {
            prop_assert!(line.starts_with("aisix_"), "{}", line);
        }
    }

    #[test]
    fn quantiles_are_within_one_percent_whatever_worker_counted(
        values in prop::collection::vec(prop_oneof![0..200u64, 0..=10_000_000u64], 1..200),
        split in 0..200usize,
    ) {
        let mut collector = collector();
        let (one, other) = values.split_at(split.min(values.len()));
        for (id, part) in [(1, one), (2, other)] {
            Pen::new(&mut collector, id).summary(&mut collector, &["a", "b", "c"], part);
        }
        let text = collector.render(&[]);
        let mut sorted = values.clone();
        sorted.sort_unstable();
        for quantile in ["0", "0.5", "0.9", "0.95", "0.99", "0.999", "1"] {
            let labels = r#"{provider="a",model="b",status="c""#;
            let name =
                format!("aisix_request_duration_seconds{labels},quantile=\"{quantile}\"}}");
            let published = sample(&text, &name).unwrap() * 1e6;
            let share: f64 = quantile.parse().unwrap();
            let rank = ((share * sorted.len() as f64).ceil() as usize).max(1);
            let exact = sorted[rank - 1] as f64;
            prop_assert!((published - exact).abs() <= exact * 0.01 + 0.001,
                "{}: {} for {}", quantile, published, exact);
        }
    }
}
