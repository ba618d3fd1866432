//! Where a projected host may lead: nowhere on this machine, its link, or its platform's metadata service. Pure.
//!
//! `localhost` and addresses written as such are what the operator wants, and taken as written; metadata services are
//! refused all the same: they hand out credentials to whoever asks. A name is judged by every address that it resolves to,
//! those embedded in IPv6 addresses included: one bad address refuses the name, for nobody can tell which would be used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Services of cloud platforms that tell secrets of the machine.
const METADATA_V4: [Ipv4Addr; 7] = [
    Ipv4Addr::new(169, 254, 169, 254),
    // Credentials of containers and pods (AWS).
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // The agent of a machine (Azure), and Tencent.
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(169, 254, 0, 23),
    // Alibaba, and the former one of Oracle.
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 3] = [
    // AWS, its pods, and Google.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Why a projected host may not lead to these addresses, which it has resolved to.
pub fn check(host: &str, addresses: &[IpAddr]) -> Result<(), String> {
    let is_written = is_written(host);
    for address in addresses {
        for meant in meanings(*address) {
            let kind = kind(meant);
            if kind.is_some_and(|kind| !is_written || kind == METADATA) {
                let kind = kind.unwrap_or_default();
                return Err(format!(
                    "{host} is {address}, {kind}: a projected host must not lead there"
                ));
            }
        }
    }
    Ok(())
}

/// Whether the host stands for its address, not for what a resolver says.
fn is_written(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    host.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

const METADATA: &str = "a metadata service";

fn kind(address: IpAddr) -> Option<&'static str> {
    let is_metadata = match address {
        IpAddr::V4(v4) => METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => METADATA_V6.contains(&v6),
    };
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    // All of 0.0.0.0/8 is this host.
    let is_unspecified = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    if is_metadata {
        Some(METADATA)
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if is_link_local {
        Some("a link-local address")
    } else if is_unspecified {
        Some("an unspecified address")
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("a multicast or broadcast address")
    } else {
        None
    }
}

/// The address itself, and the IPv4 addresses that a kernel, a translator or a relay may take it for.
fn meanings(address: IpAddr) -> Vec<IpAddr> {
    let mut meanings = vec![address];
    let IpAddr::V6(v6) = address else { return meanings };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(one, two, three, four))
    };
    // ::a.b.c.d (apart from :: and ::1 themselves), ::ffff:a.b.c.d, ::ffff:0:a.b.c.d
    let is_low = [a, b, c, d] == [0; 4];
    let is_compatible = is_low && [e, f] == [0; 2] && (g, h) != (0, 0) && (g, h) != (0, 1);
    let is_mapped = is_low && matches!([e, f], [0, 0xffff] | [0xffff, 0]);
    // NAT64: 64:ff9b::/96, and the local 64:ff9b:1::/48, where the lower half is what is translated.
    let is_nat64 = (a, b) == (0x64, 0xff9b) && ([c, d, e, f] == [0; 4] || c == 1);
    // ISATAP: an interface identifier that holds the address.
    let is_isatap = f == 0x5efe && matches!(e, 0 | 0x200);
    if is_compatible || is_mapped || is_nat64 || is_isatap {
        meanings.push(v4(g, h));
    }
    match (a, b) {
        // 6to4.
        (0x2002, _) => meanings.push(v4(b, c)),
        // Teredo: the server, and the client, inverted.
        (0x2001, 0) => meanings.extend([v4(c, d), v4(!g, !h)]),
        _ => {}
    }
    meanings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(host: &str, addresses: &[&str]) -> Result<(), String> {
        let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        check(host, &addresses)
    }

    #[test]
    fn a_name_leads_to_no_address_of_this_host_its_link_or_its_platform() {
        for address in [
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "169.254.0.23",
            "fd00:ec2::254",
            "fd20:ce::254",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            let refused = judged("models.example", &[address]).unwrap_err();
            assert!(refused.starts_with(&format!("models.example is {address}, a")), "{refused}");
        }
    }

    #[test]
    fn an_address_inside_another_counts() {
        for address in [
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::7f00:1",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
            "2001:0:7f00:1::1",
            "2001:0:102:304:0:0:5601:5601",
            "2001:db8::5efe:127.0.0.1",
        ] {
            assert!(judged("models.example", &[address]).is_err(), "{address}");
        }
    }

    #[test]
    fn one_bad_address_refuses_the_name() {
        assert!(judged("models.example", &["192.0.2.1", "127.0.0.1"]).is_err());
    }

    #[test]
    fn public_and_private_addresses_are_fine() {
        for address in
            ["192.0.2.1", "10.0.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "64:ff9b::192.0.2.1"]
        {
            assert_eq!(judged("models.example", &[address]), Ok(()), "{address}");
        }
    }

    #[test]
    fn localhost_and_addresses_are_taken_as_written_unless_they_are_a_metadata_service() {
        assert_eq!(judged("localhost", &["127.0.0.1", "::1"]), Ok(()));
        assert_eq!(judged("LOCALHOST.", &["127.0.0.1"]), Ok(()));
        assert_eq!(judged("127.0.0.1", &["127.0.0.1"]), Ok(()));
        assert_eq!(judged("169.254.1.1", &["169.254.1.1"]), Ok(()));
        assert!(judged("a.localhost", &["127.0.0.1"]).is_err());
        for address in [
            "169.254.169.254",
            "168.63.129.16",
            "169.254.0.23",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
        ] {
            assert!(judged(address, &[address]).is_err(), "{address}");
        }
    }
}
