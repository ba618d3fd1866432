//! Resources from a file instead of a store: read at the start, and again when that is asked for. A file that cannot be
//! used changes nothing.

use std::path::PathBuf;
use std::time::Instant;
use std::{io, thread};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::state::{Entry, Observed, State};
use super::{Handle, Propagation, Question, UPDATES_MAX, Update, now};
use crate::changes::Quarantine;
use crate::resources::{self, PREFIX, Resources};

/// Asks for another reading of the file.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<()>);

impl Reload {
    /// Has the file read again. Who asks while the file is waiting to be read asks for that reading.
    pub fn ask(&self) {
        // Full is as good as asked, and without a thread there is nobody left to serve.
        let _ = self.0.try_send(());
    }
}

/// Starts with what the file at `path` was found to hold, on a thread of its own.
pub fn start(
    path: PathBuf,
    first: Resources,
) -> io::Result<(Handle, mpsc::Receiver<Update>, Reload)> {
    let (questions, asked) = mpsc::channel(8);
    let (updates, received) = mpsc::channel(UPDATES_MAX);
    let (reload, reloads) = mpsc::channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let propagation = Propagation::default();
    let seen = propagation.clone();
    thread::Builder::new()
        .name("projection".to_owned())
        .spawn(move || runtime.block_on(run(path, first, reloads, asked, (updates, seen))))?;
    let quarantine = Quarantine::new(PREFIX);
    Ok((Handle { questions, quarantine, propagation }, received, Reload(reload)))
}

async fn run(
    path: PathBuf,
    first: Resources,
    mut reloads: mpsc::Receiver<()>,
    mut asked: mpsc::Receiver<Question>,
    (updates, propagation): (mpsc::Sender<Update>, Propagation),
) {
    let mut state = State::of_file(PREFIX);
    let mut revision = 1;
    let mut observed = Some(loaded(revision, first));
    loop {
        if let Some(observed) = observed.take()
            && let Some(update) = state.observe(observed, now())
        {
            propagation.seen(update.revision.0, 1, Instant::now());
            if updates.send(update).await.is_err() {
                return;
            }
        }
        tokio::select! {
            question = asked.recv() => match question {
                Some(question) => question.answer(&mut state),
                None => return,
            },
            Some(()) = reloads.recv() => match resources::load(&path, &resources::variable) {
                Ok(resources) => {
                    revision += 1;
                    observed = Some(loaded(revision, resources));
                }
                Err(error) => {
                    warn!("{error}; what was read before stays in use");
                    observed = Some(Observed::Lost { error: error.to_string() });
                }
            },
        }
    }
}

fn loaded(revision: i64, resources: Resources) -> Observed {
    info!("resources file read: {} documents, revision {revision}", resources.documents.len());
    for note in &resources.notes {
        warn!("{note}");
    }
    let entries = resources.documents.into_iter().map(|document| {
        let key = format!("{PREFIX}{}/{}", document.kind, document.id);
        Entry { key: key.into_bytes(), value: document.json.expose().clone(), created: 0 }
    });
    Observed::Loaded { revision, entries: entries.collect() }
}
