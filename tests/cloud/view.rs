//! The view: what was reported, for people and tests, over plain HTTP on loopback. It also takes the faults.

use crate::{
    cloud::Cloud,
    faults::Fault,
    query,
    reply::{self, Refusal, Reply},
};
use http::{Method, Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, PoisonError},
};
use tokio::net::TcpListener;

const FAULT_BYTES_MAX: usize = 64 * 1024;

const HELP: &str = "\
aisix-cloud: a local stand-in for AISIX Cloud, for evaluation and tests. Not for production.

GET    /environments                   environments, their resources by kind, the revision
GET    /heartbeats[?env=]              the latest heartbeat of each instance, with count and received_at
GET    /usage[?env=&request_id=]       usage events in the order of their arrival
GET    /usage/totals                   tokens per environment, model and caller key
GET    /usage/repeats                  how many usage events came again since the start
GET    /connections                    who is and was connected: certificate, requests by path, when opened and closed
POST   /renewals                       ask for a renewal in the answers to heartbeats: {\"dp_id\":\"…\"}
GET    /budget_checks                  how often was asked about each caller key, and how often at a time
GET    /faults                         faults in force in the manager API
POST   /faults                         add one: {\"path\":\"/dp/telemetry\",\"status\":503,\"times\":3,\"delay_ms\":0,\"retry_after\":1}
DELETE /faults                         remove all
";

/// Serves the view for as long as the process lives.
pub async fn serve(listener: TcpListener, cloud: Arc<Cloud>) {
    loop {
        let stream = crate::listener::accept(&listener).await;
        let cloud = Arc::clone(&cloud);
        tokio::spawn(async move {
            let service =
                service_fn(|request| async { Ok::<_, Infallible>(answer(&cloud, request).await) });
            let served =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!("a connection to the view ended: {error}");
            }
        });
    }
}

async fn answer(cloud: &Cloud, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let env_id = query::parameter(head.uri.query(), "env");
    let env_id = env_id.as_deref();
    match (head.uri.path(), &head.method) {
        ("/faults", &Method::GET) => reply::json(StatusCode::OK, &*cloud.faults()),
        ("/faults", &Method::POST) => add_fault(cloud, body).await.unwrap_or_else(Reply::from),
        ("/faults", &Method::DELETE) => {
            cloud.faults().clear();
            reply::json(StatusCode::OK, &*cloud.faults())
        }
        ("/faults", other) => reply::wrong_method(other, "GET, POST, DELETE"),
        ("/connections", &Method::GET) => {
            let connections = cloud.connections.lock().unwrap_or_else(PoisonError::into_inner);
            reply::json(StatusCode::OK, &*connections)
        }
        ("/renewals", &Method::POST) => ask_renewal(cloud, body).await.unwrap_or_else(Reply::from),
        ("/renewals", other) => reply::wrong_method(other, "POST"),
        ("/", &Method::GET) => reply::text(HELP),
        ("/environments", &Method::GET) => environments(cloud).await.unwrap_or_else(Reply::from),
        ("/heartbeats", &Method::GET) => {
            reply::json(StatusCode::OK, &cloud.ledger().heartbeats(env_id))
        }
        ("/usage", &Method::GET) => {
            let request_id = query::parameter(head.uri.query(), "request_id");
            reply::json(StatusCode::OK, &cloud.ledger().usage(env_id, request_id.as_deref()))
        }
        ("/usage/totals", &Method::GET) => reply::json(StatusCode::OK, &cloud.ledger().totals()),
        ("/usage/repeats", &Method::GET) => reply::json(StatusCode::OK, &cloud.ledger().repeats()),
        ("/budget_checks", &Method::GET) => {
            let checks = cloud.budget_checks.lock().unwrap_or_else(PoisonError::into_inner);
            reply::json(StatusCode::OK, &checks.list())
        }
        (
            "/" | "/budget_checks" | "/connections" | "/environments" | "/heartbeats" | "/usage"
            | "/usage/repeats" | "/usage/totals",
            other,
        ) => reply::wrong_method(other, "GET"),
        (path, _) => reply::unknown_path(path),
    }
}

async fn add_fault(cloud: &Cloud, body: Incoming) -> Result<Reply, Refusal> {
    let fault: Fault = reply::read_json(body, FAULT_BYTES_MAX).await?;
    let mut faults = cloud.faults();
    faults.add(fault)?;
    Ok(reply::json(StatusCode::OK, &*faults))
}

/// Stands until the data plane has been given a new certificate.
async fn ask_renewal(cloud: &Cloud, body: Incoming) -> Result<Reply, Refusal> {
    let renewal: Asked = reply::read_json(body, FAULT_BYTES_MAX).await?;
    let mut asked = cloud.renewals_asked();
    asked.insert(renewal.dp_id);
    Ok(reply::json(StatusCode::OK, &*asked))
}

#[derive(Deserialize)]
struct Asked {
    dp_id: String,
}

/// Counted from the keys, so that a file and a real etcd give the same picture.
async fn environments(cloud: &Cloud) -> Result<Reply, Refusal> {
    let prefix = format!("{}/", cloud.prefix.trim_end_matches('/'));
    let (revision, keys) = cloud.projection.keys(&prefix).await.map_err(|status| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", status.message())
    })?;
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for key in keys {
        let key = String::from_utf8_lossy(&key).into_owned();
        let mut parts = key.strip_prefix(&prefix).unwrap_or_default().splitn(3, '/');
        let (Some(env_id), Some(kind), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        *counts.entry(env_id.to_owned()).or_default().entry(kind.to_owned()).or_default() += 1;
    }
    let environments: Vec<Value> = counts
        .into_iter()
        .map(|(env_id, resources)| json!({"env_id": env_id, "revision": revision, "resources": resources}))
        .collect();
    Ok(reply::json(StatusCode::OK, &environments))
}
