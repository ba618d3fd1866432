//! What stays exact of usage whose details had to go: sums per caller key, model and hour.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use crate::usage::UsageEvent;

/// Billionths of a dollar in a dollar. Sums of whole numbers come out the same in any order.
const NANOS: f64 = 1e9;
/// The most events that a total becomes: no sum of an hour comes near what they hold.
const EVENTS_MAX: u64 = 64;
/// The largest sum that is believed.
const SUM_MAX: u64 = EVENTS_MAX * u32::MAX as u64;
/// The longest id that sums are kept apart by.
pub const ID_BYTES_MAX: usize = 256;
/// Bytes of the beginning of an hour.
const HOUR_BYTES: usize = 20;
/// Totals kept apart in memory. What has other keys is added up in one of its own.
const TOTALS_MAX: usize = 100_000;

/// The sums of some events that share key, model and hour.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct UsageTotal {
    /// Resource id of the caller key.
    pub api_key_id: String,
    /// Resource id of the model.
    pub model_id: String,
    /// Beginning of the hour, RFC 3339 UTC.
    pub hour: String,
    /// How many events these sums stand for.
    pub events: u64,
    /// Sum of the field of that name.
    pub prompt_tokens: u64,
    /// Sum of the field of that name.
    pub completion_tokens: u64,
    /// Sum of the field of that name.
    pub cached_prompt_tokens: u64,
    /// Sum of the field of that name.
    pub reasoning_tokens: u64,
    /// Sum of the field of that name.
    pub cache_creation_tokens: u64,
    /// Sum of the field of that name.
    pub cache_read_tokens: u64,
    /// Sum of the costs, in billionths of a dollar.
    pub cost_nano_usd: u64,
}

/// By what totals are kept apart: caller key, model, hour.
pub type TotalKey = (String, String, String);

impl UsageTotal {
    /// The totals of one event.
    pub fn of<S: AsRef<str>>(event: &UsageEvent<S>) -> Self {
        Self {
            api_key_id: event.api_key_id.as_ref().to_owned(),
            model_id: event.model_id.as_ref().to_owned(),
            hour: hour(event.occurred_at.as_ref()),
            events: u64::from(event.aggregated_events.max(1)),
            prompt_tokens: event.prompt_tokens.into(),
            completion_tokens: event.completion_tokens.into(),
            cached_prompt_tokens: event.cached_prompt_tokens.into(),
            reasoning_tokens: event.reasoning_tokens.into(),
            cache_creation_tokens: event.cache_creation_tokens.into(),
            cache_read_tokens: event.cache_read_tokens.into(),
            cost_nano_usd: nanos(event.cost_usd),
        }
    }

    /// Whether it is what events can come to.
    pub fn is_plausible(&self) -> bool {
        let sums = [
            self.events,
            self.prompt_tokens,
            self.completion_tokens,
            self.cached_prompt_tokens,
            self.reasoning_tokens,
            self.cache_creation_tokens,
            self.cache_read_tokens,
        ];
        sums.iter().all(|sum| *sum <= SUM_MAX)
            && are_ids([&self.api_key_id, &self.model_id])
            && self.hour.len() == HOUR_BYTES
    }

    /// The same sums under a key that stands for all those there is no room for.
    pub fn anonymous(self) -> Self {
        Self { api_key_id: String::new(), model_id: String::new(), hour: hour(""), ..self }
    }

    /// By what it is kept apart from others.
    pub fn key(&self) -> TotalKey {
        (self.api_key_id.clone(), self.model_id.clone(), self.hour.clone())
    }

