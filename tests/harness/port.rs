//! Free TCP ports for programs that must be told theirs.
//!
//! A port is taken from below the range of outgoing connections, and stays reserved among all tests of this machine, by a
//! locked file, until this process ends.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

/// Below Linux's range of ports for outgoing connections (32768 and up), above everything well known here.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// The locks of the ports that this process has reserved.
static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A loopback address with a port that nobody uses or has reserved.
///
/// # Panics
/// If there is none.
pub fn reserve() -> SocketAddr {
    // A folder per user: one's files are closed to another.
    let name = format!("gateway-test-ports-{}", nix::unistd::geteuid());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("a folder for the reserved ports");
    let offset = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for step in 0..COUNT {
        let port = FIRST + (offset.wrapping_mul(37) % COUNT + step) % COUNT;
        let lock = File::create(folder.join(port.to_string())).expect("a file for the port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if lock.try_lock().is_ok() && TcpListener::bind(address).is_ok() {
            RESERVED.lock().expect("no test panics here").push(lock);
            return address;
        }
    }
    panic!("no port between {FIRST} and {} is free", FIRST + COUNT);
}
