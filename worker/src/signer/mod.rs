//! The signer role: holds the listener's TLS key and signs handshakes with it, nothing else.
//!
//! - The key comes as sealed memory from the supervisor, and is in no other worker.
//! - What is signed is the exact layout of a server's handshake (`layout`), in a scheme of the key, for a client that does
//!   not ask too often (`limit`). Everything else is refused with a reason, and counts as a question.
//! - A client that sends what is no question loses its channel, and is introduced anew only when it is started anew.
//! - One question of each client is answered at a time; those that wait stay in its socket.

pub(crate) mod keys;
mod layout;
mod limit;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use futures_util::future::LocalBoxFuture;
use shared::channel::{Channel, ChannelError};
use shared::message::{Client, Confinement, ToSupervisor, ToWorker};
use shared::signing::{FromSigner, Refusal, ToSigner};
use shared::worker_settings::RoleSettings;
use tracing::{error, info, warn};

use self::keys::{KEPT, Keys};
use self::limit::Bucket;
use crate::helper::{self, Helper};
use crate::inherit::Inheritance;
use crate::link::{Link, LinkError};
use crate::role::RoleError;

struct Signer {
    link: Rc<Link>,
    keys: Rc<RefCell<Keys>>,
}

impl Helper for Signer {
    fn serve(&self, client: Client, channel: OwnedFd) -> LocalBoxFuture<'static, ()> {
        let keys = Rc::clone(&self.keys);
        Box::pin(async move {
            match answer(&keys, channel).await {
                Ok(()) | Err(ChannelError::Closed) => {}
                Err(error) => warn!(?client, %error, "a client broke the protocol"),
            }
        })
    }

    fn told(&self, message: ToWorker, memory: Option<OwnedFd>) -> Result<(), LinkError> {
        let (ToWorker::SigningKey(about), Some(memory)) = (message, memory) else {
            return Err(LinkError::Unexpected { expected: "a message for the signer role" });
        };
        if let Err(error) = self.keys.borrow_mut().take(&about, memory, Instant::now()) {
            // The supervisor has tried it: another process must not go on in its place.
            error!(%error, "the key cannot be used");
            return Err(LinkError::Unexpected { expected: "a key that can sign" });
        }
        info!(number = about.number, "key in force");
        // Never refused: only questions are.
        let _ = self.link.tell(ToSupervisor::KeyTaken(about.number));
        let keys = Rc::clone(&self.keys);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(KEPT).await;
            keys.borrow_mut().forget(Instant::now());
        });
        Ok(())
    }
}

/// Answers one client until it is gone.
pub(crate) async fn answer(keys: &RefCell<Keys>, channel: OwnedFd) -> Result<(), ChannelError> {
    let channel: Channel<FromSigner, ToSigner> = Channel::new(channel)?;
    let mut bucket = Bucket::full(Instant::now());
    let mut is_limited = false;
    loop {
        let received = channel.receive().await?;
        if received.descriptor.is_some() {
            return Err(ChannelError::Descriptors);
        }
        let ToSigner::Sign(sign) = received.message;
        let answer = if bucket.take(Instant::now()) {
            keys.borrow().sign(&sign).map_or_else(FromSigner::Refused, FromSigner::Signature)
        } else {
            // Once for each client: at the limit there would be thousands.
            if !is_limited {
                warn!("a client asks for too many signatures; further ones are refused");
            }
            is_limited = true;
            FromSigner::Refused(Refusal::RateLimited)
        };
        channel.send(&answer, received.request_id, None).await?;
        // Who always has another question waiting must not keep the others from their turn.
        tokio::task::yield_now().await;
    }
}

/// Runs until drained or until the supervisor is gone.
pub async fn run(inheritance: Inheritance, confinement: Confinement) -> Result<(), RoleError> {
    let (link, settings) =
        Link::open(inheritance.control, inheritance.id, inheritance.role, confinement).await?;
    crate::log::start(inheritance.log, &settings.log_filter);
    let RoleSettings::Signer(_) = settings.role else {
        return Err(LinkError::Unexpected { expected: "settings of the signer role" }.into());
    };
    let signer = Signer { link: Rc::clone(&link), keys: Rc::default() };
    helper::run(link, &signer).await
}
