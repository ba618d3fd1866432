use proptest::prelude::*;
use serde_json::Value;

use super::line::Sum;
use super::*;
use crate::metrics::Durations;

fn total(requests: u64, errors: u64, tokens: u64, micros: &[u64]) -> ModelTotals {
    ModelTotals { requests, errors, failures: 0, tokens, durations: Durations::of(micros) }
}

fn totals(models: &[(&str, u64)]) -> BTreeMap<String, ModelTotals> {
    models
        .iter()
        .map(|(name, requests)| ((*name).to_owned(), total(*requests, 0, 0, &[])))
        .collect()
}

fn told(history: &mut History, now: Instant) -> Value {
    serde_json::to_value(history.report(now, SystemTime::UNIX_EPOCH + STEP * 1_000)).unwrap()
}

fn requests(report: &Value, name: &str) -> u64 {
    let models = report["models"].as_array().unwrap();
    models
        .iter()
        .find(|it| it["name"] == name)
        .map_or(0, |it| it["sum"]["requests"].as_u64().unwrap())
}

#[test]
fn what_was_counted_before_the_first_look_is_not_of_these_fifteen_minutes() {
    let now = Instant::now();
    let mut history = History::new(now);
    history.take_in(totals(&[("a", 1_000)]), now);
    history.take_in(totals(&[("a", 1_003), ("b", 2)]), now + STEP / 2);
    let report = told(&mut history, now + STEP / 2);
    assert_eq!((requests(&report, "a"), requests(&report, "b")), (3, 2));
    assert_eq!(report["all"]["sum"]["requests"], 5);
    assert_eq!(report["models"][0]["name"], "a", "most requests first");
}

#[test]
fn each_step_holds_what_came_in_it_and_fifteen_minutes_later_nothing_does() {
    let now = Instant::now();
    let mut history = History::new(now);
    history.take_in(BTreeMap::new(), now);
    let first = BTreeMap::from([("a".to_owned(), total(2, 1, 30, &[1_000, 3_000]))]);
    history.take_in(first, now);
    let second = BTreeMap::from([("a".to_owned(), total(3, 1, 40, &[1_000, 3_000, 9_000]))]);
    history.take_in(second, now + STEP * 2);
    let report = told(&mut history, now + STEP * 2);
    let model = &report["models"][0];
    let last = |name: &str| model[name].as_array().unwrap()[STEPS - 3..].to_vec();
    assert_eq!(last("requests"), [2, 0, 1]);
    assert_eq!(last("errors"), [1, 0, 0]);
    assert_eq!(last("tokens"), [30, 0, 10]);
    let near = |value: &Value, ms: f64| (value.as_f64().unwrap() - ms).abs() < ms / 100.0;
    let (median, p95) = (last("median_ms"), last("p95_ms"));
    assert!(near(&median[0], 1.0) && near(&p95[0], 3.0), "{median:?} {p95:?}");
    assert!(median[1].is_null() && p95[1].is_null());
    assert!(near(&median[2], 9.0), "only those of the step: {median:?}");
    let later = told(&mut history, now + STEP * 92);
    assert_eq!(later["all"]["sum"]["requests"], 0);
    assert_eq!(later["models"], serde_json::json!([]), "who has no traffic is not told");
}

#[test]
fn a_step_begins_where_the_ring_does_and_lists_stay_in_order() {
    let now = Instant::now();
    let mut history = History::new(now);
    history.take_in(BTreeMap::new(), now);
    for step in 1..=200u32 {
        history.take_in(totals(&[("a", u64::from(step))]), now + STEP * step);
    }
    let report = told(&mut history, now + STEP * 201);
    let steps: Vec<_> = report["all"]["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_u64().unwrap())
        .collect();
    assert_eq!(steps.len(), STEPS);
    assert_eq!(steps.iter().sum::<u64>(), 89);
    assert_eq!(steps.last(), Some(&0), "nothing in the latest yet");
}

#[test]
fn models_with_the_most_traffic_are_told_apart_and_nothing_is_lost() {
    let now = Instant::now();
    let mut history = History::new(now);
    history.take_in(BTreeMap::new(), now);
    let names: Vec<_> = (0..80).map(|number| format!("m{number:02}")).collect();
    let mut sent: Vec<_> =
        names.iter().zip(1..).map(|(name, sent)| (name.as_str(), sent)).collect();
    history.take_in(totals(&sent), now);
    sent[0].1 += 1_000;
    history.take_in(totals(&sent), now);
    let report = told(&mut history, now);
    assert_eq!(report["models"].as_array().unwrap().len(), MODELS_MAX);
    assert_eq!(report["models"][0]["name"], "m00");
    let told: u64 = names.iter().map(|name| requests(&report, name)).sum();
    let all = sent.iter().map(|(_, sent)| sent).sum::<u64>();
    assert_eq!(told + report["other"]["sum"]["requests"].as_u64().unwrap(), all);
    assert_eq!(report["all"]["sum"]["requests"], all);
}

#[test]
fn what_the_collector_no_longer_tells_apart_is_not_counted_again() {
    let now = Instant::now();
    let mut history = History::new(now);
    history.take_in(totals(&[("a", 100), (OTHER, 5)]), now);
    history.take_in(totals(&[("a", 0), (OTHER, 105)]), now);
    history.take_in(totals(&[("a", 1), (OTHER, 107)]), now);
    assert_eq!(told(&mut history, now)["all"]["sum"]["requests"], 3);
}

#[test]
fn more_models_than_are_remembered_are_one() {
    let many = (0..5_000).map(|number| (format!("m{number}"), total(1, 0, 0, &[])));
    let bounded = bounded(many.collect(), None);
    assert_eq!(bounded.len(), TOTALS_MAX + 1);
    assert_eq!(bounded.values().map(|total| total.requests).sum::<u64>(), 5_000);
}

proptest! {
    #[test]
    fn the_steps_of_all_models_are_what_was_counted(
        counted in proptest::collection::vec((0..70usize, 0..40u64, 0..3u32), 0..300),
    ) {
        let mut now = Instant::now();
        let mut history = History::new(now);
        history.take_in(BTreeMap::new(), now);
        let mut so_far: BTreeMap<String, ModelTotals> = BTreeMap::new();
        let mut of_steps = vec![0; 1_000];
        let mut step = 0;
        for (model, requests, steps) in counted {
            now += STEP * steps;
            step += steps as usize;
            so_far.entry(format!("m{model}")).or_default().add(&total(requests, 0, requests * 2, &[]));
            of_steps[step] += requests;
            history.take_in(so_far.clone(), now);
        }
        let kept: u64 = of_steps[step.saturating_sub(STEPS - 1)..].iter().sum();
        let lines = || history.models.values().chain([&history.other]);
        let sum = lines().fold(Sum::default(), |sum, line| Sum {
            requests: sum.requests + line.sum().requests,
            tokens: sum.tokens + line.sum().tokens,
            ..sum
        });
        prop_assert_eq!((sum.requests, sum.tokens), (kept, kept * 2));
        prop_assert_eq!(history.all.sum().requests, kept);
        prop_assert!(history.models.len() <= MODELS_MAX);
    }
}
