//! Two workers on two cores beside one worker on one.
//!
//! The machine has two cores, and load and upstream need some of them: requests per second cannot tell. What tells is the
//! processor time that a request takes of all processes of the gateway, with one worker (`c1`) and with two (`c2`), and how evenly
//! the two are used: where the busier one has the share `s` of their time, both together can serve until that one is full.
//!
//! ```text
//! two workers over one  =  c1 / c2 / s        (2 where a request costs the same and s is a half)
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::gateway::{Governed, used_by};
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
    /// The part of the workers' time that the busiest has used.
    busier: f64,
}

fn measure(gateway: &Governed, time: Duration) -> Result<Measured, String> {
    load::whole(&gateway.target, CALLERS, time / 4)?;
    let workers = gateway.workers();
    let before = (gateway.used(), workers.iter().map(|pid| used_by(*pid)).collect::<Vec<_>>());
    let seen = load::whole(&gateway.target, CALLERS, time)?;
    let used = gateway.used().saturating_sub(before.0);
    let each: Vec<_> = workers
        .iter()
        .zip(before.1)
        .map(|(pid, before)| used_by(*pid).saturating_sub(before).as_secs_f64())
        .collect();
    let busiest = each.iter().copied().fold(0.0, f64::max);
    Ok(Measured {
        cpu_us: used.as_secs_f64() * 1e6 / seen.latencies.len() as f64,
        busier: busiest / each.iter().sum::<f64>(),
    })
}
