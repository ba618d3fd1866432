//! The addresses that the gateway listens on: whether this machine has them, and whether they are free.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use super::look::{self, Look};
use super::state::user;
use super::{Fault, error};
use crate::settings::Settings;

static IN_USE: Fault = error(
    "host-port-in-use",
    "another process listens where the gateway is to listen",
    "Two processes cannot listen on one address.",
    "stop that process, or choose another port with proxy.addr or observability.metrics.prometheus.addr",
    &["daemon-down"],
);
static NOT_HERE: Fault = error(
    "host-address-not-here",
    "this machine has no such address to listen on",
    "The address may be another machine's, or its interface is not up yet.",
    "listen on 0.0.0.0 or [::], or on an address that ip address shows",
    &["daemon-down"],
);
static PRIVILEGED: Fault = error(
    "host-port-privileged",
    "the gateway's user may not listen on a port that low",
    "Ports below 1024 are for root and for who has the capability.",
    "choose a port from 1024 on, let aisix.socket listen there, or give the program CAP_NET_BIND_SERVICE (AmbientCapabilities= of the unit)",
    &["daemon-down"],
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[&NOT_HERE, &PRIVILEGED, &IN_USE];

/// State of a socket that listens, in `/proc/net/tcp`.
const LISTENS: &str = "0A";
/// What our own processes are called.
const OURS: &str = "aisix";
/// The service manager, which keeps listeners of ours between two starts.
const MANAGER: u32 = 1;

/// Looks at the listener of callers and that of the status.
pub fn check(settings: &Settings, look: &mut Look<'_>) {
    let metrics = settings.observability.metrics.as_ref();
    let metrics = metrics.map(|it| (it.address, "observability.metrics.prometheus.addr"));
    for (address, key) in [(settings.proxy.address, "proxy.addr")].into_iter().chain(metrics) {
        one(address, key, look);
    }
}

fn one(address: SocketAddr, key: &str, look: &mut Look<'_>) {
    // Any free port of it: nobody is kept from the one that is meant.
    if let Err(error) = TcpListener::bind((address.ip(), 0))
        && error.kind() == io::ErrorKind::AddrNotAvailable
    {
        return look.found(&NOT_HERE, format!("{key} is {address}: {error}"));
    }
    // A gateway that runs has its listeners, whatever is written now.
    if look.gateway.is_some() || address.port() == 0 {
        return;
    }
    let proc = look.places.proc.clone();
    let listener = listening(&proc, address);
    // What listens there already may be a socket unit, which needs nothing of the gateway's user.
    if listener.is_none() && look.stands_for_gateway() && !may_bind(&proc, address.port()) {
        look.found(&PRIVILEGED, format!("{key} is {address}, and {} runs it", user(look.runs_as)));
    }
    let Some(listener) = listener else { return };
    let owners = owners(&proc, listener.inode);
    let is_ours = |pid: &u32| {
        *pid == MANAGER || look::name_of(&proc, *pid).is_some_and(|name| name.starts_with(OURS))
    };
    let strangers: Vec<_> = owners.iter().filter(|pid| !is_ours(pid)).copied().collect();
    let who = match (strangers.as_slice(), owners.is_empty()) {
        // Workers that serve on without a supervisor, or the service manager (its store, a socket unit): the next start
        // takes it over.
        ([], false) => return,
        // Only root sees what the service manager has: sockets of units are root's, those in its store were ours.
        ([], true)
            if look.us != 0
                && (!look.stands_for_gateway() || [0, look.us].contains(&listener.uid)) =>
        {
            return look.hidden(format!("who listens on {address}"));
        }
        ([], true) => format!("a process of {}", user(listener.uid)),
        (pids, _) => {
            let named: Vec<_> = pids.iter().map(|pid| look::shown(&proc, *pid)).collect();
            format!("process {}", named.join(", "))
        }
    };
    look.found(&IN_USE, format!("{key} is {address}: {who} listens on {}", listener.address));
}

/// Whether the port is one that any user may have, or we may have it all the same.
fn may_bind(proc: &Path, port: u16) -> bool {
    let first = fs::read_to_string(proc.join("sys/net/ipv4/ip_unprivileged_port_start"));
    let first = first.ok().and_then(|text| text.trim().parse::<u16>().ok()).unwrap_or(1024);
    let allowed = caps::Capability::CAP_NET_BIND_SERVICE;
    port >= first || caps::has_cap(None, caps::CapSet::Effective, allowed).unwrap_or(true)
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

/// Who listens so that nobody else can listen on `address`.
fn listening(proc: &Path, address: SocketAddr) -> Option<Listener> {
    let read =
        |name: &str| fs::read_to_string(proc.join("self/net").join(name)).unwrap_or_default();
    let tables = [read("tcp"), read("tcp6")];
    let mut all = tables.iter().flat_map(|table| table.lines()).filter_map(entry);
    all.find(|found| collides(found.address, address))
}

fn collides(one: SocketAddr, other: SocketAddr) -> bool {
    // An address of the other family as well, where `[::]` takes it: that is for the kernel to know, and rare.
    let same = one.ip().to_canonical() == other.ip().to_canonical();
    let any = (one.ip().is_unspecified() || other.ip().is_unspecified())
        && one.is_ipv4() == other.is_ipv4();
    one.port() == other.port() && (same || any)
}

/// A line of `/proc/net/tcp` or `tcp6`, if it is of a socket that listens; see proc_net(5).
fn entry(line: &str) -> Option<Listener> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (local, state) = (words.get(1)?, words.get(3)?);
    if *state != LISTENS {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    Some(Listener {
        address: SocketAddr::new(ip_of(ip)?, u16::from_str_radix(port, 16).ok()?),
        uid: words.get(7)?.parse().ok()?,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// Words of 32 bits, each in the order of this machine.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok();
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into()),
        32 => {
            let mut bytes = [0; 16];
            for (place, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                place.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Processes that have the socket open, as far as we may look.
fn owners(proc: &Path, inode: u64) -> Vec<u32> {
    let wanted = format!("socket:[{inode}]");
    let has = |pid: u32| {
        let Ok(files) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else { return false };
        let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| link.as_os_str() == wanted.as_str())
    };
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let pids = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| has(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_read() {
        let v4 = "   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0";
        let found = entry(v4).unwrap();
        assert_eq!(
            (found.address.to_string().as_str(), found.uid, found.inode),
            ("127.0.0.1:3000", 1000, 4242)
        );
        assert_eq!(entry(&v4.replace(" 0A ", " 01 ")), None, "it is connected");
        assert_eq!(ip_of("00000000000000000000000001000000"), Some(Ipv6Addr::LOCALHOST.into()));
        for broken in ["", "sl local_address rem_address st", "0: 0100:0BB8 x 0A", "0: é:0BB8 x 0A"]
        {
            assert_eq!(entry(broken), None, "{broken}");
        }
    }

    #[test]
    fn an_address_is_taken_by_itself_and_by_all_of_its_family() {
        let collide =
            |one: &str, other: &str| collides(one.parse().unwrap(), other.parse().unwrap());
        assert!(collide("127.0.0.1:1", "127.0.0.1:1") && collide("0.0.0.0:1", "10.0.0.1:1"));
        assert!(collide("10.0.0.1:1", "0.0.0.0:1") && collide("[::]:1", "[::1]:1"));
        assert!(!collide("127.0.0.1:1", "127.0.0.1:2") && !collide("127.0.0.2:1", "127.0.0.1:1"));
        assert!(!collide("[::1]:1", "0.0.0.0:1"));
    }

    #[test]
    fn who_listens_is_found_with_the_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proc = Path::new("/proc");
        let found = listening(proc, address).unwrap();
        assert_eq!(found.address, address);
        assert!(owners(proc, found.inode).contains(&std::process::id()));
        drop(listener);
        assert_eq!(listening(proc, address), None);
    }
}
