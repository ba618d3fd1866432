//! Bytes of a connection, and when the last of them came: by the kernel's time stamp, which the sender's `write` puts on them
//! (`SO_TIMESTAMPNS`, by the clock of the day). Who comes late to read them reads the same time.
//!
//! Of bytes that came one after another and are read together, the kernel keeps the time of the last: no other came later.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;

/// Makes the kernel keep the times of this connection.
pub fn keep(stream: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(stream, ReceiveTimestampns, &true)?)
}

/// Reads what is there. How much, and when the last of it came, in nanoseconds; nothing if it has ended.
pub fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<(usize, u64)>> {
    let mut control = cmsg_space!(TimeSpec);
    let mut into = [IoSliceMut::new(buffer)];
    let told = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut control), MsgFlags::empty())?;
    if told.bytes == 0 {
        return Ok(None);
    }
    let time = told.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => Some(time),
        _ => None,
    });
    let untold = || io::Error::new(ErrorKind::Unsupported, "the kernel does not tell when it came");
    let time = time.ok_or_else(untold)?;
    let nanoseconds = time.tv_sec() * 1_000_000_000 + time.tv_nsec();
    Ok(Some((told.bytes, u64::try_from(nanoseconds).unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::io::Write;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    #[test]
    fn bytes_came_when_they_were_written_however_late_they_are_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut sender = listener.accept().unwrap().0;
        keep(&receiver).unwrap();
        let mut buffer = [0; 100];
        let begin = Instant::now();
        // The kernel begins with it some time after it was first asked to.
        loop {
            assert!(begin.elapsed() < Duration::from_secs(30), "no time is told");
            let before = clock::of_day();
            sender.write_all(b"hello").unwrap();
            let after = clock::of_day();
            while clock::of_day() < after + 1_000_000 {}
            match read(&receiver, &mut buffer) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {}
                told => {
                    let (size, came) = told.unwrap().unwrap();
                    assert_eq!(size, 5);
                    assert!(before <= came && came <= after, "{before} {came} {after}");
                    break;
                }
            }
        }
        drop(sender);
        assert_eq!(read(&receiver, &mut buffer).unwrap(), None);
    }
}
