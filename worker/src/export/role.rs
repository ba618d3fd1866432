//! The export role: takes in what proxy workers tell, and hands it to the lanes of those who want it.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use shared::channel::{Channel, ChannelError};
use shared::dial::Dial;
use shared::egress::client::{self, EgressDial};
use shared::export::{Exporting, FromExport, Numbered, ToExport, Trace, is_sampled};
use shared::id::Role as WorkerRole;
use shared::message::{Client, Confinement, ToSupervisor, ToWorker};
use shared::worker_settings::{ExportSettings, RoleSettings};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::lane::Lane;
use super::queue::Item;
use super::spans::{self, Service};
use crate::helper::{self, Helper};
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::metrics::Metrics;
use crate::role::RoleError;
use crate::upstream::{Connector, TrustRoots, Upstreams};

/// How long a new connection waits for an egress worker that is not there.
const EGRESS_WAIT: Duration = Duration::from_secs(1);
/// Idle connections to collectors are closed after this long: several batches.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// At most so often the supervisor is told how exporters are doing.
const NEWS_PAUSE: Duration = Duration::from_secs(1);
/// What is left when the role leaves may take so long to be sent.
const FLUSH_LIMIT: Duration = Duration::from_millis(1500);
/// A span takes so many times its encoded length in memory: each attribute is some allocations.
const MEMORY_FACTOR: usize = 4;

/// What all lanes need.
pub struct Common {
    /// The way to collectors.
    pub upstreams: Rc<Upstreams>,
    /// Where is counted.
    pub metrics: Rc<Metrics>,
    /// An exporter does differently than before.
    pub news: Notify,
    /// A batch is done.
    pub emptied: Notify,
    service: RefCell<Service>,
}

impl Common {
    /// A batch as it is posted.
    pub fn batch(&self, spans: &[Rc<[Span]>]) -> Bytes {
        spans::request(&self.service.borrow(), spans).encode_to_vec().into()
    }
}

struct Export {
    common: Rc<Common>,
    egress: EgressDial,
    configured: Option<Numbered>,
    lanes: RefCell<Vec<(Rc<Lane>, AbortHandle)>>,
}

impl Export {
    /// Sends to these from now on. Who was there and is the same never notices; who is another of the same id takes over what
    /// waits.
    fn send_to(&self, exporting: Exporting) {
        {
            let mut service = self.common.service.borrow_mut();
            service.instance_id = exporting.instance_id;
            service.env_id = exporting.env_id;
        }
        let now = Instant::now();
        let mut lanes = self.lanes.borrow_mut();
        let mut before = std::mem::take(&mut *lanes);
        for numbered in self.configured.iter().cloned().chain(exporting.exporters) {
            let same = |(lane, _): &(Rc<Lane>, _)| lane.numbered == numbered;
            if let Some(at) = before.iter().position(same) {
                lanes.push(before.swap_remove(at));
                continue;
            }
            let of_id =
                |(lane, _): &(Rc<Lane>, _)| lane.numbered.exporter.id == numbered.exporter.id;
            let queue = match before.iter().position(of_id) {
                Some(at) => {
                    let (former, task) = before.swap_remove(at);
                    task.abort();
                    former.left(now)
                }
                None => Default::default(),
            };
            let lane = Rc::new(Lane::new(numbered, queue));
            let sending = Rc::clone(&lane).run(Rc::clone(&self.common));
            lanes.push((lane, tokio::task::spawn_local(sending).abort_handle()));
        }
        for (lane, task) in before {
            task.abort();
            let left = lane.left(now).len();
            self.common.metrics.export_dropped(&lane.numbered.exporter.name, "removed", left);
        }
    }

    /// A request is over.
    fn take(&self, trace: &Trace) {
        let lanes = self.lanes.borrow();
        let wants = |lane: &Lane| {
            is_sampled(lane.numbered.exporter.sample_rate, &trace.trace_id, trace.parent)
        };
        if !lanes.iter().any(|(lane, _)| wants(lane)) {
            return;
        }
        let mut seed = [0; spans::SEED_BYTES];
        if getrandom::fill(&mut seed).is_err() {
            return;
        }
        let spans: Rc<[Span]> = spans::of(trace, seed).into();
        let bytes = spans.iter().map(Message::encoded_len).sum::<usize>() * MEMORY_FACTOR;
        let now = Instant::now();
        for (lane, _) in lanes.iter().filter(|(lane, _)| wants(lane)) {
            let gone = lane.put(Item { spans: Rc::clone(&spans), bytes }, now);
            self.common.metrics.export_dropped(&lane.numbered.exporter.name, "queue_full", gone);
        }
    }

