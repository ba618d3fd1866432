//! Metrics and status pages, fetched from the gateway's own listener on this machine.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Case, report::Report};
use crate::settings::control;

/// What is fetched beside the metrics, and what it is called in the archive.
const PAGES: [(&str, &str); 4] = [
    ("/status/ready", "pages/ready.txt"),
    ("/status/config", "pages/config.json"),
    ("/status/managed", "pages/managed.json"),
    ("/status/models", "pages/models.json"),
];
/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(2);
/// No page is read further.
const BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Adds them.
pub fn add(case: &Case<'_>, report: &mut Report) {
    let variables = case.environment.variables.iter().cloned();
    let raw = case.options.config.as_deref().and_then(|it| control::as_written(it, variables).ok());
    let Some(raw) = raw else {
        return report.missing("pages", "without a configuration their address is not known");
    };
    if !raw.flag("observability.metrics.prometheus.enabled") {
        return report.missing("pages", "observability.metrics.prometheus.enabled is false");
    }
    let address = match raw.address("observability.metrics.prometheus.addr") {
        Ok(Some(address)) => address,
        Ok(None) => return report.missing("pages", "they have no address"),
        Err(problem) => return report.missing("pages", problem),
    };
    let Some(address) = here(address) else {
        return report.missing("pages", format!("{address} is no address of this machine"));
    };
    let metrics = raw.text("observability.metrics.prometheus.path").unwrap_or("/metrics");
    let metrics = format!("/{}", metrics.trim().trim_start_matches('/'));
    for (path, name) in [(metrics.as_str(), "pages/metrics.txt")].into_iter().chain(PAGES) {
        let limit = case.within(LIMIT);
        match fetch(address, path, limit) {
            Ok(text) => report.add(name, &text),
            // Who does not answer for one page takes the time of the others.
            Err(error) if is_silent(&error) => {
                let told = format!("http://{address}{path}: no answer within {limit:?}");
                return report.missing("pages", told);
            }
            Err(error) => report.missing(name, format!("http://{address}{path}: {error}")),
        }
        // Whoever does not listen does not for the next one either.
        if TcpStream::connect_timeout(&address, limit.max(Duration::from_millis(1))).is_err() {
            return report.missing("pages", format!("nobody listens on {address}"));
        }
    }
}

fn is_silent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The address to ask, if it is one of this machine.
fn here(address: SocketAddr) -> Option<SocketAddr> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    TcpListener::bind((ip, 0)).is_ok().then(|| SocketAddr::new(ip, address.port()))
}

/// The body, whatever its status: an error page is worth as much.
fn fetch(address: SocketAddr, path: &str, limit: Duration) -> io::Result<String> {
    if limit.is_zero() {
        return Err(io::Error::other("the time of the report is over"));
    }
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // In this version of HTTP the body ends where the connection does.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    let deadline = std::time::Instant::now() + limit;
    let mut piece = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut piece)?;
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
        if read == 0 {
            break;
        }
        if bytes.len() as u64 > BYTES_MAX || std::time::Instant::now() > deadline {
            return Err(io::Error::other("the page is too large, or takes too long"));
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1") => Ok(body.to_owned()),
        _ => Err(io::Error::other("what listens there does not speak HTTP")),
    }
}
