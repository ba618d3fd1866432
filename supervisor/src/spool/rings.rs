//! Reading the rings of workers, believing nothing that is in them.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use shared::id::WorkerId;
use shared::ring::{Place, RING_BYTES, ReadError, Reader, Seen};
use shared::usage_total::{self, UsageTotal, nanos};

use super::block::Encoded;
use super::ring_file::RingFile;

/// Rings that are read: of workers that run, that have ended, and of supervisors that are gone.
#[derive(Debug, Default)]
pub struct Rings {
    live: HashMap<WorkerId, Ring>,
    /// Left over from before, their writers perhaps still there.
    left_over: Vec<Ring>,
    /// Read to the end; the files go once what they held is on disk.
    finished: VecDeque<Ring>,
}

#[derive(Debug)]
struct Ring {
    file: RingFile,
    reader: Reader,
    /// The worker has been promised an answer up to this sequence.
    asked: Option<u64>,
    /// Where what was freed ends: nobody may have written more than a ring beyond it.
    free: u64,
}

/// The ring of a worker that runs, as it is handed on.
#[derive(Debug)]
pub struct LiveRing {
    /// The worker.
    pub worker: WorkerId,
    /// Its name.
    pub name: String,
    /// Where it is, if it has a name in the file system.
    pub path: Option<PathBuf>,
    /// Open for reading.
    pub file: Arc<File>,
    /// How far it was read.
    pub place: Place,
}

/// What was read of one ring.
#[derive(Debug, Default)]
pub struct Read {
    /// The events, oldest first.
    pub events: Encoded,
    /// The sums of events for which there was no room.
    pub totals: Vec<UsageTotal>,
    /// What both cost, by caller key, in billionths of a dollar.
    pub spent: HashMap<String, u128>,
    /// The ring, and how far it has been read; `None` if nothing was.
    pub place: Option<(String, Place)>,
    /// What the worker did that it may not do.
    pub fault: Option<String>,
    /// Why the file could not be read to the end.
    pub trouble: Option<String>,
    /// Records that were written over before it was noted that they are safe.
    pub gap: Option<u64>,
}

impl Ring {
    /// Reads up to a sequence, or to the end. No ring holds more than its size at a time, whoever writes meanwhile.
    fn read(&mut self, last: Option<u64>) -> Read {
        let mut read = Read::default();
        let start = self.reader.place();
        while last.is_none_or(|last| self.reader.place().sequence < last) {
            if self.reader.place().position.saturating_sub(self.free) >= RING_BYTES {
                break;
            }
            match self.reader.next_seen(|seen| read.take(seen)) {
                Ok(true) => {}
                // What is behind it counts.
                Ok(false) => {
                    read.fault = Some("it wrote usage that nobody can have used".to_owned());
                }
                // The end, of a ring that is read to its end.
                Err(ReadError::Absent(_)) if last.is_none() => break,
                // Not the worker's fault.
                Err(ReadError::Io(error)) => {
                    read.trouble = Some(format!("{}: {error}", self.file.name));
                    break;
                }
                Err(error) => {
                    read.fault = Some(error.to_string());
                    break;
                }
            }
        }
        self.reader.rest();
        let place = self.reader.place();
        read.place = (place != start).then(|| (self.file.name.clone(), place));
        read
    }
}

impl Ring {
    /// Reads what was left over. Its place may be an old one, from before the disk refused.
    fn read_left_over(&mut self) -> Read {
        let read = self.read(None);
        if read.place.is_some() || read.fault.is_some() || read.trouble.is_some() {
            return read;
        }
        match self.reader.pass_gap() {
            Ok(None) => read,
            Ok(gap) => {
                self.free = self.reader.place().position;
                Read { gap, ..self.read(None) }
            }
            Err(error) => Read { trouble: Some(format!("{}: {error}", self.file.name)), ..read },
        }
    }
}

impl Read {
    /// Keeps a record, if it can be one.
    fn take(&mut self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::Event(cost, encoded) => {
                let is_plausible = usage_total::is_plausible(cost.cost_usd);
                if is_plausible {
                    self.events.push(encoded);
                    self.spend(cost.api_key_id, nanos(cost.cost_usd));
                }
                is_plausible
            }
            Seen::Total(total) => {
                let is_plausible = total.is_plausible();
                if is_plausible {
                    self.spend(&total.api_key_id, total.cost_nano_usd);
                    self.totals.push(total);
                }
                is_plausible
            }
        }
    }

    fn spend(&mut self, key: &str, nano_usd: u64) {
        if nano_usd == 0 {
            return;
        }
        match self.spent.get_mut(key) {
            Some(sum) => *sum = sum.saturating_add(nano_usd.into()),
            None => drop(self.spent.insert(key.to_owned(), nano_usd.into())),
        }
    }
}

