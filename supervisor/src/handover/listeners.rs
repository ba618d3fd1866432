//! Listening sockets that are there before we start: of the image before, of the service manager, of orphans.
//!
//! 1. Each is looked at before it is used; one that nobody needs is closed.
//! 2. What comes of a socket unit is known by its address, whatever the unit calls it, and never put into the service
//!    manager's store: there it would stay open after the unit was stopped. A copy that is in there all the same is removed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Protocol, SockRef, Type};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::listener::{self, ListenError};

/// How long a worker may take to notice that its supervisor was killed.
const FREED_LIMIT: Duration = Duration::from_secs(5);
/// How long between two tries.
const FREED_INTERVAL: Duration = Duration::from_millis(20);

/// Where one comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The image that this process ran before.
    Image,
    /// The same, which had it from a socket unit.
    ImageOfUnit,
    /// The service manager's store.
    Store,
    /// A socket unit of the service manager, which keeps it open itself.
    Unit,
    /// A worker whose supervisor was killed.
    Orphan,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Image => "the program before",
            Self::ImageOfUnit => "the program before, which had it from a socket unit",
            Self::Store => "the service manager",
            Self::Unit => "a socket unit of the service manager",
            Self::Orphan => "a worker of the supervisor before",
        }
    }

    fn is_of_unit(self) -> bool {
        matches!(self, Self::Unit | Self::ImageOfUnit)
    }
}

/// Why a descriptor is not a listener of ours.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("not a listening TCP socket")]
    Kind,
    #[error("cannot be looked at: {0}")]
    Look(#[from] io::Error),
}

/// A socket that listens.
#[derive(Debug)]
struct Open {
    /// Of the role it is for; of a socket unit whatever that calls it.
    name: String,
    address: SocketAddr,
    listener: TcpListener,
    origin: Origin,
}

/// What is there.
#[derive(Debug, Default)]
pub struct Listeners {
    open: Vec<Open>,
    /// Others than those of socket units were there.
    found_any: bool,
    left: Left,
    taken: Vec<SocketAddr>,
}

/// What remains to be done when every role has its listener.
#[derive(Debug, Default)]
pub struct Left {
    /// Names that are to go from the service manager's store.
    pub unwanted: Vec<String>,
    /// Roles whose listener a socket unit keeps: it does not go into the store.
    pub of_units: Vec<String>,
}

impl Listeners {
    /// Takes one in, if that is what it is.
    pub fn add(&mut self, name: &str, descriptor: OwnedFd, origin: Origin) {
        match examine(descriptor) {
            Ok((address, listener)) => {
                self.found_any |= !origin.is_of_unit();
                self.open.push(Open { name: name.to_owned(), address, listener, origin });
            }
            Err(reason) => {
                warn!(name, "a socket from {} is not used: {reason}", origin.name());
            }
        }
    }

    /// The one for a role, if it has the address that is configured.
    pub fn take(&mut self, role: &str, address: SocketAddr) -> Option<TcpListener> {
        let is_same = |open: &Open| (open.address.ip(), open.address.port()) == (address.ip(), address.port());
        let of_unit = |open: &Open| open.origin.is_of_unit();
        let named = |open: &Open| open.name == role && is_meant(address, open.address);
        let mut choices = [
            // A socket unit may call its sockets anything, and keeps them: what else has the address is a copy.
            self.open.iter().position(|it| of_unit(it) && is_same(it)),
            self.open.iter().position(|it| of_unit(it) && is_both(it, address)),
            self.open.iter().position(|it| !of_unit(it) && named(it)),
            // Two addresses that were exchanged, or a socket unit that uses a name of ours.
            self.open.iter().position(|it| it.origin == Origin::Store && is_same(it)),
        ]
        .into_iter();
        let index = choices.find_map(|index| index)?;
        let Open { name, address: found, listener, origin } = self.open.swap_remove(index);
        self.taken.push(found);
        if origin.is_of_unit() {
            self.left.of_units.push(role.to_owned());
            if let Err(error) = listener::deepen(&listener) {
                warn!(role, %error, "the backlog of a socket unit stays as it is");
            }
        } else if origin == Origin::Store && name != role {
            self.left.unwanted.push(name.clone());
        }
        info!(name = role, address = %found, socket = name, "listener taken over from {}", origin.name());
        Some(listener)
    }

