//! Asks the Cloud: as many calls at a time as the schedule permits, each over a kept connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};

use super::Budgets;
use super::calls::Outcome;
use super::decision::Decision;
use super::key::{Moment, Rules};
use super::table::Table;
use crate::backoff::chance;
use crate::cloud::manager::{ManagerError, Reason, Session};
use crate::findings::{Findings, Topic};

const PATH: &str = "/dp/budget_check?api_key_id=";
/// How often decisions are handed to the store.
const KEEP_EVERY: Moment = 1_000;
/// How long a connection is kept that nobody needs.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(8);
/// The longest that the Cloud can put us off: callers wait, and few calls are made anyway while it is not well.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The loop looks around at least so often while connections are open.
const LOOK_EVERY: Moment = 2_000;
/// A step of the clock on the wall that makes kept decisions older or younger than they are.
const CLOCK_STEP: Moment = 1_000;

/// Asks until it is dropped.
pub(super) async fn run(budgets: Budgets, session: impl Fn() -> Session, findings: Findings) {
    let common = &budgets.0;
    let mut idle: Vec<(Session, Instant)> = Vec::new();
    let mut calls = FuturesUnordered::new();
    let mut keep_at = common.clock.now();
    let mut report = Report::default();
    let mut kept_ahead = common.clock.ahead();
    loop {
        let now = common.clock.now();
        idle.retain(|(_, since)| since.elapsed() < CONNECTION_IDLE_MAX);
        let wake_at = {
            let mut table = budgets.table();
            table.tick(now);
            while let Some(id) = table.next(now) {
                let session = idle.pop().map_or_else(&session, |(session, _)| session);
                calls.push(call(session, id));
            }
            report.tell(&table, &common.rules, &findings);
            let ahead = common.clock.ahead();
            if (ahead - kept_ahead).abs() >= CLOCK_STEP {
                kept_ahead = ahead;
                table.keep_all();
            }
            if now >= keep_at && table.has_unkept() {
                keep_at = now + KEEP_EVERY;
                let unkept = table.take_unkept(false, now, ahead);
                if !unkept.is_empty() {
                    common.store.store(unkept);
                }
            }
            if table.has_untold() {
                common.changed.notify_one();
            }
            let keep = table.has_unkept().then_some(keep_at);
            let look = (!idle.is_empty()).then_some(now + LOOK_EVERY);
            [table.next_at(now), keep, look].into_iter().flatten().min()
        };
        let pause = wake_at.map(|at| u64::try_from(at - now).unwrap_or_default());
        let asleep = sleep(Duration::from_millis(pause.unwrap_or(3_600_000)));
        tokio::select! {
            Some((session, id, answer)) = calls.next() => {
                idle.push((session, Instant::now()));
                let now = common.clock.now();
                budgets.table().done(&id, outcome(answer), now, chance());
            }
            () = common.wake.notified() => {}
            () = asleep => {}
        }
    }
}

async fn call(
    mut session: Session,
    id: Arc<str>,
) -> (Session, Arc<str>, Result<Bytes, ManagerError>) {
    let answer = session.get(&format!("{PATH}{}", encoded(&id))).await;
    (session, id, answer)
}

/// An id as it stands in a query.
fn encoded(id: &str) -> String {
    let mut encoded = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn outcome(answer: Result<Bytes, ManagerError>) -> Outcome {
    let reason = match answer {
        Ok(body) => {
            return match Decision::read(&body) {
                Ok(decision) => Outcome::Decided(Box::new(decision)),
                Err(error) => Outcome::Refused(error.to_string()),
            };
        }
        Err(error) => error.reason,
    };
    let text = reason.to_string();
    match reason {
        Reason::Status { status, retry_after, .. }
            if status >= 500 || status == 408 || status == 429 =>
        {
            let pause = retry_after.map(|pause| pause.min(PAUSE_MAX).as_millis());
            Outcome::Away(text, pause.and_then(|pause| Moment::try_from(pause).ok()))
        }
        Reason::Status { .. } => Outcome::Refused(text),
        _ => Outcome::Away(text, None),
    }
}

/// What the findings say: the first reason stays until it is over, however reasons change.
#[derive(Default)]
struct Report {
    away: Option<String>,
    refused: Option<String>,
}

impl Report {
    fn tell(&mut self, table: &Table, rules: &Rules, findings: &Findings) {
        if !table.is_away() {
            self.away = None;
        } else if self.away.is_none() {
            let reason = table.calls().reason.as_deref().unwrap_or("no answer");
            let unknown = if rules.unknown_allowed { "allowed" } else { "denied" };
            self.away = Some(format!(
                "the Cloud gives no budget decisions: {reason}; each caller key is served by its last decision for {} s, \
                 then by its fail mode; keys without one are {unknown} (managed.budget_unknown)",
                rules.stale_max / 1_000
            ));
        }
        match table.refused() {
            None => self.refused = None,
            Some((id, reason, _)) => {
                self.refused.get_or_insert_with(|| {
                    format!(
                        "the Cloud does not decide about some caller keys, such as {id}: {reason}; their last decisions \
                         count for {} s; check that the keys belong to this environment",
                        rules.stale_max / 1_000
                    )
                });
            }
        }
        match self.away.as_ref().or(self.refused.as_ref()) {
            Some(text) => findings.found(Topic::Budgets, text.clone()),
            None => findings.settled(Topic::Budgets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_value_of_the_query_whatever_it_holds() {
        assert_eq!(encoded("k-1_a.b~C9"), "k-1_a.b~C9");
        assert_eq!(encoded("a&b=c/ü %"), "a%26b%3Dc%2F%C3%BC%20%25");
    }

    #[test]
    fn an_answer_that_decides_nothing_is_a_refusal() {
        assert!(matches!(outcome(Ok("{}".into())), Outcome::Refused(_)));
        assert!(matches!(outcome(Ok(r#"{"allow":false}"#.into())), Outcome::Decided(_)));
    }
}
