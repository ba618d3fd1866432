//! Asks a running gateway: the other end of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::place::{self, DEFAULT, GROUP};
use super::serve::ORDER_LIMIT;
use super::{Answer, Order, Request};
use crate::accounts;

/// A gateway that does not tell how it is within this time hangs.
const STATUS_LIMIT: Duration = Duration::from_secs(10);
/// How long a program may take to listen that goes on in the place of another one.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);
/// How long between two tries.
const HAND_OVER_INTERVAL: Duration = Duration::from_millis(20);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where to look for the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Sockets to try, in this order.
    pub sockets: Vec<PathBuf>,
    /// State directory of the gateway that is meant, where it is known.
    pub state: Option<PathBuf>,
}

impl Target {
    /// The socket at a path, whoever has it.
    pub fn at(path: &Path) -> Self {
        Self { sockets: vec![path.to_owned()], state: None }
    }

    /// Where a gateway with these settings has it. One of ours below the state directory is nobody else's.
    pub fn of(set: Option<&Path>, state: Option<&Path>) -> Self {
        let mut sockets = place::candidates(set, state);
        sockets.reverse();
        Self { sockets, state: state.map(Path::to_owned) }
    }

    /// Where a gateway has it of which nothing is known.
    pub fn unknown() -> Self {
        Self::at(Path::new(DEFAULT))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask the gateway for {}: {}", order.name(), reasons.join("; "))]
pub struct AskError {
    order: Order,
    reasons: Vec<String>,
    /// What kind of failure each is.
    pub kinds: Vec<ErrorKind>,
}

/// Asks the gateway, and waits for its answer.
/// `argument` is what goes with it: the directives of `log`.
pub fn ask(target: &Target, order: Order, argument: Option<&str>) -> Result<Answer, AskError> {
    let limit = match order {
        Order::Status | Order::Log => STATUS_LIMIT,
        // The gateway gives up before, and says so.
        Order::Doctor | Order::Reload | Order::Rotate | Order::Upgrade => {
            ORDER_LIMIT + STATUS_LIMIT
        }
    };
    ask_within(target, order, argument, limit)
}

/// As [`ask`], and waits for so long at most for each answer. A gateway that goes on as another program just then closes the
/// connection: how it is, is asked again, until that program listens.
pub fn ask_within(
    target: &Target,
    order: Order,
    argument: Option<&str>,
    limit: Duration,
) -> Result<Answer, AskError> {
    let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    let was_closed = |error: &AskError| error.kinds.iter().all(|kind| closed.contains(kind));
    let first = ask_once(target, order, argument, limit);
    if order == Order::Status && first.as_ref().is_err_and(was_closed) {
        let deadline = Instant::now() + HAND_OVER_LIMIT;
        while Instant::now() < deadline {
            thread::sleep(HAND_OVER_INTERVAL);
            if let Ok(answer) = ask_once(target, order, argument, limit) {
                return Ok(answer);
            }
        }
    }
    first
}

/// Waits until the program answers that takes over from the one that was just asked to: that one stops answering before.
/// Gives up after a while, for the former one may go on.
pub fn wait_for_successor(target: &Target) {
    let deadline = Instant::now() + HAND_OVER_LIMIT;
    let mut is_gone = false;
    while Instant::now() < deadline {
        match ask_once(target, Order::Status, None, HAND_OVER_LIMIT) {
            Ok(_) if is_gone => return,
            Ok(_) => {}
            Err(_) => is_gone = true,
        }
        thread::sleep(HAND_OVER_INTERVAL);
    }
}

fn ask_once(
    target: &Target,
    order: Order,
    argument: Option<&str>,
    limit: Duration,
) -> Result<Answer, AskError> {
    let (mut reasons, mut kinds) = (Vec::new(), Vec::new());
    for path in &target.sockets {
        match UnixStream::connect(path) {
            Ok(stream) => {
                return converse(stream, target, (order, argument), limit).map_err(|error| {
                    let reason = format!("{}: {}", path.display(), unanswered(&error));
                    AskError { order, reasons: vec![reason], kinds: vec![error.kind()] }
                });
            }
            Err(error) => {
                reasons.push(unreachable(path, &error));
                kinds.push(error.kind());
            }
        }
    }
    // What stands first is the less usual place: told only if there is more to say than that nothing is there.
    if reasons.len() > 1 {
        let (missing, rest): (Vec<_>, Vec<_>) =
            reasons.into_iter().partition(|reason| reason.contains("there is no such socket"));
        reasons = if rest.is_empty() { missing.into_iter().rev().take(1).collect() } else { rest };
    }
    Err(AskError { order, reasons, kinds })
}

fn converse(
    mut stream: UnixStream,
    target: &Target,
    (order, argument): (Order, Option<&str>),
    limit: Duration,
) -> io::Result<Answer> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(STATUS_LIMIT))?;
    let state_dir = target.state.as_deref().and_then(|state| std::path::absolute(state).ok());
    let request = Request {
        command: order,
        argument: argument.map(str::to_owned),
        state_dir: state_dir.and_then(|state| state.into_os_string().into_string().ok()),
    };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Why nobody could be asked, and what to do about it.
fn unreachable(path: &Path, error: &io::Error) -> String {
    let at = path.display();
    match error.kind() {
        ErrorKind::NotFound => {
            format!(
                "at {at} there is no such socket: start the gateway, or name its socket with --socket"
            )
        }
        ErrorKind::ConnectionRefused => {
            format!("at {at} nobody listens: the gateway that made it is gone; start it")
        }
        ErrorKind::PermissionDenied => format!(
            "at {at} permission is denied: {}",
            match group_of(path) {
                Some(group) => format!("ask as root, or as a member of the group {group}"),
                None => format!(
                    "ask as root or as the user that runs the gateway; members of the group {GROUP} may ask where the socket is {DEFAULT}"
                ),
            }
        ),
        _ => format!("at {at}: {error}"),
    }
}

/// The group that may use the socket, if one may and we may know.
fn group_of(path: &Path) -> Option<String> {
    let there = path.metadata().ok()?;
    if there.mode() & 0o020 == 0 {
        return None;
    }
    accounts::group_name(there.gid())
}

fn unanswered(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            "the gateway takes the connection and does not answer: it hangs, or is stopped; look at its log and its process".to_owned()
        }
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe => {
            "the connection was closed without an answer: the gateway has just ended, or restarts; ask again".to_owned()
        }
        _ => format!("no answer: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn who_asks_where_nobody_listens_is_told_where_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aisix.sock");
        let told = ask(&Target::at(&path), Order::Reload, None).unwrap_err().to_string();
        assert!(told.contains("reload") && told.contains("--socket"), "{told}");
        assert!(told.contains(&path.display().to_string()), "{told}");
        drop(UnixListener::bind(&path).unwrap());
        let told = ask(&Target::at(&path), Order::Status, None).unwrap_err().to_string();
        assert!(told.contains("nobody listens"), "{told}");
    }

    #[test]
    fn a_gateway_is_looked_for_below_its_state_directory_first() {
        let target = Target::of(None, Some(Path::new("/state")));
        assert_eq!(target.sockets, [Path::new("/state/run/aisix.sock"), Path::new(DEFAULT)]);
        assert_eq!(target.state.as_deref(), Some(Path::new("/state")));
    }

    #[test]
    fn a_connection_that_is_closed_without_an_answer_is_told_as_that() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aisix.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || drop(listener.accept()));
        let told = ask(&Target::at(&path), Order::Status, None).unwrap_err().to_string();
        assert!(told.contains("without an answer"), "{told}");
        thread.join().unwrap();
    }
}
