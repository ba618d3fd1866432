//! The gateway beside others, in one run: `make bench`.
//!
//! ```text
//! core 0   the gateway that is measured, with one worker            (the others are there, and idle)
//! core 1   load, upstream, the Cloud's counter of usage, etcd, and this program
//! ```
//! Every subject has its turn in every round, and another one is first each time. A turn in which anything but complete answers
//! of status 200 came, or after which usage events are missing or came twice, is void and repeated. What is told are medians of
//! the rounds, with the least and the greatest.

// There is nobody to hand an error to: a benchmark that cannot go on ends with a sentence.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::print_stdout)]

mod clock;
mod cpu;
mod figure;
mod load;
mod memory;
mod peers;
mod prompt;
mod ready;
mod report;
mod requests;
mod rounds;
mod scale;
mod served;
mod streams;
mod upstream;
mod usage;
mod wire;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::Duration;
use std::{fs, io, thread};

use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use figure::{Figure, Figures};
use peers::{CONVENTION, Other, Peer};
use report::{Machine, Report};
use rounds::Void;

/// Who is compared, besides others and `--plain`, which are whenever they are named.
const SUBJECTS: [&str; 5] = ["direct", "nginx", "haproxy", "aisix", "aisix-off"];
/// Streams at once.
const STREAMS: usize = 500;

/// Measures the gateway beside a bare upstream, relays of nginx and HAProxy, and others.
#[derive(Debug, Parser)]
#[command(name = "bench", after_help = CONVENTION, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Folder of the programs aisix and aisix-worker; aisix-cloud is sought in GATEWAY_BIN_DIR.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Folder of the same programs built without a profile of their use, measured beside them as aisix-plain.
    #[arg(long)]
    plain: Option<PathBuf>,
    /// Another gateway, by its start command.
    #[arg(long = "other", value_name = "NAME=COMMAND")]
    others: Vec<Other>,
    /// The comparison in about a minute, for trying the bench: the figures mean little. The rest only if `--only` names it.
    #[arg(long)]
    quick: bool,
    /// Rounds that count.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<What>,
    /// Only these subjects of direct, nginx, haproxy, aisix and aisix-off, and those named otherwise.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Where the report is written.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

