//! Settings of traces: the exporter of the configuration file.

use http::{HeaderName, HeaderValue};
use shared::resource::WebUrl;
use shared::secret::Secret;

use super::error::Problem;
use super::raw::Raw;

/// Where OTLP over HTTP takes traces, below the base of a collector.
const PATH: &str = "/v1/traces";
const ENABLED: &str = "observability.tracing.otlp.enabled";
const ENDPOINT: &str = "observability.tracing.otlp.endpoint";
const HEADERS: &str = "observability.tracing.otlp.headers";
const RATIO: &str = "observability.tracing.otlp.sample_ratio";

/// A collector of traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// Where a batch is posted to.
    pub endpoint: WebUrl,
    /// What goes along with each batch.
    pub headers: Vec<(String, Secret<String>)>,
    /// Which part of the requests it is told of, from 0 to 1.
    pub sample_ratio: f64,
}

impl Otlp {
    /// The collector that is configured, if traces are switched on.
    pub(super) fn new(raw: &Raw) -> Result<Option<Self>, Problem> {
        if !raw.flag(ENABLED) {
            return Ok(None);
        }
        let written = raw.text(ENDPOINT).map(str::trim).filter(|text| !text.is_empty());
        let Some(written) = written else {
            let reason =
                format!("traces need a collector: set {ENDPOINT}, such as http://127.0.0.1:4318");
            return Err(raw.problem(ENABLED, reason));
        };
        let mut endpoint: WebUrl = written.parse().map_err(|error| raw.problem(ENDPOINT, error))?;
        if endpoint.target == "/" {
            PATH.clone_into(&mut endpoint.target);
        }
        // Between 0 and 1: looked at where it is written.
        let sample_ratio = raw.number(RATIO).unwrap_or(1.0);
        Ok(Some(Self { endpoint, headers: headers(raw)?, sample_ratio }))
    }
}

/// `name=value,name=value`, each value as it is written.
fn headers(raw: &Raw) -> Result<Vec<(String, Secret<String>)>, Problem> {
    let Some(written) = raw.secret(HEADERS) else { return Ok(Vec::new()) };
    let parts = written.expose().split(',').map(str::trim).filter(|part| !part.is_empty());
    let header = |part: &str| {
        let (name, value) = part.split_once('=')?;
        header(name.trim(), value.trim())
    };
    // The text stays here: it is a secret.
    let wrong = || raw.problem(HEADERS, "expected name=value, with commas between several");
    parts.map(|part| header(part).ok_or_else(wrong)).collect()
}

/// A header that can be sent.
pub fn header(name: &str, value: &str) -> Option<(String, Secret<String>)> {
    let name = HeaderName::try_from(name).ok()?;
    HeaderValue::try_from(value).ok()?;
    Some((name.as_str().to_owned(), Secret::new(value.to_owned())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;

    fn otlp(lines: &str) -> Result<Option<super::Otlp>, String> {
        let text = format!(
            "resources_file: r.yaml\nproxy: {{addr: '127.0.0.1:3000'}}\nobservability:\n  tracing:\n    otlp:\n{}",
            lines.lines().map(|line| format!("      {line}\n")).collect::<String>()
        );
        let loaded = Settings::load_text(Path::new("c.yaml"), text, []);
        loaded.map(|it| it.settings.observability.otlp).map_err(|error| error.to_string())
    }

    #[test]
    fn the_endpoint_is_a_base_unless_it_has_a_path() {
        for (endpoint, posted) in [
            ("http://otel-collector:4318", "http://otel-collector:4318/v1/traces"),
            ("https://otel.example/", "https://otel.example/v1/traces"),
            ("https://otel.example/own/path?k=1", "https://otel.example/own/path?k=1"),
        ] {
            let otlp = otlp(&format!("enabled: true\nendpoint: {endpoint}")).unwrap().unwrap();
            assert_eq!(otlp.endpoint.to_string(), posted);
            assert_eq!((otlp.sample_ratio, otlp.headers.len()), (1.0, 0));
        }
        assert_eq!(otlp("enabled: false\nendpoint: nonsense").unwrap(), None);
    }

    #[test]
    fn traces_without_a_collector_are_refused() {
        let error = otlp("enabled: true").unwrap_err();
        assert!(error.contains("observability.tracing.otlp.endpoint"), "{error}");
        let error = otlp("enabled: true\nendpoint: otel-collector:4318").unwrap_err();
        assert!(error.contains("observability.tracing.otlp.endpoint"), "{error}");
        let error = otlp("enabled: true\nendpoint: http://o\nsample_ratio: 1.5").unwrap_err();
        assert!(error.contains("between 0 and 1"), "{error}");
    }

    #[test]
    fn headers_are_pairs_and_what_is_wrong_with_them_is_told_without_them() {
        let ok = "enabled: true\nendpoint: http://o\nheaders: 'X-Key=a=b, other=c d,'";
        let headers = otlp(ok).unwrap().unwrap().headers;
        let plain: Vec<_> =
            headers.iter().map(|(n, v)| (n.as_str(), v.expose().as_str())).collect();
        assert_eq!(plain, [("x-key", "a=b"), ("other", "c d")]);
        let error = otlp("enabled: true\nendpoint: http://o\nheaders: s3cret").unwrap_err();
        assert!(error.contains("name=value") && !error.contains("s3cret"), "{error}");
    }
}