    /// The one for a role, or a new one. Where others were found here, the status worker of a supervisor that was killed may be
    /// about to leave: an address in use is tried again for a moment.
    pub async fn take_or_bind(
        &mut self,
        name: &str,
        address: SocketAddr,
        key: &'static str,
    ) -> Result<TcpListener, ListenError> {
        if let Some(listener) = self.take(name, address) {
            return Ok(listener);
        }
        let deadline = Instant::now() + FREED_LIMIT;
        // What a socket unit has is not given back.
        let unit = self.open.iter().find(|it| {
            it.origin.is_of_unit() && it.address.port() == address.port()
        });
        loop {
            match (listener::bind(address, key), unit) {
                (Err(error), Some(unit)) if error.is_in_use() => {
                    return Err(error.because(format!(
                        "a socket unit of the service manager listens on {}; give its ListenStream= and {key} the same address",
                        unit.address
                    )));
                }
                (Err(error), None)
                    if self.found_any && error.is_in_use() && Instant::now() < deadline =>
                {
                    sleep(FREED_INTERVAL).await;
                }
                (bound, _) => return bound,
            }
        }
    }

    /// Closes what nobody has taken.
    pub fn close(self) -> Left {
        let mut left = self.left;
        for Open { name, address, origin, .. } in self.open {
            match origin {
                Origin::Orphan => {}
                Origin::Unit | Origin::ImageOfUnit => warn!(
                    name, %address,
                    "a socket from {} is closed, and nobody serves it: neither proxy.addr nor observability.metrics.prometheus.addr has its address; compare ListenStream= of the unit with these keys",
                    origin.name()
                ),
                Origin::Store if self.taken.contains(&address) => {
                    info!(name, %address, "the copy in the service manager's store is given up: a socket unit keeps the listener");
                    left.unwanted.push(name);
                }
                Origin::Image | Origin::Store => {
                    info!(name, %address, "a socket from {} is closed: it is not configured", origin.name());
                    left.unwanted.push(name);
                }
            }
        }
        left
    }
}

/// Whether that is the configured address; port 0 means any.
fn is_meant(configured: SocketAddr, found: SocketAddr) -> bool {
    let port = configured.port();
    configured.ip() == found.ip() && (port == 0 || port == found.port())
}

/// Whether a socket takes what comes by IPv4 to a configured `0.0.0.0` as well as what comes by IPv6: a socket unit that
/// names nothing but a port has `[::]`.
fn is_both(open: &Open, configured: SocketAddr) -> bool {
    let same_port = open.address.port() == configured.port();
    let is_dual = || matches!(SockRef::from(&open.listener).only_v6(), Ok(false));
    configured.ip() == Ipv4Addr::UNSPECIFIED
        && open.address.ip() == Ipv6Addr::UNSPECIFIED
        && same_port
        && is_dual()
}

