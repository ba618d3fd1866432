//! Everything at once: an upstream, a Cloud with resources for it, and a gateway that serves them.

use std::net::{Ipv4Addr, SocketAddr};

use crate::provider::KEY;
use crate::{Builder, Caller, Cloud, Gateway, Projection, Upstream};

/// What most tests need.
#[derive(Debug)]
pub struct World {
    /// The model upstream.
    pub upstream: Upstream,
    /// The Cloud.
    pub cloud: Cloud,
    /// The gateway, ready.
    pub gateway: Gateway,
}

impl World {
    /// Starts all three, with [`Projection::of`].
    pub async fn start() -> Self {
        Self::start_with(|gateway| gateway).await
    }

    /// The same with other settings of the gateway.
    pub async fn start_with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let upstream = upstream().await;
        let cloud = Cloud::start(&Projection::of(&upstream)).await;
        let gateway = settings(Builder::managed(&cloud)).start().await;
        Self { upstream, cloud, gateway }
    }

    /// The caller that the projection knows.
    pub fn caller(&self) -> Caller {
        self.gateway.caller()
    }
}

/// An upstream on a free port.
pub async fn upstream() -> Upstream {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Upstream::start(address, KEY).await.expect("a free port for the upstream")
}
