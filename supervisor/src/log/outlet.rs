//! Where lines go. Nobody is waited for long: not a pipe that is not read, not a journal that is busy.
//!
//! All waiting together takes at most [`PATIENCE`] of a second ([`Patience`]); what is not taken then is dropped and counted,
//! and the number is told with the next line that is taken. Standard error is written in pieces that a pipe takes whole once it
//! is ready, so that no write ever waits, whatever its flags, which are other processes' too.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

use super::form::Form;
use super::journal::{Journal, datagram};
use super::render::{json, text};
use super::{Said, Speaker, note, standard_error};

/// How long is waited in each second, at most.
const PATIENCE: Duration = Duration::from_millis(100);
/// What a pipe takes in one piece once it is ready, in bytes.
const PIECE_BYTES: usize = 4096;

/// How often a write may be refused by what had said that it was ready.
const REFUSED_MAX: u8 = 10;

/// Where lines go, and in which form.
#[derive(Debug)]
pub struct Outlet {
    form: Form,
    journal: Option<Journal>,
    patience: Patience,
    /// Lines that were dropped and not told of.
    dropped: u64,
    /// A line was broken off: the next one begins on a line of its own.
    is_broken: bool,
}

impl Outlet {
    /// With a connection to the journal, if that is the form.
    pub fn new(form: Form, journal: Option<Journal>) -> Self {
        let patience = Patience::new(Instant::now());
        Self { form, journal, patience, dropped: 0, is_broken: false }
    }

    /// Writes what was said, in order. Returns how many lines of it nobody took.
    pub fn tell(&mut self, speaker: &Speaker, said: &[Said], time: SystemTime) -> u64 {
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            let told = note(format!("{dropped} log lines dropped: nobody took them in time"));
            let told = Said::Line(told.with("lines", dropped));
            if !self.tell_one(&Speaker::own(), &told, time) {
                // The note itself is none of them.
                self.dropped = dropped;
            }
        }
        let before = self.dropped;
        if self.form == Form::Journal {
            for said in said {
                self.count(1, |this| this.tell_one(speaker, said, time));
            }
            return self.dropped.saturating_sub(before);
        }
        // One piece for many lines, while they fit.
        let (mut piece, mut lines) = (String::new(), 0);
        for said in said {
            let line = self.rendered(speaker, said, time);
            if !piece.is_empty() && piece.len() + line.len() > PIECE_BYTES {
                self.count(lines, |this| this.write(&piece));
                (piece, lines) = (String::new(), 0);
            }
            piece.push_str(&line);
            lines += 1;
        }
        self.count(lines, |this| this.write(&piece));
        self.dropped.saturating_sub(before)
    }

    fn count(&mut self, lines: u64, write: impl FnOnce(&mut Self) -> bool) {
        if !write(self) {
            self.dropped = self.dropped.saturating_add(lines);
        }
    }

    fn rendered(&self, speaker: &Speaker, said: &Said, time: SystemTime) -> String {
        match self.form {
            Form::Json => json(speaker, said, time),
            Form::Terminal => text(speaker, said, time, true),
            Form::Text | Form::Journal => text(speaker, said, time, false),
        }
    }

    /// Whether the line was taken.
    fn tell_one(&mut self, speaker: &Speaker, said: &Said, time: SystemTime) -> bool {
        if let Some(journal) = &mut self.journal {
            let datagram = datagram(speaker, said);
            let mut sent = journal.send(&datagram);
            if is_busy(&sent) && self.patience.wait(journal_fd(journal)) {
                sent = journal.send(&datagram);
            }
            match sent {
                Ok(()) => return true,
                Err(_) if is_busy(&sent) => return false,
                // It has gone: where standard error leads, somebody may look.
                Err(_) => {}
            }
        }
        let line = self.rendered(speaker, said, time);
        self.write(&line)
    }

    fn write(&mut self, text: &str) -> bool {
        let broken = std::mem::take(&mut self.is_broken);
        let mut rest = text.as_bytes();
        let begun = if broken { [b"\n", rest].concat() } else { Vec::new() };
        if broken {
            rest = &begun;
        }
        let (whole, mut refused) = (rest.len(), 0_u8);
        while !rest.is_empty() {
            if !is_ready(standard_error(), Duration::ZERO) && !self.patience.wait(standard_error())
            {
                self.is_broken = broken || rest.len() < whole;
                return false;
            }
            let piece = rest.get(..PIECE_BYTES).unwrap_or(rest);
            match write(standard_error(), piece) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                // It said that it was ready, and somebody else was faster.
                Err(Errno::EAGAIN) if refused < REFUSED_MAX => refused += 1,
                Err(Errno::EAGAIN) => {
                    self.is_broken = broken || rest.len() < whole;
                    return false;
                }
                // Closed: there is nobody to tell.
                Err(_) => return true,
            }
        }
        true
    }
}

fn journal_fd(journal: &Journal) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(journal)
}

fn is_busy(sent: &io::Result<()>) -> bool {
    sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Whether it takes something, at once or within that time. What has failed does: the next call says so.
fn is_ready(descriptor: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut polled = [PollFd::new(descriptor, PollFlags::POLLOUT)];
    let limit = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX);
    match poll(&mut polled, PollTimeout::from(limit)) {
        Ok(ready) => ready > 0,
        Err(_) => false,
    }
}

/// How long may still be waited in this second.
#[derive(Debug)]
struct Patience {
    since: Instant,
    left: Duration,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { since: now, left: PATIENCE }
    }

    /// Waits until something is taken, if there is time left. Whether it is.
    fn wait(&mut self, descriptor: BorrowedFd<'_>) -> bool {
        let begun = Instant::now();
        let is_ready = is_ready(descriptor, self.left_at(begun));
        self.waited(begun.elapsed());
        is_ready
    }

    fn left_at(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.left
    }

    fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_takes_a_part_of_each_second_and_no_more() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert_eq!(patience.left_at(start), PATIENCE);
        patience.waited(PATIENCE / 2);
        assert_eq!(patience.left_at(start), PATIENCE / 2);
        patience.waited(PATIENCE);
        assert_eq!(patience.left_at(start + Duration::from_millis(900)), Duration::ZERO);
        assert_eq!(patience.left_at(start + Duration::from_secs(1)), PATIENCE);
    }
}
