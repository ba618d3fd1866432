//! What can be wrong on the way to the Cloud: names, routes, proxies.

use super::super::{Fault, Severity};

/// Declares faults, and lists them in the order in which they may bring each other about.
macro_rules! faults {
    ($($name:ident = $code:literal, $severity:ident, $title:literal;
        why $why:literal; do $remedy:literal; explains [$($explained:literal),*];)*) => {
        $(
            #[doc = $title]
            pub static $name: Fault = Fault {
                code: $code,
                severity: Severity::$severity,
                title: $title,
                why: $why,
                remedy: $remedy,
                explains: &[$($explained),*],
            };
        )*
        /// All of them.
        pub static ALL: &[&Fault] = &[$(&$name),*];
    };
}
pub(super) use faults;

faults! {
    CLOCK = "clock-skewed", Error, "The clock of this machine is wrong";
        why "Certificates are valid from a date to a date. With a clock that is minutes or years off, good certificates count as expired or not yet valid, tokens are refused, and usage is booked at the wrong time.";
        do "set the clock, and keep it set: `timedatectl set-ntp true`, or repair the time service (chrony, systemd-timesyncd) or the clock of the host below; then run aisix doctor again";
        explains ["tls-server-expired", "tls-server-not-yet-valid", "tls-client-expired", "tls-client-refused", "bundle-expired", "bundle-not-yet-valid"];
    DRIFT = "clock-drifts", Warning, "The clock of this machine is not quite right";
        why "It is some seconds to minutes off the Cloud's. Nothing fails for that yet; new certificates may not be valid here for a moment, and usage is booked at another time than it happened.";
        do "keep the clock set: `timedatectl set-ntp true`, or repair the time service of this machine or of the host below";
        explains [];
    EGRESS = "egress-missing", Error, "There is no egress worker that answers, so nobody can make connections";
        why "Every connection to the Cloud and to providers is made by the confined egress worker. Without it, connections that are open go on, and no new one is made. It is started anew when it ends; one that cannot start usually lacks its program, or is of another build than aisix.";
        do "install aisix and aisix-worker from one package (or set supervisor.worker_path), look for `egress` in the gateway's log for the reason, and start the gateway again";
        explains ["gateway-egress-missing"];
    DNS_NO_ANSWER = "dns-no-answer", Error, "No name server answers";
        why "The name servers of /etc/resolv.conf are asked, over UDP and TCP, port 53. None answers: they are down, not reachable from this network, or a firewall drops the questions. In a container the file is often that of the host.";
        do "check the name servers in /etc/resolv.conf with `dig @SERVER NAME`; correct the file (the gateway reads it again by itself), open port 53, or put the name into /etc/hosts";
        explains [];
    DNS_FAILING = "dns-failing", Error, "The name server fails to answer";
        why "A name server answers, but with an error of its own (SERVFAIL, REFUSED): it cannot reach the servers above it, its DNSSEC check fails, or it does not serve this machine.";
        do "ask it directly with `dig NAME`, repair it or name another one in /etc/resolv.conf";
        explains [];
    DNS_UNKNOWN = "dns-name-unknown", Error, "The host name is not known";
        why "The name servers answer that there is no such name: a typing error in the URL, a name that is known only inside another network (VPN, split DNS), or a zone that was removed.";
        do "compare managed.cp_base_url (or etcd.endpoints) with what the Cloud's page of this environment shows; where the name is internal, use the name servers that know it";
        explains [];
    DNS_NO_ADDRESS = "dns-no-address", Error, "The host name has no address";
        why "The name exists, but has neither an IPv4 (A) nor an IPv6 (AAAA) address: often the domain itself was written where a host of it was meant.";
        do "correct the host in managed.cp_base_url (or etcd.endpoints), or have the address record added";
        explains [];
    DNS_ONLY_IPV6 = "dns-only-ipv6", Error, "The host has only IPv6 addresses, and this machine has no IPv6";
        why "The name leads to IPv6 addresses only (AAAA), and this machine, its container network or its cluster has no route for IPv6.";
        do "give this machine an IPv6 route (for containers: enable IPv6 in their network), or use a name with an IPv4 address, or reach the Cloud through managed.proxy_url";
        explains [];
    REFUSED = "cloud-connection-refused", Error, "Nobody listens at the Cloud's address";
        why "The machine answers and refuses the connection: nothing listens on that port. Usually the port is wrong, the service is down, or a firewall rejects. A name that leads to 127.0.0.1 refuses like that, too.";
        do "check host and port of managed.cp_base_url (or etcd.endpoints) against the Cloud's page of this environment, and whether the service runs";
        explains [];
    NO_ROUTE = "cloud-no-route", Error, "There is no route to the Cloud";
        why "The kernel, or a router on the way, says that the address cannot be reached: no default route, an interface that is down, a VPN that is not connected, a network policy that rejects.";
        do "look at `ip route get ADDRESS`; bring up the interface or VPN, or add the route; where only a proxy leads out, set managed.proxy_url";
        explains [];
    BLACK_HOLE = "cloud-black-hole", Error, "Connections to the Cloud are swallowed";
        why "Nothing answers, not even a refusal: a firewall or security group drops the packets, the address is wrong or no longer used, or only a proxy leads out of this network.";
        do "have outgoing TCP to this host and port allowed (security group, network policy, firewall); where only a proxy leads out, set managed.proxy_url";
        explains [];
    NOT_CONNECTED = "cloud-not-connected", Error, "No connection to the Cloud can be made";
        why "The system refuses the connection for a reason of its own, which the evidence has in its words: a local firewall, no free ports or descriptors, a forbidden address.";
        do "follow the evidence; look at local firewall rules (`nft list ruleset`) and at limits of the service";
        explains [];
    PROXY_NAME = "proxy-name-unknown", Error, "The name of the forward proxy leads nowhere";
        why "managed.proxy_url is set, so the Cloud is reached only through that proxy; its name cannot be resolved here.";
        do "correct the host in managed.proxy_url, or make its name known to this machine's name servers";
        explains [];
    PROXY_UNREACHABLE = "proxy-unreachable", Error, "The forward proxy cannot be reached";
        why "managed.proxy_url is set, so the Cloud is reached only through that proxy; no connection to the proxy itself can be made.";
        do "check host and port of managed.proxy_url and whether the proxy runs; remove the setting where the Cloud is reached directly";
        explains [];
    PROXY_AUTHENTICATION = "proxy-authentication", Error, "The forward proxy asks for other credentials";
        why "The proxy answers 407: it wants a name and a password, or those in managed.proxy_url are wrong.";
        do "put current credentials into managed.proxy_url (http://USER:PASSWORD@HOST:PORT, best by AISIX_MANAGED__PROXY_URL)";
        explains [];
    PROXY_FORBIDS = "proxy-forbids", Error, "The forward proxy does not let this gateway through to the Cloud";
        why "The proxy answers CONNECT with a refusal: its rules do not allow this destination or this port. Many allow port 443 only.";
        do "have the proxy allow CONNECT to the Cloud's host and port for this machine";
        explains [];
    PROXY_CANNOT = "proxy-cannot-reach", Error, "The forward proxy cannot reach the Cloud";
        why "The proxy consents to be asked and answers with 5xx: it cannot resolve or reach the Cloud's host itself.";
        do "check host and port of managed.cp_base_url; then ask whoever runs the proxy: its log says why the connection failed";
        explains [];
    PROXY_NOT_HTTP = "proxy-not-http", Error, "What managed.proxy_url names is no HTTP proxy";
        why "The answer to CONNECT is not HTTP, or the connection is closed without one: the port belongs to something else (a SOCKS or TLS proxy, another service).";
        do "name the port of an HTTP forward proxy in managed.proxy_url (http://HOST:PORT); SOCKS is not supported";
        explains [];
    PROXY_SILENT = "proxy-silent", Error, "The forward proxy takes the connection and does not answer";
        why "The proxy accepts connections and leaves CONNECT without an answer: it waits for the Cloud's host, which it cannot reach, or hangs.";
        do "ask whoever runs the proxy whether it reaches the Cloud's host and port; its log says what it waits for";
        explains [];
}
