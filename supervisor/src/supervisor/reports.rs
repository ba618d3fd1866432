//! What is told about the workers: pages for the status worker, and how well they are confined.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use shared::counters::{self, CounterKey};
use shared::id::{Role, WorkerId};
use shared::message::Page;
use tracing::warn;

use super::Supervisor;
use crate::findings::Topic;
use crate::metrics::WorkerFacts;
use crate::pages::{self, Workers};

/// A request that was refused for overload is told of for so long, in seconds: longer than anybody is sent away.
const OVERLOAD_TOLD_FOR: u64 = 30;

impl Supervisor {
    /// Whether limits are shared with other nodes, as the workers tell it.
    pub(super) fn look_at_redis(&self) {
        let findings = &self.parts.sources.findings;
        let key = CounterKey::of(counters::LIMITS_REDIS);
        let state = self.parts.fleet.counters().known_cell(key);
        match state.map(|state| state.load(Ordering::Relaxed)) {
            Some(counters::REDIS_AWAY) => findings.found(
                Topic::Redis,
                "limits are counted on this node alone, since the Redis of ratelimit.redis cannot be used; the log of the workers says why",
            ),
            Some(_) => findings.settled(Topic::Redis),
            None => {}
        }
    }

    /// Whether requests are refused because too many come, as the workers tell it.
    pub(super) fn look_at_overload(&self) {
        let findings = &self.parts.sources.findings;
        let key = CounterKey::of(counters::OVERLOADED_AT);
        let Some(told) = self.parts.fleet.counters().known_cell(key) else { return };
        let now = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs());
        if is_overload(told.load(Ordering::Relaxed), now) {
            findings.found(
                Topic::Overload,
                "more requests come than the workers can serve, and some are answered with 503 and Retry-After; give the gateway more processors (proxy.workers) or more nodes, or have callers send less",
            );
        } else {
            findings.settled(Topic::Overload);
        }
    }

    /// Exporters may be doing differently than before.
    pub(crate) fn note_exporters(&self) {
        let findings = &self.parts.sources.findings;
        match self.parts.fleet.exporters().finding() {
            Some(text) => findings.found(Topic::Export, text),
            None => findings.settled(Topic::Export),
        }
    }

    /// The workers' confinement may be another than before.
    pub(super) fn note_sandbox(&mut self) {
        let workers = self.parts.fleet.summaries();
        self.sandbox.note(&workers, &self.parts.sources.findings);
    }

    /// How many workers there are by role, and each of them: for a page.
    pub(super) fn workers(&self) -> Workers {
        let fleet = &self.parts.fleet;
        Workers {
            facts: Role::ALL
                .into_iter()
                .map(|role| WorkerFacts {
                    role,
                    up: fleet.serving(role) as u64,
                    restarts: fleet.restarts_by_reason(role).collect(),
                })
                .collect(),
            each: fleet.summaries(),
            counters: fleet.counters(),
        }
    }

    /// Makes a page for the status worker, in a task.
    pub(super) fn make_page(&self, id: WorkerId, page: Page, request: u64) {
        let (sources, pages) = (self.parts.sources.clone(), self.pages.clone());
        let applied = self.parts.applied.get();
        let seen = self.seen();
        let (turns, in_making) = (Rc::clone(&self.page_turns), Rc::clone(&self.pages_in_making));
        in_making.set(in_making.get() + 1);
        tokio::task::spawn_local(async move {
            let _turn = turns.acquire().await;
            match pages::make(page, &sources, applied, seen).await {
                // The loop has ended if nobody takes it.
                Ok((answer, body)) => drop(pages.send((id, request, answer, body)).await),
                Err(error) => warn!(?page, %error, "cannot make a status page"),
            }
            in_making.set(in_making.get().saturating_sub(1));
        });
    }
}

/// Whether there is an overload, of which a worker has told at that moment; both in seconds since 1970. A worker writes what it
/// likes there: a moment far ahead is none.
fn is_overload(told: u64, now: u64) -> bool {
    now.abs_diff(told) <= OVERLOAD_TOLD_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overload_was_told_of_a_moment_ago_and_no_other_time_is_one() {
        for (told, expected) in
            [(1_000, true), (970, true), (969, false), (1_003, true), (0, false), (u64::MAX, false)]
        {
            assert_eq!(is_overload(told, 1_000), expected, "{told}");
        }
    }
}
