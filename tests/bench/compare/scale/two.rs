//! Two workers on two cores beside one worker on one.
//!
//! The machine has two cores, and load and upstream need some of them: neither requests per second nor the workers' own time can
//! tell, since the worker beside the load has less of its core. What tells is the processor time that a request takes of all
//! processes of the gateway, with one worker (`c1`) and with two (`c2`), and how evenly the connections are spread: where one
//! has the share `s` of them, both together can serve until that one is full.
//!
//! ```text
//! two workers over one  =  c1 / c2 / s        (2 where a request costs the same and s is a half)
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use nix::unistd::Pid;

use super::gateway::Governed;
use crate::load;
use crate::rounds::Values;

/// Connections at once, all opened at the same time.
const CALLERS: usize = 64;

/// One turn.
pub async fn turn(
    programs: Option<&Path>,
    upstream: SocketAddr,
    time: Duration,
) -> Result<Values, Box<dyn Error>> {
    let one = measure(&Governed::start(programs, upstream, 1).await?, time)?;
    let two = measure(&Governed::start(programs, upstream, 2).await?, time)?;
    Ok(vec![
        ("cpu_us_per_request_1_worker", "us", one.cpu_us),
        ("cpu_us_per_request_2_workers", "us", two.cpu_us),
        ("busier_worker_share", "%", two.busier * 100.0),
        ("two_workers_over_one", "x", one.cpu_us / two.cpu_us / two.busier),
    ])
}

struct Measured {
    cpu_us: f64,
    /// The part of the connections that the busiest worker has.
    busier: f64,
}

fn measure(gateway: &Governed, time: Duration) -> Result<Measured, String> {
    let workers = gateway.workers();
    let files = |pid: &Pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let before: Vec<_> = workers.iter().map(files).collect();
    load::whole(&gateway.target, CALLERS, time / 4)?;
    let used = gateway.used();
    // Half-way, when everybody is connected; connections to the upstream are as many as those of callers.
    let connections = thread::scope(|scope| {
        let counting = scope.spawn(|| {
            thread::sleep(time / 2);
            let opened = |(pid, before)| files(pid).saturating_sub(before) as f64;
            workers.iter().zip(before).map(opened).collect::<Vec<_>>()
        });
        let seen = load::whole(&gateway.target, CALLERS, time);
        (seen, counting.join())
    });
    let (Ok(seen), Ok(each)) = connections else { return Err("no connections".to_owned()) };
    let used = gateway.used().saturating_sub(used);
    let busiest = each.iter().copied().fold(0.0, f64::max);
    Ok(Measured {
        cpu_us: used.as_secs_f64() * 1e6 / seen.latencies.len() as f64,
        busier: busiest / each.iter().sum::<f64>(),
    })
}
