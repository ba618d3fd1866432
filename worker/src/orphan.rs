//! A proxy worker whose supervisor was killed: it serves on from memory, and waits for the next supervisor to ask for the
//! listener and to tell it to leave.
//!
//! The listener is handed over by one number only, [`descriptor::ADOPTED`]: the system call filter permits no other, lest a
//! worker that was taken over make itself a copy of the listener. A placeholder occupies the number, and is closed when a
//! supervisor is there to be accepted: the kernel gives the lowest number that is free.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt};
use shared::channel::{Channel, ChannelError};
use shared::descriptor;
use shared::id::WorkerId;
use shared::orphan::{FromOrphan, ToOrphan};
use shared::version::VERSION;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::sys;

/// How long nothing is accepted when the process has no descriptor or memory left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type ToNext = Channel<FromOrphan, ToOrphan>;

/// Takes connections of supervisors, one after another, for as long as the process lives. `stop` is told when one of them
/// wants us to leave. `placeholder` occupies the number that the first of them gets.
pub async fn wait(
    mut socket: OwnedFd,
    mut placeholder: Option<OwnedFd>,
    id: WorkerId,
    stop: Rc<Notify>,
) {
    // The connection before keeps the number occupied until the next is there.
    let mut before: Option<ToNext> = None;
    loop {
        // Watched anew for each: the runtime then tells of what waits at this moment, never of what was accepted before, and
        // the number is given up for nothing else.
        let watched = match descriptor::watched(socket) {
            Ok(watched) => watched,
            Err(error) => return warn!(%error, "the next supervisor cannot be waited for"),
        };
        if watched.readable().await.is_err() {
            return;
        }
        drop((placeholder.take(), before.take()));
        let accepted = sys::accept(watched.get_ref());
        socket = watched.into_inner();
        match accepted {
            Ok(connection) if connection.as_raw_fd() != descriptor::ADOPTED => {
                let number = connection.as_raw_fd();
                warn!(number, "the next supervisor's number is taken; it is not answered");
            }
            Ok(connection) if !is_permitted(&connection) => {
                warn!("somebody who is neither root nor our user wanted the listener");
                // Told of the end, although the descriptor stays.
                let _ = shutdown(connection.as_raw_fd(), Shutdown::Both);
                placeholder = Some(connection);
            }
            // Whoever comes while another is served waits: there is one supervisor at a time.
            Ok(connection) => match Channel::new(connection) {
                Ok(channel) => {
                    if let Err(error) = serve(&channel, id, &stop).await {
                        warn!("the next supervisor has gone again: {error}");
                    }
                    before = Some(channel);
                }
                Err(error) => warn!(%error, "the next supervisor cannot be answered"),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                warn!(%error, "a connection of the next supervisor is not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(channel: &ToNext, id: WorkerId, stop: &Notify) -> Result<(), ChannelError> {
    loop {
        let received = channel.receive().await?;
        match received.message {
            ToOrphan::Adopt => {
                info!("the next supervisor takes the listener over");
                let version = VERSION.to_owned();
                let answer = FromOrphan::Listener { worker: id, version };
                channel.send(&answer, received.request_id, Some(sys::listener())).await?;
            }
            ToOrphan::Drain => {
                info!("the next supervisor serves; finishing what is in flight");
                stop.notify_one();
            }
        }
    }
}

/// Root, or the user that we are: where the supervisor is not root, that is its user too.
fn is_permitted(connection: &OwnedFd) -> bool {
    let peer = getsockopt(connection, sockopt::PeerCredentials);
    peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == sys::born_user())
}
