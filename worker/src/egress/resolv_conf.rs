//! The text of `/etc/resolv.conf`, as resolv.conf(5) describes it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::rr::Name;

/// The most that resolv.conf(5) lets `ndots`, `timeout` (in seconds) and `attempts` be.
const LIMITS: (usize, u64, usize) = (15, 30, 5);

/// Name servers, search list and options. The last `search` or `domain` counts; what is malformed or unknown is passed
/// over. Without a name server it is the one of this machine.
pub(super) fn parse(text: &str) -> (ResolverConfig, ResolverOpts) {
    let (mut name_servers, mut search) = (Vec::new(), Vec::new());
    // The manual's defaults, not the library's.
    let mut options = ResolverOpts::default();
    options.ndots = 1;
    options.timeout = Duration::from_secs(5);
    options.attempts = 2;
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => name_servers.extend(words.next().and_then(name_server)),
            Some("search" | "domain") => {
                search = words.filter_map(|name| Name::from_str_relaxed(name).ok()).collect();
            }
            Some("options") => words.for_each(|option| set(&mut options, option)),
            _ => {}
        }
    }
    if name_servers.is_empty() {
        name_servers.push(NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into()));
    }
    (ResolverConfig::from_parts(None, search, name_servers), options)
}

/// UDP, and TCP for what is too long for it. A zone (`fe80::1%eth0`) has no place in an address here.
fn name_server(address: &str) -> Option<NameServerConfig> {
    let address = address.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().ok().map(NameServerConfig::udp_and_tcp)
}

fn set(options: &mut ResolverOpts, option: &str) {
    let (name, value) = option.split_once(':').unwrap_or((option, ""));
    let (ndots_max, timeout_max, attempts_max) = LIMITS;
    match (name, value.parse::<u32>()) {
        ("ndots", Ok(value)) => options.ndots = (value as usize).min(ndots_max),
        ("timeout", Ok(value)) => {
            options.timeout = Duration::from_secs(u64::from(value).clamp(1, timeout_max));
        }
        ("attempts", Ok(value)) => options.attempts = (value as usize).clamp(1, attempts_max),
        ("edns0", _) => options.edns0 = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn name_servers_search_and_options_are_read() {
        let text = "# made by hand\nnameserver 192.0.2.53\nnameserver fe80::1%eth0 ; local\n\
                    domain old.example\nsearch a.example b.example\n\
                    options ndots:3 timeout:2 attempts:99 rotate edns0 ndots:x\nnameserver nonsense\n";
        let (config, options) = parse(text);
        let servers: Vec<_> =
            config.name_servers().iter().map(|server| server.ip.to_string()).collect();
        assert_eq!(servers, ["192.0.2.53", "fe80::1"]);
        let search: Vec<_> = config.search().iter().map(ToString::to_string).collect();
        assert_eq!(search, ["a.example", "b.example"]);
        assert_eq!((options.ndots, options.attempts, options.edns0), (3, 5, true));
        assert_eq!(options.timeout, Duration::from_secs(2));
    }

    #[test]
    fn an_empty_text_is_the_manual_s_defaults() {
        let (config, options) = parse("");
        assert_eq!(config.name_servers()[0].ip, Ipv4Addr::LOCALHOST);
        assert!(config.search().is_empty());
        assert_eq!((options.ndots, options.attempts), (1, 2));
    }

    proptest! {
        #[test]
        fn no_text_can_panic_the_reader(text: String, words in "((nameserver|search|options|ndots:|[0-9.:%]{1,9}) ?){0,9}") {
            parse(&text);
            parse(&words);
        }
    }
}
