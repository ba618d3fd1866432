//! One caller's connection, in clear or over TLS: HTTP/1.1 or HTTP/2, its limits, its end.
//!
//! ```text
//! begun ──▶ waiting ──a request, and its turn──▶ in use ──HTTP/1.1, idle for a while or others wait──▶ waiting
//! ```
//! While it waits it is only a socket: what a request needs (buffers, the future of the request) is there while it is in use.
//! Where many wait, what one has used is so taken by the next while it is in the processor's caches; only the last head stays for
//! a while, of which a request that follows soon has most often not to be read anything.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::activity::{Activity, Verdict};
use super::http1::{self, Asking, Kept, Wire};
use super::incoming::Incoming;
use super::socket::{Begun, Socket};
use super::spread::Live;
use super::{Body, Proxy, Refused};
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
/// The same where the end of an answer has still to go out.
const BLOCKED_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of the headers of a request over HTTP/2.
const HEADERS_BYTES_MAX: u32 = 64 * 1024;
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
    let connection = Rc::new(Connection { peer, proxy, activity, stopping });
    let mut stop = pin!(async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        let at_end = retiring.health.is_retiring();
        let grace = if at_end { UNUSED_GRACE_AT_END } else { UNUSED_GRACE };
        connection.activity.unused(grace).await;
    });
    let mut socket = Socket::new(stream, connection.activity.clone());
    let (mut is_new, mut kept) = (true, None);
    loop {
        let Some(begun) = connection.wait(&mut socket, &mut kept, is_new, stop.as_mut()).await
        else {
            let _ = tokio::time::timeout(CLOSE_GRACE, socket.shutdown()).await;
            return;
        };
        // Boxed, so that nothing of it is left while the connection waits.
        let left = match begun {
            Begun::Http2 => {
                Box::pin(connection.serve_http2(socket, stop.as_mut())).await;
                None
            }
            Begun::Http1 | Begun::Either => {
                Box::pin(connection.serve_http1(socket, kept, stop.as_mut())).await
            }
        };
        // Where many wait, what was used is used again at once.
        let is_crowded = connection.proxy.entrance.is_crowded();
        if left.is_none() || !is_crowded {
            connection.proxy.calm.rests();
        }
        let Some((waits, head)) = left else { return };
        (socket, kept) = (waits, head.filter(|_| is_crowded));
        is_new = false;
    }
}

/// What the server has of a connection beside its socket.
struct Connection {
    peer: SocketAddr,
    proxy: Rc<Proxy>,
    activity: Rc<Activity>,
    stopping: watch::Receiver<bool>,
}

/// Why a connection is no longer in use.
#[derive(PartialEq, Eq)]
enum Left {
    /// It has ended.
    Over,
    /// It was idle for a while.
    Idle,
}

