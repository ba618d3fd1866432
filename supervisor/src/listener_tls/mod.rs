//! TLS on the listener of callers, as far as it is the supervisor's: which certificate and key are in force, and with what
//! keys sessions resume.
//!
//! ```text
//! files ─► checked ─► the key to the signer ─► it says that it has it ─► the certificate to every proxy worker
//! ```
//! Promises:
//! 1. a worker shows no certificate whose key the signer has not confirmed, so that no handshake fails over a change;
//! 2. files that are not good leave everything as it is, and are a finding until they are;
//! 3. the key is in the memory of this process only while a changed file is checked. What a later signer is handed is the
//!    sealed memory that the one before was handed: it always fits what workers show, whatever the files hold by then.

mod pair;
mod private_key;
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use shared::codec;
use shared::memory;
use shared::secret::Secret;
use shared::signing::{ListenerCertificate, SigningKey, TicketKey};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

pub use self::pair::{Pair, PairError};
pub use self::report::Status;
use crate::file_watch::{self, Look};
use crate::findings::{Findings, Topic};
use crate::settings::{ListenerFiles, ProxyTls};

/// How long tickets are sealed with one key. They open for as long again.
const TICKET_KEY_LIFE: Duration = Duration::from_secs(6 * 60 * 60);
/// Orders that wait for the loop of the supervisor; the task that gives them does, then.
const ORDERS_MAX: usize = 4;

/// What the owner of the workers should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hand the newest key to the signer.
    Key,
    /// Hand the certificate and the ticket keys in force to every proxy worker.
    Certificate,
}

/// What the files held when they were last looked at: `None` if the same as before.
type Reading = Option<Result<Pair, PairError>>;

struct Numbered {
    number: u64,
    pair: Rc<Pair>,
}

struct State {
    /// What workers show.
    in_force: Numbered,
    /// What the signer has been handed and has not confirmed.
    coming: Option<Numbered>,
    /// The key that seals, then the one before.
    tickets: Vec<TicketKey>,
    /// Why the files are not what is in force.
    refused: Option<String>,
    /// How often files came into force, and did not, by reason.
    reloads: BTreeMap<&'static str, u64>,
}

/// TLS on the listener of callers. Clones share it.
#[derive(Clone)]
pub struct ListenerTls {
    settings: ProxyTls,
    state: Rc<RefCell<State>>,
}

impl ListenerTls {
    /// Reads the files, which have to be good.
    pub fn open(settings: &ProxyTls, now: SystemTime) -> Result<Self, PairError> {
        let pair = Rc::new(Pair::read(&settings.files, now)?);
        let state = State {
            in_force: Numbered { number: 1, pair },
            coming: None,
            tickets: Vec::new(),
            refused: None,
            reloads: BTreeMap::new(),
        };
        Ok(Self { settings: settings.clone(), state: Rc::new(RefCell::new(state)) })
    }

    /// Watches the files and the time from now on. What is to be done about them is in the orders.
    pub fn start(&self, findings: Findings) -> io::Result<mpsc::Receiver<Order>> {
        self.renew_tickets()?;
        let readings = watch(&self.settings.files)?;
        let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
        tokio::task::spawn_local(self.clone().run(readings, orders_in, findings));
        Ok(orders)
    }

    async fn run(
        self,
        mut readings: mpsc::Receiver<Reading>,
        orders: mpsc::Sender<Order>,
        findings: Findings,
    ) {
        let mut tickets_at = Instant::now() + TICKET_KEY_LIFE;
        loop {
            let order = tokio::select! {
                reading = readings.recv() => match reading {
                    Some(reading) => reading.and_then(|read| self.judge(read)),
                    None => return,
                },
                () = sleep_until(tickets_at) => {
                    tickets_at += TICKET_KEY_LIFE;
                    match self.renew_tickets() {
                        Ok(()) => Some(Order::Certificate),
                        Err(error) => {
                            error!(%error, "no new key for session tickets; the one before stays");
                            None
                        }
                    }
                }
            };
            match self.finding(SystemTime::now()) {
                Some(text) => findings.found(Topic::ListenerCertificate, text),
                None => findings.settled(Topic::ListenerCertificate),
            }
            if let Some(order) = order
                && orders.send(order).await.is_err()
            {
                return;
            }
        }
    }

