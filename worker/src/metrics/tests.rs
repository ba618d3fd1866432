use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use shared::memory;
use shared::metric::MEMORY_BYTES;
use shared::metric::log_linear::Bucket;

use super::*;
use crate::limits::Shown;

/// Metrics, and what the supervisor would see of them.
struct Seen {
    metrics: Rc<Metrics>,
    memory: File,
    series: Rc<RefCell<Vec<Series>>>,
}

impl Seen {
    fn new() -> Self {
        let memory = memory::fixed_size("test", MEMORY_BYTES).unwrap();
        let series = Rc::<RefCell<Vec<_>>>::default();
        let announced = Rc::clone(&series);
        let announce = move |new| announced.borrow_mut().push(new);
        let metrics = Metrics::open(memory.try_clone().unwrap(), announce).unwrap();
        metrics.configure("env-1", EdgeSets::from_seconds(&[0.1, 1.0], &[0.5], &[0.001]));
        Self { metrics: Rc::new(metrics), memory: memory.into(), series }
    }

    fn request(&self, facts: &RequestFacts<'_>) {
        self.metrics.request(facts, &self.metrics.places(facts));
    }

    fn slot(&self, index: u64) -> u64 {
        let mut slot = [0; 8];
        self.memory.read_exact_at(&mut slot, index * 8).unwrap();
        u64::from_ne_bytes(slot)
    }

    /// The first slots and labels of a family's series.
    fn of(&self, name: &str) -> Vec<(u64, Vec<String>)> {
        let series = self.series.borrow();
        let named = |series: &&Series| Family::from_number(series.family).unwrap().name == name;
        series
            .iter()
            .filter(named)
            .map(|series| (u64::from(series.first_slot), series.labels.clone()))
            .collect()
    }

    /// The number of the only series of a counter or gauge.
    fn number(&self, name: &str) -> u64 {
        let series = self.of(name);
        assert_eq!(series.len(), 1, "{name}");
        self.slot(series[0].0)
    }
}

fn facts() -> RequestFacts<'static> {
    RequestFacts {
        client_type: "curl",
        endpoint: "/v1/chat/completions",
        inbound_protocol: "openai",
        provider: "openai",
        model: "gpt-4o",
        dispatched: "gpt-4o",
        upstream_model: "gpt-4o-2024",
        provider_key_id: "pk-1",
        provider_key_name: "main",
        api_key_id: "k-1",
        team_id: "",
        user_id: "u-1",
        user_name: "Ada",
        stream: true,
        status: 200,
        duration: Duration::from_millis(300),
        ttft: Some(Duration::from_millis(40)),
        prompt_tokens: 7,
        completion_tokens: 5,
        reached_llm: true,
        is_fallback: false,
        spend_micro_usd: 3,
    }
}

#[test]
fn a_streamed_request_is_counted_in_every_family_it_belongs_to() {
    let seen = Seen::new();
    seen.request(&facts());
    seen.request(&facts());
    assert_eq!(seen.number("aisix_requests_total"), 2);
    assert_eq!(seen.number("aisix_proxy_requests_total"), 2);
    assert_eq!(seen.number("aisix_llm_requests_total"), 2);
    assert_eq!(seen.number("aisix_llm_input_tokens_total"), 14);
    assert_eq!(seen.number("aisix_llm_output_tokens_total"), 10);
    assert_eq!(seen.number("aisix_llm_total_tokens_total"), 24);
    assert_eq!(seen.number("aisix_tokens_consumed_total"), 24);
    assert!(seen.of("aisix_proxy_failed_requests_total").is_empty());

    let (_, labels) = &seen.of("aisix_proxy_requests_total")[0];
    assert_eq!(labels[8..], ["unknown", "u-1", "Ada", "true", "false", "200", "success"]);
    let (_, labels) = &seen.of("aisix_request_e2e_latency_seconds")[0];
    let expected = ["env-1", "/v1/chat/completions", "gpt-4o", "openai", "2xx", "true"];
    assert_eq!(labels[..], expected);
}

#[test]
fn durations_are_where_the_layout_says() {
    let seen = Seen::new();
    seen.request(&facts());
    let (histogram, _) = seen.of("aisix_request_e2e_latency_seconds")[0];
    let slots: Vec<_> = (0..4).map(|offset| seen.slot(histogram + offset)).collect();
    assert_eq!(slots, [300_000, 0, 1, 0], "sum, up to 0.1 s, up to 1 s, above");

    let (summary, _) = seen.of("aisix_llm_time_to_first_token_seconds")[0];
    let bucket = Bucket::of(40_000);
    let chunk = seen.slot(summary + 1 + bucket.chunk as u64);
    assert_eq!(seen.slot(summary), 40_000);
    assert_eq!(seen.slot(chunk + bucket.position as u64), 1);
}

