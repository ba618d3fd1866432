//! A worker's end of the channel to the signer, for the one thread that may wait on it.
//!
//! A question is answered within [`ANSWER_LIMIT`] or given up. After that everything fails at once, until the signer answers
//! after all or another takes its place: only the first handshake has waited for nothing. While there is no signer,
//! which is for as long as one takes to start, a handshake waits for the next one just as long.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use shared::frame::{self, Header};
use shared::message::Message;
use shared::signing::{FromSigner, KeyId, Refusal, Sign, ToSigner};
use shared::version::PROTOCOLS;
use tracing::{info, warn};

/// How long a handshake waits for its signature.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// No answer is longer: a signature of the largest key that there is takes 1 KiB.
const ANSWER_BYTES_MAX: usize = 4096;

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// There is no signer.
    #[error("there is no signer")]
    Absent,
    /// It does not answer.
    #[error("the signer does not answer")]
    Silent,
    /// It will not.
    #[error("the signer refused: {0}")]
    Refused(#[from] Refusal),
    /// The question cannot be asked.
    #[error("the signer cannot be asked: {0}")]
    Asking(String),
}

/// What came of one question.
enum Asked {
    Answered(FromSigner),
    Silent,
    /// The other end is closed, or what came from it was no answer.
    Ended,
}

#[derive(Default)]
struct State {
    channel: Option<Arc<OwnedFd>>,
    /// A question was not answered in time, or nobody was there to ask.
    given_up: bool,
    asked: u64,
}

/// The signer, whichever process it is now.
#[derive(Default)]
pub struct SignerLink {
    // Held for moments only, never while waiting for the signer.
    state: Mutex<State>,
    replaced: Condvar,
}

impl fmt::Debug for SignerLink {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SignerLink")
    }
}

impl SignerLink {
    /// The signer is reached over this socket from now on; the other end of the one before is closed, or about to be.
    pub fn replace(&self, channel: OwnedFd) -> io::Result<()> {
        let limit = TimeVal::new(1, 0);
        setsockopt(&channel, sockopt::ReceiveTimeout, &limit)?;
        let mut state = self.lock();
        state.channel = Some(Arc::new(channel));
        state.given_up = false;
        self.replaced.notify_all();
        Ok(())
    }

    /// Has a message signed. Waits for the answer.
    pub fn sign(&self, key: KeyId, scheme: u16, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let question = ToSigner::Sign(Sign { key, scheme, message: message.to_vec() });
        loop {
            let (channel, given_up, number) = self.next(deadline).ok_or(SignError::Absent)?;
            if given_up && !has_answered(&channel) {
                return Err(SignError::Silent);
            }
            let asked = ask(&channel, &question, number, deadline);
            match asked.map_err(SignError::Asking)? {
                Asked::Answered(answer) => {
                    self.answered(&channel);
                    return match answer {
                        FromSigner::Signature(signature) => Ok(signature),
                        FromSigner::Refused(refusal) => Err(refusal.into()),
                    };
                }
                Asked::Silent => {
                    self.give_up(&channel);
                    return Err(SignError::Silent);
                }
                Asked::Ended => self.ended(&channel),
            }
        }
    }

    /// Whom to ask, whether it was given up, and the number of the question. `None` if nobody has come by the deadline.
    fn next(&self, deadline: Instant) -> Option<(Arc<OwnedFd>, bool, u64)> {
        let mut state = self.lock();
        loop {
            if let Some(channel) = state.channel.clone() {
                state.asked = state.asked.wrapping_add(1);
                return Some((channel, state.given_up, state.asked));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.given_up || left.is_zero() {
                if !state.given_up {
                    warn!("there is no signer: handshakes fail until there is one");
                }
                state.given_up = true;
                return None;
            }
            let waited = self.replaced.wait_timeout(state, left);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    fn answered(&self, channel: &Arc<OwnedFd>) {
        let mut state = self.lock();
        if state.is(channel) && state.given_up {
            info!("the signer answers again");
            state.given_up = false;
        }
    }

    fn give_up(&self, channel: &Arc<OwnedFd>) {
        let mut state = self.lock();
        if state.is(channel) && !state.given_up {
            warn!("the signer does not answer: handshakes fail until it does, or is replaced");
            state.given_up = true;
        }
    }

    fn ended(&self, channel: &Arc<OwnedFd>) {
        let mut state = self.lock();
        if state.is(channel) {
            state.channel = None;
            state.given_up = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is(&self, channel: &Arc<OwnedFd>) -> bool {
        self.channel.as_ref().is_some_and(|now| Arc::ptr_eq(now, channel))
    }
}

/// Whether something has come that was waited for in vain, or the other end is closed.
fn has_answered(channel: &OwnedFd) -> bool {
    let mut buffer = [0; ANSWER_BYTES_MAX];
    recv(channel.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) != Err(Errno::EAGAIN)
}

/// Asks, and waits for the answer. What else comes is the answer to a question that was given up.
fn ask(
    channel: &OwnedFd,
    question: &ToSigner,
    number: u64,
    deadline: Instant,
) -> Result<Asked, String> {
    let body = question.encode().map_err(|error| error.to_string())?;
    let header = Header::new(PROTOCOLS.newest, question.kind(), number);
    let frame = frame::encode(header, &body).map_err(|error| error.to_string())?;
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    match send(channel.as_raw_fd(), &frame, flags) {
        Ok(_) => {}
        // Full of questions that nobody has read.
        Err(Errno::EAGAIN) => return Ok(Asked::Silent),
        Err(error) if is_end(error) => return Ok(Asked::Ended),
        Err(error) => return Err(error.to_string()),
    }
    let mut buffer = [0; ANSWER_BYTES_MAX];
    while Instant::now() < deadline {
        let bytes = match recv(channel.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Ok(Asked::Ended),
            Ok(bytes) => bytes,
            Err(Errno::EAGAIN) => return Ok(Asked::Silent),
            Err(Errno::EINTR) => continue,
            Err(error) if is_end(error) => return Ok(Asked::Ended),
            Err(error) => return Err(error.to_string()),
        };
        let datagram = buffer.get(..bytes).unwrap_or_default();
        let Ok((header, body)) = frame::decode(datagram) else { return Ok(Asked::Ended) };
        let Ok(answer) = FromSigner::decode(header.kind, body) else { return Ok(Asked::Ended) };
        if header.request_id == number {
            return Ok(Asked::Answered(answer));
        }
    }
    Ok(Asked::Silent)
}

fn is_end(error: Errno) -> bool {
    let kind = io::Error::from(error).kind();
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected)
}
