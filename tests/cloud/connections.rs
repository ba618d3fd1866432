//! The connections to the manager port, by whose certificate they were made: so that a rotation can be seen from here.

use crate::{cloud::Cloud, identity::Identity};
use serde::Serialize;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// So many are remembered; then the oldest is forgotten.
const CONNECTIONS_MAX: usize = 10_000;

/// One connection. Times are in milliseconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    id: u64,
    protocol: &'static str,
    env_id: String,
    dp_id: String,
    serial: String,
    fingerprint_sha256: String,
    opened_at_ms: u64,
    closed_at_ms: Option<u64>,
    last_request_at_ms: Option<u64>,
    /// Requests by path; of etcd, by method.
    requests: BTreeMap<String, u64>,
    /// Answers with another status than 2xx.
    refused: u64,
}

/// All that are remembered, oldest first.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Connections {
    list: VecDeque<Connection>,
    #[serde(skip)]
    next_id: u64,
}

/// One that is open. Dropped, it is closed.
pub struct Open {
    cloud: Arc<Cloud>,
    id: u64,
}

impl Open {
    /// Notes a connection of this client, who has shown the certificate `leaf` (DER).
    pub fn new(
        cloud: &Arc<Cloud>,
        client: &Identity,
        leaf: &[u8],
        protocol: &'static str,
    ) -> Arc<Self> {
        let mut connections = cloud.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.next_id += 1;
        let id = connections.next_id;
        let serial = X509Certificate::from_der(leaf)
            .map(|(_, leaf)| leaf.raw_serial_as_string())
            .unwrap_or_default();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        connections.list.push_back(Connection {
            id,
            protocol,
            env_id: client.env_id.clone(),
            dp_id: client.dp_id.clone(),
            serial,
            fingerprint_sha256: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            opened_at_ms: now_ms(),
            closed_at_ms: None,
            last_request_at_ms: None,
            requests: BTreeMap::new(),
            refused: 0,
        });
        if connections.list.len() > CONNECTIONS_MAX {
            connections.list.pop_front();
        }
        Arc::new(Self { cloud: Arc::clone(cloud), id })
    }

    /// Notes a request.
    pub fn asked(&self, path: &str) {
        self.change(|connection| {
            connection.last_request_at_ms = Some(now_ms());
            *connection.requests.entry(path.to_owned()).or_default() += 1;
        });
    }

    /// Notes an answer that was no success.
    pub fn refused(&self) {
        self.change(|connection| connection.refused += 1);
    }

    fn change(&self, change: impl FnOnce(&mut Connection)) {
        let mut connections = self.cloud.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let found = connections.list.iter_mut().rev().find(|connection| connection.id == self.id);
        found.map(change);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.change(|connection| connection.closed_at_ms = Some(now_ms()));
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
