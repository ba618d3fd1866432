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
use std::thread;
use std::time::{Duration, Instant};

use super::gateway::Governed;
use crate::load::{self, Whole};
use crate::rounds::Values;

/// Connections at once, all opened at the same time.
const CALLERS: usize = 64;
/// How long it may take until a connection is closed whose caller has gone.
const CLOSED_MAX: Duration = Duration::from_secs(10);
/// Between two looks at who has them.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

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
    load::whole(&gateway.target, CALLERS, time / 4)?;
    // Who has not noticed yet that its callers have gone would get no others.
    let begin = Instant::now();
    while connections(gateway)?.iter().sum::<usize>() > 0 {
        if begin.elapsed() > CLOSED_MAX {
            return Err("connections whose callers have gone are still there".to_owned());
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    }
    gateway.settle()?;
    let used = gateway.used();
    let (seen, busier) = thread::scope(|scope| {
        let load = scope.spawn(|| load::whole(&gateway.target, CALLERS, time));
        let busier = busier(gateway, || load.is_finished());
        let seen: Result<Whole, String> = load.join().map_err(|_| "the load has failed")?;
        Ok::<_, String>((seen?, busier?))
    })?;
    gateway.settle()?;
    let used = gateway.used().saturating_sub(used);
    Ok(Measured { cpu_us: used.as_secs_f64() * 1e6 / seen.latencies.len() as f64, busier })
}

fn connections(gateway: &Governed) -> Result<Vec<usize>, String> {
    gateway.connections().map_err(|error| format!("cannot count the connections: {error}"))
}

/// The part of the connections that the busiest worker has, when a worker has taken the last of them.
fn busier(gateway: &Governed, is_over: impl Fn() -> bool) -> Result<f64, String> {
    let begin = Instant::now();
    loop {
        let each = connections(gateway)?;
        let all: usize = each.iter().sum();
        if all == CALLERS {
            eprintln!("scale: connections of each worker, after {:?}: {each:?}", begin.elapsed());
            return Ok(each.into_iter().max().unwrap_or_default() as f64 / all as f64);
        }
        if is_over() {
            return Err(format!("{all} of {CALLERS} connections were there at once"));
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    }
}