impl Connection {
    /// Waits for the first bytes of a request, and for its turn; the head that was kept goes if they do not come soon. `None` when the
    /// connection should end instead.
    async fn wait<S: AsyncRead + Unpin>(
        &self,
        socket: &mut Socket<S>,
        kept: &mut Option<Box<Kept>>,
        is_new: bool,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<Begun> {
        if kept.is_none() {
            self.activity.rest();
        }
        // Nobody makes use of what was said about another request.
        let _ = self.activity.passed();
        let was_held = self.activity.is_held();
        let is_there = !is_new && socket.has_head() && !self.activity.is_held();
        let begun = {
            let mut begins = pin!(begins(socket, is_new, is_there));
            loop {
                tokio::select! {
                    biased;
                    begun = &mut begins => break begun?,
                    () = stop.as_mut() => return None,
                    verdict = self.activity.verdict(|| false) => match verdict {
                        Verdict::Rests => {
                            *kept = None;
                            self.activity.rest();
                            self.proxy.calm.rests();
                        }
                        Verdict::Idle | Verdict::Stalled => return None,
                    },
                }
            }
        };
        // Who has given up while it was not heard is not served.
        if was_held
            && !socket.asks_for_health()
            && futures_util::poll!(pin!(socket.gone())).is_ready()
        {
            return None;
        }
        // Who waits for its turn here has next to nothing. If a part of its head is missing it waits when that has come.
        if begun == Begun::Http1 && socket.has_head() && !socket.asks_for_health() {
            tokio::select! {
                biased;
                passed = request::pass(&self.proxy) => self.activity.has_passed(passed),
                () = socket.gone() => return None,
            }
        }
        Some(begun)
    }

    /// Serves HTTP/1.1 until the connection ends, `None`, or has been idle for a while.
    async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        &self,
        socket: Socket<S>,
        kept: Option<Box<Kept>>,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<(Socket<S>, Option<Box<Kept>>)> {
        let wire = Rc::new(Wire::new(socket, kept));
        // Who is in use can be told from who rests by the number of holders.
        let _in_use = self.proxy.clone();
        let left = {
            let answer = |asking: Asking| {
                let passed = self.activity.passed();
                self.answer(asking, passed)
            };
            let talk = pin!(http1::talk(wire.clone(), self.activity.clone(), answer));
            self.drive(talk, |_| wire.end(), stop).await
        };
        match left {
            Left::Over => None,
            // Idle is only who waits for a request.
            Left::Idle => Rc::into_inner(wire).map(Wire::into_socket),
        }
    }

    /// Serves HTTP/2 until the connection ends.
    async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        self: &Rc<Self>,
        socket: Socket<S>,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) {
        let connection = self.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let connection = connection.clone();
            async move {
                let busy = connection.activity.busy(Version::HTTP_2);
                let (head, body) = request.into_parts();
                let asking = Asking {
                    head: Rc::new(head),
                    body: Incoming::Http2(body),
                    is_ambiguous: false,
                };
                let mut response = connection.answer(asking, None).await;
                response.body_mut().hold(busy);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = http2().serve_connection(TokioIo::new(socket), service);
        let end = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
        self.drive(pin!(connection), end, stop).await;
    }

    /// Answers a request, of which the entrance may have been asked before.
    async fn answer(&self, asking: Asking, passed: Option<Result<(), Refused>>) -> Response<Body> {
        let (proxy, peer) = (&self.proxy, self.peer);
        let Asking { head, body, is_ambiguous } = asking;
        let is_http2 = head.version == Version::HTTP_2;
        let mut response = if is_ambiguous {
            request::refuse_ambiguous(proxy.clone(), peer, &head, body).await
        } else {
            match request::enter(proxy, head.uri.path(), passed).await {
                Ok(()) => request::serve(proxy.clone(), peer, head, body).await,
                Err(refused) => {
                    let response = request::refuse_overload(proxy, &head, body, refused).await;
                    // Over HTTP/2 others would wait with it.
                    if !is_http2 {
                        let heard = until_heard(proxy.clone(), self.stopping.clone(), refused);
                        self.activity.hold(heard);
                    }
                    response
                }
            }
        };
        // An answer that is there at once is written before the connection hears of the end.
        if *self.stopping.borrow() && !is_http2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Polls a connection until it has ended, or is idle; `end` tells it to end.
    async fn drive<C: Future<Output = Result<(), E>>, E: Display>(
        &self,
        mut connection: Pin<&mut C>,
        end: impl Fn(Pin<&mut C>),
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Left {
        let mut is_ending = false;
        loop {
            tokio::select! {
                // First: what it has done decides on the verdict.
                biased;
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = %self.peer, %error, "a connection ended");
                    }
                    return Left::Over;
                }
                () = &mut stop, if !is_ending => {
                    is_ending = true;
                    end(connection.as_mut());
                }
                // Half a head, or an HTTP/2 peer that does not answer, is nothing to wait for.
                () = self.activity.quiet(CLOSE_GRACE, BLOCKED_LIMIT), if is_ending => return Left::Over,
                verdict = self.activity.verdict(|| self.proxy.entrance.is_crowded()), if !is_ending => match verdict {
                    Verdict::Stalled => return Left::Over,
                    // What it still has to do with the request before, a body that nobody has read for example, it does now: between
                    // two requests it stands only if that is nothing, and if nothing came meanwhile.
                    Verdict::Rests => match futures_util::poll!(connection.as_mut()) {
                        Poll::Ready(_) => return Left::Over,
                        Poll::Pending if self.activity.may_rest() => return Left::Idle,
                        Poll::Pending => {}
                    },
                    Verdict::Idle => {
                        is_ending = true;
                        end(connection.as_mut());
                    }
                },
            }
        }
    }
}