impl Rings {
    /// Takes over the ring of a new worker.
    pub fn open(&mut self, worker: WorkerId, file: RingFile) {
        self.live.insert(worker, ring(file, Place::default()));
    }

    /// Takes over a ring from before, which was read as far as `place`.
    pub fn adopt(&mut self, file: RingFile, place: Place) {
        self.left_over.push(ring(file, place));
    }

    /// Takes over the ring of a worker that came with an upgrade, read as far as `place`. One that has told of usage and was
    /// not answered is answered with what there is.
    pub fn adopt_live(
        &mut self,
        worker: WorkerId,
        file: RingFile,
        place: Place,
        told: bool,
    ) -> Read {
        let mut ring = ring(file, place);
        let mut read = Read::default();
        if told {
            read = ring.read(None);
            ring.asked = Some(ring.reader.place().sequence);
        }
        self.live.insert(worker, ring);
        read
    }

    /// The rings of workers that run, and how far each was read.
    pub fn places(&self) -> Vec<LiveRing> {
        let rings = self.live.iter().map(|(worker, ring)| LiveRing {
            worker: *worker,
            name: ring.file.name.clone(),
            path: ring.file.path.clone(),
            file: Arc::clone(&ring.file.file),
            place: ring.reader.place(),
        });
        rings.collect()
    }

    /// A worker says that there are records up to `last`.
    pub fn told(&mut self, worker: WorkerId, last: u64) -> Read {
        let Some(ring) = self.live.get_mut(&worker) else { return Read::default() };
        if last <= ring.reader.place().sequence || ring.asked.is_some() {
            let fault = Some("it said there was usage where there can be none".to_owned());
            return Read { fault, ..Read::default() };
        }
        let mut read = ring.read(Some(last));
        let is_short = ring.reader.place().sequence < last;
        if is_short && read.fault.is_none() && read.trouble.is_none() {
            read.fault = Some("its usage ring holds more than it has room for".to_owned());
        }
        // Answered with as much as could be read: then it says again what there is.
        ring.asked = read.fault.is_none().then(|| ring.reader.place().sequence);
        read
    }

    /// What workers have written since they told: it is safe with the same commit, and need not be told of. Each worker's own.
    pub fn more(&mut self) -> Vec<(WorkerId, Read)> {
        let asked = self.live.iter_mut().filter(|(_, ring)| ring.asked.is_some());
        let reads = asked.map(|(worker, ring)| {
            let read = ring.read(None);
            ring.asked = read.fault.is_none().then(|| ring.reader.place().sequence);
            (*worker, read)
        });
        reads.collect()
    }

    /// A worker is gone: what else it has written counts too.
    pub fn gone(&mut self, worker: WorkerId) -> Read {
        let Some(mut ring) = self.live.remove(&worker) else { return Read::default() };
        let read = ring.read(None);
        self.finish(ring, &read);
        read
    }

    /// What was left over by writers that are gone now.
    pub fn abandoned(&mut self) -> Vec<Read> {
        let (done, waiting) = self.left_over.drain(..).partition(|ring| ring.file.is_abandoned());
        self.left_over = waiting;
        let done: Vec<Ring> = done;
        let mut reads = Vec::new();
        for mut ring in done {
            let read = ring.read_left_over();
            self.finish(ring, &read);
            reads.push(read);
        }
        reads
    }

    /// A ring that could not be read to the end stays where it is, for the next start.
    fn finish(&mut self, ring: Ring, read: &Read) {
        if read.trouble.is_none() {
            self.finished.push_back(ring);
        }
    }

    /// Everything read so far is safe. Whom to answer, and up to which sequence.
    pub fn taken(&mut self) -> Vec<(WorkerId, u64)> {
        let asked = self.live.iter_mut();
        let answers = asked.filter_map(|(worker, ring)| {
            let sequence = ring.asked.take()?;
            ring.free = ring.reader.place().position;
            Some((*worker, sequence))
        });
        answers.collect()
    }

    /// Removes the files of rings that were read to the end, and names them.
    pub fn remove_finished(&mut self) -> Vec<(String, std::io::Result<()>)> {
        self.finished.drain(..).map(|ring| (ring.file.name.clone(), ring.file.remove())).collect()
    }

    /// Rings of workers that run.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Rings whose writer has to be waited for.
    pub fn left_over(&self) -> usize {
        self.left_over.len()
    }
}

