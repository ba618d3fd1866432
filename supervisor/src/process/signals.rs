//! Signals between two programs of one process: held back until somebody listens, for what has no handler yet would end the
//! process.

use nix::sys::signal::{SigSet, Signal, raise};
use tracing::warn;

/// What the event loop listens to and that would otherwise end the process. Workers are born with nothing held back.
const HEARD: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];
/// What nobody sends to end a process that is still starting.
const AT_START: [Signal; 2] = [Signal::SIGHUP, Signal::SIGUSR2];

/// Holds back all of them in this thread, those it starts, and the program that it executes.
pub fn hold() {
    set(&HEARD, true);
}

/// Holds back those that are not meant to end the process. To be called first thing.
pub fn hold_at_start() {
    set(&AT_START, true);
}

/// Lets them come: those that came meanwhile are there at once.
pub fn release() {
    set(&HEARD, false);
}

/// Has the program that this thread executes hear a signal that was heard here.
pub fn leave_to_the_next(signal: i32) {
    hold();
    // To this thread alone, where it waits over the execution.
    if let Err(error) = Signal::try_from(signal).and_then(raise) {
        warn!(signal, %error, "a signal cannot be left to the next program");
    }
}

fn set(signals: &[Signal], hold: bool) {
    let signals: SigSet = signals.iter().copied().collect();
    let done = if hold { signals.thread_block() } else { signals.thread_unblock() };
    if let Err(error) = done {
        warn!(%error, "cannot hold signals back, or let them come");
    }
}
