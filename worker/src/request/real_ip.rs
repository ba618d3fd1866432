//! The caller's address: the peer's, unless the peer is a proxy that the settings trust to name another.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use shared::cidr::Cidr;
use shared::worker_settings::ProxySettings;

/// The address of the caller.
///
/// The forwarding header of a trusted peer is read from its end, the address that the nearest proxy has added. With
/// `recursive`, addresses of trusted proxies are passed over on the way. What is no address ends the way.
pub fn find(settings: &ProxySettings, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = peer.to_canonical();
    let trusted = |address: IpAddr| is_any(&settings.trusted_proxies, address);
    if !trusted(peer) {
        return peer;
    }
    let values = headers.get_all(settings.real_ip_header.as_str());
    // Bytes that are no text are part of an entry, which is then no address.
    let values = values.iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let values: Vec<_> = values.collect();
    let mut found = peer;
    for entry in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let Some(address) = parse(entry.trim()) else { break };
        found = address;
        if !settings.real_ip_recursive || !trusted(address) {
            break;
        }
    }
    found
}

fn is_any(blocks: &[Cidr], address: IpAddr) -> bool {
    blocks.iter().any(|block| block.contains(address))
}

/// An address, with or without a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let address = entry.trim_start_matches('[').trim_end_matches(']').parse();
    let address = address.or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::test_settings;

    fn real_ip(recursive: bool, peer: &str, forwarded: &[&'static str]) -> String {
        let settings = ProxySettings {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            real_ip_recursive: recursive,
            ..test_settings()
        };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        find(&settings, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_caller_whatever_it_says() {
        assert_eq!(real_ip(true, "203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(real_ip(true, "::ffff:203.0.113.9", &[]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_peer_is_believed_one_step_or_as_far_as_proxies_are_trusted() {
        let forwarded = ["198.51.100.1, 203.0.113.9", "10.0.0.2"];
        assert_eq!(real_ip(false, "10.0.0.1", &forwarded), "10.0.0.2");
        assert_eq!(real_ip(true, "10.0.0.1", &forwarded), "203.0.113.9");
        assert_eq!(real_ip(true, "::ffff:10.0.0.1", &["10.0.0.3,10.0.0.2"]), "10.0.0.3");
        assert_eq!(real_ip(false, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_passed_over_and_nonsense_ends_the_way() {
        assert_eq!(real_ip(false, "10.0.0.1", &["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(real_ip(false, "10.0.0.1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(real_ip(true, "10.0.0.1", &["192.0.2.1, unknown, 10.0.0.2"]), "10.0.0.2");
    }
}
