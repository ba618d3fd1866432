//! Connections made by this process itself: names resolved without opening a file, addresses tried side by side.
//!
//! What the system's resolver would read from `/etc` is handed over as text, so that nothing but sockets is needed later:
//! UDP and TCP to the name servers, TCP to the destination.

mod hosts;
mod resolv_conf;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use shared::dial::{Destination, Dial, DialError, Dialling};
use tokio::net::TcpStream;
use tokio::time::Instant;

use hosts::Hosts;

/// An address gets this long before the next one is tried beside it (RFC 8305 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up name resolution: {0}")]
pub struct ResolverError(#[from] NetError);

/// Resolves and connects in this process.
pub struct DirectDial {
    hosts: Hosts,
    resolver: TokioResolver,
}

impl DirectDial {
    /// Takes the texts of `/etc/resolv.conf` and `/etc/hosts`; what is malformed in them is passed over, as elsewhere.
    pub fn new(resolv_conf: &str, hosts: &str) -> Result<Self, ResolverError> {
        let (config, mut options) = resolv_conf::parse(resolv_conf);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // The resolver would read the file itself, and ask name servers for the family that the file does not have.
        options.use_hosts_file = ResolveHosts::Never;
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options;
        Ok(Self { hosts: Hosts::parse(hosts), resolver: builder.build()? })
    }

    /// The addresses of a host, in the order to try them; never empty.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, DialError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Some(addresses) = self.hosts.find(host) {
            return Ok(by_turns(addresses.iter().copied()));
        }
        let failed = |reason: String| DialError::Resolve { host: host.to_owned(), reason };
        let answer =
            self.resolver.lookup_ip(host).await.map_err(|error| failed(error.to_string()))?;
        let addresses = by_turns(answer.iter());
        if addresses.is_empty() {
            return Err(failed("the name has no address".to_owned()));
        }
        Ok(addresses)
    }
}

impl Dial for DirectDial {
    fn dial<'a>(&'a self, destination: &'a Destination) -> Dialling<'a> {
        Box::pin(async move {
            let addresses = self.resolve(&destination.host).await?;
            let stream = connect_any(addresses, destination.port)
                .await
                .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            stream.map_err(|source| DialError::Connect { destination: destination.clone(), source })
        })
    }
}

/// RFC 6761: `localhost` and what is below it is loopback, whatever a name server says.
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Families by turns, IPv4 first: where one family leads nowhere, the second try is already of the other.
fn by_turns(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.partition(IpAddr::is_ipv4);
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [v4.next(), v6.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// The first connection that any address accepts. The next address is tried when the ones before it fail or hesitate.
async fn connect_any(addresses: Vec<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            trying.push(TcpStream::connect(SocketAddr::new(address, port)));
        }
        let stagger = tokio::time::sleep_until(Instant::now() + STAGGER);
        tokio::select! {
            connected = trying.next() => match connected {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last_error = error,
                None => return Err(last_error),
            },
            () = stagger, if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    fn addresses(hosts: &str, host: &str) -> Result<Vec<String>, String> {
        run(async {
            let dial = DirectDial::new("", hosts).unwrap();
            let found = dial.resolve(host).await.map_err(|error| error.to_string())?;
            Ok(found.iter().map(ToString::to_string).collect())
        })
    }

    #[test]
    fn literals_and_localhost_need_no_resolver() {
        assert_eq!(addresses("", "192.0.2.1").unwrap(), ["192.0.2.1"]);
        assert_eq!(addresses("", "2001:db8::1").unwrap(), ["2001:db8::1"]);
        for host in ["localhost", "LOCALHOST.", "a.localhost"] {
            assert_eq!(addresses("192.0.2.9 localhost", host).unwrap(), ["127.0.0.1", "::1"]);
        }
    }

    #[test]
    fn names_in_the_hosts_file_are_asked_of_nobody_else() {
        let hosts = "192.0.2.7 models models.internal\n192.0.2.8 models\n2001:db8::7 models\n";
        assert_eq!(addresses(hosts, "models").unwrap(), ["192.0.2.7", "2001:db8::7", "192.0.2.8"]);
        assert_eq!(addresses(hosts, "Models.Internal").unwrap(), ["192.0.2.7"]);
    }

    #[test]
    fn a_name_without_an_address_is_named_in_the_error() {
        let error = addresses("", "nowhere.invalid").unwrap_err();
        assert!(error.starts_with("cannot resolve nowhere.invalid: "), "{error}");
    }

    #[test]
    fn families_take_turns() {
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"];
        let ordered = by_turns(all.iter().map(|address| address.parse().unwrap()));
        let ordered: Vec<_> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]);
    }

    #[test]
    fn an_address_that_refuses_does_not_end_the_search() {
        run(async {
            let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let addresses = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap());
            let stream = connect_any(addresses.into(), port).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
            drop(listener);
            assert!(connect_any(addresses.into(), port).await.is_err());
        });
    }
}
