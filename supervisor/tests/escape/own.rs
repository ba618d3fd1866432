//! The supervisor's own confinement, as an upgrade in place would find it: in a process that executes itself again.

use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::{env, fs};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use supervisor::process::own::{Files, confine};

/// How often this process has executed itself.
const ROUND: &str = "GATEWAY_TEST_ROUND";
const ROUNDS: u32 = 40;
const NAME: &str = "own::forty_upgrades_in_place_add_no_filter_and_no_capability";

#[test]
fn forty_upgrades_in_place_add_no_filter_and_no_capability() {
    if let Ok(round) = env::var(ROUND) {
        be_upgraded(round.parse().unwrap());
    }
    let output = next(0).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let rounds: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("round ")).collect();
    assert_eq!(rounds.len(), ROUNDS as usize + 1, "{said}{errors}");
    println!("after each of {ROUNDS} upgrades: {}", rounds[0]);
    assert!(rounds.iter().all(|round| *round == rounds[0]), "{rounds:#?}");
    assert!(rounds[0].contains("NoNewPrivs 1 Seccomp 2"), "{}", rounds[0]);
    assert!(rounds[0].ends_with("denied"), "{}", rounds[0]);
}

fn next(round: u32) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture"]).env(ROUND, round.to_string());
    command
}

fn be_upgraded(round: u32) -> ! {
    confine(&Files::default());
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        format!("{name} {}", line.map(str::trim).unwrap_or("?"))
    };
    let fields = [
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "CapEff",
        "CapPrm",
        "CapInh",
        "CapBnd",
        "CapAmb",
    ];
    // Needs no capability, so that only the filter can refuse it.
    let denied = unshare(CloneFlags::CLONE_FILES) == Err(Errno::EPERM);
    let fields: Vec<_> = fields.iter().map(|name| field(name)).collect();
    println!("round {} {}", fields.join(" "), if denied { "denied" } else { "allowed" });
    if round == ROUNDS {
        exit(0);
    }
    panic!("cannot execute this test again: {}", next(round + 1).exec());
}
