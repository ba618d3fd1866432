//! Names to addresses, without opening a file: what the system's resolver would read from `/etc` is handed over as text.
//! UDP and TCP to the name servers that are named there, port 53, and nobody else. No modules of the system's name
//! service (`nsswitch.conf`) are asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use shared::egress::{self, Unresolved};

use super::hosts::Hosts;
use super::resolv_conf;

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up name resolution: {0}")]
pub struct ResolverError(#[from] NetError);

/// Why a name has no address.
#[derive(Debug)]
pub struct Failed {
    /// What kind of failure it is.
    pub kind: Unresolved,
    /// In words.
    pub words: String,
}

/// Resolves names.
pub struct Resolve {
    hosts: Hosts,
    resolver: TokioResolver,
}

impl Resolve {
    /// Takes the texts of `/etc/resolv.conf` and `/etc/hosts`; what is malformed in them is passed over, as elsewhere.
    pub fn new(files: &egress::Resolver) -> Result<Self, ResolverError> {
        let (config, mut options) = resolv_conf::parse(&files.resolv_conf);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // The resolver would read the file itself, and ask name servers for the family that the file does not have.
        options.use_hosts_file = ResolveHosts::Never;
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options;
        Ok(Self { hosts: Hosts::parse(&files.hosts), resolver: builder.build()? })
    }

    /// The addresses of a host, in the order to try them, never empty; or what the resolver says instead.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Failed> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Some(addresses) = self.hosts.find(host) {
            return Ok(by_turns(addresses.iter().copied()));
        }
        let answer = self.resolver.lookup_ip(host).await.map_err(|error| failed(&error))?;
        let addresses = by_turns(answer.iter());
        if addresses.is_empty() {
            return Err(no_address());
        }
        Ok(addresses)
    }
}

fn no_address() -> Failed {
    Failed { kind: Unresolved::NoAddress, words: "the name has no address".to_owned() }
}

fn failed(error: &NetError) -> Failed {
    let (kind, words) = match error {
        error if error.is_nx_domain() => (Unresolved::Unknown, "there is no such name".to_owned()),
        NetError::Dns(DnsError::NoRecordsFound(_)) => return no_address(),
        NetError::Timeout | NetError::NoConnections | NetError::Io(_) | NetError::Busy => {
            (Unresolved::NoAnswer, format!("no resolver answers: {error}"))
        }
        error => (Unresolved::Failing, format!("the resolver fails: {error}")),
    };
    Failed { kind, words }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &str, host: &str) -> Result<Vec<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let files = egress::Resolver { hosts: hosts.to_owned(), resolv_conf: String::new() };
            let found = Resolve::new(&files).unwrap().addresses(host).await;
            let found = found.map_err(|failed| failed.words)?;
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
    fn a_name_without_an_address_is_an_error() {
        assert!(addresses("", "nowhere.invalid").is_err());
    }

    #[test]
    fn families_take_turns() {
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"];
        let ordered = by_turns(all.iter().map(|address| address.parse().unwrap()));
        let ordered: Vec<_> = ordered.iter().map(ToString::to_string).collect();
        assert_eq!(ordered, ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]);
    }
}
