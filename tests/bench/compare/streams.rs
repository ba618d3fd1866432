//! Streams at once, with an event each every 20 ms: what an event costs, how late it comes, and how soon the first one does.
//!
//! An event is on its way from the stamp that the upstream puts into it, just before its `write`, until the kernel has its last
//! byte for the caller, within the `write` of who relays it: what lies between is the relay's, and the kernel's work of two
//! sendings. Neither a load that comes late to read it, nor an upstream that comes late to send it, is in it. Of `direct` it is
//! one `write`. By how much longer a gap between two events of a stream was when they came than when they were sent is what is
//! added to it.
//!
//! An event's cost is measured first, and its way then, for as long and with all cores kept awake ([`Awake`]): a virtual machine's
//! core may take longer to come back from sleep than a relay takes for twenty events. A machine also takes a core away a few times a
//! second, for milliseconds: that is a hundredth of the time, and would be all of the p99. So it is told for those of each [`WINDOW`], of
//! which the median counts, and for all events. A gateway that pauses by itself a few times a second shows in the latter alone: there it
//! has to be held against the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{self, Awake, Core};
use crate::figure::percentile;
use crate::load::{self, Progress};
use crate::peers::Peer;
use crate::rounds::Values;
use crate::upstream::{self, PACE};

/// From the first event of the last stream until it is measured.
const CALM: Duration = Duration::from_millis(300);
/// What streams last longer than the opening of all and the measurement.
const SPARE: Duration = Duration::from_millis(1500);

/// Long enough for a p99, and short enough that most of them are left alone by the machine.
const WINDOW: u64 = 250_000_000;

/// The percentage of events whose times are known less well, below which no p99 is theirs.
pub const UNSURE_MAX: f64 = 0.5;

/// What stands for what a subject adds to a stream.
pub const ADDED: &[(&str, &str)] = &[
    ("first_event_p50_us", "added_first_event_p50_us"),
    ("first_event_p99_us", "added_first_event_p99_us"),
    ("gap_windowed_p99_ms", "added_gap_windowed_p99_ms"),
    ("gap_p99_ms", "added_gap_p99_ms"),
];

