//! A real etcd, for one test.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use tempfile::TempDir;

/// Far beyond what a start takes.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Etcd {
    pub port: u16,
    peer_port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Etcd {
    /// Plain HTTP.
    pub async fn start() -> Self {
        let mut etcd = Self::prepared("http", &[]);
        etcd.run();
        etcd.client().await;
        etcd
    }

    /// TLS with client certificates required. Whether it answers is for the test to find out.
    pub fn start_tls(certificate: &Path, key: &Path, ca: &Path) -> Self {
        let path = |path: &Path| path.display().to_string();
        let mut etcd = Self::prepared(
            "https",
            &[
                format!("--cert-file={}", path(certificate)),
                format!("--key-file={}", path(key)),
                format!("--trusted-ca-file={}", path(ca)),
                "--client-cert-auth".to_owned(),
            ],
        );
        etcd.run();
        etcd
    }

    /// Not running yet.
    pub fn prepared(scheme: &str, more: &[String]) -> Self {
        let (port, peer_port) = (free_port(), free_port());
        let mut arguments = vec![
            format!("--listen-client-urls={scheme}://127.0.0.1:{port}"),
            format!("--advertise-client-urls={scheme}://127.0.0.1:{port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer_port}"),
            "--log-level=error".to_owned(),
        ];
        arguments.extend_from_slice(more);
        let folder = tempfile::tempdir().unwrap();
        Self { port, peer_port, folder, arguments, process: None }
    }

    pub fn run(&mut self) {
        let process = Command::new("etcd")
            .args(&self.arguments)
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect(
            "cannot start `etcd`, which these tests need: install it (on Debian: apt-get install etcd-server)",
        ));
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Forgets everything; not while it runs.
    pub fn wipe(&mut self) {
        assert!(self.process.is_none());
        self.folder = tempfile::tempdir().unwrap();
    }

    /// A client, once the server answers.
    pub async fn client(&self) -> Client {
        let started = Instant::now();
        loop {
            if let Ok(mut client) =
                Client::connect([format!("127.0.0.1:{}", self.port)], None).await
                && client.get("any", None).await.is_ok()
            {
                return client;
            }
            assert!(
                started.elapsed() < START_LIMIT,
                "etcd does not answer (peer port {})",
                self.peer_port
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Puts all entries, a hundred in a transaction. Says at which revision the last were put.
pub async fn put_all(client: &mut Client, entries: &[(String, String)]) -> i64 {
    let mut revision = 0;
    for some in entries.chunks(100) {
        let puts: Vec<_> = some
            .iter()
            .map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None::<PutOptions>))
            .collect();
        let response = client.txn(Txn::new().and_then(puts)).await.unwrap();
        revision = response.header().unwrap().revision();
    }
    revision
}