/// Nothing is believed: who hands it over may have been taken over.
fn examine(descriptor: OwnedFd) -> Result<(SocketAddr, TcpListener), Unfit> {
    let socket = SockRef::from(&descriptor);
    let is_tcp = socket.r#type()? == Type::STREAM && socket.protocol()? == Some(Protocol::TCP);
    if !is_tcp || !socket.is_listener()? {
        return Err(Unfit::Kind);
    }
    let address = socket.local_addr()?.as_socket().ok_or(Unfit::Kind)?;
    // All who hold it share the flag.
    socket.set_nonblocking(true)?;
    Ok((address, TcpListener::from(descriptor)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use socket2::{Domain, Socket};

    use super::*;

    #[test]
    fn only_a_listener_of_the_configured_address_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut listeners = Listeners::default();
        listeners.add("proxy", listener.into(), Origin::Orphan);
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        assert!(listeners.take("proxy", other).is_none());
        assert!(listeners.take("status", address).is_none());
        assert_eq!(listeners.take("proxy", address).unwrap().local_addr().unwrap(), address);
        assert!(listeners.take("proxy", address).is_none(), "it is taken once");
    }

    #[test]
    fn what_is_no_listener_is_not_kept() {
        let mut listeners = Listeners::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let local = UnixListener::bind(folder.path().join("s")).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for descriptor in [OwnedFd::from(connected), local.into(), file.into()] {
            listeners.add("proxy", descriptor, Origin::Orphan);
        }
        assert!(listeners.open.is_empty());
    }

    fn of_unit(listeners: &mut Listeners, address: &str) -> SocketAddr {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        listeners.add("aisix.socket", listener.into(), Origin::Unit);
        address
    }

    #[test]
    fn sockets_of_a_unit_are_told_apart_by_their_addresses_alone() {
        let mut listeners = Listeners::default();
        let one = of_unit(&mut listeners, "127.0.0.1:0");
        let other = of_unit(&mut listeners, "127.0.0.1:0");
        let anything = SocketAddr::from(([127, 0, 0, 1], 0));
        assert!(listeners.take("proxy", anything).is_none(), "port 0 is no address of a unit");
        let status = listeners.take("status", other).unwrap();
        assert_eq!(status.local_addr().unwrap(), other);
        assert_eq!(listeners.take("proxy", one).unwrap().local_addr().unwrap(), one);
        let left = listeners.close();
        assert_eq!(left.of_units, ["status", "proxy"]);
        assert!(left.unwanted.is_empty(), "nothing of it was in the store");
    }

    #[test]
    fn a_socket_of_a_unit_goes_before_its_copy_in_the_store_which_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut listeners = Listeners::default();
        listeners.add("proxy", listener.try_clone().unwrap().into(), Origin::Store);
        listeners.add("anything", listener.into(), Origin::Unit);
        assert!(listeners.take("proxy", address).is_some());
        let left = listeners.close();
        assert_eq!((left.of_units, left.unwanted), (vec!["proxy".to_owned()], vec!["proxy".to_owned()]));
    }

    #[test]
    fn a_unit_that_names_a_port_alone_has_it_for_both_families() {
        let mut listeners = Listeners::default();
        let found = of_unit(&mut listeners, "[::]:0");
        let configured = SocketAddr::from(([0, 0, 0, 0], found.port()));
        let elsewhere = SocketAddr::from(([127, 0, 0, 1], found.port()));
        assert!(listeners.take("proxy", elsewhere).is_none());
        assert!(listeners.take("proxy", configured).is_some());
        // One for IPv6 alone is another address.
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_only_v6(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        socket.listen(1).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let mut listeners = Listeners::default();
        listeners.add("6", socket.into(), Origin::Unit);
        assert!(listeners.take("proxy", SocketAddr::from(([0, 0, 0, 0], port))).is_none());
        assert!(listeners.take("proxy", SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).is_some());
    }

    #[test]
    fn a_socket_in_the_store_under_another_role_s_name_is_used_and_stored_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut listeners = Listeners::default();
        listeners.add("status", listener.into(), Origin::Store);
        assert!(listeners.take("proxy", address).is_some());
        let left = listeners.close();
        assert_eq!((left.of_units.len(), left.unwanted), (0, vec!["status".to_owned()]));
    }

    #[test]
    fn a_port_that_a_unit_has_at_another_address_is_told_with_both() {
        let mut listeners = Listeners::default();
        let found = of_unit(&mut listeners, "127.0.0.1:0");
        let configured = SocketAddr::from(([0, 0, 0, 0], found.port()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bound = runtime.block_on(listeners.take_or_bind("proxy", configured, "proxy.addr"));
        let error = bound.unwrap_err().to_string();
        for part in [configured.to_string(), found.to_string(), "ListenStream=".to_owned()] {
            assert!(error.contains(&part), "{error}");
        }
    }
}
