//! Where usage events go: into the ring that the supervisor reads, before the caller has the last byte of its answer.
//!
//! What is written is in the page cache: it waits for no other process, and no death of a process takes it back. The supervisor
//! is told once that there is something, and again only after it has taken what it was told of. While the ring is full the
//! details of events are shed and counted, and their totals, exact, are written as soon as there is room.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use shared::message::ToSupervisor;
use shared::ring::{Record, WriteError, Writer};
use shared::usage::UsageEvent;
use shared::usage_total::{Totals, UsageTotal};
use tracing::warn;

use crate::link::Link;
use crate::metrics::Metrics;
use crate::server::UsageSink;

/// Texts of a provider or a caller that are longer are left out of an event that is too long for the ring.
const TEXT_BYTES_MAX: usize = 512;

/// Writes usage events into the ring.
pub struct UsageRing {
    link: Rc<Link>,
    metrics: Rc<Metrics>,
    state: RefCell<State>,
}

struct State {
    ring: Writer,
    /// Of events for which there was no room.
    totals: Totals,
    /// The supervisor has been told and has not answered.
    told: bool,
    /// Since the last record that found room, one was refused: said once.
    refused: bool,
}

impl UsageRing {
    /// Writes to `ring`.
    pub fn new(ring: Writer, link: Rc<Link>, metrics: Rc<Metrics>) -> Self {
        let state = State { ring, totals: Totals::default(), told: false, refused: false };
        Self { link, metrics, state: RefCell::new(state) }
    }

    /// The supervisor has every record up to `sequence`. False if there is no such record.
    pub fn taken(&self, sequence: u64) -> bool {
        let mut state = self.state.borrow_mut();
        state.told = false;
        let known = state.ring.release(sequence);
        state.write_totals();
        self.tell(&mut state, sequence);
        known
    }

    /// Whether there are totals that may be written when the supervisor has answered.
    pub fn has_to_wait(&self) -> bool {
        let state = self.state.borrow();
        state.told && !state.totals.is_empty()
    }

    fn tell(&self, state: &mut State, taken: u64) {
        let last = state.ring.last();
        if !state.told && last > taken {
            state.told = true;
            // Never refused: only questions are.
            let _ = self.link.tell(ToSupervisor::Usage(last));
        }
    }
}

impl UsageSink for UsageRing {
    fn record(&self, event: UsageEvent<Cow<'_, str>>) {
        let mut state = self.state.borrow_mut();
        let before = state.ring.last();
        if let Err(error) = state.write(event) {
            self.metrics.usage_dropped("sink_full", "", "", "");
            if !std::mem::replace(&mut state.refused, true) {
                warn!("details of usage events are shed, their totals are kept: {error}");
            }
        }
        self.tell(&mut state, before);
    }

    fn rest(&self) {
        self.state.borrow_mut().ring.rest();
    }
}

impl State {
    /// Writes an event, or keeps what it comes to and says why.
    fn write(&mut self, mut event: UsageEvent<Cow<'_, str>>) -> Result<(), WriteError> {
        let mut written = self.ring.push_event(&event);
        if matches!(written, Err(WriteError::TooLong)) {
            shorten(&mut event);
            written = self.ring.push_event(&event);
        }
        if written.is_err() {
            self.totals.add(UsageTotal::of(&event));
            // There is room: nothing would write it later.
            if matches!(written, Err(WriteError::TooLong)) {
                self.write_totals();
            }
        } else {
            self.refused = false;
        }
        written.map(drop)
    }

    fn write_totals(&mut self) {
        while let Some(total) = self.totals.pop() {
            let record = Record::Total(total);
            if let (Err(_), Record::Total(total)) = (self.ring.push(&record), record) {
                self.totals.add(total);
                return;
            }
        }
    }
}

/// Leaves out what strangers could make long without end.
fn shorten(event: &mut UsageEvent<Cow<'_, str>>) {
    for text in [
        &mut event.provider_request_id,
        &mut event.provider_model_version,
        &mut event.finish_reason,
        &mut event.attempt_model,
        &mut event.requested_model,
        &mut event.error_message,
        &mut event.client_user_agent,
    ] {
        if text.len() > TEXT_BYTES_MAX {
            *text = Cow::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use shared::ring::RING_BYTES;

    use super::*;

    fn state(bytes: u64) -> State {
        let memory = File::from(shared::memory::fixed_size("ring", bytes).unwrap());
        State {
            ring: Writer::new(memory, bytes),
            totals: Totals::default(),
            told: false,
            refused: false,
        }
    }

    fn event(prompt_tokens: u32) -> UsageEvent<Cow<'static, str>> {
        UsageEvent { prompt_tokens, ..UsageEvent::default() }
    }

    #[test]
    fn what_finds_no_room_is_written_as_one_total_when_there_is_some() {
        let mut state = state(256);
        let (mut written, mut shed) = (0, 0);
        for _ in 0..10 {
            match state.write(event(3)) {
                Ok(()) => written += 1,
                Err(_) => shed += 1,
            }
        }
        assert!(written > 0 && shed > 0);
        state.write_totals();
        assert!(!state.totals.is_empty(), "there is no room yet");
        assert!(state.ring.release(written));
        state.write_totals();
        assert!(state.totals.is_empty());
        assert_eq!(state.ring.last(), written + 1);
    }

    #[test]
    fn an_event_that_a_provider_made_too_long_loses_its_texts_and_not_its_tokens() {
        let mut state = state(RING_BYTES);
        let long = UsageEvent { provider_request_id: "x".repeat(1 << 20).into(), ..event(3) };
        assert!(state.write(long).is_ok());
        assert_eq!(state.ring.last(), 1);
        let longer = UsageEvent { trace_id: "x".repeat(1 << 20).into(), ..event(3) };
        assert!(matches!(state.write(longer), Err(WriteError::TooLong)));
        assert!(state.totals.is_empty(), "its total is written at once");
        assert_eq!(state.ring.last(), 2);
    }
}
