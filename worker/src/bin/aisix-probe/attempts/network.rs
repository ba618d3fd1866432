//! Ways out over a network, and to other processes of this machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use libc::{AF_INET, AF_INET6, AF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};
use nix::errno::Errno;
use nix::sys::socket::{NetlinkAddr, SockaddrIn, SockaddrIn6, SockaddrLike, UnixAddr};
use shared::descriptor::CONTROL;

use super::{Attempt, done};
use crate::stage::{Outcome, Stage};
use crate::sys::call;

const TCP: i32 = libc::IPPROTO_TCP;
const MPTCP: i32 = 262;
/// Asks who is at the other end, as a descriptor of that process.
const SO_PEERPIDFD: usize = 77;

pub const ATTEMPTS: &[(&str, Attempt)] = &[
    ("tcp", |stage| connect(AF_INET, SOCK_STREAM, TCP, &target(stage, "port"))),
    ("tcp6", |stage| {
        let port = u16::try_from(stage.number("port")).unwrap_or(0);
        let target = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0));
        match connect(AF_INET6, SOCK_STREAM, TCP, &target) {
            // Nobody listens there, or there is no such network; it was asked all the same.
            Err(Errno::ECONNREFUSED | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT) => {
                Ok("asked".to_owned())
            }
            other => other,
        }
    }),
    ("fast_open", |stage| {
        let socket = socket(AF_INET, SOCK_STREAM, TCP)?;
        send_to(socket, libc::MSG_FASTOPEN, &target(stage, "port"))
    }),
    ("fast_open_message", |stage| {
        let socket = socket(AF_INET, SOCK_STREAM, TCP)?;
        let target = target(stage, "port");
        send_message(socket, libc::MSG_FASTOPEN, target.as_ptr() as usize, 16, &[])
    }),
    ("fast_open_old_socket", |_| {
        let byte = [0u8];
        let flags = (libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL) as usize;
        done(call(libc::SYS_sendto, [CONTROL as usize, byte.as_ptr() as usize, 1, flags, 0, 0]))
    }),
    ("mptcp", |stage| connect(AF_INET, SOCK_STREAM, MPTCP, &target(stage, "port"))),
    ("udp", |stage| {
        let socket = socket(AF_INET, SOCK_DGRAM, 0)?;
        send_to(socket, 0, &target(stage, "udp"))
    }),
    ("name_a_receiver", |stage| send_to(CONTROL as usize, 0, &target(stage, "port"))),
    ("unix_path", |stage| connect(AF_UNIX, SOCK_STREAM, 0, &UnixAddr::new(stage.text("socket"))?)),
    ("unix_abstract", |stage| {
        connect(
            AF_UNIX,
            SOCK_STREAM,
            0,
            &UnixAddr::new_abstract(stage.text("abstract").as_bytes())?,
        )
    }),
    ("unix_pair", |_| {
        let pair = [0i32; 2];
        let (family, kind) = (AF_UNIX as usize, SOCK_STREAM as usize);
        done(call(libc::SYS_socketpair, [family, kind, 0, pair.as_ptr() as usize]))
    }),
    ("vsock", |_| done(socket(libc::AF_VSOCK, SOCK_STREAM, 0))),
    ("netlink", |_| {
        let socket = socket(libc::AF_NETLINK, SOCK_RAW, libc::NETLINK_ROUTE)?;
        bind(socket, &NetlinkAddr::new(0, 0))
    }),
    ("raw", |_| done(socket(AF_INET, SOCK_RAW, libc::IPPROTO_ICMP))),
    ("packet", |_| done(socket(libc::AF_PACKET, SOCK_RAW, 0))),
    ("crypto_socket", |_| done(socket(libc::AF_ALG, SOCK_SEQPACKET, 0))),
    ("bind", |_| {
        let socket = socket(AF_INET, SOCK_STREAM, 0)?;
        bind(socket, &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))
    }),
    ("listen", |_| {
        let socket = socket(AF_INET, SOCK_STREAM, 0)?;
        done(call(libc::SYS_listen, [socket, 1]))
    }),
    ("accept_from_control", |_| {
        match call(libc::SYS_accept4, [CONTROL as usize, 0, 0, 0]) {
            // It cannot be accepted from; it was asked all the same.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok("asked".to_owned()),
            other => done(other),
        }
    }),
    ("supervisor_descriptor_by_socket", |_| {
        let (number, length) = ([0i32], [4u32]);
        let (number, length) = (number.as_ptr() as usize, length.as_ptr() as usize);
        let level = libc::SOL_SOCKET as usize;
        done(call(libc::SYS_getsockopt, [CONTROL as usize, level, SO_PEERPIDFD, number, length]))
    }),
    ("program_on_socket", |_| {
        // One instruction: take all.
        let instruction = [0x0006u16, 0, 0xffff, 0];
        let program = [1usize, instruction.as_ptr() as usize];
        let (level, option) = (libc::SOL_SOCKET as usize, libc::SO_ATTACH_FILTER as usize);
        let program = program.as_ptr() as usize;
        done(call(libc::SYS_setsockopt, [CONTROL as usize, level, option, program, 16]))
    }),
    ("descriptor_to_supervisor", |_| send_message(CONTROL as usize, 0, 0, 0, &rights(CONTROL))),
];

fn target(stage: &Stage, port: &str) -> SockaddrIn {
    let port = u16::try_from(stage.number(port)).unwrap_or(0);
    SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<usize, Errno> {
    call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize])
}

fn connect(family: i32, kind: i32, protocol: i32, target: &impl SockaddrLike) -> Outcome {
    let socket = socket(family, kind, protocol)?;
    let length = target.len() as usize;
    done(call(libc::SYS_connect, [socket, target.as_ptr() as usize, length]))
}

fn bind(socket: usize, address: &impl SockaddrLike) -> Outcome {
    done(call(libc::SYS_bind, [socket, address.as_ptr() as usize, address.len() as usize]))
}

fn send_to(socket: usize, flags: i32, target: &impl SockaddrLike) -> Outcome {
    let byte = [0u8];
    let (at, length) = (target.as_ptr() as usize, target.len() as usize);
    let flags = (flags | libc::MSG_NOSIGNAL) as usize;
    done(call(libc::SYS_sendto, [socket, byte.as_ptr() as usize, 1, flags, at, length]))
}

/// A control message that hands a descriptor over, as the kernel lays it out.
pub fn rights(descriptor: i32) -> [usize; 3] {
    [20, libc::SOL_SOCKET as usize | (libc::SCM_RIGHTS as usize) << 32, descriptor as usize]
}

/// `struct msghdr`, of seven words.
pub fn send_message(
    socket: usize,
    flags: i32,
    target: usize,
    length: usize,
    control: &[usize],
) -> Outcome {
    let byte = [0u8];
    let slice = [byte.as_ptr() as usize, 1];
    let bytes = size_of_val(control);
    let control = if control.is_empty() { 0 } else { control.as_ptr() as usize };
    let message = [target, length, slice.as_ptr() as usize, 1, control, bytes, 0];
    let flags = (flags | libc::MSG_NOSIGNAL) as usize;
    done(call(libc::SYS_sendmsg, [socket, message.as_ptr() as usize, flags]))
}