    /// Adds the sums of another one with the same key.
    pub fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.events, other.events);
        add(&mut self.prompt_tokens, other.prompt_tokens);
        add(&mut self.completion_tokens, other.completion_tokens);
        add(&mut self.cached_prompt_tokens, other.cached_prompt_tokens);
        add(&mut self.reasoning_tokens, other.reasoning_tokens);
        add(&mut self.cache_creation_tokens, other.cache_creation_tokens);
        add(&mut self.cache_read_tokens, other.cache_read_tokens);
        add(&mut self.cost_nano_usd, other.cost_nano_usd);
    }

    /// Takes the sums of another one away, which were added before.
    pub fn subtract(&mut self, other: &Self) {
        let subtract = |sum: &mut u64, less: u64| *sum = sum.saturating_sub(less);
        subtract(&mut self.events, other.events);
        subtract(&mut self.prompt_tokens, other.prompt_tokens);
        subtract(&mut self.completion_tokens, other.completion_tokens);
        subtract(&mut self.cached_prompt_tokens, other.cached_prompt_tokens);
        subtract(&mut self.reasoning_tokens, other.reasoning_tokens);
        subtract(&mut self.cache_creation_tokens, other.cache_creation_tokens);
        subtract(&mut self.cache_read_tokens, other.cache_read_tokens);
        subtract(&mut self.cost_nano_usd, other.cost_nano_usd);
    }

    /// As events for the Cloud, which have one field of 32 bits for each sum: several where a sum is larger, but no more
    /// than [`EVENTS_MAX`]. Each has the id that `id` makes for it.
    pub fn into_events(mut self, mut id: impl FnMut() -> String) -> Vec<UsageEvent> {
        let mut events = Vec::new();
        let nothing = self.emptied();
        while self != nothing && (events.len() as u64) < EVENTS_MAX {
            let event_id = id();
            events.push(UsageEvent {
                request_id: format!("totals-{event_id}"),
                event_id,
                occurred_at: self.hour.clone(),
                model_id: self.model_id.clone(),
                api_key_id: self.api_key_id.clone(),
                prompt_tokens: take(&mut self.prompt_tokens),
                completion_tokens: take(&mut self.completion_tokens),
                cached_prompt_tokens: take(&mut self.cached_prompt_tokens),
                reasoning_tokens: take(&mut self.reasoning_tokens),
                cache_creation_tokens: take(&mut self.cache_creation_tokens),
                cache_read_tokens: take(&mut self.cache_read_tokens),
                aggregated_events: take(&mut self.events),
                cost_usd: std::mem::take(&mut self.cost_nano_usd) as f64 / NANOS,
                status_code: 200,
                ..UsageEvent::default()
            });
        }
        events
    }

    fn emptied(&self) -> Self {
        let (api_key_id, model_id, hour) = self.key();
        Self { api_key_id, model_id, hour, ..Self::default() }
    }
}

/// A cost in billionths of a dollar; nothing where it is no amount.
pub fn nanos(cost_usd: f64) -> u64 {
    // A cast from a float saturates, and makes 0 of what is no number.
    if cost_usd.is_finite() { (cost_usd * NANOS).round() as u64 } else { 0 }
}

/// Whether an event can have cost that.
pub fn is_plausible(cost_usd: f64) -> bool {
    cost_usd.is_finite() && cost_usd >= 0.0
}

fn are_ids(ids: [&String; 2]) -> bool {
    ids.iter().all(|id| id.len() <= ID_BYTES_MAX)
}

/// Totals by key, model and hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<TotalKey, UsageTotal>);

impl Totals {
    /// Adds a total.
    pub fn add(&mut self, total: UsageTotal) {
        let has_room = self.0.len() < TOTALS_MAX || self.0.contains_key(&total.key());
        let is_kept = has_room && are_ids([&total.api_key_id, &total.model_id]);
        let total = if is_kept { total } else { total.anonymous() };
        match self.0.get_mut(&total.key()) {
            Some(sum) => sum.add(&total),
            None => drop(self.0.insert(total.key(), total)),
        }
    }

    /// Takes a total away that was added before.
    pub fn subtract(&mut self, total: &UsageTotal) {
        let key = total.key();
        if let Some(sum) = self.0.get_mut(&key) {
            sum.subtract(total);
            if *sum == sum.emptied() {
                self.0.remove(&key);
            }
        }
    }

