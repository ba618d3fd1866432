//! The manager API: what gateways report and ask over HTTP/1.1, each under the identity of its certificate.
//!
//! ```text
//! POST /dp/heartbeat                    200 {"ok":true}
//! POST /dp/telemetry                    200 {"accepted":n}
//! GET  /dp/budget_check?api_key_id=K    200 {"allow":…}
//! POST /dp/rotate-cert                  200 {"certificate":…,"ca_certificate":…, two times}
//! anything refused                      4xx {"error":{"code":…,"message":…}}
//! ```

pub mod budget;
mod fields;
mod heartbeat;
mod renewal;
mod telemetry;

use crate::{
    cloud::Cloud,
    identity::Identity,
    reply::{self, Refusal, Reply},
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::io;

/// Serves one request of a client.
pub async fn serve(cloud: &Cloud, client: &Identity, request: Request<Incoming>) -> Reply {
    // Open from the first moment, delays of faults included.
    let _open = (request.uri().path() == "/dp/budget_check")
        .then(|| budget::OpenCheck::begin(cloud, client, request.uri().query()));
    let fault = cloud.faults().take(request.uri().path());
    if let Some(fault) = fault {
        tokio::time::sleep(fault.delay()).await;
        if let Some(reply) = fault.reply() {
            return reply;
        }
    }
    let (head, body) = request.into_parts();
    let allowed = match head.uri.path() {
        "/dp/heartbeat" | "/dp/telemetry" | "/dp/rotate-cert" => Method::POST,
        "/dp/budget_check" => Method::GET,
        other => return reply::unknown_path(other),
    };
    if head.method != allowed {
        return reply::wrong_method(
            &head.method,
            if allowed == Method::POST { "POST" } else { "GET" },
        );
    }
    let answered = match head.uri.path() {
        "/dp/heartbeat" => heartbeat::receive(cloud, client, body).await,
        "/dp/telemetry" => telemetry::receive(cloud, client, body).await,
        "/dp/rotate-cert" => renewal::answer(cloud, client, body).await,
        _ => budget::answer(cloud, client, head.uri.query()).await,
    };
    answered.unwrap_or_else(Reply::from)
}

/// What is not on disk is not acknowledged.
fn not_kept(error: io::Error) -> Refusal {
    tracing::error!("a report cannot be kept: {error}");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "NOT_KEPT",
        format!("the report cannot be kept: {error}"),
    )
}
