//! gRPC by path. Everything but Range and Watch is refused: a gateway's certificate may only read.

use super::{
    Projection, RANGE, WATCH,
    fence::Fence,
    message::{RangeRequest, RangeResponse, WatchRequest, WatchResponse},
    watch,
};
use bytes::Bytes;
use futures_util::{
    future::BoxFuture,
    stream::{BoxStream, poll_fn},
};
use http::{StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

/// Answers that wait for a slow client before the watch itself waits.
const ANSWERS_QUEUED: usize = 16;

/// What is read of a request that is refused anyway.
const UNREAD_BYTES_MAX: usize = 1024 * 1024;

/// Serves one HTTP/2 request of a client behind `fence`.
pub async fn serve(
    projection: Projection,
    fence: Fence,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return not_grpc(request.into_body()).await;
    }
    match request.uri().path() {
        RANGE => {
            let codec = ProstCodec::<RangeResponse, RangeRequest>::default();
            Grpc::new(codec).unary(RangeMethod { projection, fence }, request).await
        }
        WATCH => {
            let codec = ProstCodec::<WatchResponse, WatchRequest>::default();
            Grpc::new(codec).streaming(WatchMethod { projection, fence }, request).await
        }
        other => {
            Status::unimplemented(format!("{other}: the Cloud offers Range and Watch to gateways"))
                .into_http()
        }
    }
}

struct RangeMethod {
    projection: Projection,
    fence: Fence,
}

impl UnaryService<RangeRequest> for RangeMethod {
    type Response = RangeResponse;
    type Future = BoxFuture<'static, Result<Response<RangeResponse>, Status>>;

    fn call(&mut self, request: Request<RangeRequest>) -> Self::Future {
        let (projection, request) = (self.projection.clone(), request.into_inner());
        let checked = self.fence.check(&request.key, &request.range_end);
        Box::pin(async move {
            checked.map_err(|outside| Status::permission_denied(outside.to_string()))?;
            projection.range(request).await.map(Response::new)
        })
    }
}

struct WatchMethod {
    projection: Projection,
    fence: Fence,
}

impl StreamingService<WatchRequest> for WatchMethod {
    type Response = WatchResponse;
    type ResponseStream = BoxStream<'static, Result<WatchResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let (answers, mut queue) = mpsc::channel(ANSWERS_QUEUED);
        let (projection, fence, requests) =
            (self.projection.clone(), self.fence.clone(), request.into_inner());
        tokio::spawn(async move {
            match projection {
                Projection::Memory(memory) => watch::serve(memory, fence, requests, answers).await,
                Projection::Etcd(etcd) => etcd.watch(fence, requests, answers).await,
            }
        });
        let stream: Self::ResponseStream =
            Box::pin(poll_fn(move |context| queue.poll_recv(context)));
        Box::pin(async move { Ok(Response::new(stream)) })
    }
}

/// For people who forget that HTTP/2 is etcd's here.
async fn not_grpc(body: Incoming) -> http::Response<Body> {
    // Read first: curl takes an answer that comes before its body was read for a broken stream.
    let _ = Limited::new(body, UNREAD_BYTES_MAX).collect().await;
    let text =
        "HTTP/2 is the etcd API on this port; the manager API speaks HTTP/1.1 (curl --http1.1)\n";
    let mut response =
        http::Response::new(Body::new(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}
