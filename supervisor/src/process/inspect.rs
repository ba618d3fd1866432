//! A worker's confinement as the kernel tells it, not as the worker does.

use std::io;

use super::sys::OwnFile;
use super::view::View;

/// What `/proc/PID/status` says about a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Effective user.
    pub uid: u32,
    /// It can gain no privilege by executing a program.
    pub no_new_privs: bool,
    /// Mode 2: a system call filter is in force.
    pub seccomp_filter: bool,
    /// Capabilities that it has or could make its own, as a mask.
    pub capabilities: u64,
    /// Capabilities that an executed program could gain, as a mask; without effect under `no_new_privs`.
    pub bounding: u64,
    /// What it may use without a limit and should not, in the words of `/proc/PID/limits`.
    pub unlimited: Vec<String>,
    /// It is ended no sooner than we are where the machine has no memory left.
    pub outlives_us: bool,
}

/// What a worker may have nothing of.
const NOTHING: [&str; 4] =
    ["Max core file size", "Max processes", "Max locked memory", "Max msgqueue size"];
/// What a worker may have so much of, and no more.
const BOUNDED: [&str; 3] = ["Max file size", "Max address space", "Max open files"];

/// Looks at a process.
pub fn observe(process: &View) -> io::Result<Observed> {
    let status = process.read(OwnFile::Status)?;
    let mut observed = parse(&status);
    // What it inherited from us, or we from a container, is no filter of its own.
    let own = View::own();
    let ours = own.read(OwnFile::Status)?;
    observed.seccomp_filter &= has_more_filters(&status, &ours);
    observed.unlimited = unlimited(&process.read(OwnFile::Limits)?);
    // Where the kernel has no such file nobody is ended first.
    let ours = own.read(OwnFile::OutOfMemoryScore);
    let score = |text: io::Result<String>| text.ok().and_then(|it| it.trim().parse::<i32>().ok());
    observed.outlives_us = matches!((score(process.read(OwnFile::OutOfMemoryScore)), score(ours)),
        (Some(theirs), Some(ours)) if theirs <= ours && ours < 1000);
    Ok(observed)
}

/// `Name <spaces> soft <spaces> hard <spaces> unit` lines, see proc_pid_limits(5). What is not there counts as unlimited.
fn unlimited(limits: &str) -> Vec<String> {
    let hard = |name: &str| {
        let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().nth(1)
    };
    let more_than_nothing = NOTHING.into_iter().filter(|name| hard(name) != Some("0"));
    let without_bound =
        BOUNDED.into_iter().filter(|name| hard(name).is_none_or(|limit| limit == "unlimited"));
    more_than_nothing.chain(without_bound).map(|name| name.to_lowercase()).collect()
}

/// Whether a process has system call filters that another has not. Kernels before 5.9 do not count them; there it has.
fn has_more_filters(status: &str, other: &str) -> bool {
    let count = |status: &str| {
        let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"))?;
        count.trim().parse::<u32>().ok()
    };
    count(status).is_none_or(|count_here| count(other).is_none_or(|there| count_here > there))
}

/// `Name:<tab>value` lines, see proc_pid_status(5). What is not understood counts as not confined.
fn parse(status: &str) -> Observed {
    let mut observed = Observed { capabilities: 0, ..Observed::default() };
    for line in status.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name {
            "Uid" => {
                let effective = value.split_whitespace().nth(1);
                observed.uid = effective.and_then(|uid| uid.parse().ok()).unwrap_or(0);
            }
            "NoNewPrivs" => observed.no_new_privs = value == "1",
            "Seccomp" => observed.seccomp_filter = value == "2",
            "CapBnd" => observed.bounding = u64::from_str_radix(value, 16).unwrap_or(u64::MAX),
            "CapInh" | "CapPrm" | "CapEff" | "CapAmb" => {
                observed.capabilities |= u64::from_str_radix(value, 16).unwrap_or(u64::MAX);
            }
            _ => {}
        }
    }
    observed
}

impl Observed {
    /// What a fully confined worker would have and this one lacks, in words. `ours` is our own user. Without root nobody can
    /// empty the bounding set; `no_new_privs` makes it void, so it is not told beside the shared user.
    pub fn missing(&self, ours: u32) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.seccomp_filter {
            missing.push("no system call filter".to_owned());
        }
        if !self.no_new_privs {
            missing.push("no_new_privs is not set".to_owned());
        }
        if self.capabilities != 0 {
            missing.push(format!("capabilities left: {:#x}", self.capabilities));
        }
        if self.bounding != 0 && !(self.uid == ours && self.no_new_privs) {
            missing.push(format!("capabilities left in the bounding set: {:#x}", self.bounding));
        }
        if self.uid == ours {
            missing.push(format!("runs as the supervisor's own user {ours}"));
        }
        if !self.unlimited.is_empty() {
            missing.push(format!("not limited: {}", self.unlimited.join(", ")));
        }
        if self.outlives_us {
            missing.push("is not ended before the supervisor where memory runs out".to_owned());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFINED: &str = "Name:\taisix-proxy\nUid:\t61000\t61000\t61000\t61000\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn an_inherited_filter_is_no_filter_of_its_own() {
        let filters = |count| format!("Seccomp:\t2\nSeccomp_filters:\t{count}\n");
        assert!(has_more_filters(&filters(3), &filters(1)));
        assert!(!has_more_filters(&filters(1), &filters(1)));
        assert!(has_more_filters("Seccomp:\t2\n", "Seccomp:\t2\n"), "an old kernel");
    }

    #[test]
    fn a_confined_process_lacks_nothing() {
        assert!(parse(CONFINED).missing(0).is_empty());
    }

    #[test]
    fn whatever_is_not_as_it_should_be_is_named() {
        let bounded = CONFINED.replace("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff");
        let left = ["capabilities left in the bounding set: 0x1ffffffffff"];
        assert_eq!(parse(&bounded).missing(0), left);
        let held = CONFINED.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000000001");
        assert_eq!(parse(&held).missing(0), ["capabilities left: 0x1"]);
        assert_eq!(parse(CONFINED).missing(61_000).len(), 1);
        assert_eq!(parse("").missing(7).len(), 2);
    }

    #[test]
    fn a_limit_that_is_not_there_is_named() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max file size             67108864             67108864             bytes     \n\
            Max core file size        0                    0                    bytes     \n\
            Max processes             0                    0                    processes \n\
            Max open files            1024                 1024                 files     \n\
            Max locked memory         0                    0                    bytes     \n\
            Max address space         268435456            268435456            bytes     \n\
            Max msgqueue size         0                    0                    bytes     \n";
        assert!(unlimited(limits).is_empty());
        let loose = limits.replace("268435456            bytes", "unlimited            bytes");
        assert_eq!(unlimited(&loose), ["max address space"]);
        assert_eq!(unlimited("").len(), NOTHING.len() + BOUNDED.len());
        let observed = Observed { unlimited: unlimited(&loose), ..parse(CONFINED) };
        assert_eq!(observed.missing(0), ["not limited: max address space"]);
    }
}
