//! Keeps the history up to date: looks at the counters from time to time, and closely only if requests have come.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::{History, Report};
use crate::metrics::Collector;

/// How often the counters are looked at.
const EVERY: Duration = Duration::from_secs(5);

/// The history, and what is needed to go on with it. Clones share it.
#[derive(Clone, Debug)]
pub struct Keeper(Rc<RefCell<Kept>>);

#[derive(Debug)]
struct Kept {
    history: History,
    collector: Rc<RefCell<Collector>>,
    /// Requests at the latest look.
    requests: Option<u64>,
    /// That look has found none that the look before it had not.
    is_quiet: bool,
}

impl Keeper {
    /// Of these counters, from now on.
    pub fn new(collector: Rc<RefCell<Collector>>) -> Self {
        let history = History::new(Instant::now());
        Self(Rc::new(RefCell::new(Kept { history, collector, requests: None, is_quiet: false })))
    }

    /// Goes on with it for ever. The first look is taken at once: what it finds came before.
    pub fn start(&self) {
        let keeper = self.clone();
        keeper.look();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                keeper.look();
            }
        });
    }

    /// The last fifteen minutes, up to now.
    pub fn report(&self) -> Report {
        self.look();
        self.0.borrow_mut().history.report(Instant::now(), SystemTime::now())
    }

    fn look(&self) {
        let mut kept = self.0.borrow_mut();
        let kept = &mut *kept;
        let mut collector = kept.collector.borrow_mut();
        let requests = Some(collector.traffic(SystemTime::now()).answered);
        let is_same = kept.requests == requests;
        kept.requests = requests;
        // A request is counted first and its tokens and its duration after that: one more look finds those too.
        if !(is_same && kept.is_quiet) {
            kept.history.take_in(collector.by_model(), Instant::now());
        }
        kept.is_quiet = is_same;
    }
}
