//! What the service manager is told, and what it keeps for us; where there is none (no `NOTIFY_SOCKET`), nothing.
//!
//! 1. `READY=1` when the listeners are bound and every role has said hello, with or without configuration; `STATUS=` says
//!    which.
//! 2. The watchdog is fed by the supervisor's own loop and by nothing else: a loop that hangs is a supervisor that hangs.
//! 3. Listening sockets are in the manager's store from the moment they are bound, so that a restart of the unit, also after
//!    `kill -9`, loses no connection that the kernel has accepted. Those that come of a socket unit are not: the unit has them.
//! 4. `RELOADING=1` when the settings are read again or another program takes over, `READY=1` when that is over, whatever
//!    came of it; `STATUS=` says what.
//!
//! Messages are datagrams on a local socket: one that the manager does not take at once is lost, and that is all. (Not by
//! the crate's own sending, which waits for a manager that does not read.)

use std::env;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use sd_notify::NotifyState;
use shared::id::Role;
use tracing::warn;

use crate::process::inherited_from_manager;

/// By how much the end is put off at a time, while requests in flight are waited for.
const EXTENSION: Duration = Duration::from_secs(30);

/// Whether a service manager wants to be told.
pub fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
}

/// Whether the manager's store has it: there sockets have the names of their roles, which a socket unit should not use.
pub fn is_of_store(name: &str) -> bool {
    [Role::Proxy, Role::Status].iter().any(|role| role.name() == name)
}

/// What the manager hands over, from socket units and from its store, by name. To be called once, before anything is opened.
pub fn stored() -> Vec<(String, OwnedFd)> {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok());
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let descriptors = inherited_from_manager(count.unwrap_or_default()).into_iter();
    let named = names.zip(descriptors);
    named.filter_map(|(name, descriptor)| Some((name, descriptor.ok()?))).collect()
}

/// Tells the manager how we are.
#[derive(Debug)]
pub struct Notifier {
    is_there: bool,
    ready: bool,
    /// The settings are being read again: `READY=1` waits.
    reloading: bool,
    status: String,
    /// How often the watchdog is fed.
    interval: Option<Duration>,
    next: Instant,
    failed: bool,
}

impl Notifier {
    /// As the environment says.
    pub fn new(now: Instant) -> Self {
        let interval = sd_notify::watchdog_enabled().map(|limit| limit / 3);
        let is_there = is_there();
        let (ready, reloading, failed) = (false, false, false);
        Self { is_there, ready, reloading, status: String::new(), interval, next: now, failed }
    }

    /// Puts a listening socket into the store. One that is there already is not stored twice.
    pub fn store(&mut self, name: &str, socket: BorrowedFd<'_>) {
        let state = [NotifyState::FdStore, NotifyState::FdName(name)];
        if self.is_there {
            let sent = send(&state, &[socket.as_raw_fd()]);
            self.note(sent);
        }
    }

    /// Takes sockets of that name out of the store.
    pub fn forget(&mut self, name: &str) {
        self.tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }

    /// Listeners are bound and every role has said hello.
    pub fn ready(&mut self) {
        if !self.reloading && !self.ready {
            self.ready = self.tell(&[NotifyState::Ready]);
        }
    }

    /// What there is to say in a sentence; said when it changes.
    pub fn status(&mut self, status: &str) {
        if self.status != status && self.tell(&[NotifyState::Status(status)]) {
            status.clone_into(&mut self.status);
        }
    }

    /// Another program takes over, and tells `READY=1`.
    pub fn upgrading(&mut self) {
        self.tell_reloading("upgrading");
    }

    /// The settings are read again: `READY=1` follows [`Notifier::reloaded`].
    pub fn reloading(&mut self) {
        self.reloading = true;
        self.tell_reloading("reloading");
    }

    /// Whether the settings are being read again.
    pub fn is_reloading(&self) -> bool {
        self.reloading
    }

    /// Whatever came of it, the reload is over.
    pub fn reloaded(&mut self) {
        self.reloading = false;
    }

    fn tell_reloading(&mut self, status: &str) {
        self.ready = false;
        status.clone_into(&mut self.status);
        let state = [NotifyState::Reloading, NotifyState::Status(status)];
        // By which the manager knows that this is about what it has asked for.
        let now = NotifyState::monotonic_usec_now();
        self.tell(&[&state[..], now.ok().as_slice()].concat());
    }

    /// The end has begun.
    pub fn stopping(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// The end takes longer, and that is in order.
    pub fn extend(&mut self) {
        let micros = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// Feeds the watchdog if it is time. Only the event loop calls this.
    pub fn tick(&mut self, now: Instant) {
        let Some(interval) = self.interval else { return };
        if now >= self.next {
            self.next = now + interval;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// When [`Notifier::tick`] has something to do again.
    pub fn wake_at(&self) -> Option<Instant> {
        self.interval.map(|_| self.next)
    }

    /// Whether it was taken, or nobody wants to know.
    fn tell(&mut self, state: &[NotifyState<'_>]) -> bool {
        if !self.is_there {
            return true;
        }
        let sent = send(state, &[]);
        self.note(sent)
    }

    fn note(&mut self, sent: io::Result<()>) -> bool {
        let taken = sent.is_ok();
        match sent {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    warn!("the service manager cannot be told anything: {error}");
                }
            }
        }
        taken
    }
}

/// Sends one message to the manager, with descriptors, and never waits for it. See sd_notify(3).
fn send(state: &[NotifyState<'_>], descriptors: &[RawFd]) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(path.as_os_str())?,
    };
    let text: String = state.iter().map(|line| format!("{line}\n")).collect();
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, rights, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
    Ok(())
}