/// Waits until it is known what the first bytes begin, of which some may be there. `None` if nothing comes any more.
async fn begins<S: AsyncRead + Unpin>(
    socket: &mut Socket<S>,
    is_new: bool,
    mut is_there: bool,
) -> Option<Begun> {
    loop {
        let came = is_there || socket.more().await.unwrap_or(false);
        is_there = false;
        let begun = if is_new { socket.begun() } else { Begun::Http1 };
        if !came {
            // What has come will not become a request: its parser tells that.
            return socket.has_ahead().then_some(begun);
        }
        if begun != Begun::Either {
            return Some(begun);
        }
    }
}

/// Returns when a caller that was refused is heard again: when it is time, when everybody is served, or when the server stops.
async fn until_heard(proxy: Rc<Proxy>, mut stopping: watch::Receiver<bool>, refused: Refused) {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(refused.retry_after.into())) => {}
        () = proxy.entrance.is_over() => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

fn http2() -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    builder.max_header_list_size(HEADERS_BYTES_MAX);
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

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::server::activity::REST_AFTER;
    use crate::server::tests::{Gateway, run, test_settings, until};

    #[test]
    fn a_head_that_was_kept_goes_when_no_request_follows_soon() {
        run(async {
            let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
            let gateway = Gateway::start(test_settings(), nobody).await;
            let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
            let (mut near, far) = duplex(1024);
            near.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
            let wire = Wire::new(Socket::new(far, activity.clone()), None);
            let head = poll_fn(|context| wire.poll_head(context)).await.unwrap().unwrap();
            let known = Rc::downgrade(&head.parts);
            drop((head, activity.busy(Version::HTTP_11)));

            let (mut socket, mut kept) = wire.into_socket();
            let (peer, proxy) = (nobody, gateway.proxy.clone());
            let stopping = watch::channel(false).1;
            let connection = Connection { peer, proxy, activity, stopping };
            let (begin, stop) = (Instant::now(), pin!(pending()));
            tokio::select! {
                begun = connection.wait(&mut socket, &mut kept, false, stop) => {
                    panic!("{begun:?} of nothing")
                }
                () = until(|| known.strong_count() == 0) => {}
            }
            assert!(begin.elapsed() >= REST_AFTER, "it went too soon");
        });
    }

    #[test]
    fn who_has_given_up_while_it_was_not_heard_is_not_served() {
        run(async {
            let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
            let gateway = Gateway::start(test_settings(), nobody).await;
            for has_gone in [false, true] {
                let activity = Rc::new(Activity::new(Duration::ZERO, Instant::now()));
                let (end, ended) = tokio::sync::oneshot::channel::<()>();
                activity.hold(async { drop(ended.await) });
                let (mut near, far) = duplex(1024);
                near.write_all(b"GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
                let near = (!has_gone).then_some(near);

                let mut socket = Socket::new(far, activity.clone());
                let (peer, proxy) = (nobody, gateway.proxy.clone());
                let stopping = watch::channel(false).1;
                let connection = Connection { peer, proxy, activity, stopping };
                let (mut kept, stop) = (None, pin!(pending()));
                let mut waits = pin!(connection.wait(&mut socket, &mut kept, false, stop));
                assert!(futures_util::poll!(waits.as_mut()).is_pending());
                drop(end);
                let begun = waits.await;
                assert_eq!(begun, (!has_gone).then_some(Begun::Http1));
                drop(near);
            }
        });
    }
}