    /// Takes one out.
    pub fn pop(&mut self) -> Option<UsageTotal> {
        self.0.pop_first().map(|(_, total)| total)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &UsageTotal> {
        self.0.values()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As much of a sum as a field can hold.
fn take(sum: &mut u64) -> u32 {
    let taken = u32::try_from(*sum).unwrap_or(u32::MAX);
    *sum = sum.saturating_sub(taken.into());
    taken
}

/// The hour of a moment in RFC 3339, UTC.
fn hour(moment: &str) -> String {
    format!("{}:00:00Z", moment.get(..13).unwrap_or("1970-01-01T00"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(prompt: u32, completion: u32, cost_usd: f64) -> UsageEvent {
        UsageEvent {
            api_key_id: "k".to_owned(),
            model_id: "m".to_owned(),
            occurred_at: "2026-09-01T10:15:30Z".to_owned(),
            prompt_tokens: prompt,
            completion_tokens: completion,
            cost_usd,
            ..UsageEvent::default()
        }
    }

    #[test]
    fn a_total_names_the_beginning_of_the_hour() {
        assert_eq!(UsageTotal::of(&event(1, 2, 0.0)).hour, "2026-09-01T10:00:00Z");
        assert_eq!(UsageTotal::of(&<UsageEvent>::default()).hour, "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_cost_that_is_no_amount_counts_for_nothing() {
        assert_eq!(
            [nanos(f64::NAN), nanos(-1.0), nanos(0.1), nanos(f64::INFINITY)],
            [0, 0, 100_000_000, 0]
        );
    }

    #[test]
    fn a_total_that_nobody_can_have_used_is_not_believed_and_becomes_few_events() {
        let total = UsageTotal::of(&event(1, 2, 0.5));
        assert!(total.is_plausible());
        let most = UsageTotal { prompt_tokens: SUM_MAX, ..total.clone() };
        assert!(most.is_plausible());
        let events = most.into_events(String::new);
        let prompt: u64 = events.iter().map(|event| u64::from(event.prompt_tokens)).sum();
        assert_eq!(prompt, SUM_MAX);
        let invented = UsageTotal { events: u64::MAX, ..total.clone() };
        assert!(!invented.is_plausible());
        assert_eq!(invented.into_events(String::new).len() as u64, EVENTS_MAX);
        assert!(!UsageTotal { model_id: "x".repeat(257), ..total.clone() }.is_plausible());
        assert!(!UsageTotal { hour: String::new(), ..total }.is_plausible());
        assert!(is_plausible(0.0));
        assert!(!is_plausible(f64::INFINITY) && !is_plausible(-1.0) && !is_plausible(f64::NAN));
    }

    #[test]
    fn invented_keys_take_no_memory_without_end_and_lose_no_token() {
        let mut totals = Totals::default();
        let one = UsageTotal::of(&event(1, 0, 0.0));
        let of = |n: usize| UsageTotal { model_id: n.to_string(), ..one.clone() };
        (0..TOTALS_MAX + 50).for_each(|n| totals.add(of(n)));
        assert_eq!(totals.iter().count(), TOTALS_MAX + 1);
        totals.add(UsageTotal { model_id: "x".repeat(257), ..one.clone() });
        let prompt: u64 = totals.iter().map(|total| total.prompt_tokens).sum();
        assert_eq!(prompt, TOTALS_MAX as u64 + 51);
    }

    proptest! {
        #[test]
        fn folding_and_unfolding_keeps_every_sum(
            counts in proptest::collection::vec((any::<u32>(), any::<u32>(), 0..1000u32), 1..40)
        ) {
            let mut totals = Totals::default();
            let (mut prompt, mut completion, mut cost) = (0, 0, 0);
            for (one, two, cents) in &counts {
                totals.add(UsageTotal::of(&event(*one, *two, f64::from(*cents) / 100.0)));
                prompt += u64::from(*one);
                completion += u64::from(*two);
                cost += u64::from(*cents) * 10_000_000;
            }
            let total = totals.pop().unwrap();
            prop_assert!(totals.is_empty());
            let mut number = 0;
            let events = total.into_events(|| { number += 1; number.to_string() });
            let sum = |field: fn(&UsageEvent) -> u32| -> u64 {
                events.iter().map(|event| u64::from(field(event))).sum()
            };
            prop_assert_eq!(sum(|event| event.prompt_tokens), prompt);
            prop_assert_eq!(sum(|event| event.completion_tokens), completion);
            prop_assert_eq!(sum(|event| event.aggregated_events), counts.len() as u64);
            prop_assert_eq!(events.iter().map(|event| nanos(event.cost_usd)).sum::<u64>(), cost);
        }
    }
}
