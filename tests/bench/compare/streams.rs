//! Streams at once, with an event each every 20 ms: what an event costs, how late it comes, and how soon the first one does.
//!
//! An event is on its way from the stamp that the upstream puts into it, just before its `write`, until the kernel has its last
//! byte for the caller, within the `write` of who relays it: what lies between is the relay's, and the kernel's work of two
//! sendings. Neither a load that comes late to read it, nor an upstream that comes late to send it, is in it. Of `direct` it is
//! one `write`. By how much longer a gap between two events of a stream was when they came than when they were sent is what is
//! added to it.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::cpu::{self, Core};
use crate::figure::percentile;
use crate::load::{self, Progress};
use crate::peers::Peer;
use crate::rounds::Values;
use crate::upstream::{self, PACE};

/// From the first event of the last stream until it is measured.
const CALM: Duration = Duration::from_millis(300);
/// What streams last longer than the opening of all and the measurement.
const SPARE: Duration = Duration::from_millis(1500);

/// The percentage of events whose times are known less well, below which no p99 is theirs.
pub const UNSURE_MAX: f64 = 0.5;

/// What stands for what a subject adds to a stream.
pub const ADDED: &[(&str, &str)] = &[
    ("first_event_p50_us", "added_first_event_p50_us"),
    ("first_event_p99_us", "added_first_event_p99_us"),
    ("gap_p99_ms", "added_gap_p99_ms"),
];

/// One turn of a subject: so many streams at once, measured for so long while all of them run.
pub fn turn(peer: &Peer, streams: usize, time: Duration) -> Result<Values, String> {
    let opening = Duration::from_millis(streams as u64);
    let lasting = opening + CALM + time + SPARE;
    let events_each = u64::try_from(lasting.as_nanos() / PACE.as_nanos()).unwrap_or(u64::MAX);
    let progress = Progress::default();
    let before = peer.before()?;
    let (mut seen, middle) = thread::scope(|scope| {
        let load = scope.spawn(|| load::streams(&peer.target, streams, events_each, &progress));
        while progress.begun.load(Ordering::Relaxed) < streams && !load.is_finished() {
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(CALM);
        let middle = measure(peer, time, &progress);
        let seen = load.join().map_err(|_| "the load has panicked".to_owned())??;
        Ok::<_, String>((seen, middle))
    })?;
    peer.settle(before, streams as u64)?;
    let is_whole = middle.events as f64 > 0.9 * middle.expected(streams);
    if !is_whole || middle.ended > 0 {
        let expected = middle.expected(streams);
        return Err(format!(
            "{} of {expected:.0} events came while it was measured",
            middle.events
        ));
    }

    let unknown = seen.unknown as f64 / (seen.unknown as f64 + seen.delay.len() as f64);
    let value = |samples: &mut Vec<u32>, hundredths, unit: f64| {
        percentile(samples, hundredths).map(|it| it / unit).ok_or("no event came".to_owned())
    };
    let mut values = vec![
        ("first_event_p50_us", "us", value(&mut seen.first_event, 50, 1e3)?),
        ("first_event_p99_us", "us", value(&mut seen.first_event, 99, 1e3)?),
        ("event_delay_p50_us", "us", value(&mut seen.delay, 50, 1e3)?),
        ("event_delay_p99_us", "us", value(&mut seen.delay, 99, 1e3)?),
        ("gap_p99_ms", "ms", value(&mut seen.added_gap, 99, 1e6)?),
        ("events_sent_late", "%", middle.sent_late),
        ("events_bunched", "%", middle.bunched),
        ("events_left_out", "%", 100.0 * unknown),
        ("core_0_busy_streams", "%", middle.busy[0]),
        ("core_1_busy_streams", "%", middle.busy[1]),
    ];
    if !peer.processes().is_empty() {
        let per_event = middle.used.as_secs_f64() * 1e6 / middle.events as f64;
        values.push(("cpu_us_per_event", "us", per_event));
    }
    Ok(values)
}

/// What was seen while all streams ran.
struct Middle {
    events: u64,
    time: Duration,
    used: Duration,
    busy: [f64; 2],
    /// The percentage of events in whose sending the upstream was interrupted.
    sent_late: f64,
    /// The percentage of events that the upstream sent after their time.
    bunched: f64,
    /// Streams that had ended before it was over.
    ended: usize,
}

impl Middle {
    /// Events that the upstream has sent meanwhile.
    fn expected(&self, streams: usize) -> f64 {
        self.time.as_secs_f64() / PACE.as_secs_f64() * streams as f64
    }
}

fn measure(peer: &Peer, time: Duration, progress: &Progress) -> Middle {
    let cores = [Core::now(cpu::GATEWAY), Core::now(cpu::REST)];
    progress.counts.store(true, Ordering::Relaxed);
    let sent = || {
        let counts = [&upstream::SENT, &upstream::SENT_LATE, &upstream::BUNCHED];
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
    let (sent_late, bunched) = (percent(1), percent(2));
    let busy =
        [Core::now(cpu::GATEWAY).busy_since(cores[0]), Core::now(cpu::REST).busy_since(cores[1])];
    let ended = progress.ended.load(Ordering::Relaxed);
    Middle { events, time, used, busy, sent_late, bunched, ended }
}
