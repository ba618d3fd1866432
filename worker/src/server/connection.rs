//! One caller's connection, in clear or over TLS: HTTP/1.1 or HTTP/2, its limits, its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Proxy;
use super::activity::{Activity, Verdict};
use super::spread::Live;
use crate::request;
use crate::tls::Tls;

/// A connection is left when it has not been used for this long after the server stopped: of a new one the caller was told
/// that it is served, over a kept one the next request may be on its way. Its answer says that it is the last.
const UNUSED_GRACE: Duration = Duration::from_secs(2);
/// The same where the whole gateway ends, and has said so in its answers before.
const UNUSED_GRACE_AT_END: Duration = Duration::from_millis(250);
/// A handshake in progress gets this long to end when the server stops.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(2);
/// A connection without a request in progress gets this long to close when the server stops.
const CLOSE_GRACE: Duration = Duration::from_millis(250);
/// Fields of a head.
const HEADERS_MAX: usize = 128;
/// Bytes of a head.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Requests at once over one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Silence before TCP asks whether the caller is still there.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// Serves one connection in clear until it ends. `stopped` is kept for as long, and it counts as live.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    proxy: Rc<Proxy>,
    stopped: watch::Receiver<bool>,
    _live: Live,
) {
    prepare(&stream);
    converse(stream, peer, proxy, stopped).await;
}

/// The same over TLS.
pub(super) async fn serve_tls(
    stream: TcpStream,
    tls: Rc<Tls>,
    peer: SocketAddr,
    proxy: Rc<Proxy>,
    mut stopped: watch::Receiver<bool>,
    _live: Live,
) {
    prepare(&stream);
    let late = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(HANDSHAKE_GRACE).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = late => return,
    };
    match accepted {
        Ok(stream) => converse(stream, peer, proxy, stopped).await,
        Err(error) => tracing::debug!(%peer, %error, "a connection did not begin"),
    }
}

/// Without the first, small events wait for the acknowledgement of the one before. A socket without both still works.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER));
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: SocketAddr,
    proxy: Rc<Proxy>,
    mut stopped: watch::Receiver<bool>,
) {
    let idle_limit = Duration::from_millis(proxy.settings.downstream_idle_ms);
    let activity = Rc::new(Activity::new(idle_limit, Instant::now()));
    let (stopping, retiring) = (stopped.clone(), proxy.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let version = request.version();
        let (proxy, busy) = (proxy.clone(), activity.busy(version));
        let stopping = stopping.clone();
        let is_ambiguous = activity.is_ambiguous();
        async move {
            let mut response = if is_ambiguous {
                request::refuse_ambiguous(proxy, peer, request).await
            } else {
                match request::enter(&proxy, request.uri().path()).await {
                    Ok(()) => request::serve(proxy, peer, request).await,
                    Err(refused) => request::refuse_overload(&proxy, request, refused).await,
                }
            };
            // An answer that is there at once is written before the connection hears of the end.
            if *stopping.borrow() && version != Version::HTTP_2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response.body_mut().hold(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder();
    let watched = TokioIo::new(Watched { stream, activity: activity.clone() });
    let mut connection = pin!(builder.serve_connection(watched, service));
    let mut stop = pin!(async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        let at_end = retiring.health.is_retiring();
        activity.unused(if at_end { UNUSED_GRACE_AT_END } else { UNUSED_GRACE }).await;
    });
    let mut is_ending = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
                return;
            }
            () = &mut stop, if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            // Half a head, or an HTTP/2 peer that does not answer, is nothing to wait for.
            () = activity.quiet(CLOSE_GRACE), if is_ending => return,
            verdict = activity.verdict() => match verdict {
                Verdict::Stalled => return,
                Verdict::Idle if is_ending => return,
                Verdict::Idle => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            },
        }
    }
}

fn builder() -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    // hyper's own header limit would also end connections that wait for their next request: `Activity` has ours.
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(None);
    http1.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX as usize);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    http2.max_header_list_size(HEAD_BYTES_MAX);
    builder
}

/// Runs the streams of an HTTP/2 connection on this thread.
#[derive(Clone)]
pub(super) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// The socket; tells the activity when bytes arrive.
struct Watched<S> {
    stream: S,
    activity: Rc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let bytes = buffer.filled().get(filled..).unwrap_or_default();
        if !bytes.is_empty() {
            self.activity.bytes_arrived(bytes, Instant::now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
