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
use shared::ring::Place;
use tokio::time::{self, timeout_at};
use tracing::{info, warn};

use super::life::{Input, Life};
use super::member::Member;
use super::restart::Restart;
use super::{Fleet, Happening, Slot};
use crate::handover::Passing;
use crate::handover::orphans;
use crate::handover::record::{FleetRecord, LifeRecord, RingRecord, WorkerRecord};
use crate::handover::taken::Taken;
use crate::process::launch::{Launched, Program};
use crate::spool::LiveRing;
use crate::spool::ring_file::RingFile;

/// How long a replaced worker may take to finish what is in flight.
pub const REPLACE_LIMIT: Duration = Duration::from_secs(600);

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

    /// Whether every worker that should run has said hello.
    pub fn is_greeted(&self) -> bool {
        let mut slots = self.slots.iter().filter(|slot| !slot.passing);
        slots.all(|slot| slot.member.as_ref().is_some_and(Member::is_welcome))
    }

    /// Reads nothing more of what workers say: it stays in their sockets.
    pub fn pause(&self) {
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
                member.kill();
            }
        }
    }

    /// Kills workers that do not serve yet: another program would not know how to welcome them.
    pub fn kill_unwelcome(&self) {
        self.members().filter(|member| !member.is_welcome()).for_each(Member::kill);
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
        for slot in &self.slots {
            let Some(member) = &slot.member else { continue };
            let Some([process, control, log]) = member.handles() else {
                // There was no descriptor left for a copy: nobody would ever tell it anything.
                member.kill();
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
            let (uid, confinement, missing) = member.confined();
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
                missing: missing.to_vec(),
                replaced: slot.passing,
            });
        }
        Ok(FleetRecord { workers, next_id: self.next_id, round: self.round, retired: self.retired })
    }

    /// Takes in the workers of the image before, each in a place of its role. Those for which there is none leave.
    pub fn adopt(&mut self, taken: &Taken, now: Instant) -> Vec<Happening> {
        let record = &taken.state.fleet;
        self.next_id = record.next_id.max(self.next_id);
        self.round = record.round;
        self.retired = record.retired;
        let mut happenings = Vec::new();
        for worker in &record.workers {
            match self.adopt_one(worker, taken, now, &mut happenings) {
                Ok(()) => {}
                Err(error) => warn!(worker = %worker.id, %error, "a worker is not taken over"),
            }
        }
        happenings
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
        };
        let mut member = Member::new(record.id, record.role, launched, self.events.clone(), now);
        member.inherited = true;
        member.life = restored(record.life, now);
        member.started = now.checked_sub(Duration::from_millis(record.lived_ms)).unwrap_or(now);
        [member.applied, member.told, member.latest] = record.revisions;
        member.usage_told = record.usage_told;
        member.set_confined(record.uid, record.confinement.clone(), record.missing.clone());
        self.served.insert(record.role);
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
            let place = Place { sequence: ring.place.0, position: ring.place.1 };
            happenings.push(Happening::Adopted(record.id, file, place, record.usage_told));
        }
        let index = self.seat(member, record.replaced);
        if record.role == Role::Egress && !record.replaced {
            self.introduce_supervisor(index, happenings);
        }
        Ok(())
    }

    /// Gives a worker a free place of its role, or one that ends with it. Says which.
    fn seat(&mut self, member: Member, replaced: bool) -> usize {
        let draining = matches!(member.life, Life::Draining { .. });
        // A role that is not configured any more has no place.
        let post = self.posts.iter().position(|post| post.role == member.role);
        let free = self.slots.iter_mut().enumerate().find(|(_, slot)| {
            let is_free = slot.member.is_none() && !slot.passing;
            Some(slot.post) == post && is_free && !replaced && !draining
        });
        match free {
            Some((index, slot)) => {
                slot.start_at = None;
                slot.member = Some(member);
                index
            }
            None => {
                self.slots.push(passing(post.unwrap_or(usize::MAX), member));
                self.slots.len().saturating_sub(1)
            }
        }
    }

    /// Starts another worker in every place; the ones that are there leave when [`Fleet::drain_replaced`] says so.
    pub fn replace_all(&mut self, now: Instant) {
        let mut leaving = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| !slot.passing) {
            if let Some(member) = slot.member.take() {
                leaving.push(passing(slot.post, member));
            }
            slot.start_at = Some(now);
        }
        self.slots.extend(leaving);
    }

    /// Lets the workers leave in whose place others serve.
    pub fn drain_replaced(&mut self, now: Instant) {
        let mut asked = 0;
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index).filter(|slot| slot.passing) else { continue };
            if slot.member.as_ref().is_some_and(|it| !matches!(it.life, Life::Draining { .. })) {
                asked += 1;
                self.input(index, Input::Drain(Some(now + REPLACE_LIMIT)), now);
            }
        }
        info!("{asked} workers before are asked to finish what is in flight and leave");
    }
}

fn passing(post: usize, member: Member) -> Slot {
    let restart = Restart::default();
    Slot { post, restart, member: Some(member), start_at: None, passing: true }
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
