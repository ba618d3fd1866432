//! How the gateway bears many workers, many connections and too many requests.
//!
//! | file | what |
//! |---|---|
//! | `two.rs` | two workers on two cores beside one on one |
//! | `crowd.rs` | 10,000 idle connections and 5,000 streams at once |
//! | `overload.rs` | four times what one worker can serve |
//!
//! An error in any of them ends it: there is no figure of what did not work.

mod crowd;
mod gateway;
mod overload;
mod two;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::figure::Figure;
use crate::upstream;

pub use crowd::{IdleArguments, hold_idle};

/// Measures what is wanted of it, in so many rounds of so long each.
pub async fn figures(
    programs: Option<&Path>,
    [is_two_wanted, is_overload_wanted, is_crowd_wanted]: [bool; 3],
    rounds: usize,
    time: Duration,
) -> Result<Vec<Figure>, Box<dyn Error>> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let upstream = upstream::start()?.address;
    let mut all = Vec::new();
    for round in 0..rounds {
        eprintln!("scale: round {} of {rounds}", round + 1);
        let mut values = Vec::new();
        if is_two_wanted {
            values.extend(two::turn(programs, upstream, time).await?);
        }
        if is_overload_wanted {
            values.extend(overload::turn(programs, upstream, time).await?);
        }
        if is_crowd_wanted && most >= crowd::FILES {
            values.extend(crowd::turn(programs, most).await?);
        } else if is_crowd_wanted {
            let needed = crowd::FILES;
            eprintln!(
                "scale: no crowd: {most} files may be open and it needs {needed}; ulimit -Hn"
            );
        }
        for (name, unit, value) in values {
            add(&mut all, name, unit, value);
        }
    }
    Ok(all)
}

fn add(all: &mut Vec<Figure>, name: &str, unit: &'static str, value: f64) {
    match all.iter_mut().find(|figure| figure.name == name) {
        Some(figure) => figure.rounds.push(value),
        None => all.push(Figure {
            name: name.to_owned(),
            subject: "aisix".to_owned(),
            unit,
            rounds: vec![value],
        }),
    }
}
