//! The HTTP side of the status role: a handful of routes, HTTP/1.1 only, every answer fetched from the supervisor.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::message::Page;
use shared::worker_settings::StatusSettings;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::Pages;
use super::page::{self, StatusPage};

/// Connections served at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;
/// A client that has not sent its request's head after this time is not waited for.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// A new connection gets this long for its first request when the worker leaves: its client was told that it is served.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// Pause after the system refused a connection for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` is notified and every connection has ended.
pub async fn serve(
    listener: TcpListener,
    settings: StatusSettings,
    pages: Rc<Pages>,
    stop: Rc<Notify>,
) {
    let settings = Rc::new(settings);
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stopping, stopped) = watch::channel(false);
    loop {
        let next = async {
            let permit = Arc::clone(&free).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            (permit, accepted) = next => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(_) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = stop.notified() => break,
        };
        let connection =
            serve_connection(stream, Rc::clone(&settings), Rc::clone(&pages), stopped.clone());
        tokio::task::spawn_local(async move {
            connection.await;
            drop(permit);
        });
    }
    // Its number stays taken: the system call filter knows it as the listener's.
    let _kept = listener.into_std();
    drop(stopped);
    // Kept-alive connections are told to close; each ends after the answer it is writing.
    let _ = stopping.send(true);
    stopping.closed().await;
}

async fn serve_connection(
    stream: TcpStream,
    settings: Rc<StatusSettings>,
    pages: Rc<Pages>,
    mut stopped: watch::Receiver<bool>,
) {
    let begun = Rc::new(Notify::new());
    let first = Rc::clone(&begun);
    let service = service_fn(move |request: Request<Incoming>| {
        begun.notify_one();
        let (settings, pages) = (Rc::clone(&settings), Rc::clone(&pages));
        async move { Ok::<_, Infallible>(answer(&request, &settings, &pages).await) }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .serve_connection(TokioIo::new(stream), service)
    );
    // Kept: told before anybody waits for it, it is told all the same.
    let stop = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        let _ = tokio::time::timeout(FIRST_REQUEST_GRACE, first.notified()).await;
    };
    tokio::select! {
        // A connection that fails concerns its client alone.
        _ = connection.as_mut() => {}
        () = stop => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(
    request: &Request<Incoming>,
    settings: &StatusSettings,
    pages: &Pages,
) -> Response<Full<Bytes>> {
    let page = match request.uri().path() {
        path if path == settings.metrics_path => Page::Metrics,
        "/status/config" => Page::Config,
        "/status/ready" => Page::Ready,
        "/status/models" => Page::Models,
        "/status/managed" if settings.has_page => Page::Managed,
        "/status/overview" if settings.has_page => Page::Overview,
        "/" if settings.has_page && is_asked_for(request) => return status_page(),
        "/" if settings.has_page => return not_asked_for(),
        _ => return error(StatusCode::NOT_FOUND, "no such page"),
    };
    if !is_asked_for(request) {
        return not_asked_for();
    }
    let fetched = match page {
        Page::Overview => pages.overview().await,
        page => pages.fetch(page).await,
    };
    let Some(fetched) = fetched else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the supervisor did not answer in time");
    };
    let mut response = Response::new(Full::new(fetched.body));
    if page == Page::Overview {
        response.headers_mut().extend(page::guarded());
    }
    *response.status_mut() =
        StatusCode::from_u16(fetched.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(content_type) = HeaderValue::from_str(&fetched.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    not_guessed(response)
}

fn is_asked_for(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn not_asked_for() -> Response<Full<Bytes>> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn status_page() -> Response<Full<Bytes>> {
    thread_local!(static PAGE: StatusPage = StatusPage::new());
    let mut response = Response::new(Full::default());
    PAGE.with(|page| {
        *response.body_mut() = Full::new(page.body.clone());
        *response.headers_mut() = page.headers.clone();
    });
    not_guessed(response)
}

/// Nothing is taken for something else than it is said to be.
fn not_guessed(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn error(status: StatusCode, message: &'static str) -> Response<Full<Bytes>> {
    let body = format!("{{\"error_msg\":\"{message}\"}}");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    not_guessed(response)
}
