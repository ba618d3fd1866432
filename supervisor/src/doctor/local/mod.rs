//! What can be seen on this machine without asking anybody.

use std::path::Path;

use super::{Fault, Finding};
use crate::cloud::tls::Identity;
use crate::control::status::Status;
use crate::settings::Settings;

/// What was seen here, and what further checks go on with.
#[derive(Debug, Default)]
pub struct Local {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The settings, if they can be read and used.
    pub settings: Option<Box<Settings>>,
    /// The certificate bundle, if it can be read and TLS can use it; expired or not.
    pub identity: Option<Identity>,
}

/// Looks at the configuration that is named and at what it leads to. `gateway` is what the gateway says that runs with it.
pub fn check(_config: Option<&Path>, _gateway: Option<&Status>) -> Local {
    Local::default()
}

/// Every fault that is found here, causes first. Those that keep a gateway from starting explain `daemon-down`.
pub fn catalogue() -> Vec<&'static Fault> {
    Vec::new()
}