    /// Sends what is left, within a limit.
    async fn flush(&self) {
        let lanes: Vec<_> = self.lanes.borrow().iter().map(|(lane, _)| Rc::clone(lane)).collect();
        lanes.iter().for_each(|lane| lane.hurry());
        let empty = async {
            loop {
                let emptied = self.common.emptied.notified();
                if lanes.iter().all(|lane| lane.is_empty()) {
                    return;
                }
                emptied.await;
            }
        };
        if timeout(FLUSH_LIMIT, empty).await.is_err() {
            for lane in lanes.iter().filter(|lane| !lane.is_empty()) {
                let (name, left) = (&lane.numbered.exporter.name, lane.left(Instant::now()).len());
                self.common.metrics.export_dropped(name, "unreached", left);
                warn!(exporter = name, spans = left, "traces that were left are lost");
            }
        }
    }
}

struct Role(Rc<Export>);

impl Helper for Role {
    fn serve(&self, client: Client, channel: OwnedFd) -> LocalBoxFuture<'static, ()> {
        let export = Rc::clone(&self.0);
        Box::pin(async move {
            match listen(&export, channel).await {
                Ok(()) | Err(ChannelError::Closed) => {}
                Err(error) => warn!(?client, %error, "a client broke the protocol"),
            }
        })
    }

    fn told(&self, message: ToWorker, memory: Option<OwnedFd>) -> Result<(), LinkError> {
        match (message, memory) {
            (ToWorker::Exporters, Some(memory)) => {
                self.0.send_to(Exporting::read(memory).map_err(LinkError::Exporters)?);
            }
            (ToWorker::Peer(WorkerRole::Egress), Some(channel)) => {
                self.0.egress.reached_over(channel);
            }
            _ => return Err(LinkError::Unexpected { expected: "a message for the export role" }),
        }
        Ok(())
    }

    fn leaves(&self) -> Duration {
        FLUSH_LIMIT
    }
}

/// Hears one client until it is gone.
async fn listen(export: &Export, channel: OwnedFd) -> Result<(), ChannelError> {
    let channel: Channel<FromExport, ToExport> = Channel::new(channel)?;
    loop {
        let received = channel.receive().await?;
        if received.descriptor.is_some() {
            return Err(ChannelError::Descriptors);
        }
        let ToExport::Trace(trace) = received.message;
        export.take(&trace);
        // Who always has something to tell must not keep the others from their turn.
        tokio::task::yield_now().await;
    }
}

/// Tells the supervisor how exporters are doing, whenever that has changed.
async fn tell(export: Rc<Export>, link: Rc<Link>) {
    loop {
        export.common.news.notified().await;
        let health = export.lanes.borrow().iter().map(|(lane, _)| lane.health()).collect();
        // Never refused: only questions are.
        let _ = link.tell(ToSupervisor::ExporterHealth(health));
        sleep(NEWS_PAUSE).await;
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Export(role) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the export role" }.into());
    };
    let ExportSettings { service_name, configured, mut upstream } = *role;
    let announce = {
        let link = Rc::clone(&link);
        move |series| drop(link.tell(ToSupervisor::Series(series)))
    };
    let metrics = Metrics::open(inheritance.metrics, announce).map_err(RoleError::Metrics)?;
    let (egress, driver) = client::new(EGRESS_WAIT);
    tokio::task::spawn_local(driver.run());
    let dial: Rc<dyn Dial> = Rc::new(egress.clone());
    let trust = TrustRoots::new(std::mem::take(&mut upstream.platform_roots));
    let connector = Connector::new(dial, trust, upstream);
    let export = Rc::new(Export {
        common: Rc::new(Common {
            upstreams: Upstreams::new(connector, IDLE_LIMIT, Some(1)),
            metrics: Rc::new(metrics),
            news: Notify::new(),
            emptied: Notify::new(),
            service: RefCell::new(Service { name: service_name, ..Service::default() }),
        }),
        egress,
        configured: configured.map(|exporter| Numbered { number: 0, exporter }),
        lanes: RefCell::default(),
    });
    tokio::task::spawn_local(tell(Rc::clone(&export), Rc::clone(&link)));
    helper::run(Rc::clone(&link), &Role(Rc::clone(&export))).await?;
    export.flush().await;
    link.flushed().await;
    Ok(())
}
