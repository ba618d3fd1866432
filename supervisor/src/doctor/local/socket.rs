//! The control socket, where no gateway has answered yet: what stands there, and who listens.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::look::Look;
use super::{Fault, error, note, warning};
use crate::control::client::{self, Target};
use crate::control::place::candidates;
use crate::control::{Answer, Order};
use crate::settings::{Settings, Source};

static SILENT: Fault = error(
    "gateway-silent",
    "a gateway listens on the control socket and does not answer",
    "Its event loop answers within milliseconds when it runs.",
    "it hangs, or is stopped (SIGSTOP, a debugger, a paused container): look at its process and at the end of its log, then restart it",
    &["daemon-down", "state-in-use", "host-port-in-use"],
);
static OTHER: Fault = note(
    "gateway-other-state",
    "the gateway that answers on the control socket is another one than the configuration means",
    "Orders would reach the wrong gateway, and are refused.",
    "nothing, if two gateways are meant to run here; else name the configuration or the socket of the one that is meant, with --config or --socket",
);
static NOT_A_SOCKET: Fault = warning(
    "gateway-socket-foreign",
    "what stands where the control socket would stand is no socket",
    "The gateway leaves alone what it has not made.",
    "remove it, or set supervisor.control_socket to another path",
    &["gateway-socket-missing"],
);
static STALE: Fault = note(
    "gateway-socket-stale",
    "nobody listens on the control socket: the gateway that made it is gone",
    "The gateway was killed, or the machine was.",
    "nothing: the next start replaces it",
);

/// Every fault of this file.
pub static FAULTS: &[&Fault] = &[&SILENT, &OTHER, &NOT_A_SOCKET, &STALE];

/// How long an answer is waited for: a gateway takes some milliseconds.
const LIMIT: Duration = Duration::from_millis(1500);

/// Looks at every place where the socket may be.
pub fn check(settings: &Settings, look: &mut Look<'_>) {
    if look.gateway.is_some() {
        return;
    }
    let state = match &settings.source {
        Source::Managed(managed) => Some(managed.state_dir()),
        Source::Etcd(_) | Source::File(_) => None,
    };
    for path in candidates(settings.control_socket.as_deref(), state) {
        one(&path, state, look);
    }
}

fn one(path: &Path, state: Option<&Path>, look: &mut Look<'_>) {
    let at = path.display().to_string();
    match path.symlink_metadata() {
        Ok(metadata) if !metadata.file_type().is_socket() => return look.found(&NOT_A_SOCKET, at),
        Ok(_) => {}
        Err(error) => {
            look.is_hidden(path, error.kind());
            return;
        }
    }
    match UnixStream::connect(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return look.found(&STALE, at);
        }
        Err(error) => {
            // Whoever may not ask is no reason to suspect the gateway.
            return look.hidden(format!("{at}: {error}"));
        }
    }
    match client::ask_within(&Target::at(path), Order::Status, None, LIMIT) {
        Ok(Answer { status: Some(status), .. }) => {
            let real = |path: &Path| path.canonicalize().ok();
            let theirs = status.state_dir.as_deref().map(Path::new);
            if theirs.and_then(real) != state.and_then(real) {
                let theirs = status.state_dir.as_deref().unwrap_or("(none)");
                let ours = state.map_or_else(|| "(none)".into(), |path| path.display().to_string());
                let evidence =
                    format!("{at}: its state directory is {theirs}, the configuration's {ours}");
                look.found(&OTHER, evidence);
            }
        }
        Ok(_) => {}
        Err(error) => look.found(&SILENT, error.to_string()),
    }
}
