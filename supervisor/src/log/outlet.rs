//! Where lines go. Nobody is waited for long: not a pipe that is not read, not a journal that is busy.
//!
//! All waiting together takes at most [`PATIENCE`] of a second ([`Patience`]); what is not taken then is dropped and counted,
//! and the number is told with the next line that is taken. Standard error is written in pieces that a pipe takes whole once it
//! is ready, so that no write ever waits, whatever its flags, which are other processes' too. A file is always ready, and takes
//! as many lines at once as there are.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::write;
use shared::log_line;

use super::alike::Alike;
use super::form::Form;
use super::journal::{Journal, datagram};
use super::render::{Head, Shape, said, written};
use super::{Said, Speaker, note, standard_error};

/// How long is waited in each second, at most.
const PATIENCE: Duration = Duration::from_millis(100);
/// What a pipe takes in one piece once it is ready, in bytes.
const PIECE_BYTES: usize = 4096;
/// What is written to a file in one piece, in bytes.
const FILE_PIECE_BYTES: usize = 64 * 1024;
/// How often a write may be refused by what had said that it was ready.
const REFUSED_MAX: u8 = 10;

/// Where lines go, and in which form.
#[derive(Debug)]
pub struct Outlet {
    form: Form,
    journal: Option<Journal>,
    /// Standard error is a file.
    is_file: bool,
    patience: Patience,
    /// Lines that were dropped and not told of.
    dropped: u64,
    /// A line was broken off: the next one begins on a line of its own.
    is_broken: bool,
    /// Memory for the next piece.
    piece: Vec<u8>,
}

/// Lines of one speaker on their way out.
pub struct Telling<'a> {
    outlet: &'a mut Outlet,
    speaker: Speaker,
    time: SystemTime,
    head: Head,
    /// One piece for many lines, while they fit.
    piece: Vec<u8>,
    /// A line that is none of those that are alike.
    line: String,
    /// The kind of such a line was learnt: no more than one at a time, for a worker whose lines are never alike.
    has_learnt: bool,
    lines: u64,
    /// Lines that nobody took.
    lost: u64,
}

impl Telling<'_> {
    /// Says a line.
    pub fn say<S: AsRef<str>>(&mut self, it: &Said<S>) {
        self.outlet.tell_dropped(self.time);
        if self.outlet.form == Form::Journal {
            if !self.outlet.tell_one(&self.speaker, &self.head, it) {
                self.lose(1);
            }
            return;
        }
        said(&mut self.line, self.outlet.shape(), &self.head, it);
        self.add_line();
    }

    /// Says a worker's line, as it lies in its pipe, if it is like one that it has written before. False if not.
    pub fn say_alike(&mut self, line: &[u8], alike: &Alike) -> bool {
        if self.outlet.form == Form::Journal {
            return false;
        }
        let before = self.piece.len();
        let is_known = alike.write(&mut self.piece, self.outlet.shape(), &self.head, line);
        if is_known {
            self.outlet.tell_dropped(self.time);
            self.added(before);
        }
        is_known
    }

    /// Says a worker's line, as it lies in its pipe. False if it is no line.
    pub fn say_written(&mut self, line: &str, alike: &mut Alike) -> bool {
        if self.outlet.form == Form::Journal {
            let line = log_line::decode(line.as_bytes());
            return line.map(|line| self.say(&Said::Line(line))).is_some();
        }
        self.outlet.tell_dropped(self.time);
        let shape = self.outlet.shape();
        let is_line = written(&mut self.line, shape, &self.head, line);
        if is_line {
            self.add_line();
            if !std::mem::replace(&mut self.has_learnt, true) {
                alike.learn(shape, &self.head, line);
            }
        }
        is_line
    }

    fn add_line(&mut self) {
        let before = self.piece.len();
        self.piece.extend_from_slice(self.line.as_bytes());
        self.line.clear();
        self.added(before);
    }

    /// A line was added. What was there before goes first if both do not fit into one piece.
    fn added(&mut self, before: usize) {
        if before > 0 && self.piece.len() > self.outlet.piece_bytes() {
            self.write(before);
        }
        self.lines += 1;
    }

    /// Writes so many bytes.
    fn write(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        if !self.outlet.write(self.piece.get(..bytes).unwrap_or(&self.piece)) {
            self.lose(lines);
        }
        self.piece.drain(..bytes);
    }

    fn lose(&mut self, lines: u64) {
        self.lost = self.lost.saturating_add(lines);
        self.outlet.dropped = self.outlet.dropped.saturating_add(lines);
    }
}

impl Outlet {
    /// With a connection to the journal, if that is the form.
    pub fn new(form: Form, journal: Option<Journal>) -> Self {
        let (is_file, patience) = (is_file(standard_error()), Patience::new(Instant::now()));
        Self { form, journal, is_file, patience, dropped: 0, is_broken: false, piece: Vec::new() }
    }

    /// What is written in one piece, in bytes.
    fn piece_bytes(&self) -> usize {
        if self.is_file { FILE_PIECE_BYTES } else { PIECE_BYTES }
    }

    /// Lets `tell` say lines of one speaker, in order. Returns how many of them nobody took.
    pub fn telling(
        &mut self,
        speaker: Speaker,
        time: SystemTime,
        tell: impl FnOnce(&mut Telling<'_>),
    ) -> u64 {
        let (piece, head) = (std::mem::take(&mut self.piece), Head::new(speaker, time));
        let mut telling = Telling {
            outlet: self,
            speaker,
            time,
            head,
            piece,
            line: String::new(),
            has_learnt: false,
            lines: 0,
            lost: 0,
        };
        tell(&mut telling);
        telling.write(telling.piece.len());
        let Telling { mut piece, lost, .. } = telling;
        piece.clear();
        self.piece = piece;
        lost
    }

    /// Tells how many lines were dropped, if any were.
    fn tell_dropped(&mut self, time: SystemTime) {
        if self.dropped == 0 {
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        let told = note(format!("{dropped} log lines dropped: nobody took them in time"));
        let (told, own) = (Said::Line(told.with("lines", dropped)), Speaker::own());
        if !self.tell_one(&own, &Head::new(own, time), &told) {
            // The note itself is none of them.
            self.dropped = dropped;
        }
    }

    fn shape(&self) -> Shape {
        match self.form {
            Form::Json => Shape::Json,
            Form::Terminal => Shape::Coloured,
            Form::Text | Form::Journal => Shape::Text,
        }
    }

    /// Whether the line was taken.
    fn tell_one<S: AsRef<str>>(&mut self, speaker: &Speaker, head: &Head, it: &Said<S>) -> bool {
        if let Some(journal) = &mut self.journal {
            let datagram = datagram(speaker, it);
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
        let mut line = String::new();
        said(&mut line, self.shape(), head, it);
        self.write(line.as_bytes())
    }

    fn write(&mut self, text: &[u8]) -> bool {
        let broken = std::mem::take(&mut self.is_broken);
        let mut rest = text;
        let begun = if broken { [b"\n", rest].concat() } else { Vec::new() };
        if broken {
            rest = &begun;
        }
        let (whole, mut refused) = (rest.len(), 0_u8);
        while !rest.is_empty() {
            let is_ready = self.is_file || is_ready(standard_error(), Duration::ZERO);
            if !is_ready && !self.patience.wait(standard_error()) {
                self.is_broken = broken || rest.len() < whole;
                return false;
            }
            let piece = rest.get(..self.piece_bytes()).unwrap_or(rest);
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

fn is_file(descriptor: BorrowedFd<'_>) -> bool {
    let is_regular = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    fstat(descriptor).is_ok_and(|stat| is_regular(stat.st_mode))
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
