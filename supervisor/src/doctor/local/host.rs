//! The machine itself: `/proc`, the resolver's files, the clock.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::look::Look;
use super::{Fault, error, warning};
use crate::bundle::check::date;
use crate::bundle::unix;

static PROC: Fault = error(
    "host-proc-missing",
    "/proc is not mounted",
    "Workers are executed by a descriptor below /proc, and their confinement is read there.",
    "mount it: workers are started through it, and looked at in it",
    &["daemon-down", "host-"],
);
static CLOCK: Fault = error(
    "host-clock-wrong",
    "the clock of this machine is wrong: this program is not that old",
    "Certificates of both sides are judged by it, and usage would be reported for another day.",
    "set the clock (timedatectl, chronyc); certificates are judged by it",
    &["bundle-not-yet-valid", "bundle-ca-unusable", "bundle-expired", "tls-", "clock-", "cloud-"],
);
static NO_RESOLVER: Fault = warning(
    "host-resolv-conf-missing",
    "there is no /etc/resolv.conf, so names are looked up in /etc/hosts alone",
    "Names of the Cloud and of providers are looked up as this file says.",
    "let the machine or container have one, with a nameserver that answers",
    &["dns-"],
);
static NO_NAMESERVER: Fault = warning(
    "host-no-nameserver",
    "/etc/resolv.conf names no nameserver",
    "Without one, a nameserver on this machine is asked, which is seldom there.",
    "add a line such as nameserver 10.0.0.2",
    &["dns-"],
);
static HOSTS: Fault = warning(
    "host-hosts-unreadable",
    "/etc/hosts cannot be read",
    "Names are looked up in it first.",
    "make it readable (chmod 644): names in it are not known otherwise",
    &["dns-"],
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[&PROC, &CLOCK, &NO_RESOLVER, &NO_NAMESERVER, &HOSTS];

/// A file may be a little younger than the clock says, after a correction.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);

/// Looks at all of it.
pub fn check(look: &mut Look<'_>) {
    if !look.places.proc.join("self").exists() {
        look.found(&PROC, format!("{} has no entry self", look.places.proc.display()));
    }
    let written = std::env::current_exe().and_then(fs::metadata).and_then(|it| it.modified());
    if let Ok(written) = written
        && is_before(look.now, written)
    {
        let (now, written) = (date(unix(look.now)), date(unix(written)));
        look.found(&CLOCK, format!("it says {now}, and the program was written on {written}"));
    }
    resolver(look);
}

fn is_before(now: SystemTime, written: SystemTime) -> bool {
    written.duration_since(now).is_ok_and(|ahead| ahead > CLOCK_SLACK)
}

fn resolver(look: &mut Look<'_>) {
    let (resolv, hosts) = (look.places.etc.join("resolv.conf"), look.places.etc.join("hosts"));
    match fs::read(&resolv) {
        Ok(bytes) => {
            if !names_a_server(&String::from_utf8_lossy(&bytes)) {
                look.found(&NO_NAMESERVER, resolv.display().to_string());
            }
        }
        Err(error) => unreadable(&resolv, &error, &NO_RESOLVER, look),
    }
    match fs::File::open(&hosts) {
        Ok(_) => {}
        // Not every container has one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => unreadable(&hosts, &error, &HOSTS, look),
    }
}

fn unreadable(path: &Path, error: &io::Error, fault: &'static Fault, look: &mut Look<'_>) {
    if !look.is_hidden(path, error.kind()) {
        look.found(fault, format!("{}: {error}", path.display()));
    }
}

fn names_a_server(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        // With a zone, in an address that counts on one link only.
        let is_address =
            |word: &str| word.split('%').next().is_some_and(|it| it.parse::<IpAddr>().is_ok());
        words.next() == Some("nameserver") && words.next().is_some_and(is_address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nameserver_is_a_line_with_an_address() {
        assert!(names_a_server("search x\nnameserver 10.0.0.2\n"));
        assert!(names_a_server("  nameserver fe80::1%eth0"));
        for none in ["", "# nameserver 10.0.0.2", "nameserver", "nameserver dns.test", "search x"] {
            assert!(!names_a_server(none), "{none}");
        }
    }

    #[test]
    fn a_clock_before_the_program_is_wrong_and_a_small_correction_is_not() {
        let written = SystemTime::now();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert!(is_before(written - hours(2), written));
        assert!(!is_before(written - hours(1), written) && !is_before(written + hours(2), written));
    }
}
