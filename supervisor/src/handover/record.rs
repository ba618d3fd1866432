//! What one image writes down for the next, in sealed memory.
//!
//! ```text
//! "AISIXHND"   8 bytes
//! format       u16, little-endian: the version of all that follows
//! State        by shared::codec
//! series       one value each, as many as the state says: what workers that are gone have counted
//! ```
//! A format is never changed: another one takes another number, and a build that does not know a number says so in the
//! preflight, before anything is given up. Who goes back to the build before writes the format that this one wrote.
//! Descriptors are numbers of this very process.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use bincode::{Decode, Encode};
use shared::codec::{self, CodecError};
use shared::id::{Revision, Role, WorkerId};
use shared::memory::{self, MemoryReader};
use shared::message::{Confinement, Series};
use shared::secret::Secret;

use crate::metrics::KeptSeries;

/// The format of this build.
pub const FORMAT: u16 = 1;

const MAGIC: [u8; 8] = *b"AISIXHND";
/// More series of the dead than any build keeps.
const SERIES_MAX: u64 = 1_000_000;

/// Why a state cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read or written.
    #[error("cannot use the memory of the handover: {0}")]
    Memory(#[from] io::Error),
    /// Something else.
    #[error("this is not the state of a gateway")]
    Magic,
    /// Of a build whose states are unknown here.
    #[error(
        "the state is of format {0}, this build reads format {FORMAT}; install a build in between first"
    )]
    Format(u16),
    /// It claims more than there can be.
    #[error("the state holds {0} series")]
    Series(u64),
    /// Damaged.
    #[error("the state cannot be read: {0}")]
    Codec(#[from] CodecError),
}

/// Everything that the next image needs and that is not on disk.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct State {
    /// Version text of the build that wrote it.
    pub version: String,
    /// The programs of that build: supervisor and worker, open.
    pub programs: Programs,
    /// The lock on the state directory.
    pub lock: Option<i32>,
    /// Listening sockets by the name of their role.
    pub listeners: Vec<(String, i32)>,
    /// The workers.
    pub fleet: FleetRecord,
    /// The text of the configuration file that is in force, for the way back: the file may be another by then.
    pub configuration: Secret<String>,
    /// Who the Cloud knows this process as.
    pub instance_id: u128,
    /// How long the process has run, in milliseconds.
    pub uptime_ms: u64,
    /// What the supervisor itself has counted: family, labels, number.
    pub counters: Vec<CounterRecord>,
    /// How many series follow.
    pub series: u64,
}

/// A counter of the supervisor itself: name of its family, its labels, what it has counted.
pub type CounterRecord = (String, Vec<(String, String)>, f64);

/// Open programs, and where they were.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Programs {
    /// `aisix`.
    pub supervisor: i32,
    /// `aisix-worker`.
    pub worker: i32,
    /// Where the worker's program was found.
    pub worker_path: Vec<u8>,
}

/// All workers.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct FleetRecord {
    /// Each of them.
    pub workers: Vec<WorkerRecord>,
    /// The number of the next one.
    pub next_id: u32,
    /// The latest round of questions.
    pub round: u64,
    /// The node goes away.
    pub retired: bool,
    /// How often a replacement of all workers was asked for.
    pub generation: u64,
    /// What proxy workers count in together.
    pub counters: Option<i32>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct WorkerRecord {
    /// Its name.
    pub id: WorkerId,
    /// What it is for.
    pub role: Role,
    /// Its process, by number and by descriptor.
    pub pid: i32,
    /// Becomes readable when it ends.
    pub process: i32,
    /// Our end of the control socket.
    pub control: i32,
    /// The reading end of its log.
    pub log: i32,
    /// What it counts in.
    pub metrics: Option<i32>,
    /// The series that it has announced.
    pub series: Vec<Series>,
    /// Its usage ring.
    pub ring: Option<RingRecord>,
    /// How far its life has come.
    pub life: LifeRecord,
    /// Milliseconds since its start.
    pub lived_ms: u64,
    /// The revision it serves, the highest and the latest that it was told.
    pub revisions: [Option<Revision>; 3],
    /// It has told of usage and has not been answered.
    pub usage_told: bool,
    /// The user it runs as, once it was looked at.
    pub uid: Option<u32>,
    /// What it told of its confinement.
    pub confinement: Confinement,
    /// The protocol version that was agreed on.
    pub protocol: u16,
    /// How often a replacement of all workers had been asked for when it was started.
    pub generation: u64,
    /// Which ledger in the memory of counters is its own.
    pub lane: Option<u16>,
    /// It does not hold a place: it leaves.
    pub leaving: bool,
}

/// Where in its life a worker is; times are milliseconds that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LifeRecord {
    /// It has not said hello.
    Starting(u64),
    /// It was told everything and does not serve yet.
    Joining(u64),
    /// It serves.
    Serving,
    /// It finishes what is in flight.
    Draining(Option<u64>),
    /// It was killed.
    Doomed,
}

/// A usage ring.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct RingRecord {
    /// Its name.
    pub name: String,
    /// Where it is, if it has a name in the file system.
    pub path: Option<Vec<u8>>,
    /// Open for reading.
    pub file: i32,
    /// Sequence and position of the last record that was taken.
    pub place: (u64, u64),
}

