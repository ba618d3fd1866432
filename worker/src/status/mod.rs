//! The status role: serves metrics and status pages, knows nothing itself. Each page is fetched from the supervisor.

mod server;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use shared::channel::Received;
use shared::memory::MemoryReader;
use shared::message::{Confinement, Page, ToSupervisor, ToWorker};
use shared::worker_settings::RoleSettings;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::role::{RoleError, listen};

/// A page of which nothing has come after this time is not waited for any longer.
const PAGE_LIMIT: Duration = Duration::from_secs(5);

/// A page as the supervisor sent it.
#[derive(Debug)]
struct FetchedPage {
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

/// Fetches pages over the control socket.
struct Pages {
    link: Rc<Link>,
    next_request: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<FetchedPage>>>,
}

impl Pages {
    /// The page, or `None` if the supervisor does not answer in time.
    async fn fetch(&self, page: Page) -> Option<FetchedPage> {
        let request = self.next_request.get();
        self.next_request.set(request.wrapping_add(1));
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(request, sender);
        let asked = self.link.ask(ToSupervisor::Fetch(page), request);
        let answer = match asked {
            Ok(()) => timeout(PAGE_LIMIT, receiver).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        self.waiting.borrow_mut().remove(&request);
        answer
    }

    fn arrived(&self, request: u64, page: FetchedPage) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&request) {
            // Whoever waited may have given up meanwhile.
            let _ = waiting.send(page);
        }
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Status(role) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the status role" }.into());
    };
    let mut listener = Some(listen(inheritance.listener)?);
    let pages = Rc::new(Pages {
        link: Rc::clone(&link),
        next_request: Cell::new(1),
        waiting: RefCell::default(),
    });
    let stop = Rc::new(Notify::new());
    let (finished, mut drained) = oneshot::channel();
    let mut finished = Some(finished);
    loop {
        let Received { message, request_id, descriptor } = tokio::select! {
            received = link.receive() => received?,
            _ = &mut drained => break,
        };
        match (message, descriptor) {
            (ToWorker::Activate, _) => {
                let (Some(listener), Some(finished)) = (listener.take(), finished.take()) else {
                    return Err(LinkError::Unexpected { expected: "one activation" }.into());
                };
                let server =
                    server::serve(listener, role.clone(), Rc::clone(&pages), Rc::clone(&stop));
                tokio::task::spawn_local(async move {
                    server.await;
                    let _ = finished.send(());
                });
                let _ = link.tell(ToSupervisor::Ready);
            }
            (ToWorker::Page(status, content_type), Some(memory)) => {
                let mut body = Vec::new();
                if MemoryReader::new(memory).read_to_end(&mut body).is_ok() {
                    pages.arrived(request_id, FetchedPage { status, content_type, body });
                }
            }
            (ToWorker::Ping(number), _) => {
                let _ = link.tell(ToSupervisor::Pong(number, 0));
            }
            // Until activated there is nothing to finish.
            (ToWorker::Drain, _) if finished.is_some() => break,
            (ToWorker::Drain, _) => stop.notify_one(),
            (ToWorker::Retire, _) => {}
            (
                ToWorker::Welcome
                | ToWorker::Configuration { .. }
                | ToWorker::Page(..)
                | ToWorker::Budgets { .. }
                | ToWorker::UsageTaken(_)
                | ToWorker::Peer(_)
                | ToWorker::Client(_)
                | ToWorker::Destinations { .. }
                | ToWorker::Resolver
                | ToWorker::SigningKey(_)
                | ToWorker::Certificate
                | ToWorker::Counters { .. }
                | ToWorker::KeySet(_)
                | ToWorker::Exporters
                | ToWorker::Outlive,
                _,
            ) => {
                return Err(
                    LinkError::Unexpected { expected: "a message for the status role" }.into()
                );
            }
        }
    }
    link.flushed().await;
    Ok(())
}