/// One turn of a subject: so many streams at once, measured for twice so long while all of them run.
pub fn turn(
    peer: &Peer,
    upstream: &upstream::Handle,
    streams: usize,
    time: Duration,
) -> Result<Values, String> {
    let opening = Duration::from_millis(streams as u64);
    let lasting = opening + CALM + time * 2 + SPARE;
    let events_each = u64::try_from(lasting.as_nanos() / PACE.as_nanos()).unwrap_or(u64::MAX);
    let progress = Arc::new(Progress::default());
    let before = peer.before()?;
    let mut callers =
        load::Streaming::connect(&peer.target, streams, events_each, Arc::clone(&progress))?;
    let ends = upstream.in_turns(move || callers.step())?;
    while progress.begun.load(Ordering::Relaxed) < streams {
        match ends.recv_timeout(Duration::from_millis(10)) {
            Ok(ended) => return Err(ended.err().unwrap_or("the streams were too short".into())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(error) => return Err(format!("the upstream has ended: {error}")),
        }
    }
    thread::sleep(CALM);
    let middle = measure(peer, time, &progress, false);
    let awake = Awake::keep();
    let timed = measure(peer, time, &progress, true);
    let awake = awake.map(drop);
    let ended = ends.recv().map_err(|error| format!("the upstream has ended: {error}"))?;
    let mut seen = ended?;
    peer.settle(before, streams as u64)?;
    for part in [&middle, &timed] {
        let (events, expected) = (part.events, part.expected(streams));
        if (events as f64) < 0.9 * expected || part.ended > 0 {
            return Err(format!("{events} of {expected:.0} events came while it was measured"));
        }
    }

    let unknown = seen.unknown as f64 / (seen.unknown as f64 + seen.delay.len() as f64);
    let mut all_gaps: Vec<u32> = seen.added_gap.iter().map(|(_, gap)| *gap).collect();
    let value = |samples: &mut Vec<u32>, hundredths, unit: f64| {
        percentile(samples, hundredths).map(|it| it / unit).ok_or("no event came".to_owned())
    };
    let mut values = vec![
        ("first_event_p50_us", "us", value(&mut seen.first_event, 50, 1e3)?),
        ("first_event_p99_us", "us", value(&mut seen.first_event, 99, 1e3)?),
        ("event_delay_p50_us", "us", value(&mut seen.delay, 50, 1e3)?),
        ("event_delay_p99_us", "us", value(&mut seen.delay, 99, 1e3)?),
        ("gap_windowed_p99_ms", "ms", windowed_p99(&seen.added_gap).ok_or("no event came")? / 1e6),
        ("gap_p99_ms", "ms", value(&mut all_gaps, 99, 1e6)?),
        ("cores_awake", "", f64::from(u8::from(awake.is_ok()))),
        ("events_sent_late", "%", timed.sent_late),
        ("events_late", "%", timed.late),
        ("events_left_out", "%", 100.0 * unknown),
        ("core_0_busy_streams", "%", middle.busy),
    ];
    if !peer.processes().is_empty() {
        let per_event = middle.used.as_secs_f64() * 1e6 / middle.events as f64;
        values.push(("cpu_us_per_event", "us", per_event));
    }
    Ok(values)
}

/// The median of the p99 of each window. Samples have the time when they came. A window without any is as bad as can be.
fn windowed_p99(samples: &[(u64, u32)]) -> Option<f64> {
    let mut windows: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (came, sample) in samples {
        windows.entry(came / WINDOW).or_default().push(*sample);
    }
    // The first and the last one are cut off.
    let (first, last) = (*windows.keys().next()?, *windows.keys().next_back()?);
    let p99 = |number| {
        let samples = windows.get_mut(&number);
        samples.and_then(|it| percentile(it, 99)).unwrap_or(WINDOW as f64)
    };
    let mut p99s: Vec<_> = (first + 1..last).map(p99).collect();
    p99s.sort_by(f64::total_cmp);
    p99s.get(p99s.len() / 2).copied()
}

/// What was seen while all streams ran.
struct Middle {
    events: u64,
    time: Duration,
    used: Duration,
    /// The percentage that the gateway's core was busy.
    busy: f64,
    /// The percentage of events in whose sending the upstream was interrupted.
    sent_late: f64,
    /// The percentage of events that the upstream sent after their time.
    late: f64,
    /// Streams that had ended before it was over.
    ended: usize,
}

impl Middle {
    /// Events that the upstream has sent meanwhile.
    fn expected(&self, streams: usize) -> f64 {
        self.time.as_secs_f64() / PACE.as_secs_f64() * streams as f64
    }
}

/// Measures for so long; the times of events are told if they are wanted.
fn measure(peer: &Peer, time: Duration, progress: &Progress, are_timed: bool) -> Middle {
    let core = Core::now(cpu::GATEWAY);
    progress.counts.store(are_timed, Ordering::Relaxed);
    let sent = || {
        let counts = [&upstream::SENT, &upstream::SENT_LATE, &upstream::LATE];
        counts.map(|count| count.load(Ordering::Relaxed) as f64)
    };
    let (begin, used, before) = (Instant::now(), peer.used(), sent());
    let events = progress.events.load(Ordering::Relaxed);
    thread::sleep(time);
    let events = progress.events.load(Ordering::Relaxed) - events;
    let (used, time) = (peer.used().saturating_sub(used), begin.elapsed());
    progress.counts.store(false, Ordering::Relaxed);
    let after = sent();
    let percent =
        |count: usize| 100.0 * (after[count] - before[count]) / (after[0] - before[0]).max(1.0);
    let (sent_late, late) = (percent(1), percent(2));
    let busy = Core::now(cpu::GATEWAY).busy_since(core);
    let ended = progress.ended.load(Ordering::Relaxed);
    Middle { events, time, used, busy, sent_late, late, ended }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p99_of_windows_is_that_of_most_of_them_and_the_cut_off_ones_do_not_count() {
        let window = |number: u64, gap: u32| (0..100).map(move |it| (number * WINDOW + it, gap));
        let mut samples: Vec<_> = (1..6).flat_map(|number| window(number, 10)).collect();
        assert_eq!(windowed_p99(&samples), Some(10.0));
        // The machine takes the core away in two windows, and for a moment in a third one.
        samples.extend((1..3).flat_map(|number| window(number, 5_000)));
        samples.push((3 * WINDOW, 5_000));
        assert_eq!(windowed_p99(&samples), Some(10.0));
        // In most of them events come late.
        samples.extend((3..6).flat_map(|number| window(number, 5_000)));
        assert_eq!(windowed_p99(&samples), Some(5_000.0));
        assert_eq!(windowed_p99(&[(0, 1), (WINDOW, 2)]), None);
        assert_eq!(windowed_p99(&[]), None);
        // Nothing came for two windows of three.
        let samples: Vec<_> = [1, 2, 5].into_iter().flat_map(|number| window(number, 10)).collect();
        assert_eq!(windowed_p99(&samples), Some(WINDOW as f64));
    }
}
