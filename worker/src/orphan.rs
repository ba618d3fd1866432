//! A proxy worker whose supervisor was killed: it serves on from memory, and waits for the next supervisor to ask for the
//! listener and to tell it to leave.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::sys::socket::{getsockopt, sockopt};
use shared::channel::Channel;
use shared::descriptor;
use shared::id::WorkerId;
use shared::orphan::{FromOrphan, ToOrphan};
use shared::version::VERSION;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::sys;

/// Takes connections of supervisors, one after another, for as long as the process lives. `stop` is told when one of them
/// wants us to leave.
pub async fn wait(socket: OwnedFd, id: WorkerId, stop: Rc<Notify>) {
    let socket = match descriptor::watched(socket) {
        Ok(socket) => socket,
        Err(error) => return warn!(%error, "the next supervisor cannot be waited for"),
    };
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        match sys::accept(socket.get_ref()) {
            Ok(connection) if is_permitted(&connection) => {
                // Whoever comes while another is served waits: there is one supervisor at a time.
                if let Err(error) = serve(connection, id, &stop).await {
                    warn!("the next supervisor has gone again: {error}");
                }
            }
            Ok(_) => warn!("somebody who is neither root nor our user wanted the listener"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => {
                warn!(%error, "a connection of the next supervisor is not accepted");
                ready.clear_ready();
            }
        }
    }
}

async fn serve(
    connection: OwnedFd,
    id: WorkerId,
    stop: &Notify,
) -> Result<(), shared::channel::ChannelError> {
    let channel = Channel::<FromOrphan, ToOrphan>::new(connection)?;
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