/// Processes that this program starts of itself.
#[derive(Debug, Subcommand)]
enum Part {
    /// Takes usage in the place of the Cloud.
    #[command(hide = true)]
    CountUsage(usage::CountArguments),
    /// Holds idle connections.
    #[command(hide = true)]
    HoldIdle(scale::IdleArguments),
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Requests,
    Streams,
    Prompt,
    Memory,
    Ready,
    Served,
    /// The three that follow.
    Scale,
    Two,
    Overload,
    Crowd,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(Part::CountUsage(arguments)) => usage::count(arguments),
        Some(Part::HoldIdle(arguments)) => scale::hold_idle(arguments),
        None => measure(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    cpu::pin(cpu::REST).map_err(|error| {
        format!("two cores are needed, and there is no core {} to run on: {error}", cpu::REST)
    })?;
    check(arguments)?;
    end_on_signal()?;
    let aisix = arguments.programs.as_ref().map(|folder| folder.join("aisix"));
    let aisix = aisix.map_or_else(|| harness::binaries::find("aisix"), Ok)?;
    let machine = Machine::look(&aisix);
    let upstream = upstream::start()?;
    let mut peers = start(arguments, upstream.address).await?;
    for peer in &mut peers {
        peer.wait_until_served()?;
    }
    let (mut figures, mut voids) = (Figures::default(), Vec::new());
    let is_wanted = |what| arguments.only.is_empty() || arguments.only.contains(&what);
    let rounds = arguments.rounds.map_or(if arguments.quick { 1 } else { 7 }, usize::from);
    let seconds =
        |whole: f64| Duration::from_secs_f64(if arguments.quick { whole / 5.0 } else { whole });
    if is_wanted(What::Requests) {
        let turn = |peer: &Peer| requests::turn(peer, seconds(5.0));
        rounds::rounds("requests", rounds, &peers, &mut figures, &mut voids, turn, |values| {
            rounds::above_direct(values, requests::ADDED);
        });
    }
    if is_wanted(What::Streams) {
        let turn = |peer: &Peer| streams::turn(peer, &upstream, STREAMS, seconds(5.0));
        rounds::rounds("streams", rounds, &peers, &mut figures, &mut voids, turn, |values| {
            rounds::above_direct(values, streams::ADDED);
        });
    }
    if is_wanted(What::Prompt) {
        let turn = |peer: &Peer| prompt::turn(peer, if arguments.quick { 1 } else { 5 });
        rounds::rounds("prompt", rounds, &peers, &mut figures, &mut voids, turn, |values| {
            rounds::above_direct(values, prompt::ADDED);
        });
    }
    drop(peers);
    // What follows takes long, and must not cost what there is if it fails.
    Report::new(machine.clone(), figures.clone(), voids.clone()).write(&arguments.out)?;
    let programs = arguments.programs.as_deref();
    let mut take = |part, measured: Result<Vec<Figure>, Box<dyn Error>>| match measured {
        Ok(measured) => figures.extend(measured),
        Err(error) => {
            eprintln!("{part}: void: {error}");
            voids.push(Void { part, subject: "aisix".into(), reason: error.to_string() });
        }
    };
    let is_wanted = |what| is_wanted(what) && (!arguments.quick || !arguments.only.is_empty());
    let parts = [What::Two, What::Overload, What::Crowd]
        .map(|part| is_wanted(What::Scale) || is_wanted(part));
    if parts.contains(&true) {
        take("scale", scale::figures(programs, parts, rounds.min(3), seconds(5.0)).await);
    }
    // What follows asks for no core of its own: the gateway starts and changes as it would anywhere.
    cpu::unpin()?;
    if is_wanted(What::Memory) {
        take("memory", memory::figures(programs, rounds.min(3)).await);
    }
    if is_wanted(What::Ready) {
        take("ready", ready::figures(programs, rounds).await);
    }
    if is_wanted(What::Served) {
        take("served", served::figures(programs, rounds.min(3)).await);
    }
    let report = Report::new(machine, figures, voids);
    report.write(&arguments.out)?;
    print!("{}", report.to_table());
    println!("\nwritten to {}: bench.json, bench.md, bench.svg", arguments.out.display());
    Ok(())
}

/// Finds out now what would end the run after minutes.
fn check(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut known = SUBJECTS.to_vec();
    known.extend(arguments.others.iter().map(Other::name));
    if let Some(unknown) = arguments.subjects.iter().find(|it| !known.contains(&it.as_str())) {
        return Err(format!("there is no subject {unknown}, but {}", known.join(", ")).into());
    }
    for folder in arguments.programs.iter().chain(&arguments.plain) {
        for program in ["aisix", "aisix-worker"].map(|name| folder.join(name)) {
            if !program.is_file() {
                return Err(format!("there is no {}: `make dist` builds it into target/programs, `make bench-profile` without a profile into target/plain/programs", program.display()).into());
            }
        }
    }
    let out = &arguments.out;
    fs::create_dir_all(out).and_then(|()| tempfile::tempfile_in(out).map(drop)).map_err(
        |error| {
            format!(
                "cannot write the report into {}: {error}; name another folder with --out",
                out.display()
            )
        },
    )?;
    Ok(())
}

/// Whoever ends this program by a signal ends all that it has started.
fn end_on_signal() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let terminated = signal(SignalKind::terminate());
            let Ok(mut terminated) = terminated else { return };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
        });
        for pid in cpu::tree(Pid::this()).into_iter().skip(1) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        process::exit(130);
    })?;
    Ok(())
}

/// Starts everybody that is compared.
async fn start(arguments: &Arguments, upstream: SocketAddr) -> Result<Vec<Peer>, Box<dyn Error>> {
    let is_wanted = |name: &str| {
        arguments.subjects.is_empty() || arguments.subjects.iter().any(|it| it == name)
    };
    let programs = arguments.programs.as_deref();
    let mut peers = Vec::new();
    if is_wanted("direct") {
        peers.push(Peer::direct(upstream));
    }
    if is_wanted("nginx") {
        peers.push(peers::nginx(upstream)?);
    }
    if is_wanted("haproxy") {
        peers.push(peers::haproxy(upstream)?);
    }
    if is_wanted("aisix") {
        peers.push(peers::governed("aisix", programs, upstream).await?);
    }
    if let Some(plain) = &arguments.plain {
        peers.push(peers::governed(peers::PLAIN, Some(plain), upstream).await?);
    }
    if is_wanted("aisix-off") {
        peers.push(peers::off(programs, upstream)?);
    }
    for other in &arguments.others {
        peers.push(other.start(upstream)?);
    }
    Ok(peers)
}
