//! One attempt: told over the control socket before the process is locked in, made after that, answered in words.
//!
//! ```text
//! told      name=value lines: attempt, thread (main, other), and what the attempts aim at
//! answered  `ok WHAT`, or `ENOSYS` and the like; nothing, if it was the end of the process; in the log, if the socket is full
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use shared::descriptor::CONTROL;
use worker::inherit::Inheritance;
use worker::sandbox;

use crate::attempts;
use crate::sys;

/// Nobody who starts a probe lets it wait so long.
const LIMIT: Duration = Duration::from_secs(600);

/// What came of an attempt: what was achieved, or the error that the kernel gave.
pub type Outcome = Result<String, Errno>;

/// What the attempts aim at.
#[derive(Clone, Debug, Default)]
pub struct Stage(BTreeMap<String, String>);

impl Stage {
    /// A value, empty if it was not told.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A number, 0 if it was not told.
    pub fn number(&self, name: &str) -> usize {
        self.text(name).parse().unwrap_or(0)
    }
}

/// Makes one attempt.
pub fn run() -> Result<(), Box<dyn Error>> {
    let inheritance = Inheritance::take(std::env::args().skip(1))?;
    sandbox::hide(inheritance.policy);
    if !sys::wait_readable(CONTROL, LIMIT) {
        return Err("nobody says what to try".into());
    }
    let mut buffer = vec![0; 16 * 1024];
    let length = recv(CONTROL, &mut buffer, MsgFlags::empty())?;
    let told = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    let lines = told.lines().filter_map(|line| line.split_once('='));
    let stage = Stage(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    let attempt = attempts::find(stage.text("attempt"));

    // There before the process is locked in: the lock must hold for this thread as well.
    let (start, started) = mpsc::channel::<Stage>();
    let (answer, answers) = mpsc::channel();
    let other = thread::spawn(move || {
        let Ok(stage) = started.recv() else { return };
        let _ = answer.send(attempt(&stage));
    });
    let confinement = sandbox::enter(inheritance.policy, inheritance.role);
    for missing in &confinement.missing {
        eprintln!("missing: {missing}");
    }
    let outcome = if stage.text("thread") == "other" {
        start.send(stage)?;
        answers.recv()?
    } else {
        attempt(&stage)
    };
    let words = match outcome {
        Ok(what) => format!("ok {what}"),
        Err(error) => format!("{error:?}"),
    };
    // The attempt may have filled one of the two.
    if send(CONTROL, words.as_bytes(), MsgFlags::MSG_NOSIGNAL).is_err() {
        eprintln!("outcome {words}");
    }
    drop(start);
    let _ = other.join();
    Ok(())
}
