//! Settings of logs and metrics; those of traces are in `tracing.rs`.

use std::net::SocketAddr;

use shared::worker_settings::ClientRule;

use super::client_type;
use super::error::Problem;
use super::raw::Raw;
use super::tracing::Otlp;
use crate::log::Form;

/// Most upper edges that a histogram may have. As published.
const EDGES_MAX: usize = 64;

/// Logs and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Observability {
    /// How this service calls itself in the log.
    pub service_name: String,
    /// Filter directives of the log; valid.
    pub log_level: String,
    /// The form of the log; `None` = what fits to where the gateway runs.
    pub log_form: Option<Form>,
    /// Whether a line is logged for each request.
    pub access_log: bool,
    /// Whether the listener of metrics has a status page.
    pub status_page: bool,
    /// The listener of metrics and status; `None` = there is none.
    pub metrics: Option<MetricsListener>,
    /// Upper edges, in seconds, of the histogram of whole requests: finite, positive, ascending.
    pub e2e_buckets: Vec<f64>,
    /// Upper edges, in seconds, of the histogram of first tokens: finite, positive, ascending.
    pub ttft_buckets: Vec<f64>,
    /// Upper edges, in seconds, of the histogram of guardrails: finite, positive, ascending.
    pub guardrail_buckets: Vec<f64>,
    /// Rules that name client programs, in order.
    pub client_rules: Vec<ClientRule>,
    /// Where traces are sent to; `None` = nowhere, unless the projection has exporters.
    pub otlp: Option<Otlp>,
}

/// The listener of metrics and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Path of the metrics, with a leading slash.
    pub path: String,
}

impl Observability {
    pub(super) fn new(raw: &Raw) -> Result<Self, Problem> {
        let text = |key| raw.text(key).unwrap_or_default().to_owned();
        let log_level = text("observability.log_level");
        crate::log::directives::understood(&log_level).map_err(|reason| {
            let reason = format!(
                "{log_level:?} is no log filter such as info or supervisor=debug,info: {reason}"
            );
            raw.problem("observability.log_level", reason)
        })?;
        // Checked even where it is switched off, as published.
        let listener = raw
            .address("observability.metrics.prometheus.addr")?
            .map(|address| MetricsListener { address, path: metrics_path(raw) });
        Ok(Self {
            service_name: text("observability.service_name"),
            log_level,
            log_form: match raw.text("observability.log_format") {
                Some("text") => Some(Form::Text),
                Some("json") => Some(Form::Json),
                Some("journald") => Some(Form::Journal),
                _ => None,
            },
            access_log: raw.flag("observability.access_log"),
            status_page: raw.flag("observability.status_page"),
            metrics: listener.filter(|_| raw.flag("observability.metrics.prometheus.enabled")),
            e2e_buckets: edges(raw, "observability.metrics.buckets.request_e2e_latency")?,
            ttft_buckets: edges(raw, "observability.metrics.buckets.request_ttft")?,
            guardrail_buckets: edges(raw, "observability.metrics.buckets.guardrail_latency")?,
            client_rules: client_type::rules(raw)?,
            otlp: Otlp::new(raw)?,
        })
    }
}

fn metrics_path(raw: &Raw) -> String {
    let path = raw.text("observability.metrics.prometheus.path").unwrap_or_default().trim();
    match path.trim_start_matches('/') {
        "" => "/metrics".to_owned(),
        path => format!("/{path}"),
    }
}

/// Upper edges of a histogram, if they are fit for one.
pub(super) fn edges(raw: &Raw, key: &'static str) -> Result<Vec<f64>, Problem> {
    let edges = raw.numbers(key);
    if !(1..=EDGES_MAX).contains(&edges.len()) {
        return Err(
            raw.problem(key, format!("needs 1 to {EDGES_MAX} edges, found {}", edges.len()))
        );
    }
    if let Some(edge) = edges.iter().find(|edge| !edge.is_finite() || **edge <= 0.0) {
        return Err(raw.problem(key, format!("edges must be positive and finite, found {edge}")));
    }
    if let Some((lower, upper)) = edges.iter().zip(edges.iter().skip(1)).find(|(a, b)| a >= b) {
        return Err(raw.problem(key, format!("edges must ascend, but {upper} follows {lower}")));
    }
    Ok(edges.to_vec())
}
