//! What guardrails have done, for usage events and metrics.

use std::borrow::Cow;
use std::collections::BTreeMap;

use shared::usage::{AppliedGuardrail, GuardrailHit, UsageEvent};

use super::Account;
use crate::guardrail::Record;
use crate::request::guard::Done;

/// Why something was let through unseen, or refused unseen: more would have had to be held back than may be.
const OVERFULL: &str = "buffer_exceeded";

/// Enters into an event what guardrails have done. What they have found is told once, by the event that ends the request.
pub(super) fn enter(account: &Account, event: &mut UsageEvent<Cow<'_, str>>) {
    let done = account.guarding.done();
    event.applied_guardrails = applied(done);
    if !account.is_settled {
        return;
    }
    for Done { rule, hook, record } in done {
        if record.is_overfull && !record.has_refused && !rule.is_monitor {
            event.guardrail_bypassed_reason = OVERFULL.into();
        }
        let Some(action) = action(record, rule.is_monitor) else { continue };
        let is_refusal = record.has_refused && !rule.is_monitor;
        event.guardrail_blocked |= is_refusal;
        if action == "masked" {
            for (name, count) in &record.tally.0 {
                *event.redacted_entity_counts.entry(name.clone()).or_default() += count;
            }
        }
        let micros = u32::try_from(record.took.as_micros()).unwrap_or(u32::MAX);
        let hit = GuardrailHit {
            guardrail_name: rule.name.clone(),
            hook: (*hook).to_owned(),
            action: action.to_owned(),
            error_type: if record.is_overfull && is_refusal { OVERFULL } else { "" }.to_owned(),
            counts: record.tally.0.clone(),
            duration_us: if rule.is_monitor { 0 } else { micros },
            ..GuardrailHit::default()
        };
        let hits = if rule.is_monitor {
            &mut event.guardrail_monitor_hits
        } else {
            &mut event.guardrail_enforced_hits
        };
        hits.push(hit);
    }
}

/// Counts what guardrails have done.
pub(super) fn count(account: &Account) {
    let metrics = &account.proxy.metrics;
    for Done { rule, hook, record } in account.guarding.done() {
        let is_bypassed = record.is_overfull && !record.has_refused && !rule.is_monitor;
        let result = match action(record, rule.is_monitor) {
            Some("blocked_unavailable") => "blocked",
            Some(action) => action,
            None if is_bypassed => "bypassed",
            None => "allowed",
        };
        let error_type = if record.is_overfull { OVERFULL } else { "none" };
        metrics.guardrail(&rule.name, &rule.kind, hook, result, error_type, record.took);
        if record.has_refused && !rule.is_monitor {
            metrics.guardrail_blocked();
        }
        if is_bypassed {
            metrics.guardrail_bypassed(OVERFULL);
        }
    }
}

/// The most that they have done, in a word; empty if nothing.
pub(super) fn outcome(account: &Account) -> &'static str {
    let enforced = || account.guarding.done().iter().filter(|done| !done.rule.is_monitor);
    if enforced().any(|done| done.record.has_refused) {
        "blocked"
    } else if enforced().any(|done| done.record.is_overfull) {
        "bypassed"
    } else if enforced().any(|done| !done.record.tally.0.is_empty()) {
        "masked"
    } else {
        ""
    }
}

fn action(record: &Record, is_monitor: bool) -> Option<&'static str> {
    let has_found = !record.tally.0.is_empty();
    match (is_monitor, record.has_refused) {
        (true, true) => Some("would_block"),
        (true, false) => has_found.then_some("would_mask"),
        (false, true) if record.is_overfull => Some("blocked_unavailable"),
        (false, true) => Some("blocked"),
        (false, false) => has_found.then_some("masked"),
    }
}

/// Each guardrail that has looked once, with the sides at which it has.
fn applied(done: &[Done]) -> Vec<AppliedGuardrail> {
    let mut sides: BTreeMap<&str, (usize, &str, &str)> = BTreeMap::new();
    for (place, Done { rule, hook, .. }) in done.iter().enumerate() {
        sides
            .entry(&rule.id)
            .and_modify(|(_, _, known)| *known = if *known == *hook { known } else { "both" })
            .or_insert((place, &rule.kind, hook));
    }
    let mut sides: Vec<_> = sides.into_values().collect();
    sides.sort_unstable();
    let applied = sides
        .into_iter()
        .map(|(_, kind, hook)| AppliedGuardrail { kind: kind.to_owned(), hook: hook.to_owned() });
    applied.collect()
}
