//! A governed gateway with so many workers, on so many cores.

use std::collections::HashSet;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use harness::{Cloud, Etcd, Gateway};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::cpu;
use crate::load::{self, Target};
use crate::peers::{CALLER_KEY, aisix};
use crate::usage::Usage;

/// How long it may take until the first request is answered, and until usage is delivered.
const START_MAX: Duration = Duration::from_secs(60);
/// How long no usage comes when all has come: far more than the delivery of one event takes.
const CALM: Duration = Duration::from_millis(500);

/// The gateway with what it works for.
pub struct Governed {
    /// Where and how it is asked.
    pub target: Target,
    gateway: Gateway,
    usage: Usage,
    _cloud: Cloud,
    _etcd: Etcd,
}

impl Governed {
    /// Starts it on the gateways' core. Its caller key and model have limits that are not reached, prices and usage.
    pub async fn start(
        programs: Option<&Path>,
        upstream: SocketAddr,
        workers: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let (cloud, etcd) = aisix::cloud(upstream).await;
        let usage = Usage::start(&cloud)?;
        let gateway = aisix::start(aisix::managed(&cloud, &usage), programs, workers)?;
        let target = Target { address: gateway.proxy(), key: CALLER_KEY.to_owned() };
        let begin = Instant::now();
        while let Err(error) = load::whole(&target, 1, Duration::ZERO) {
            if begin.elapsed() > START_MAX {
                return Err(format!("the gateway does not serve: {error}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let governed = Self { target, gateway, usage, _cloud: cloud, _etcd: etcd };
        if workers > 1 {
            governed.spread_over_cores(workers)?;
        }
        Ok(governed)
    }

    /// Each proxy worker gets a core of its own; everything else of the gateway may run on all of these.
    fn spread_over_cores(&self, workers: usize) -> Result<(), Box<dyn Error>> {
        let mut cores = CpuSet::new();
        (0..workers).try_for_each(|core| cores.set(core))?;
        for pid in cpu::tree(self.gateway.pid()) {
            sched_setaffinity(pid, &cores)?;
        }
        for (core, worker) in self.workers().into_iter().enumerate() {
            let mut one = CpuSet::new();
            one.set(core % workers.max(1))?;
            sched_setaffinity(worker, &one)?;
        }
        Ok(())
    }

    fn workers(&self) -> Vec<Pid> {
        self.gateway.proxies().into_iter().map(|worker| worker.pid).collect()
    }

    /// How many connections of callers each proxy worker has, those included that the caller has closed and it has not.
    pub fn connections(&self) -> io::Result<Vec<usize>> {
        // sl  local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode; addresses in hexadecimal, state 0A listens
        let local = format!(":{:04X}", self.target.address.port());
        let table = fs::read_to_string("/proc/net/tcp")?;
        let sockets: HashSet<_> = table
            .lines()
            .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
            .filter(|it| it.len() > 9 && it[1].ends_with(&local) && it[3] != "0A")
            .map(|it| format!("socket:[{}]", it[9]))
            .collect();
        let is_callers = |file: io::Result<fs::DirEntry>| {
            let to = fs::read_link(file.ok()?.path()).ok()?;
            to.to_str().is_some_and(|to| sockets.contains(to)).then_some(())
        };
        let of =
            |pid: Pid| Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(is_callers).count());
        self.workers().into_iter().map(of).collect()
    }

    /// Processor time of all its processes.
    pub fn used(&self) -> Duration {
        cpu::used_by(self.gateway.pid())
    }

    /// Returns when the usage of all that was asked so far is delivered: none comes any more.
    pub fn settle(&self) -> Result<(), String> {
        let events = || {
            let counts = self.usage.counts();
            counts.map(|it| it.events).map_err(|error| format!("the counter of usage: {error}"))
        };
        let begin = Instant::now();
        let (mut last, mut grew_at) = (events()?, begin);
        while grew_at.elapsed() < CALM {
            if begin.elapsed() > START_MAX {
                return Err("usage goes on coming after the last request".to_owned());
            }
            thread::sleep(CALM / 10);
            let now = events()?;
            if now > last {
                (last, grew_at) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// What the gateway tells of refusals.
    pub async fn refused(&self) -> f64 {
        self.gateway.metrics().await.sum("aisix_proxy_overload_rejections_total", &[])
    }
}
