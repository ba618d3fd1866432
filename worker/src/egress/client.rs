//! One client of egress: its questions, each answered when it is time, and its end.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use shared::channel::{Channel, ChannelError, Received};
use shared::egress::{CONNECTS_MAX, FromEgress, Key, Refusal, ToEgress};
use shared::message::Client;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

use super::{Egress, Outcome};

type ToClient = Channel<FromEgress, ToEgress>;

/// Answers until the other end is closed, or breaks the protocol. What is on the way then is given up.
pub(super) async fn serve(egress: Rc<Egress>, who: Client, channel: OwnedFd) {
    let channel: Rc<ToClient> = match Channel::new(channel) {
        Ok(channel) => Rc::new(channel),
        Err(error) => return tracing::error!(?who, %error, "cannot serve a client"),
    };
    let mut open: HashMap<u64, AbortHandle> = HashMap::new();
    let mut connects = JoinSet::new();
    loop {
        let Received { message, request_id: number, descriptor } = tokio::select! {
            received = channel.receive() => match received {
                Ok(received) => received,
                Err(ChannelError::Closed) => return,
                Err(error) => return tracing::warn!(?who, %error, "a client is given up"),
            },
            Some(done) = connects.join_next() => {
                // Those that were forgotten are not there any more.
                if let Ok(number) = done {
                    open.remove(&number);
                }
                continue;
            }
        };
        match (message, descriptor) {
            (ToEgress::Connect(_) | ToEgress::Resolve(_), None) if open.contains_key(&number) => {
                return tracing::warn!(?who, "a client asks twice by one number; it is given up");
            }
            (ToEgress::Connect(_) | ToEgress::Resolve(_), None)
                if open.len() >= CONNECTS_MAX || egress.is_full(who) =>
            {
                let busy = FromEgress::Refused { refusal: Refusal::Busy, place: None };
                if channel.try_send(&busy, number, None).is_err() {
                    return tracing::warn!(?who, "a client asks and does not read; it is given up");
                }
            }
            (ToEgress::Connect(key), None) => {
                let answering = answer(Rc::clone(&egress), who, key, Rc::clone(&channel), number);
                open.insert(number, connects.spawn_local(answering));
            }
            (ToEgress::Resolve(key), None) => {
                let answering = look_up(Rc::clone(&egress), who, key, Rc::clone(&channel), number);
                open.insert(number, connects.spawn_local(answering));
            }
            (ToEgress::Forget, None) => {
                if let Some(connect) = open.remove(&number) {
                    connect.abort();
                }
            }
            _ => return tracing::warn!(?who, "a client broke the protocol; it is given up"),
        }
    }
}

/// Counts a question for as long as it is open.
struct Counted(Rc<Egress>);

impl Counted {
    fn new(egress: Rc<Egress>) -> Self {
        egress.open.set(egress.open.get().saturating_add(1));
        Self(egress)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Egress {
    /// Without the supervisor's connections nothing gets better, however much workers ask.
    fn is_full(&self, who: Client) -> bool {
        !matches!(who, Client::Supervisor) && self.open.get() >= self.open_max
    }
}

async fn answer(
    egress: Rc<Egress>,
    who: Client,
    key: Key,
    channel: Rc<ToClient>,
    number: u64,
) -> u64 {
    let counted = Counted::new(egress);
    let Outcome { result, place } = counted.0.connect(who, &key).await;
    let refusal = match (result, place) {
        (Ok(stream), Some((host, port))) => {
            match hand_over(&channel, stream, number, host.clone(), port).await {
                // The reading side notices the end.
                Ok(()) | Err(ChannelError::Closed) => return number,
                // The kernel has no room for descriptors on their way, or the like.
                Err(error) => {
                    let refusal = Refusal::Connect(0, format!("cannot be handed over: {error}"));
                    FromEgress::Refused { refusal, place: Some((host, port)) }
                }
            }
        }
        (Ok(_), None) => FromEgress::Refused { refusal: Refusal::Unknown, place: None },
        (Err(refusal), place) => FromEgress::Refused { refusal, place },
    };
    if let Err(error) = channel.send(&refusal, number, None).await {
        tracing::debug!(?who, %error, "an answer is lost");
    }
    number
}

async fn look_up(
    egress: Rc<Egress>,
    who: Client,
    key: Key,
    channel: Rc<ToClient>,
    number: u64,
) -> u64 {
    let counted = Counted::new(egress);
    let answer = counted.0.look_up(who, &key).await;
    if let Err(error) = channel.send(&answer, number, None).await {
        tracing::debug!(?who, %error, "an answer is lost");
    }
    number
}

async fn hand_over(
    channel: &ToClient,
    stream: TcpStream,
    number: u64,
    host: String,
    port: u16,
) -> Result<(), ChannelError> {
    let socket = OwnedFd::from(stream.into_std()?);
    channel.send(&FromEgress::Connected { host, port }, number, Some(socket.as_fd())).await
}
