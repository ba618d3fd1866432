//! Answers what is asked over the control socket.

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::place::{self, Place};
use super::{Answer, Asked, CONNECTIONS_MAX, REQUEST_BYTES_MAX, Request};
use crate::findings::{Findings, Topic};

/// A request must be there within this time, and an answer taken.
const PEER_LIMIT: Duration = Duration::from_secs(5);
/// How long the supervisor may take for an order. Renewing a certificate includes two requests to the Cloud.
pub const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// Pause after the system refused a connection: out of descriptors, usually.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Opens the socket and begins to answer, within a `LocalSet`. Where it cannot be had the gateway does without, and says so.
pub fn start(
    set: Option<&Path>,
    state: Option<&Path>,
    findings: &Findings,
) -> (Option<Place>, mpsc::Receiver<Asked>) {
    let (orders, asked) = mpsc::channel(CONNECTIONS_MAX);
    let opened =
        place::open(&place::candidates(set, state)).and_then(|(place, listener, refused)| {
            let listener =
                listen(listener).map_err(|error| format!("cannot be watched: {error}"))?;
            Ok((place, listener, refused))
        });
    match opened {
        Ok((place, listener, refused)) => {
            let why = refused.iter().map(|reason| format!(" ({reason})")).collect::<String>();
            info!("control socket at {}{why}", place.path.display());
            tokio::task::spawn_local(serve(listener, orders, state.map(Path::to_owned)));
            (Some(place), asked)
        }
        Err(reason) => {
            findings.found(
                Topic::ControlSocket,
                format!("there is no control socket, so aisix status, doctor, log, reload, rotate and upgrade do not reach this gateway: {reason}; set supervisor.control_socket to a path that it can make"),
            );
            (None, asked)
        }
    }
}

