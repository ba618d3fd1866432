//! The thread of the spool: takes commands, reads rings, and commits in groups.

mod outgoing;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use shared::id::WorkerId;
use shared::usage_total::UsageTotal;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::block::Encoded;
use super::dead_letters::DeadLetters;
use super::disk::{Disk, Opened};
use super::recent::Recent;
use super::ring_file::RingFile;
use super::rings::{Read, Rings};
use super::staged::{Staged, first_number};
use super::store::Counts;
use super::{Command, Facts, Home, Report, Settled};
use crate::findings::{Findings, Topic};
use crate::projection::report::rfc3339;

/// How long changes gather for one commit. What a worker writes meanwhile goes with it, so that an event waits no longer than
/// this and two commits, with far less than that in each second spent on commits.
const GATHERING: Duration = Duration::from_millis(100);
/// How often what workers write meanwhile is read: what it has cost is told at once.
const READING: Duration = Duration::from_millis(30);
/// How often rings are looked at whose writers may still be there.
const POLL: Duration = Duration::from_millis(100);
/// How often the database is looked at while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// Billionths of a dollar in a dollar.
const NANOS: f64 = 1e9;

/// A block on its way to the Cloud.
#[derive(Clone, Copy)]
struct OnItsWay {
    events: u64,
    /// When its first event occurred.
    begins: Option<SystemTime>,
}

/// What the thread owns.
pub struct Keeper {
    disk: Option<Disk>,
    dead_letters: Option<DeadLetters>,
    rings: Rings,
    /// Rings from before, until the database says how far they were read.
    found_rings: Vec<RingFile>,
    /// Names of rings that came with an upgrade: their workers live, nothing is left over of them.
    handed_on: Vec<String>,
    staged: Staged,
    /// Since when something is staged.
    staged_since: Option<Instant>,
    /// When it is to be read what workers that wait for an answer have written meanwhile.
    read_at: Option<Instant>,
    next: u64,
    /// Blocks on their way.
    leased: HashMap<u64, OnItsWay>,
    /// Blocks on disk that need not be read from there.
    recent: Recent,
    /// Blocks whose dead letters cannot be written: they stay leased.
    unsettled: Vec<Settled>,
    /// When that was tried last.
    settled_at: Instant,
    /// Events in blocks that are done with, until the commit.
    going: u64,
    /// The database has been open.
    was_open: bool,
    facts: Facts,
    /// The block whose first event is the oldest, and when that occurred.
    oldest: Option<(u64, Option<SystemTime>)>,
    counts: Counts,
    findings: Findings,
    reports: mpsc::UnboundedSender<Report>,
    told: watch::Sender<Facts>,
}

impl Keeper {
    pub(super) fn new(
        home: Option<Home>,
        left_over: Vec<RingFile>,
        handed_on: Vec<String>,
        findings: Findings,
        reports: mpsc::UnboundedSender<Report>,
        told: watch::Sender<Facts>,
    ) -> Self {
        let left_over: Vec<_> =
            left_over.into_iter().filter(|ring| !handed_on.contains(&ring.name)).collect();
        let disk = home.map(|home| Disk::new(home, findings.clone()));
        let dead_letters =
            disk.as_ref().map(|disk| DeadLetters::at(disk.state().join("dead_letters.jsonl")));
        Self {
            disk,
            dead_letters,
            rings: Rings::default(),
            found_rings: left_over,
            handed_on,
            staged: Staged::default(),
            staged_since: None,
            read_at: None,
            next: first_number(SystemTime::now()),
            leased: HashMap::new(),
            recent: Recent::default(),
            unsettled: Vec::new(),
            settled_at: Instant::now(),
            going: 0,
            was_open: false,
            facts: Facts::default(),
            oldest: None,
            counts: Counts::default(),
            findings,
            reports,
            told,
        }
    }

