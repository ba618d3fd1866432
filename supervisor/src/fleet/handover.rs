//! Workers that outlive the image, or the supervisor, that started them: written down for the next, taken in again, and
//! replaced.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use shared::id::{Role, WorkerId};
use shared::message::Series;
use shared::ring;
use tokio::time::{self, timeout_at};
use tracing::{debug, warn};

use super::counting::NodeCounters;
use super::life::Life;
use super::member::{Member, Place};
use super::{Fleet, Happening, listener_tls};
use crate::handover::Passing;
use crate::handover::orphans;
use crate::handover::record::{FleetRecord, LifeRecord, RingRecord, WorkerRecord};
use crate::handover::taken::Taken;
use crate::process::View;
use crate::process::launch::{Launched, Program};
use crate::spool::LiveRing;
use crate::spool::ring_file::RingFile;

/// What the fleet does not know of a worker and that is written down with it: the slots it counts in, and its series.
pub type Counting<'a> = &'a dyn Fn(WorkerId) -> Option<(BorrowedFd<'a>, Vec<Series>)>;

/// Where the next supervisor asks a worker for its listener: beside its ring. A folder that cannot hold a socket is told once.
pub(super) fn adoption(ring: &RingFile, told: &mut bool) -> Option<OwnedFd> {
    let path = ring.path.as_deref()?;
    match orphans::listen(path) {
        Ok(socket) => Some(socket),
        Err(error) => {
            if !std::mem::replace(told, true) {
                warn!(folder = %path.parent().unwrap_or(Path::new("")).display(),
                    "workers leave at once if the supervisor is killed: no socket can be made beside their rings: {error}");
            }
            None
        }
    }
}

impl Fleet {
    /// From now on workers outlive us if we are killed, where the folder of their rings can hold a socket.
    pub fn let_outlive(&mut self) {
        self.outlive = true;
    }

    /// What workers are started from.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The listening sockets, by the name of their role.
    pub fn listeners(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let posts = self.posts.iter();
        let listeners = posts.filter_map(|post| Some((post.role.name(), post.listener.as_ref()?)));
        listeners.map(|(name, listener)| (name, listener.as_fd())).collect()
    }

    /// The processes of workers.
    pub fn pids(&self) -> Vec<Pid> {
        self.members().map(|member| member.pid).collect()
    }

    /// Whether a slot is held by a worker that the latest replacement of all has started.
    pub fn has_newest(&self) -> bool {
        let newest = |it: &Member| it.place == Place::Holder && it.generation == self.generation;
        self.members().any(newest)
    }

    /// Whether a worker serves a configuration.
    pub fn is_configured(&self) -> bool {
        self.members().any(|member| member.applied.is_some())
    }

    /// Whether every worker that should run has said hello.
    pub fn is_greeted(&self) -> bool {
        let mut wanted = self.slots.iter().enumerate().filter(|(_, slot)| slot.wanted);
        wanted.all(|(slot, _)| self.holder(slot).is_some_and(Member::is_welcome))
    }

    /// Reads nothing more of what workers say: it stays in their sockets.
    pub fn pause(&mut self) {
        // Nobody is started any more.
        self.roll = None;
        self.members().for_each(Member::pause);
    }

    /// Whether nothing more is read.
    pub fn is_paused(&self) -> bool {
        self.members().all(Member::is_paused)
    }

    /// Whether a worker waits to be told that its usage was taken.
    pub fn has_untaken_usage(&self) -> bool {
        self.members().any(|member| member.usage_told && member.exit.is_none())
    }

    /// Returns when all that workers were told is in their sockets. Who does not read until the deadline is killed: it would
    /// miss something and be behind for ever.
    pub async fn fall_silent(&mut self, deadline: time::Instant) {
        for member in self.members_mut() {
            let Some(speaking) = member.fall_silent() else { continue };
            if timeout_at(deadline, speaking).await.is_err() {
                warn!(worker = %member.id, "a worker does not read what it is told, and is killed");
                member.kill("it does not read what it is told");
            }
        }
    }

    /// Kills workers that do not serve yet: another program would not know how to welcome them.
    pub fn kill_unwelcome(&mut self) {
        for member in self.members_mut().filter(|member| !member.is_welcome()) {
            member.kill("another program goes on");
        }
    }

    /// Everything about the workers, for the next image.
    pub fn record(
        &self,
        counting: Counting<'_>,
        rings: &[LiveRing],
        passing: &mut Passing,
        now: Instant,
    ) -> io::Result<FleetRecord> {
        let mut workers = Vec::new();
        for member in &self.members {
            let Some([process, control, log]) = member.handles() else {
                // There was no descriptor left for a copy: nobody would ever tell it anything.
                member.abandon();
                continue;
            };
            let ring = rings.iter().find(|ring| ring.worker == member.id);
            let ring = ring.map(|ring| {
                Ok::<_, io::Error>(RingRecord {
                    name: ring.name.clone(),
                    path: ring.path.as_ref().map(|path| path.as_os_str().as_bytes().to_vec()),
                    file: passing.pass(ring.file.as_fd())?,
                    place: (ring.place.sequence, ring.place.position),
                })
            });
            let (metrics, series) = counting(member.id).unzip();
            let (confinement, uid, protocol) = member.agreed();
            workers.push(WorkerRecord {
                id: member.id,
                role: member.role,
                pid: member.pid.as_raw(),
                process: passing.pass(process)?,
                control: passing.pass(control)?,
                log: passing.pass(log)?,
                metrics: metrics.map(|memory| passing.pass(memory)).transpose()?,
                series: series.unwrap_or_default(),
                ring: ring.transpose()?,
                life: recorded(member.life, now),
                lived_ms: millis(now.saturating_duration_since(member.started)),
                revisions: [member.applied, member.told, member.latest],
                usage_told: member.usage_told,
                uid,
                confinement: confinement.clone(),
                protocol,
                generation: member.generation,
                lane: self.counters.lane_of(member.id).and_then(|lane| u16::try_from(lane).ok()),
                leaving: member.place != Place::Holder,
            });
        }
        let counters = Some(passing.pass(self.counters.memory())?);
        let Self { next_id, round, retired, generation, .. } = *self;
        Ok(FleetRecord { workers, next_id, round, retired, generation, counters })
    }

    /// Takes in the workers of the image before, each in a place of its role. Those for which there is none leave.
    pub fn adopt(&mut self, taken: &Taken, now: Instant) -> Vec<Happening> {
        let record = &taken.state.fleet;
        self.next_id = record.next_id.max(self.next_id);
        self.round = record.round;
        self.retired = record.retired;
        self.generation = record.generation;
        self.adopt_counters(record.counters, taken);
        let mut happenings = Vec::new();
        for worker in &record.workers {
            match self.adopt_one(worker, taken, now, &mut happenings) {
                Ok(()) => {}
                Err(error) => warn!(worker = %worker.id, %error, "a worker is not taken over"),
            }
        }
        self.counters.abandon_unknown();
        happenings
    }

    fn adopt_counters(&mut self, memory: Option<i32>, taken: &Taken) {
        let Some(memory) = memory else { return };
        match taken.descriptor(memory).and_then(NodeCounters::from_memory) {
            Ok(counters) => self.counters = counters,
            Err(error) => {
                warn!(%error, "what workers count together cannot be taken over: limits begin anew");
            }
        }
    }

    fn adopt_one(
        &mut self,
        record: &WorkerRecord,
        taken: &Taken,
        now: Instant,
        happenings: &mut Vec<Happening>,
    ) -> io::Result<()> {
        let launched = Launched {
            pid: Pid::from_raw(record.pid),
            process: taken.descriptor(record.process)?,
            control: taken.descriptor(record.control)?,
            log: taken.descriptor(record.log)?,
            view: View::of(Pid::from_raw(record.pid), Vec::new()),
        };
        let place = if record.leaving { Place::Leaving } else { Place::Holder };
        let (slot, place) = self.seat(record.role, place);
        let seat = (slot, place, record.generation);
        let mut member =
            Member::new(record.id, record.role, seat, launched, self.events.clone(), now);
        member.life = restored(record.life, now);
        member.started = now.checked_sub(Duration::from_millis(record.lived_ms)).unwrap_or(now);
        [member.applied, member.told, member.latest] = record.revisions;
        member.usage_told = record.usage_told;
        // One that has ended meanwhile cannot be looked at; its end will be heard of.
        // Neither can one that the service manager hides from us: the image before has looked at it.
        if let Err(reason) = member.take_over(&record.confinement, record.protocol) {
            debug!(worker = %record.id, "{reason}");
        }
        self.served.insert(record.role);
        if let Some(lane) = record.lane {
            self.counters.knows(record.id, usize::from(lane));
        }
        if let Some(memory) = record.metrics {
            happenings.push(Happening::Started(record.id, taken.descriptor(memory)?));
            let series = record.series.iter().cloned();
            happenings.extend(series.map(|series| Happening::Series(record.id, series)));
        }
        if let Some(ring) = &record.ring {
            let file = RingFile {
                name: ring.name.clone(),
                path: ring.path.clone().map(|path| PathBuf::from(OsString::from_vec(path))),
                file: Arc::new(File::from(taken.descriptor(ring.file)?)),
            };
            let place = ring::Place { sequence: ring.place.0, position: ring.place.1 };
            happenings.push(Happening::Adopted(record.id, file, place, record.usage_told));
        }
        self.members.push(member);
        let index = self.members.len().saturating_sub(1);
        match (place, record.role) {
            (Place::Holder, Role::Egress) => self.introduce_supervisor(index, happenings),
            // What new workers show is signed by it until its own successor is there.
            (Place::Holder, Role::Signer) => {
                let tls = self.listener_tls.clone();
                if let (Some(tls), Some(member)) = (tls, self.member_mut(index)) {
                    listener_tls::hand_over(&tls, member);
                }
            }
            (Place::Holder, _) => {}
            _ => self.dismiss(index, now),
        }
        Ok(())
    }

    /// A slot for a worker of that role, and whether it holds it: without a free one it leaves.
    fn seat(&mut self, role: Role, place: Place) -> (usize, Place) {
        // A role that is not configured any more has no slot.
        let post = self.posts.iter().position(|post| post.role == role);
        let of_role = |index: &usize| self.slots.get(*index).map(|slot| slot.post) == post;
        let free = (0..self.slots.len())
            .filter(|_| place == Place::Holder && post.is_some())
            .find(|index| of_role(index) && self.holder(*index).is_none());
        let Some(index) = free else {
            let any = (0..self.slots.len()).find(of_role);
            return (any.unwrap_or(usize::MAX), Place::Leaving);
        };
        if let Some(slot) = self.slots.get_mut(index) {
            slot.start_at = None;
        }
        (index, Place::Holder)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn recorded(life: Life, now: Instant) -> LifeRecord {
    let left = |deadline: Instant| millis(deadline.saturating_duration_since(now));
    match life {
        Life::Starting { deadline } => LifeRecord::Starting(left(deadline)),
        Life::Joining { deadline } => LifeRecord::Joining(left(deadline)),
        Life::Serving { .. } => LifeRecord::Serving,
        Life::Draining { deadline, .. } => LifeRecord::Draining(deadline.map(left)),
        Life::Doomed => LifeRecord::Doomed,
    }
}

fn restored(life: LifeRecord, now: Instant) -> Life {
    // No longer than any deadline there is: a sum with anything larger has no end.
    let until =
        |left: u64| now + Duration::from_millis(left).min(Duration::from_secs(86_400 * 365));
    match life {
        LifeRecord::Starting(left) => Life::Starting { deadline: until(left) },
        LifeRecord::Joining(left) => Life::Joining { deadline: until(left) },
        LifeRecord::Serving => Life::Serving { unanswered: 0 },
        LifeRecord::Draining(left) => Life::Draining { deadline: left.map(until), unanswered: 0 },
        LifeRecord::Doomed => Life::Doomed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_goes_on_with_what_was_left_of_its_time() {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(9);
        let later = now + Duration::from_secs(1_000);
        for (life, left) in [
            (Life::Starting { deadline }, Life::Starting { deadline: later + (deadline - now) }),
            (Life::Joining { deadline }, Life::Joining { deadline: later + (deadline - now) }),
            (Life::Serving { unanswered: 3 }, Life::Serving { unanswered: 0 }),
            (
                Life::Draining { deadline: None, unanswered: 1 },
                Life::Draining { deadline: None, unanswered: 0 },
            ),
            (Life::Doomed, Life::Doomed),
        ] {
            assert_eq!(restored(recorded(life, now), later), left);
        }
    }
}
