//! Faults for tests: what the manager API shall do wrong, set over the view.

use crate::reply::{self, Refusal, Reply};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One fault. It applies to requests of `path` before anything else looks at them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    path: String,
    /// The status to answer with; without it the request is only delayed.
    status: Option<u16>,
    /// How many requests it hits; without it all, until the faults are removed.
    times: Option<u32>,
    #[serde(default)]
    delay_ms: u64,
    /// Seconds for a `Retry-After` header.
    retry_after: Option<u32>,
    /// Refuses, with 400, only a batch that holds such an event; until the faults are removed.
    refuse_event: Option<Pattern>,
    /// Refuses, with 413, only a batch of more events; until the faults are removed.
    events_max: Option<usize>,
}

/// Events with this value in this field.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    field: String,
    value: serde_json::Value,
}

/// The faults in force, oldest first.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one, after those that are there.
    pub fn add(&mut self, fault: Fault) -> Result<(), Refusal> {
        if fault.status.is_some_and(|status| !(200..600).contains(&status)) {
            return Err(Refusal::invalid("status must be between 200 and 599"));
        }
        self.0.push(fault);
        Ok(())
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The oldest fault of this path, with one of its `times` used up.
    pub fn take(&mut self, path: &str) -> Option<Fault> {
        let is_whole = |fault: &Fault| fault.refuse_event.is_none() && fault.events_max.is_none();
        let hits = |fault: &Fault| fault.path == path && is_whole(fault) && fault.times != Some(0);
        let index = self.0.iter().position(hits)?;
        let fault = self.0.get_mut(index)?;
        fault.times = fault.times.map(|times| times - 1);
        let taken = fault.clone();
        self.0.retain(|fault| fault.times != Some(0));
        Some(taken)
    }
}

impl Faults {
    /// Why a batch of events is refused, if a fault says so.
    pub fn refusal(&self, events: &[serde_json::Value]) -> Option<Refusal> {
        self.0.iter().find_map(|fault| {
            if fault.events_max.is_some_and(|max| events.len() > max) {
                let message = "too many events, says a fault set by the test";
                return Some(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", message));
            }
            let pattern = fault.refuse_event.as_ref()?;
            let index = events.iter().position(|event| event[&pattern.field] == pattern.value)?;
            Some(Refusal::invalid(format!("event {index}: refused by a fault set by the test")))
        })
    }
}

impl Fault {
    /// How long the request waits first.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// The answer, unless the request goes on.
    pub fn reply(&self) -> Option<Reply> {
        let status = StatusCode::from_u16(self.status?).ok()?;
        let error =
            serde_json::json!({"code": "INJECTED_FAULT", "message": "a fault set by the test"});
        let mut reply = reply::json(status, &serde_json::json!({"error": error}));
        if let Some(seconds) = self.retry_after {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: serde_json::Value) -> Fault {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_counted_fault_hits_so_often_and_then_the_next_one_does() {
        let mut faults = Faults::default();
        faults
            .add(fault(
                serde_json::json!({"path": "/a", "status": 503, "times": 2, "retry_after": 7}),
            ))
            .unwrap();
        faults.add(fault(serde_json::json!({"path": "/a", "status": 500}))).unwrap();
        assert_eq!(faults.take("/b"), None);
        let first = faults.take("/a").unwrap().reply().unwrap();
        assert_eq!(
            (first.status(), &first.headers()[header::RETRY_AFTER]),
            (StatusCode::SERVICE_UNAVAILABLE, &HeaderValue::from(7))
        );
        let later: Vec<_> = (0..4).map(|_| faults.take("/a").unwrap().status).collect();
        assert_eq!(later, [Some(503), Some(500), Some(500), Some(500)]);
        faults.clear();
        assert_eq!(faults.take("/a"), None);
    }

    #[test]
    fn a_fault_of_events_refuses_the_batches_that_hold_them_and_no_others() {
        let mut faults = Faults::default();
        let poison = serde_json::json!({"field": "requested_model", "value": "x"});
        faults.add(fault(serde_json::json!({"path": "/a", "refuse_event": poison}))).unwrap();
        faults.add(fault(serde_json::json!({"path": "/a", "events_max": 2}))).unwrap();
        assert_eq!(faults.take("/a"), None);
        let events = |models: &[&str]| -> Vec<_> {
            models.iter().map(|model| serde_json::json!({"requested_model": model})).collect()
        };
        assert!(faults.refusal(&events(&["a", "b"])).is_none());
        assert!(faults.refusal(&events(&["a", "x"])).is_some());
        assert!(faults.refusal(&events(&["a", "b", "c"])).is_some());
    }

    #[test]
    fn a_fault_without_a_status_only_delays() {
        let slow = fault(serde_json::json!({"path": "/a", "delay_ms": 5}));
        assert_eq!((slow.delay(), slow.reply().is_none()), (Duration::from_millis(5), true));
    }
}