    /// Runs until it is closed or every handle is gone.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            self.open(Instant::now());
            let closing = match commands.recv_timeout(self.pause(Instant::now())) {
                Ok(command) => self.take(command, commands),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for read in self.rings.abandoned() {
                self.keep(read, None);
                // A ring that held nothing more goes all the same.
                self.touch();
            }
            self.unfold();
            let now = Instant::now();
            self.settle_again(now, closing.is_some());
            let due = self.staged_since.is_some_and(|since| now >= since + GATHERING);
            let is_commit = due || closing.is_some();
            if is_commit || self.read_at.is_some_and(|at| now >= at) {
                self.read_more(now);
            }
            if is_commit {
                self.commit(now);
            }
            if let Some(done) = closing {
                // What a ring held is on disk, and its file is gone: its row can go too.
                self.commit(now);
                self.tell();
                // Closed before the answer: whoever waits for it may open the database again.
                drop(self.disk.take());
                let _ = done.send(());
                return;
            }
            self.tell();
        }
    }

    fn pause(&self, now: Instant) -> Duration {
        let gathered = self.staged_since.map(|since| since + GATHERING);
        let retry = self.disk.as_ref().and_then(Disk::retry_at);
        let poll = (self.rings.left_over() > 0).then(|| now + POLL);
        let next = [gathered, self.read_at, retry, poll].into_iter().flatten().min();
        next.map_or(IDLE, |next| next.saturating_duration_since(now).min(IDLE))
    }

    /// Takes what waits, the one command that has come and those behind it. Says whom to tell at the end.
    fn take(
        &mut self,
        first: Command,
        commands: &Receiver<Command>,
    ) -> Option<oneshot::Sender<()>> {
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Open(worker, ring) => self.rings.open(worker, ring),
                Command::Adopt { worker, ring, place, told } => {
                    let read = self.rings.adopt_live(worker, ring, place, told);
                    self.keep(read, Some(worker));
                    self.touch();
                    if told {
                        self.read_at.get_or_insert_with(|| Instant::now() + READING);
                    }
                }
                Command::Live(answer) => {
                    // Whoever waits for an answer has it from the next one, which goes on at this place: no ring is read any further.
                    let _ = self.rings.taken();
                    // Who asks may have given up waiting.
                    let _ = answer.send(self.rings.places());
                }
                Command::Told(worker, last) => {
                    let read = self.rings.told(worker, last);
                    self.keep(read, Some(worker));
                    self.touch();
                    self.read_at.get_or_insert_with(|| Instant::now() + READING);
                }
                Command::Gone(worker) => {
                    let read = self.rings.gone(worker);
                    self.keep(read, None);
                    self.touch();
                }
                Command::Lease { end, events_max, answer } => {
                    let leased = self.lease(end, events_max);
                    let numbers = leased.blocks.clone();
                    if answer.send(leased).is_err() {
                        self.leased.retain(|number, _| !numbers.contains(number));
                    }
                    self.tell();
                }
                Command::Settle(settled) => self.settle(settled),
                Command::Close(done) => return Some(done),
            }
            // A group does not grow for ever while a drain keeps asking.
            let now = Instant::now();
            let due = self.staged_since.is_some_and(|since| now >= since + GATHERING)
                || self.read_at.is_some_and(|at| now >= at);
            next = if due { None } else { commands.try_recv().ok() };
        }
        None
    }

    /// Reads what workers have written since they told.
    fn read_more(&mut self, now: Instant) {
        let reads = self.rings.more();
        // Whoever waits for an answer does not tell again before the commit.
        self.read_at = (!reads.is_empty()).then(|| now + READING);
        reads.into_iter().for_each(|(worker, read)| self.keep(read, Some(worker)));
    }

    fn touch(&mut self) {
        self.staged_since.get_or_insert_with(Instant::now);
    }

    fn open(&mut self, now: Instant) {
        let Some(disk) = &mut self.disk else {
            // Nothing is kept: rings from before are of no use.
            self.found_rings.clear();
            return;
        };
        let Some((opened, next)) = disk.try_open(now) else { return };
        self.recent.clear();
        self.next = self.next.max(next);
        if !self.was_open {
            // The clock was set back: what was staged meanwhile must not take the place of what waits there.
            let leased = &self.leased;
            self.staged.renumber(next, &mut self.next, |number| leased.contains_key(&number));
        }
        self.counts = disk.counts();
        if let Some(landed) = disk.landed() {
            self.staged.landed(landed);
        }
        self.adopt(opened);
        self.touch();
    }

    /// Rings from before go on where they were left; what there is to say about them is said once.
    fn adopt(&mut self, opened: Opened) {
        let files = std::mem::take(&mut self.found_rings);
        let is_first = !std::mem::replace(&mut self.was_open, true);
        for row in &opened.rings {
            // Opened again after the disk had refused: the rings are ours, and live.
            if !is_first {
                break;
            }
            if self.handed_on.contains(&row.name) {
                continue;
            }
            let at = i64::try_from(row.synced_at_unix).unwrap_or(i64::MAX);
            info!(
                ring = row.name,
                sequence = row.place.sequence,
                synced_at = rfc3339(at),
                "the last run did not end in order: up to this usage record of that worker everything was on disk"
            );
            if !files.iter().any(|file| file.name == row.name) {
                warn!(
                    ring = row.name,
                    "the ring is gone: what the worker wrote after that is lost"
                );
                self.staged.rings.insert(row.name.clone(), None);
            }
        }
        for file in files {
            let row = opened.rings.iter().find(|row| row.name == file.name);
            self.rings.adopt(file, row.map(|row| row.place).unwrap_or_default());
        }
        if is_first && !opened.spend.is_empty() {
            let spent = opened.spend.iter();
            let spent = spent.map(|(key, sum)| (key.clone(), *sum as f64 / NANOS)).collect();
            let _ = self.reports.send(Report::Spent(spent));
        }
    }

    /// Keeps what was read of a ring.
    fn keep(&mut self, read: Read, worker: Option<WorkerId>) {
        match (read.fault, worker) {
            (Some(fault), Some(worker)) => {
                let _ = self.reports.send(Report::Misbehaved(worker, fault));
            }
            (Some(fault), None) => warn!("the usage ring of a worker that is gone: {fault}"),
            (None, _) => {}
        }
        if let Some(trouble) = read.trouble {
            let text = format!(
                "a usage ring cannot be read: {trouble}; its file stays, and is read at the next start: look at the disk it is on"
            );
            self.findings.found(Topic::Spool, text);
        }
        if let Some(gap) = read.gap {
            warn!(
                gap,
                "usage records of a worker were written over while the disk refused, before that they are safe was on disk: those the Cloud was not sent are lost"
            );
        }
        if self.disk.is_none() || read.place.is_none() {
            return;
        }
        for (key, nano_usd) in &read.spent {
            self.staged.spend(key, i128::try_from(*nano_usd).unwrap_or(i128::MAX));
        }
        if !read.spent.is_empty() {
            let spent = read.spent.into_iter().map(|(key, sum)| (key, sum as f64 / NANOS));
            let _ = self.reports.send(Report::Spent(spent.collect()));
        }
        for total in read.totals {
            self.facts.shed = self.facts.shed.saturating_add(total.events);
            self.staged.totals.add(total);
        }
        if !read.events.is_empty() {
            self.append(read.events);
        }
        if let Some((ring, place)) = read.place {
            self.staged.rings.insert(ring, Some(place));
        }
        self.touch();
    }

    fn append(&mut self, events: Encoded) {
        let cap = self.disk.as_ref().map_or(u64::MAX, Disk::bytes_max);
        if self.counts.bytes.saturating_add(self.staged.bytes()) >= cap {
            let count = events.len() as u64;
            for block in events.blocks() {
                let views = block.view().unwrap_or_default();
                views.iter().for_each(|event| self.staged.totals.add(UsageTotal::of(event)));
            }
            self.shed(count, "the spool has reached managed.spool_max_bytes");
            return;
        }
        let leased = &self.leased;
        match self.staged.append(events, &mut self.next, |number| leased.contains_key(&number)) {
            Ok(0) => {}
            Ok(shed) => self.shed(shed, "the disk refuses, and there is no more memory for them"),
            // Every event can be encoded: it came encoded.
            Err(error) => error!(%error, "usage events cannot be kept"),
        }
    }

    fn shed(&mut self, events: u64, reason: &str) {
        self.facts.shed = self.facts.shed.saturating_add(events);
        self.findings.found(
            Topic::Usage,
            format!(
                "details of usage events are shed, totals per caller key, model and hour stay exact: {reason}; let the gateway reach the Cloud, or raise the cap"
            ),
        );
    }

    /// Totals become events again when there is room.
    fn unfold(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let used = self.counts.bytes.saturating_add(self.staged.bytes());
        let has_room = used <= disk.bytes_max() / 2;
        if self.counts.folded == 0 || !has_room || !self.staged.unfolded.is_empty() {
            return;
        }
        let totals = disk.totals();
        let mut events = Vec::new();
        for (key, total) in totals {
            self.staged.unfolded.insert(key);
            events.extend(total.into_events(|| Uuid::new_v4().to_string()));
        }
        if !events.is_empty() {
            let leased = &self.leased;
            let is_leased = |number| leased.contains_key(&number);
            let first = self.next;
            let encoded = Encoded::of(&events);
            let append = |encoded| self.staged.append(encoded, &mut self.next, is_leased);
            if let Err(error) = encoded.and_then(append) {
                error!(%error, "totals of usage cannot be kept");
            }
            self.staged.made.extend(first..self.next);
            self.touch();
        }
    }

    fn commit(&mut self, now: Instant) {
        // Who is answered tells again.
        self.read_at = None;
        let Some(disk) = &mut self.disk else {
            self.staged_since = None;
            self.rings.remove_finished();
            self.answer();
            return;
        };
        let written = self.staged.is_empty() || disk.commit(&self.staged, now);
        // What the disk refuses is safe only as long as this process is, as the finding says; a worker cannot wait for it.
        self.staged_since = None;
        if disk.is_open() {
            self.counts = disk.counts();
        }
        self.answer();
        if !written {
            return;
        }
        for (number, block) in std::mem::take(&mut self.staged.blocks) {
            if !self.leased.contains_key(&number) {
                self.recent.add(number, block);
            }
        }
        self.staged.clear();
        self.going = 0;
        for (ring, removed) in self.rings.remove_finished() {
            if let Err(error) = removed {
                warn!(ring, %error, "a usage ring that was read to its end cannot be removed");
                continue;
            }
            self.staged.rings.insert(ring, None);
            self.touch();
        }
        if self.counts.folded == 0 && self.counts.bytes < self.cap() / 2 {
            self.settle_findings();
        }
    }

    fn cap(&self) -> u64 {
        self.disk.as_ref().map_or(u64::MAX, Disk::bytes_max)
    }

    /// Shedding is over. What the Cloud refuses is another finding of the same topic, and stays.
    fn settle_findings(&self) {
        let shedding = |text: &str| text.starts_with("details of usage events are shed");
        let list = self.findings.list();
        if list.iter().any(|(topic, it)| *topic == Topic::Usage && shedding(&it.text)) {
            self.findings.settled(Topic::Usage);
        }
    }

    fn answer(&mut self) {
        for (worker, sequence) in self.rings.taken() {
            let _ = self.reports.send(Report::Taken(worker, sequence));
        }
    }
}
