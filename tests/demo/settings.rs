//! What can be chosen, by variables: `make demo NAME=value` sets them. Secrets never stand on a command line of ours.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};

/// A variable that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{name}={value} is not {expected}")]
pub struct SettingError {
    name: &'static str,
    value: String,
    expected: &'static str,
}

/// What the demo does.
#[derive(Debug)]
pub struct Settings {
    /// Leave after the checks.
    pub once: bool,
    /// A real provider in the small upstream's place.
    pub provider: Option<Provider>,
    /// Where callers connect.
    pub proxy: Port,
    /// Metrics and status.
    pub status: Port,
    /// Where the gateway finds the Cloud.
    pub manager: Port,
    /// Where people see what the Cloud knows.
    pub view: Port,
    /// The small upstream.
    pub upstream: Port,
}

/// A real provider. Its key stays in the environment until it is written to the resources file.
#[derive(Debug)]
pub struct Provider {
    /// Base URL of its API.
    pub url: String,
    /// A model of it.
    pub model: String,
}

/// A loopback port that can be moved.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// What listens there.
    pub purpose: &'static str,
    /// The variable that moves it.
    pub variable: &'static str,
    /// The address.
    pub address: SocketAddr,
}

impl Settings {
    /// Reads the environment. An empty variable is one that is not set.
    pub fn from_environment() -> Result<Self, SettingError> {
        let provider = match (variable("UPSTREAM_URL"), variable("UPSTREAM_MODEL")) {
            (None, None) => None,
            (Some(url), Some(model)) if url.starts_with("http") => Some(Provider { url, model }),
            (Some(value), Some(_)) => {
                let expected = "a URL such as https://api.openai.com/v1";
                return Err(SettingError { name: "UPSTREAM_URL", value, expected });
            }
            (url, None) => {
                let expected = "enough: name a model of that provider in UPSTREAM_MODEL";
                return Err(SettingError {
                    name: "UPSTREAM_URL",
                    value: url.unwrap_or_default(),
                    expected,
                });
            }
            (None, Some(value)) => {
                let expected = "enough: name the provider's base URL in UPSTREAM_URL";
                return Err(SettingError { name: "UPSTREAM_MODEL", value, expected });
            }
        };
        Ok(Self {
            once: variable("ONCE").is_some_and(|once| once != "0"),
            provider,
            proxy: port("PROXY_PORT", 3000, "the gateway's proxy listener")?,
            status: port("METRICS_PORT", 9090, "the gateway's metrics listener")?,
            manager: port("CLOUD_PORT", 7944, "the local Cloud")?,
            view: port("VIEW_PORT", 7945, "the view of the local Cloud")?,
            upstream: port("UPSTREAM_PORT", 8081, "the small model upstream")?,
        })
    }

    /// The ports that must be free.
    pub fn ports(&self) -> Vec<Port> {
        let mut ports = vec![self.proxy, self.status, self.manager, self.view];
        if self.provider.is_none() {
            ports.push(self.upstream);
        }
        ports
    }

    /// The provider's key, from the environment.
    pub fn provider_key(&self) -> String {
        match self.provider {
            Some(_) => variable("UPSTREAM_KEY").unwrap_or_default(),
            None => harness::provider::KEY.to_owned(),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn port(name: &'static str, default: u16, purpose: &'static str) -> Result<Port, SettingError> {
    let number = match variable(name) {
        None => default,
        Some(value) => match value.parse() {
            Ok(number) if number > 0 => number,
            _ => return Err(SettingError { name, value, expected: "a port between 1 and 65535" }),
        },
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    Ok(Port { purpose, variable: name, address })
}