impl State {
    /// Every descriptor that comes along.
    pub fn descriptors(&self) -> Vec<i32> {
        let listeners = self.listeners.iter().map(|(_, number)| *number);
        let workers = self.fleet.workers.iter().flat_map(|worker| {
            let ring = worker.ring.as_ref().map(|ring| ring.file);
            [worker.process, worker.control, worker.log]
                .into_iter()
                .chain(worker.metrics)
                .chain(ring)
        });
        [self.programs.supervisor, self.programs.worker]
            .into_iter()
            .chain(self.lock)
            .chain(self.fleet.counters)
            .chain(listeners)
            .chain(workers)
            .collect()
    }

    /// The names of the rings that come along.
    pub fn ring_names(&self) -> Vec<String> {
        let rings = self.fleet.workers.iter().filter_map(|worker| worker.ring.as_ref());
        rings.map(|ring| ring.name.clone()).collect()
    }

    /// As sealed memory, with the series of the dead behind it.
    pub fn write(&self, series: &[KeptSeries]) -> Result<OwnedFd, RecordError> {
        let state = Self { series: series.len() as u64, ..self.clone() };
        let state = codec::encode(&state)?;
        let series: Vec<_> = series.iter().map(codec::encode).collect::<Result<_, _>>()?;
        Ok(memory::sealed("aisix-handover", |writer| {
            writer.write_all(&MAGIC)?;
            writer.write_all(&FORMAT.to_le_bytes())?;
            writer.write_all(&state)?;
            series.iter().try_for_each(|one| writer.write_all(one))
        })?)
    }

    /// What [`State::write`] wrote.
    pub fn read(memory: OwnedFd) -> Result<(Self, Vec<KeptSeries>), RecordError> {
        let mut reader = io::BufReader::new(MemoryReader::new(memory));
        let (mut magic, mut format) = ([0; 8], [0; 2]);
        reader.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(RecordError::Magic);
        }
        reader.read_exact(&mut format)?;
        match u16::from_le_bytes(format) {
            FORMAT => {}
            format => return Err(RecordError::Format(format)),
        }
        let state: Self = codec::decode_next(&mut reader)?;
        if state.series > SERIES_MAX {
            return Err(RecordError::Series(state.series));
        }
        let series = (0..state.series).map(|_| codec::decode_next(&mut reader));
        let series = series.collect::<Result<_, _>>()?;
        Ok((state, series))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let worker = WorkerRecord {
            id: WorkerId(3),
            role: Role::Proxy,
            pid: 77,
            process: 64,
            control: 65,
            log: 66,
            metrics: Some(67),
            series: vec![Series { family: 1, first_slot: 9, labels: vec!["a".to_owned()] }],
            ring: Some(RingRecord {
                name: "r".to_owned(),
                path: Some(b"/run/r".to_vec()),
                file: 68,
                place: (5, 900),
            }),
            life: LifeRecord::Draining(Some(10)),
            lived_ms: 1,
            revisions: [Some(Revision(7)), Some(Revision(8)), None],
            usage_told: true,
            uid: Some(61_000),
            confinement: Confinement::default(),
            protocol: 1,
            generation: 2,
            lane: Some(1),
            leaving: true,
        };
        let workers = vec![worker];
        let fleet = FleetRecord {
            workers,
            next_id: 4,
            round: 9,
            retired: false,
            generation: 3,
            counters: Some(74),
        };
        State {
            version: "1.2.3".to_owned(),
            programs: Programs { supervisor: 70, worker: 71, worker_path: b"/w".to_vec() },
            lock: Some(72),
            listeners: vec![("proxy".to_owned(), 73)],
            fleet,
            configuration: Secret::new("a: 1".to_owned()),
            instance_id: 99,
            uptime_ms: 1_000,
            counters: vec![("c".to_owned(), vec![("l".to_owned(), "v".to_owned())], 2.0)],
            series: 0,
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let memory = state().write(&[]).unwrap();
        let (read, series) = State::read(memory).unwrap();
        assert_eq!((read, series.len()), (state(), 0));
    }

    #[test]
    fn every_descriptor_is_named() {
        let mut numbers = state().descriptors();
        numbers.sort_unstable();
        assert_eq!(numbers, [64, 65, 66, 67, 68, 70, 71, 72, 73, 74]);
    }

    #[test]
    fn a_state_of_an_unknown_format_is_refused_and_so_is_every_cut_one() {
        let whole = {
            let mut bytes = Vec::new();
            MemoryReader::new(state().write(&[]).unwrap()).read_to_end(&mut bytes).unwrap();
            bytes
        };
        let read = |bytes: &[u8]| {
            State::read(memory::sealed("test", |writer| writer.write_all(bytes)).unwrap())
        };
        assert!(read(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes");
        }
        let mut newer = whole;
        newer[8] = 2;
        let told = read(&newer).unwrap_err().to_string();
        assert!(told.contains("format 2") && told.contains("reads format 1"), "{told}");
    }
}
