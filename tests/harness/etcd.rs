//! A real etcd.

use std::process::Command;

use etcd_client::{Client, DeleteOptions, Txn, TxnOp};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::{Projection, client, port, wait};

/// An etcd of its own for one test, without TLS, on loopback.
#[derive(Debug)]
pub struct Etcd {
    url: String,
    _process: Process,
    _folder: TempDir,
}

impl Etcd {
    /// Starts one.
    ///
    /// # Panics
    /// With what to install, if there is none.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for etcd");
        let (clients, peers) = (port::reserve(), port::reserve());
        let (url, peer_url) = (format!("http://{clients}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}"), "--log-level", "warn"]);
        let mut process = Process::spawn("etcd", command, &folder.path().join("etcd.log"))
            .unwrap_or_else(|error| panic!("{error}; install it: apt-get install etcd-server"));
        wait::until("etcd is healthy", async || {
            if let Some(status) = process.ended() {
                panic!("etcd ended ({status}):\n{}", process.log_tail());
            }
            let answer =
                client::fetch(clients, "/health").await.map_err(|error| error.to_string())?;
            let text = answer.text().await.map_err(|error| error.to_string())?;
            if text.contains("true") { Ok(()) } else { Err(text) }
        })
        .await;
        Self { url, _process: process, _folder: folder }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        Client::connect([&self.url], None).await.expect("etcd accepts clients")
    }

    /// Puts a projection below `prefix`, which ends with a slash. Returns the revision.
    pub async fn project(&self, prefix: &str, projection: &Projection) -> i64 {
        let mut client = self.client().await;
        let mut revision = 0;
        for (key, document) in projection.documents() {
            let put = client.put(format!("{prefix}{key}"), document.to_string(), None).await;
            revision =
                put.expect("etcd takes a put").header().map_or(0, |header| header.revision());
        }
        revision
    }

    /// Puts one document.
    pub async fn put(&self, key: &str, document: &Value) {
        self.put_raw(key, &document.to_string()).await;
    }

    /// Puts any text.
    pub async fn put_raw(&self, key: &str, text: &str) {
        self.client().await.put(key, text, None).await.expect("etcd takes a put");
    }

    /// Puts several documents in one transaction.
    pub async fn put_together(&self, documents: &[(String, Value)]) {
        let operations: Vec<_> = documents
            .iter()
            .map(|(key, document)| TxnOp::put(key.as_str(), document.to_string(), None))
            .collect();
        self.client().await.txn(Txn::new().and_then(operations)).await.expect("etcd takes it");
    }

    /// Deletes one key.
    pub async fn delete(&self, key: &str) {
        self.client().await.delete(key, None::<DeleteOptions>).await.expect("etcd deletes");
    }
}
