//! `/livez` and `/readyz`: whether this worker goes on, and whether it can serve.

use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};

use crate::server::{Body, Health};

/// Answers `/livez`: not while the worker retires.
pub fn live(health: &Health, query: Option<&str>) -> Response<Body> {
    answer("livez", &[("ping", Ok(())), shutdown(health)], query)
}

/// Answers `/readyz`: not while the worker retires, and not before a configuration is in force. Its age does not matter.
pub fn ready(health: &Health, query: Option<&str>) -> Response<Body> {
    let config = if health.is_configured() { Ok(()) } else { Err("not ready") };
    answer("readyz", &[shutdown(health), ("config", config)], query)
}

type Check = (&'static str, Result<(), &'static str>);

fn shutdown(health: &Health) -> Check {
    ("shutdown", if health.is_retiring() { Err("reason withheld") } else { Ok(()) })
}

fn answer(probe: &str, checks: &[Check], query: Option<&str>) -> Response<Body> {
    let lines = checks.iter().map(|(name, result)| match result {
        Ok(()) => format!("[+]{name} ok\n"),
        Err(reason) => format!("[-]{name} failed: {reason}\n"),
    });
    let lines: String = lines.collect();
    let (status, text) = match checks.iter().all(|(_, result)| result.is_ok()) {
        true if is_verbose(query) => (StatusCode::OK, format!("{lines}{probe} check passed\n")),
        true => (StatusCode::OK, "ok".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("{lines}{probe} check failed\n")),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The key `verbose`, with any value or none.
fn is_verbose(query: Option<&str>) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.any(|pair| pair.split('=').next() == Some("verbose"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn told(response: Response<Body>) -> (u16, String) {
        let status = response.status().as_u16();
        let body = futures_util::FutureExt::now_or_never(response.into_body().collect());
        (status, String::from_utf8(body.unwrap().unwrap().to_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_configured_worker_is_live_and_ready() {
        let health = Health::new();
        health.configured();
        assert_eq!(told(live(&health, None)), (200, "ok".to_owned()));
        assert_eq!(told(ready(&health, Some("x=verbose"))), (200, "ok".to_owned()));
        let verbose = "[+]ping ok\n[+]shutdown ok\nlivez check passed\n";
        assert_eq!(told(live(&health, Some("verbose"))), (200, verbose.to_owned()));
        let verbose = "[+]shutdown ok\n[+]config ok\nreadyz check passed\n";
        assert_eq!(told(ready(&health, Some("a&verbose=0"))), (200, verbose.to_owned()));
    }

    #[test]
    fn a_worker_without_configuration_is_live_but_not_ready() {
        let health = Health::new();
        assert_eq!(told(live(&health, None)).0, 200);
        let failed = "[+]shutdown ok\n[-]config failed: not ready\nreadyz check failed\n";
        assert_eq!(told(ready(&health, None)), (503, failed.to_owned()));
    }

    #[test]
    fn a_retiring_worker_is_neither() {
        let health = Health::new();
        health.configured();
        health.retire();
        let failed = "[+]ping ok\n[-]shutdown failed: reason withheld\nlivez check failed\n";
        assert_eq!(told(live(&health, None)), (503, failed.to_owned()));
        assert_eq!(told(ready(&health, None)).0, 503);
    }
}