#[test]
fn a_request_that_reached_no_model_is_not_counted_as_one_that_did() {
    let seen = Seen::new();
    let denied =
        RequestFacts { status: 401, reached_llm: false, ttft: None, stream: false, ..facts() };
    seen.request(&denied);
    assert_eq!(seen.number("aisix_proxy_failed_requests_total"), 1);
    let (_, labels) = &seen.of("aisix_requests_total")[0];
    assert_eq!(labels[2..], ["401", "client_error"]);
    let families: Vec<_> = seen.series.borrow().iter().map(|series| series.family).collect();
    for family in families.into_iter().filter_map(Family::from_number) {
        assert!(!family.name.contains("llm") && !family.name.contains("ttft"), "{}", family.name);
    }
}

#[test]
fn what_differs_in_one_label_counts_elsewhere_and_what_is_alike_in_the_same_place() {
    let seen = Seen::new();
    let metrics = &seen.metrics;
    let others = [
        RequestFacts { dispatched: "gpt-4o-mini", ..facts() },
        RequestFacts { client_type: "codex", ..facts() },
        RequestFacts { status: 500, ..facts() },
        RequestFacts { stream: false, ..facts() },
        RequestFacts { is_fallback: true, ..facts() },
        RequestFacts { team_id: "t-1", ..facts() },
    ];
    let places = metrics.places(&facts());
    for other in others {
        assert!(!Rc::ptr_eq(&places, &metrics.places(&other)), "{other:?}");
    }
    let alike = RequestFacts { prompt_tokens: 9, duration: Duration::from_secs(9), ..facts() };
    assert!(Rc::ptr_eq(&places, &metrics.places(&alike)));
}

#[test]
fn requests_in_flight_go_up_and_down() {
    let seen = Seen::new();
    let guards = [(); 3].map(|()| seen.metrics.in_flight("/v1/models", "openai"));
    assert_eq!(seen.number("aisix_proxy_in_flight_requests"), 3);
    let _other = seen.metrics.in_flight("/v1/models", "anthropic");
    let by_labels = seen.of("aisix_proxy_in_flight_requests");
    let by_labels: Vec<_> = by_labels.iter().map(|(slot, _)| seen.slot(*slot)).collect();
    assert_eq!(by_labels, [3, 1]);
    drop(guards);
    assert_eq!(seen.slot(seen.of("aisix_proxy_in_flight_requests")[0].0), 0);
}

#[test]
fn every_method_gives_as_many_labels_as_its_family_has() {
    let seen = Seen::new();
    let metrics = &seen.metrics;
    seen.request(&facts());
    seen.request(&RequestFacts { status: 503, ..facts() });
    let _guard = metrics.in_flight("/v1/models", "openai");
    metrics.auth("api_key", "denied", "unknown_key");
    metrics.usage_emitted(&facts(), &metrics.places(&facts()));
    metrics.usage_dropped("sink_full", "gpt-4o", "pk-1", "main");
    metrics.attempt(&facts(), &metrics.places(&facts()), true);
    metrics.attempt(&facts(), &metrics.places(&facts()), false);
    metrics.client_cancelled("/v1/chat/completions", "gpt-4o", "pk-1", "main");
    metrics.body_limit_rejected("/v1/chat/completions", "openai", "completed");
    metrics.dropped();
    metrics.handshake("ok");
    metrics.cache_request("p", "miss");
    metrics.cache_failed("find");
    metrics.guardrail("words", "keyword", "input", "blocked", "none", Duration::ZERO);
    metrics.guardrail_blocked();
    metrics.guardrail_bypassed("buffer_exceeded");
    metrics.cooled_down("openai", "gpt-4o", "gpt-4o-2024", "pk-1");
    metrics.fallback("group", "gpt-4o", true);
    metrics.fallback("group", "gpt-4o", false);
    metrics.export_dropped("otel", "queue_full", 3);
    metrics.export_failed("otel");
    metrics.overload_rejected("a", "b");
    metrics.limited("requests", "api_key", "none");
    metrics.limits_left(
        ["k-1", "gpt-4o"],
        &Shown { requests: Some((9, 8)), tokens: Some((9, 8)), ..Shown::default() },
    );

    let mut used = BTreeMap::new();
    for series in seen.series.borrow().iter() {
        let family = Family::from_number(series.family).unwrap();
        assert_eq!(series.labels.len(), family.labels.len(), "{}", family.name);
        used.insert(family.number, family.name);
    }
    assert_eq!(used.len(), shared::metric::FAMILIES.len(), "{used:?}");
}

#[test]
fn memory_that_is_too_small_is_not_counted_in() {
    let small = memory::fixed_size("test", MEMORY_BYTES - 8).unwrap();
    assert!(Metrics::open(small, |_| {}).is_err());
}

#[test]
fn a_status_is_three_digits() {
    assert_eq!(StatusText::new(200).as_str(), "200");
    assert_eq!(StatusText::new(7).as_str(), "007");
    assert_eq!(StatusText::new(u16::MAX).as_str(), "999");
}
