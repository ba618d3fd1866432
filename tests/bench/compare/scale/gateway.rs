//! A governed gateway with so many workers, on so many cores.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{Builder, Cloud, Etcd, Gateway};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::cpu;
use crate::load::{self, Target};
use crate::peers::{CALLER_KEY, aisix};

/// How long it may take until the first request is answered.
const START_MAX: Duration = Duration::from_secs(60);

/// The gateway with what it works for.
pub struct Governed {
    /// Where and how it is asked.
    pub target: Target,
    gateway: Gateway,
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
        let gateway = aisix::start(Builder::managed(&cloud), programs, workers)?;
        let target = Target { address: gateway.proxy(), key: CALLER_KEY.to_owned() };
        let begin = Instant::now();
        while let Err(error) = load::whole(&target, 1, Duration::ZERO) {
            if begin.elapsed() > START_MAX {
                return Err(format!("the gateway does not serve: {error}").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let governed = Self { target, gateway, _cloud: cloud, _etcd: etcd };
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

    /// The proxy workers.
    pub fn workers(&self) -> Vec<Pid> {
        self.gateway.proxies().into_iter().map(|worker| worker.pid).collect()
    }

    /// Processor time of all its processes.
    pub fn used(&self) -> Duration {
        cpu::used_by(self.gateway.pid())
    }

    /// What the gateway tells of refusals.
    pub async fn refused(&self) -> f64 {
        self.gateway.metrics().await.sum("aisix_proxy_overload_rejections_total", &[])
    }
}
