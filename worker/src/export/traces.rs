//! A proxy worker's side: whether a request is traced, and telling of it when it is over.
//!
//! Never waits, and costs a look at a number where nobody wants traces. What cannot be told at once is lost, and counted for
//! each exporter that would have been told of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use shared::channel::{Channel, ChannelError};
use shared::export::{CONFIGURED, FromExport, Parent, ToExport, Trace, is_sampled};
use shared::resource::Exporter;
use tracing::warn;

use crate::metrics::Metrics;

/// Which exporters of the projection want which part of the requests.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    by_id: BTreeMap<String, (String, f64)>,
    largest: f64,
}

impl Wanted {
    /// An exporter is in force.
    pub fn put(&mut self, exporter: Exporter) {
        self.by_id.insert(exporter.id, (exporter.name, exporter.sample_rate));
        self.look();
    }

    /// It is not any more.
    pub fn delete(&mut self, id: &str) {
        self.by_id.remove(id);
        self.look();
    }

    fn look(&mut self) {
        self.largest = self.by_id.values().map(|(_, rate)| *rate).fold(0.0, f64::max);
    }
}

/// The trace of a request that is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// The caller's span, if there is one.
    pub parent: Option<Parent>,
}

/// Where traces are told.
pub struct Traces {
    /// Which part the exporter of the configuration file wants.
    configured: Option<f64>,
    peer: RefCell<Option<Channel<ToExport, FromExport>>>,
    metrics: Rc<Metrics>,
}

impl Traces {
    /// Without anybody to tell, yet.
    pub fn new(configured: Option<f64>, metrics: Rc<Metrics>) -> Self {
        Self { configured, peer: RefCell::default(), metrics }
    }

    /// The export role is reached over this socket from now on.
    pub fn reached_over(&self, channel: OwnedFd) {
        match Channel::new(channel) {
            Ok(channel) => *self.peer.borrow_mut() = Some(channel),
            Err(error) => warn!(%error, "the channel to the export worker cannot be used"),
        }
    }

    /// The trace of a request that begins, if anybody wants to be told of it.
    pub fn begin(&self, wanted: &Wanted, incoming: Option<([u8; 16], Parent)>) -> Option<Context> {
        let rate = self.configured.unwrap_or(0.0).max(wanted.largest);
        if rate <= 0.0 {
            return None;
        }
        let (trace_id, parent) = match incoming {
            Some((trace_id, parent)) => (trace_id, Some(parent)),
            None => {
                let mut trace_id = [0; 16];
                getrandom::fill(&mut trace_id).ok()?;
                (trace_id, None)
            }
        };
        is_sampled(rate, &trace_id, parent).then_some(Context { trace_id, parent })
    }

    /// Tells of a request that is over.
    pub fn tell(&self, wanted: &Wanted, trace: Trace) {
        let spans = trace.attempts.len() + 1;
        let (trace_id, parent) = (trace.trace_id, trace.parent);
        let reason = match &*self.peer.borrow() {
            Some(peer) => match peer.try_send(&ToExport::Trace(Box::new(trace)), 0, None) {
                Ok(()) => return,
                Err(ChannelError::Closed) => "no_worker",
                Err(ChannelError::Io(_)) => "worker_busy",
                // No frame is so long.
                Err(_) => "too_large",
            },
            None => "no_worker",
        };
        if reason == "no_worker" {
            self.peer.borrow_mut().take();
        }
        let configured = self.configured.map(|rate| (CONFIGURED, rate));
        let projected = wanted.by_id.values().map(|(name, rate)| (name.as_str(), *rate));
        for (name, rate) in configured.into_iter().chain(projected) {
            if is_sampled(rate, &trace_id, parent) {
                self.metrics.export_dropped(name, reason, spans);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::channel;

    use super::*;

    fn exporter(id: &str, sample_rate: f64) -> Exporter {
        Exporter {
            id: id.to_owned(),
            name: id.to_owned(),
            endpoint: "https://o.example/v1/traces".parse().unwrap(),
            headers: Vec::new(),
            sample_rate,
        }
    }

    fn traces(configured: Option<f64>) -> Traces {
        Traces::new(configured, Rc::new(Metrics::disconnected()))
    }

    #[test]
    fn nothing_is_traced_unless_somebody_wants_it() {
        let mut wanted = Wanted::default();
        let parent = Parent { span_id: [1; 8], is_sampled: true };
        assert_eq!(traces(None).begin(&wanted, Some(([7; 16], parent))), None);
        assert_eq!(traces(Some(0.0)).begin(&wanted, None), None);
        wanted.put(exporter("a", 1.0));
        wanted.put(exporter("b", 0.1));
        assert!(traces(None).begin(&wanted, None).is_some());
        wanted.put(exporter("a", 0.0));
        wanted.delete("b");
        assert_eq!(traces(None).begin(&wanted, None), None);
        assert!(traces(Some(1.0)).begin(&wanted, None).is_some());
    }

    #[test]
    fn a_trace_is_joined_and_its_decision_is_the_callers() {
        let wanted = Wanted::default();
        let begin = |is_sampled| {
            let parent = Parent { span_id: [1; 8], is_sampled };
            traces(Some(1.0)).begin(&wanted, Some(([7; 16], parent)))
        };
        assert_eq!(begin(true).map(|context| context.trace_id), Some([7; 16]));
        assert_eq!(begin(false), None);
        let one = traces(Some(1.0)).begin(&wanted, None).unwrap();
        let other = traces(Some(1.0)).begin(&wanted, None).unwrap();
        assert_ne!(one.trace_id, other.trace_id);
    }

    #[tokio::test]
    async fn a_role_that_is_gone_or_does_not_read_is_never_waited_for() {
        let traces = traces(Some(1.0));
        let wanted = Wanted::default();
        traces.tell(&wanted, Trace::default());
        let (ours, theirs) = channel::pair().unwrap();
        traces.reached_over(ours);
        for _ in 0..20_000 {
            traces.tell(&wanted, Trace::default());
        }
        assert!(traces.peer.borrow().is_some(), "busy is not gone");
        drop(theirs);
        traces.tell(&wanted, Trace::default());
        assert!(traces.peer.borrow().is_none());
    }
}