    /// What to do about files that have changed.
    fn judge(&self, read: Result<Pair, PairError>) -> Option<Order> {
        let mut state = self.state.borrow_mut();
        let pair = match read {
            Ok(pair) => pair,
            Err(error) => {
                let told = error.to_string();
                // Read again and again while they are not good.
                if state.refused.as_ref() != Some(&told) {
                    *state.reloads.entry(error.fault.label()).or_default() += 1;
                }
                state.refused = Some(told);
                return None;
            }
        };
        state.refused = None;
        let latest = state.coming.as_ref().unwrap_or(&state.in_force);
        if latest.pair.is_same(&pair) {
            return None;
        }
        let number = latest.number + 1;
        info!(number, "another certificate and key for the listener; handed to the signer");
        state.coming = Some(Numbered { number, pair: Rc::new(pair) });
        Some(Order::Key)
    }

    /// The signer has confirmed a key. Whether workers are to be told of its certificate.
    pub fn confirmed(&self, number: u64) -> bool {
        let mut state = self.state.borrow_mut();
        match state.coming.take_if(|coming| coming.number == number) {
            Some(coming) => {
                info!(number, "another certificate for the listener in force");
                state.in_force = coming;
                *state.reloads.entry("taken").or_default() += 1;
                true
            }
            None => false,
        }
    }

    /// What a signer is to be handed, in this order: the keys of what workers show now and will show next.
    pub fn keys(&self) -> io::Result<Vec<(SigningKey, OwnedFd)>> {
        let state = self.state.borrow();
        let both = [Some(&state.in_force), state.coming.as_ref()];
        let key = |numbered: &Numbered| {
            let Numbered { number, pair } = numbered;
            let (id, kind, form, tls12) = (pair.id, pair.kind, pair.form, self.settings.tls12);
            let about = SigningKey { number: *number, id, kind, form, tls12 };
            Ok((about, pair.key.try_clone()?))
        };
        both.into_iter().flatten().map(key).collect()
    }

    /// What a proxy worker is to be handed, sealed.
    pub fn certificate(&self) -> io::Result<OwnedFd> {
        let state = self.state.borrow();
        let pair = &state.in_force.pair;
        let certificate = ListenerCertificate {
            chain: pair.chain.clone(),
            key: pair.id,
            kind: pair.kind,
            tls12: self.settings.tls12,
            tickets: state.tickets.clone(),
        };
        let bytes = codec::encode(&certificate).map_err(io::Error::other)?;
        memory::sealed("aisix-listener-certificate", |writer| writer.write_all(&bytes))
    }

    /// A new key seals tickets; those of the one before still open.
    fn renew_tickets(&self) -> io::Result<()> {
        let (mut name, mut key) = ([0; 16], [0; 32]);
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        let tickets = &mut self.state.borrow_mut().tickets;
        tickets.insert(0, TicketKey { name, key: Secret::new(key) });
        tickets.truncate(2);
        Ok(())
    }
}

/// What of a file changes when its content does.
type Trace = Option<(u64, u64, u64, i64, i64)>;

/// Reads the files whenever they have changed, and as long as they are not good: a certificate may only have to wait for its
/// time.
fn watch(files: &ListenerFiles) -> io::Result<mpsc::Receiver<Reading>> {
    let both = [&files.certificate, &files.key].map(Clone::clone);
    let paths = both.to_vec();
    let files = files.clone();
    let mut last: Option<([Trace; 2], bool)> = None;
    file_watch::start("listener-files", paths, move || {
        let traces = both.each_ref().map(|path| {
            let found = fs::metadata(path).ok()?;
            let (changed, nanos) = (found.ctime(), found.ctime_nsec());
            Some((found.dev(), found.ino(), found.size(), changed, nanos))
        });
        if last == Some((traces, true)) {
            return Look { reading: None, has_changed: false };
        }
        let has_changed = last.is_none_or(|(before, _)| before != traces);
        let read = Pair::read(&files, SystemTime::now());
        last = Some((traces, read.is_ok()));
        Look { reading: Some(read), has_changed }
    })
}

#[cfg(test)]
mod tests;
