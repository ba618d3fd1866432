//! From a name to a connection, through the proxy if there is one.

use std::io::ErrorKind;
use std::net::IpAddr;

use shared::dial::{Destination, Dial, DialError};
use shared::egress::client::ResolveError;
use shared::egress::{Key, Unresolved};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::faults::{
    BLACK_HOLE, DNS_FAILING, DNS_NO_ADDRESS, DNS_NO_ANSWER, DNS_ONLY_IPV6, DNS_UNKNOWN, EGRESS,
    NO_ROUTE, NOT_CONNECTED, PROXY_AUTHENTICATION, PROXY_CANNOT, PROXY_FORBIDS, PROXY_NAME,
    PROXY_NOT_HTTP, PROXY_SILENT, PROXY_UNREACHABLE, REFUSED,
};
use super::{Access, Place};
use crate::dial_proxy::{self, NoConsent};
use crate::doctor::{Fault, Finding};
use crate::settings::ProxyUrl;

/// A connection to a place.
pub(super) async fn reach(access: &Access, place: &Place) -> Result<TcpStream, Finding> {
    match &access.proxy {
        None => connect(access, place).await,
        Some(proxy) => through(access, proxy, place).await,
    }
}

async fn connect(access: &Access, place: &Place) -> Result<TcpStream, Finding> {
    let found = |fault, evidence| Finding { fault, evidence };
    let to = destination(place);
    let addresses = match timeout(access.step(), access.egress.resolve(&to)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(ResolveError::Name(kind, words))) => {
            return Err(found(unresolved(kind), format!("{place}: {words}")));
        }
        Ok(Err(ResolveError::Dial(error))) => return Err(found(&EGRESS, error.to_string())),
        // Nobody is asked for what an address means, so it is the worker that does not answer.
        Err(_) if place.host.parse::<IpAddr>().is_ok() => {
            return Err(found(&EGRESS, "the egress worker does not answer".to_owned()));
        }
        Err(_) => {
            let evidence = format!("{place}: no name server has answered in time");
            return Err(found(&DNS_NO_ANSWER, evidence));
        }
    };
    let led = told(place, &addresses);
    let limit = access.step();
    match timeout(limit, access.egress.dial(&to)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            Err(found(not_connected(&error, &addresses), format!("{led}: {}", words(&error))))
        }
        Err(_) => {
            let only_v6 = is_only_v6(&addresses);
            let hint = if only_v6 { "; it has only IPv6 addresses" } else { "" };
            Err(found(&BLACK_HOLE, format!("{led}: no answer within {limit:?}{hint}")))
        }
    }
}

fn destination(place: &Place) -> Destination {
    Destination { key: place.key.clone(), host: place.host.clone(), port: place.port }
}

/// The place, with the addresses that its name leads to.
fn told(place: &Place, addresses: &[IpAddr]) -> String {
    if place.host.parse::<IpAddr>().is_ok() {
        return place.to_string();
    }
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("{place} ({})", addresses.join(", "))
}

fn unresolved(kind: Unresolved) -> &'static Fault {
    match kind {
        Unresolved::Unknown => &DNS_UNKNOWN,
        Unresolved::NoAddress => &DNS_NO_ADDRESS,
        Unresolved::NoAnswer => &DNS_NO_ANSWER,
        Unresolved::Failing => &DNS_FAILING,
    }
}

fn is_only_v6(addresses: &[IpAddr]) -> bool {
    !addresses.is_empty() && addresses.iter().all(IpAddr::is_ipv6)
}

fn not_connected(error: &DialError, addresses: &[IpAddr]) -> &'static Fault {
    let DialError::Connect { source, .. } = error else {
        return match error {
            DialError::Timeout { .. } => &BLACK_HOLE,
            DialError::Resolve { .. } => &DNS_NO_ANSWER,
            DialError::NotPermitted { .. } => &NOT_CONNECTED,
            _ => &EGRESS,
        };
    };
    match source.kind() {
        ErrorKind::ConnectionRefused => &REFUSED,
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable if is_only_v6(addresses) => {
            &DNS_ONLY_IPV6
        }
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::NetworkDown => {
            &NO_ROUTE
        }
        ErrorKind::TimedOut => &BLACK_HOLE,
        _ => &NOT_CONNECTED,
    }
}

/// The reason alone: what was attempted stands before it.
fn words(error: &DialError) -> String {
    match error {
        DialError::Connect { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}

async fn through(access: &Access, proxy: &ProxyUrl, place: &Place) -> Result<TcpStream, Finding> {
    let found = |fault, evidence| Finding { fault, evidence };
    let to_proxy = Place {
        key: Key::cloud_proxy(),
        host: proxy.host.clone(),
        port: proxy.port,
        what: "proxy",
    };
    let mut stream = connect(access, &to_proxy).await.map_err(|finding| {
        let is_name = finding.fault.code.starts_with("dns-") && finding.fault != &DNS_ONLY_IPV6;
        let fault = match finding.fault {
            fault if fault == &EGRESS => &EGRESS,
            _ if is_name => &PROXY_NAME,
            _ => &PROXY_UNREACHABLE,
        };
        let evidence = format!("{}: {}", finding.fault.title, finding.evidence);
        found(fault, evidence)
    })?;
    let asked =
        timeout(access.step(), dial_proxy::ask(proxy, &mut stream, &destination(place))).await;
    let refused = match asked {
        Ok(Ok(())) => return Ok(stream),
        Ok(Err(refused)) => refused,
        Err(_) => {
            let evidence =
                format!("{to_proxy}: no answer to CONNECT {}:{}", place.host, place.port);
            return Err(found(&PROXY_SILENT, evidence));
        }
    };
    let fault = match &refused {
        NoConsent::Credentials => &PROXY_AUTHENTICATION,
        // A web server that knows no CONNECT.
        NoConsent::Status(405 | 501) => &PROXY_NOT_HTTP,
        NoConsent::Status(500..) => &PROXY_CANNOT,
        NoConsent::Status(_) => &PROXY_FORBIDS,
        NoConsent::NotHttp | NoConsent::Endless | NoConsent::Closed | NoConsent::Io(_) => {
            &PROXY_NOT_HTTP
        }
    };
    Err(found(fault, format!("{to_proxy}, asked for {}:{}: {refused}", place.host, place.port)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_the_system_says_of_a_connection_is_told_apart() {
        let destination = Destination { key: Key::manager(), host: "h".to_owned(), port: 1 };
        let fault = |number, addresses: &[&str]| {
            let source = io::Error::from_raw_os_error(number);
            let source = io::Error::new(source.kind(), "x");
            let error = DialError::Connect { destination: destination.clone(), source };
            let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
            not_connected(&error, &addresses).code
        };
        assert_eq!(fault(libc::ECONNREFUSED, &["::1"]), "cloud-connection-refused");
        assert_eq!(fault(libc::ENETUNREACH, &["2001:db8::1"]), "dns-only-ipv6");
        assert_eq!(fault(libc::ENETUNREACH, &["2001:db8::1", "192.0.2.1"]), "cloud-no-route");
        assert_eq!(fault(libc::EHOSTUNREACH, &["192.0.2.1"]), "cloud-no-route");
        assert_eq!(fault(libc::ETIMEDOUT, &["192.0.2.1"]), "cloud-black-hole");
        assert_eq!(fault(libc::EPERM, &["192.0.2.1"]), "cloud-not-connected");
    }
}
