//! An address where packets vanish: a connection to it is neither accepted nor refused.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};

/// Swallows connections until it is dropped.
#[derive(Debug)]
pub struct BlackHole {
    _listener: OwnedFd,
    /// They fill its queue, so that the kernel drops what comes after them.
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    /// At that address, which must be free.
    ///
    /// # Panics
    /// If connections are answered all the same.
    pub fn at(address: SocketAddr) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener =
            socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
        setsockopt(&listener, sockopt::ReuseAddr, &true).expect("an address may be used again");
        let SocketAddr::V4(v4) = address else { panic!("{address} is not of IPv4") };
        bind(listener.as_raw_fd(), &SockaddrIn::from(v4)).expect("the address is free");
        listen(&listener, Backlog::new(0).expect("no queue")).expect("it listens");
        let mut queue = Vec::new();
        for _ in 0..16 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => queue.push(stream),
                Err(_) => return Self { _listener: listener, _queue: queue },
            }
        }
        panic!("{address} goes on accepting");
    }
}
