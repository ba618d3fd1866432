//! `POST /dp/rotate-cert`: a new certificate for the identity that asks, for a key that never leaves the gateway.

use crate::{
    cloud::{Cloud, timestamp},
    identity::Identity,
    reply::{self, Refusal, Reply},
};
use http::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

/// A certificate request is about one kilobyte.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// `csr` is a PKCS #10 request in PEM; `public_key`, where sent, its SPKI in PEM.
#[derive(Deserialize)]
struct Renewal {
    csr: String,
    public_key: Option<String>,
}

/// Signs the request's key for the identity of the presented certificate, whatever names the request has.
pub async fn answer(cloud: &Cloud, client: &Identity, body: Incoming) -> Result<Reply, Refusal> {
    let renewal: Renewal = reply::read_json(body, BODY_BYTES_MAX).await?;
    let renewed = cloud
        .authority
        .renew(client, &renewal.csr, renewal.public_key.as_deref(), cloud.renewal_days)
        .map_err(|error| Refusal::invalid(crate::with_causes(&error)))?;
    cloud.renewals_asked().remove(&client.dp_id);
    tracing::info!("renewed the certificate of {} in environment {}", client.dp_id, client.env_id);
    let answer = json!({
        "certificate": renewed.certificate.pem(),
        "ca_certificate": cloud.authority.certificate_pem(),
        "cert_expires_at": timestamp(renewed.expires_at),
        "cert_rotate_before": timestamp(renewed.rotate_before),
    });
    Ok(reply::json(StatusCode::OK, &answer))
}
