//! The store of the configuration: one key of the prefix is read, without its value.

use std::io::Cursor;

use etcd_client::{Channel, Client, ConnectOptions, Error, GetOptions};
use futures_util::future::join_all;
use shared::egress::Key;
use shared::resource::Endpoint;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tonic::Code;

use super::faults_cloud::{
    ETCD_AWAY, ETCD_DENIED, ETCD_EMPTY, ETCD_FAILING, ETCD_NO_H2, ETCD_NOT_ETCD, ETCD_SILENT,
    ETCD_UNAUTHENTICATED,
};
use super::faults_tls::{ALPN, CLOSED, SILENT};
use super::reach::reach;
use super::tls::{self, Attempt, Failure, Trust};
use super::{Access, Place, judge, manager};
use crate::cloud::tls::Protocol;
use crate::doctor::{Fault, Finding};
use crate::projection::connect::{self, Stream};
use crate::projection::load::range_end;

/// What was seen of one store.
#[derive(Debug)]
pub(super) struct Seen {
    /// Where it is.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Somebody is there.
    pub reached: bool,
    /// What is wrong.
    pub finding: Option<Finding>,
}

/// Looks at every store.
pub(super) async fn check(access: &Access) -> Vec<Seen> {
    join_all(access.stores.iter().map(|endpoint| one(access, endpoint))).await
}

async fn one(access: &Access, endpoint: &Endpoint) -> Seen {
    let place = Place {
        key: Key::store(&endpoint.authority()),
        host: endpoint.host.clone(),
        port: endpoint.port,
        what: "store",
    };
    let seen = |reached, finding| Seen {
        host: endpoint.host.clone(),
        port: endpoint.port,
        reached,
        finding,
    };
    let stream = match reach(access, &place).await {
        Ok(stream) => stream,
        Err(finding) => return seen(false, Some(finding)),
    };
    let name = access.server_name.as_deref().unwrap_or(&endpoint.host);
    let stream: Box<dyn Stream> = match (endpoint.tls, &access.identity) {
        (false, _) => Box::new(stream),
        (true, None) => return seen(true, None),
        (true, Some(_)) => match open(access, &place, name, stream).await {
            Ok(stream) => stream,
            Err(finding) => {
                let is_away = [&SILENT, &CLOSED].contains(&finding.fault);
                return seen(!is_away, Some(finding));
            }
        },
    };
    let read = match connect::channel(endpoint, name, stream) {
        Ok(channel) => read(access, Channel::Tonic(channel)).await,
        Err(words) => Some((&ETCD_FAILING, words)),
    };
    let place = if endpoint.tls { place.to_string() } else { format!("{place} (without TLS)") };
    let finding = read.map(|(fault, words)| {
        let prefix = &access.prefix;
        let evidence = judge::harmless(&format!("{place}, keys below {prefix}: {words}"));
        Finding { fault, evidence }
    });
    seen(true, finding)
}

async fn open(
    access: &Access,
    place: &Place,
    name: &str,
    stream: TcpStream,
) -> Result<Box<dyn Stream>, Finding> {
    let Some(identity) = &access.identity else {
        return Err(Finding { fault: &ETCD_FAILING, evidence: format!("{place}: no identity") });
    };
    let limit = access.step();
    let Attempt { result, shown } =
        tls::handshake(stream, name, Protocol::H2, identity, Trust::Bundle, limit).await;
    let mut stream = match result {
        Ok(stream) => stream,
        Err(failure) => {
            let (fault, words) = match (&failure, judge::failure(&failure)) {
                (Failure::Protocol(_), (_, words)) => (&ETCD_NO_H2, words),
                (_, (fault, words)) if fault == &ALPN => (&ETCD_NO_H2, words),
                (_, told) => told,
            };
            return Err(manager::explain(access, place, identity, fault, &words, shown).await);
        }
    };
    match tls::verdict(&mut stream).await {
        Ok(said) => Ok(again(said, stream)),
        Err(error) => {
            let (fault, words) =
                judge::refusal(&error).unwrap_or_else(|| (&CLOSED, error.to_string()));
            Err(Finding { fault, evidence: format!("{place}: {words}") })
        }
    }
}

/// A stream in which what was read of it already comes again.
fn again(said: Vec<u8>, stream: TlsStream<TcpStream>) -> Box<dyn Stream> {
    let (reader, writer) = tokio::io::split(stream);
    Box::new(tokio::io::join(Cursor::new(said).chain(reader), writer))
}

/// Reads one key. `None` if all is well.
async fn read(access: &Access, channel: Channel) -> Option<(&'static Fault, String)> {
    let user = access.user.as_ref();
    let options =
        user.map(|(name, password)| ConnectOptions::new().with_user(name, password.expose()));
    let reading = async {
        let client = Client::from_channel(channel, options).await?;
        let range =
            GetOptions::new().with_range(range_end(&access.prefix)).with_limit(1).with_keys_only();
        client.kv_client().get(access.prefix.as_bytes(), Some(range)).await
    };
    match timeout(access.step(), reading).await {
        Err(_) => Some((&ETCD_SILENT, "no answer to a read of one key in time".to_owned())),
        Ok(Err(error)) => {
            let fault = match fault(&error) {
                // The manager passes on what its own etcd does not answer.
                fault
                    if fault == &ETCD_FAILING
                        && is_unavailable(&error)
                        && access.manager.is_some() =>
                {
                    &ETCD_AWAY
                }
                fault => fault,
            };
            Some((fault, connect::in_words(&error)))
        }
        Ok(Ok(page)) if page.kvs().is_empty() => Some((&ETCD_EMPTY, "there is no key".to_owned())),
        Ok(Ok(_)) => None,
    }
}

fn is_unavailable(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() == Code::Unavailable)
}

fn fault(error: &Error) -> &'static Fault {
    let words = connect::in_words(error);
    if let Some(fault) = judge::refusal_in_words(&words) {
        return fault;
    }
    let Error::GRpcStatus(status) = error else { return &ETCD_FAILING };
    let is_about_user = [
        "user name is empty",
        "authentication failed",
        "invalid auth token",
        "user name not found",
    ]
    .iter()
    .any(|it| status.message().contains(it));
    let is_transport = std::error::Error::source(status).is_some();
    match status.code() {
        _ if is_about_user => &ETCD_UNAUTHENTICATED,
        Code::PermissionDenied => &ETCD_DENIED,
        Code::Unauthenticated => &ETCD_UNAUTHENTICATED,
        Code::Unimplemented | Code::NotFound => &ETCD_NOT_ETCD,
        _ if is_transport => &ETCD_NOT_ETCD,
        _ => &ETCD_FAILING,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn what_a_store_says_is_told_apart() {
        for (status, code) in [
            (Status::permission_denied("etcdserver: permission denied"), "etcd-permission-denied"),
            (Status::unauthenticated("etcdserver: invalid auth token"), "etcd-unauthenticated"),
            (Status::invalid_argument("etcdserver: user name is empty"), "etcd-unauthenticated"),
            (Status::unimplemented("x"), "etcd-not-etcd"),
            (Status::unavailable("etcdserver: no leader"), "etcd-failing"),
            (Status::unknown("received fatal alert: CertificateExpired"), "tls-client-expired"),
        ] {
            assert_eq!(fault(&Error::GRpcStatus(status)).code, code);
        }
    }
}
