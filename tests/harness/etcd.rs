//! A real etcd.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use etcd_client::{Client, DeleteOptions, Txn, TxnOp};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::{Projection, client, port, wait};

/// An etcd of its own for one test, on loopback, for clients without TLS.
#[derive(Debug)]
pub struct Etcd {
    url: String,
    tls: Option<SocketAddr>,
    _process: Process,
    _folder: TempDir,
}

/// What an etcd needs to speak TLS with clients that have certificates: PEM files.
#[derive(Debug)]
pub struct EtcdTls<'a> {
    /// Its own certificate.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
    /// Issuers of its clients' certificates.
    pub issuers: &'a Path,
}

impl Etcd {
    /// Starts one.
    ///
    /// # Panics
    /// With what to install, if there is none.
    pub async fn start() -> Self {
        Self::launch(None).await
    }

    /// Starts one that also listens for clients with certificates.
    ///
    /// # Panics
    /// With what to install, if there is none.
    pub async fn start_with_tls(tls: EtcdTls<'_>) -> Self {
        Self::launch(Some(tls)).await
    }

    async fn launch(tls: Option<EtcdTls<'_>>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for etcd");
        let (clients, peers) = (port::reserve(), port::reserve());
        let (url, peer_url) = (format!("http://{clients}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}")]);
        command.args(["--logger", "zap", "--log-level", "warn"]);
        let mut urls = url.clone();
        let tls = tls.map(|tls| {
            let address = port::reserve();
            command.arg("--cert-file").arg(tls.certificate).arg("--key-file").arg(tls.key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(tls.issuers);
            urls = format!("{url},https://{address}");
            address
        });
        command.args(["--listen-client-urls", &urls, "--advertise-client-urls", &urls]);
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
        Self { url, tls, _process: process, _folder: folder }
    }

    /// Where clients with certificates connect.
    ///
    /// # Panics
    /// If it was not started with TLS.
    pub fn tls_address(&self) -> SocketAddr {
        self.tls.expect("this etcd was started with TLS")
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

    /// Forgets everything but the values of now: who was away must load anew.
    pub async fn compact(&self) {
        let mut client = self.client().await;
        let status = client.get("revision", None).await.expect("etcd answers");
        let revision = status.header().map_or(0, |header| header.revision());
        client.compact(revision, None).await.expect("etcd compacts");
    }

    /// Deletes one key.
    pub async fn delete(&self, key: &str) {
        self.client().await.delete(key, None::<DeleteOptions>).await.expect("etcd deletes");
    }
}