fn listen(listener: StdListener) -> std::io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn serve(listener: UnixListener, orders: mpsc::Sender<Asked>, state: Option<PathBuf>) {
    let slots = Rc::new(Semaphore::new(CONNECTIONS_MAX));
    let state = Rc::new(state);
    // Told once in a row: it is the same again every second.
    let mut failing = false;
    loop {
        // Before the accept: who finds no slot waits in the kernel.
        let Ok(slot) = acquire(&slots).await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                let (orders, state) = (orders.clone(), Rc::clone(&state));
                tokio::task::spawn_local(async move {
                    let _slot = slot;
                    converse(stream, orders, state.as_deref()).await;
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    error!(%error, "a connection to the control socket cannot be taken");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A place among the connections; given back when dropped.
struct Slot(Rc<Semaphore>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

async fn acquire(slots: &Rc<Semaphore>) -> Result<Slot, tokio::sync::AcquireError> {
    slots.acquire().await?.forget();
    Ok(Slot(Rc::clone(slots)))
}

async fn converse(mut stream: UnixStream, orders: mpsc::Sender<Asked>, state: Option<&Path>) {
    let answer = match read(&mut stream).await {
        // It left without a word, as one does who looks whether anybody listens.
        Ok(line) if line.is_empty() => return,
        Ok(line) => ask(&line, &stream, &orders, state).await,
        Err(reason) => Answer::refused(reason),
    };
    let Ok(mut text) = serde_json::to_vec(&answer) else { return };
    text.push(b'\n');
    // Who does not take the answer does without.
    let _ = timeout(PEER_LIMIT, async {
        stream.write_all(&text).await?;
        stream.shutdown().await
    })
    .await;
}

/// The request, without the end of its line.
async fn read(stream: &mut UnixStream) -> Result<Vec<u8>, String> {
    let mut line = Vec::with_capacity(256);
    let reading = async {
        let mut piece = [0_u8; 1024];
        loop {
            let read = stream.read(&mut piece).await.map_err(|error| error.to_string())?;
            let piece = piece.get(..read).unwrap_or_default();
            let end = piece.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(piece.get(..end.unwrap_or(read)).unwrap_or_default());
            if line.len() > REQUEST_BYTES_MAX {
                return Err(format!("a request has at most {REQUEST_BYTES_MAX} bytes"));
            }
            if end.is_some() || read == 0 {
                return Ok(());
            }
        }
    };
    match timeout(PEER_LIMIT, reading).await {
        Ok(read) => read.map(|()| line),
        Err(_) => Err(format!("no request came within {} s", PEER_LIMIT.as_secs())),
    }
}

async fn ask(
    line: &[u8],
    stream: &UnixStream,
    orders: &mpsc::Sender<Asked>,
    state: Option<&Path>,
) -> Answer {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Answer::refused(format!("not a request: {error}")),
    };
    if let Some(meant) = &request.state_dir
        && !is_same(Path::new(meant), state)
    {
        let ours = state.map_or_else(|| "(none)".to_owned(), |state| state.display().to_string());
        return Answer::refused(format!(
            "this gateway's state directory is {ours}, not {meant}: the gateway that is meant does not run, or listens elsewhere"
        ));
    }
    let (order, argument) = (request.command, request.argument);
    if order.changes() && !(order == super::Order::Log && argument.is_none()) {
        match stream.peer_cred() {
            Ok(peer) => info!(
                order = order.name(),
                pid = peer.pid(),
                uid = peer.uid(),
                gid = peer.gid(),
                "ordered over the control socket"
            ),
            Err(error) => {
                warn!(order = order.name(), %error, "an order of somebody who cannot be named is refused");
                return Answer::refused(format!("cannot tell who asks: {error}"));
            }
        }
    }
    let (reply, answer) = oneshot::channel();
    if orders.send(Asked { order, argument, reply }).await.is_err() {
        return Answer::refused("the gateway ends");
    }
    match timeout(ORDER_LIMIT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Answer::refused("the gateway ends"),
        Err(_) => Answer::refused(format!(
            "not done within {} s, and perhaps still under way: aisix status shows what comes of it",
            ORDER_LIMIT.as_secs()
        )),
    }
}

/// Whether a path names our state directory, links followed.
fn is_same(meant: &Path, state: Option<&Path>) -> bool {
    let Some(state) = state else { return false };
    let real = |path: &Path| path.canonicalize().ok();
    let absolute = |path: &Path| std::path::absolute(path).ok();
    absolute(meant) == absolute(state) || (real(state).is_some() && real(meant) == real(state))
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::super::Order;
    use super::*;

    /// What is answered to these bytes by a gateway that does whatever it is told.
    async fn answered(bytes: &[u8]) -> Answer {
        let (stream, mut client) = UnixStream::pair().unwrap();
        let (orders, mut asked) = mpsc::channel::<Asked>(1);
        tokio::task::spawn_local(async move {
            while let Some(Asked { order, reply, .. }) = asked.recv().await {
                let _ = reply.send(Answer::done(order.name()));
            }
        });
        tokio::task::spawn_local(async move {
            converse(stream, orders, Some(Path::new("/state"))).await;
        });
        // A server that has heard enough closes: the rest cannot be written.
        let _ = client.write_all(bytes).await;
        let _ = client.shutdown().await;
        let mut text = Vec::new();
        // What was not read of a request that is too long shows as a reset, behind the answer.
        let _ = client.read_to_end(&mut text).await;
        serde_json::from_slice(&text).unwrap_or_else(|_| Answer::refused("no answer"))
    }

    fn in_runtime(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test());
    }

    #[test]
    fn every_order_is_passed_on_under_its_word() {
        in_runtime(async || {
            for order in [
                Order::Status,
                Order::Doctor,
                Order::Log,
                Order::Reload,
                Order::Rotate,
                Order::Upgrade,
            ] {
                let line = format!("{{\"command\":\"{}\"}}\n", order.name());
                assert_eq!(answered(line.as_bytes()).await, Answer::done(order.name()));
            }
        });
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        in_runtime(async || {
            let long = [b'x'; REQUEST_BYTES_MAX * 3];
            for (bytes, reason) in [
                (&b"hello\n"[..], "not a request"),
                (b"{\"command\":\"stop\"}\n", "unknown variant"),
                (b"{\"command\":\"status\",\"x\":1}\n", "unknown field"),
                (b"\xff\xfe\n", "not a request"),
                (&long, "at most 4096 bytes"),
            ] {
                let error = answered(bytes).await.error.unwrap_or_default();
                assert!(error.contains(reason), "{error}");
            }
        });
    }

    #[test]
    fn an_order_for_another_gateway_is_refused() {
        in_runtime(async || {
            let ask = async |state: &str| {
                let line = format!("{{\"command\":\"reload\",\"state_dir\":\"{state}\"}}\n");
                answered(line.as_bytes()).await
            };
            assert!(ask("/state").await.ok);
            let error = ask("/other").await.error.unwrap();
            assert!(error.contains("/other") && error.contains("/state"), "{error}");
        });
    }
}