fn ring(file: RingFile, place: Place) -> Ring {
    let reader = Reader::new(Arc::clone(&file.file), RING_BYTES, place);
    Ring { file, reader, asked: None, free: place.position }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use shared::ring::{Record, Writer};
    use shared::usage::UsageEvent;

    use super::*;
    use crate::spool::ring_file::RingFolders;

    fn rings() -> (Rings, Writer, File) {
        let (file, writer, _) = RingFolders::default().make(WorkerId(1)).unwrap();
        let raw = File::from(writer.try_clone().unwrap());
        let mut rings = Rings::default();
        rings.open(WorkerId(1), file);
        (rings, Writer::new(File::from(writer), RING_BYTES), raw)
    }

    #[test]
    fn a_ring_left_over_is_read_behind_what_was_written_over_unnoted() {
        let folder = tempfile::tempdir().unwrap();
        let folders = RingFolders::of(folder.path(), "e");
        let (file, writer, _) = folders.make(WorkerId(1)).unwrap();
        let mut writer = Writer::new(File::from(writer), RING_BYTES);
        let message = "x".repeat(20_000);
        for _ in 0..500 {
            let event = UsageEvent { error_message: message.clone(), ..UsageEvent::default() };
            let last = writer.push(&Record::Event(Box::new(event))).unwrap();
            writer.release(last);
        }
        drop(writer);
        let mut rings = Rings::default();
        rings.adopt(file, Place::default());
        let read = rings.abandoned().pop().unwrap();
        let gap = read.gap.unwrap();
        assert!(gap > 0 && gap + read.events.len() as u64 == 500, "{gap} passed over");
        assert_eq!(rings.remove_finished().len(), 1);
    }

    fn event() -> Record {
        Record::Event(Box::new(UsageEvent { event_id: "e".to_owned(), ..UsageEvent::default() }))
    }

    #[test]
    fn what_a_worker_tells_of_is_read_once_and_answered_once() {
        let (mut rings, mut writer, _) = rings();
        writer.push(&event()).unwrap();
        writer.push(&event()).unwrap();
        let read = rings.told(WorkerId(1), 2);
        assert_eq!((read.events.len(), read.fault), (2, None));
        assert_eq!(rings.taken(), [(WorkerId(1), 2)]);
        assert_eq!(rings.taken(), []);
    }

    #[test]
    fn what_a_worker_writes_after_it_has_told_is_answered_with_the_rest() {
        let (mut rings, mut writer, _) = rings();
        writer.push(&event()).unwrap();
        assert!(rings.more().is_empty(), "nobody has told");
        assert_eq!(rings.told(WorkerId(1), 1).events.len(), 1);
        writer.push(&event()).unwrap();
        writer.push(&event()).unwrap();
        let more: Vec<_> = rings
            .more()
            .into_iter()
            .map(|(id, read)| (id, read.events.len(), read.fault))
            .collect();
        assert_eq!(more, [(WorkerId(1), 2, None)]);
        assert_eq!(rings.taken(), [(WorkerId(1), 3)]);
        assert!(rings.more().is_empty());
    }

    #[test]
    fn a_worker_that_tells_of_what_is_not_there_is_at_fault_and_what_was_valid_counts() {
        let (mut rings, mut writer, _) = rings();
        writer.push(&event()).unwrap();
        let read = rings.told(WorkerId(1), 3);
        assert_eq!(read.events.len(), 1);
        assert!(read.fault.unwrap().contains("no record 2"));
        assert_eq!(rings.taken(), []);
        assert!(rings.told(WorkerId(1), 1).fault.is_some(), "it was told before");
    }

    #[test]
    fn usage_that_nobody_can_have_used_is_a_fault_and_what_is_behind_it_counts() {
        let (mut rings, mut writer, _) = rings();
        let total = UsageTotal { events: u64::MAX, ..UsageTotal::of(&<UsageEvent>::default()) };
        writer.push(&Record::Total(total)).unwrap();
        writer.push(&event()).unwrap();
        let read = rings.told(WorkerId(1), 2);
        assert!(read.fault.unwrap().contains("nobody can have used"));
        assert_eq!(read.events.len(), 1);
        assert_eq!(rings.taken(), []);
    }

    #[test]
    fn asking_again_before_the_answer_is_a_fault() {
        let (mut rings, mut writer, _) = rings();
        writer.push(&event()).unwrap();
        assert_eq!(rings.told(WorkerId(1), 1).fault, None);
        writer.push(&event()).unwrap();
        assert!(rings.told(WorkerId(1), 2).fault.is_some());
    }

    #[test]
    fn the_rest_of_a_dead_workers_ring_counts_up_to_the_first_damage() {
        let (mut rings, mut writer, raw) = rings();
        for _ in 0..3 {
            writer.push(&event()).unwrap();
        }
        rings.told(WorkerId(1), 1);
        let third = rings.live[&WorkerId(1)].reader.place().position * 2;
        raw.write_all_at(&[0xff; 8], third).unwrap();
        let read = rings.gone(WorkerId(1));
        assert_eq!((read.events.len(), read.fault), (1, None));
        assert_eq!(rings.remove_finished().len(), 1);
        assert!(rings.gone(WorkerId(1)).events.is_empty());
    }
}
