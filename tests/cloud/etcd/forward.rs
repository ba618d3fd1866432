//! The projection in a real etcd: requests that pass the fence go on to it as they are, answers come back as they are.

use super::{
    fence::Fence,
    message::{
        RangeRequest, RangeResponse, WatchRequest, WatchRequestUnion as Union, WatchResponse,
    },
    watch::Answers,
};
use http::uri::PathAndQuery;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Longer than any etcd on the same machine or network needs to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client of the real etcd. It connects when first used, and again whenever it must.
#[derive(Clone)]
pub struct Forward {
    channel: Channel,
}

/// An etcd address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--etcd {url}: use a plain http URL such as http://127.0.0.1:2379")]
pub struct BadEtcdUrl {
    url: String,
}

impl Forward {
    /// A client of the etcd at a plain `http` URL.
    pub fn new(url: &str) -> Result<Self, BadEtcdUrl> {
        let bad = || BadEtcdUrl { url: url.to_owned() };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| bad())?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
            return Err(bad());
        }
        Ok(Self { channel: endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy() })
    }

    /// One Range.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<RangeRequest, RangeResponse>::default();
        let path = PathAndQuery::from_static(super::RANGE);
        let response = grpc.unary(Request::new(request), path, codec).await.map_err(named)?;
        Ok(response.into_inner())
    }

    /// One watch stream, until either side ends it or the client asks for keys beyond the fence.
    pub async fn watch(&self, fence: Fence, requests: Streaming<WatchRequest>, answers: Answers) {
        if let Err(status) = self.relay(&fence, requests, &answers).await {
            let _ = answers.send(Err(status)).await;
        }
    }

    async fn relay(
        &self,
        fence: &Fence,
        mut requests: Streaming<WatchRequest>,
        answers: &Answers,
    ) -> Result<(), Status> {
        // etcd answers nothing, not even headers, before the first request has come.
        let Some(first) = requests.message().await? else { return Ok(()) };
        check(fence, &first)?;
        let (onward, mut queue) = mpsc::channel(16);
        let gone = |_| Status::unavailable("etcd has closed the watch stream");
        onward.send(first).await.map_err(gone)?;

        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let path = PathAndQuery::from_static(super::WATCH);
        let stream = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        let mut events =
            grpc.streaming(Request::new(stream), path, codec).await.map_err(named)?.into_inner();
        loop {
            tokio::select! {
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    check(fence, &request)?;
                    onward.send(request).await.map_err(gone)?;
                }
                answer = events.message() => {
                    let Some(answer) = answer.map_err(named)? else { return Ok(()) };
                    if answers.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
                () = answers.closed() => return Ok(()),
            }
        }
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| named(Status::unavailable(error.to_string())))?;
        Ok(grpc)
    }
}

/// An error of the way to etcd says so: the client has reached the Cloud, and should not look for the fault there.
fn named(status: Status) -> Status {
    match status.code() {
        Code::Unavailable => {
            Status::unavailable(format!("the Cloud's etcd cannot be reached: {}", status.message()))
        }
        _ => status,
    }
}

fn check(fence: &Fence, request: &WatchRequest) -> Result<(), Status> {
    let Some(Union::Create(create)) = &request.request_union else { return Ok(()) };
    fence
        .check(&create.key, &create.range_end)
        .map_err(|outside| Status::permission_denied(outside.to_string()))
}
