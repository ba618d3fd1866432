//! A network of the test's own, with loopback only, and resolver files of its own: names lead where the test says.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use tempfile::TempDir;
use tokio::net::UdpSocket;

/// An address of this network that is not a loopback address.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// The network of this thread, and of whatever it starts from now on.
#[derive(Debug)]
pub struct OwnNetwork {
    folder: TempDir,
}

impl OwnNetwork {
    /// Moves this thread into it. `None` if we may not.
    ///
    /// # Panics
    /// If root may not either.
    pub fn enter() -> Option<Self> {
        if !geteuid().is_root() {
            println!("skipped: only root can make a network");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder for the files");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root may");
        let network = Self { folder };
        network.hosts("");
        network.resolv_conf("");
        run("mount", &["--make-rprivate", "/"]);
        for name in ["hosts", "resolv.conf"] {
            let ours = network.folder.path().join(name);
            run("mount", &["--bind", &ours.to_string_lossy(), &format!("/etc/{name}")]);
        }
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["address", "add", &format!("{OUTSIDE}/32"), "dev", "lo"]);
        Some(network)
    }

    /// Writes `/etc/hosts`.
    pub fn hosts(&self, text: &str) {
        write(&self.folder.path().join("hosts"), text);
    }

    /// Writes `/etc/resolv.conf`.
    pub fn resolv_conf(&self, text: &str) {
        write(&self.folder.path().join("resolv.conf"), text);
    }

    /// A second network, `beyond`, behind a link on which large packets from here to there are lost without a word: its own
    /// end takes 600 bytes and says that it takes 1500. Here it is at `here`, there at `there`.
    pub fn lossy_link(&self, beyond: &str, here: Ipv4Addr, there: Ipv4Addr) {
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        run("ip", &["netns", "add", beyond]);
        run(
            "ip",
            &["link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", beyond],
        );
        run("ip", &["address", "add", &format!("{here}/24"), "dev", "near0"]);
        // Each packet on its own, as on a wire.
        run("ip", &["link", "set", "near0", "up", "gso_max_segs", "1"]);
        run("ip", &["-n", beyond, "link", "set", "lo", "up"]);
        run("ip", &["-n", beyond, "address", "add", &format!("{there}/32"), "dev", "far0"]);
        run("ip", &["-n", beyond, "link", "set", "far0", "up", "mtu", "600"]);
        let route = ["route", "add", &here.to_string(), "dev", "far0", "advmss", "1460"];
        run("ip", &[&["-n", beyond][..], &route].concat());
    }

    /// Answers questions for addresses of these names at `127.0.0.1:53`, for as long as the runtime runs.
    pub async fn serve_names(&self, names: &[(&str, &[&str])]) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        let socket = UdpSocket::bind(address).await.expect("port 53 of our own network");
        let parsed = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        let names: BTreeMap<String, Vec<IpAddr>> =
            names.iter().map(|(name, texts)| ((*name).to_owned(), parsed(texts))).collect();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((bytes, peer)) = socket.recv_from(&mut question).await {
                let _ = socket.send_to(&answer(&question[..bytes], &names), peer).await;
            }
        });
    }
}

/// Answers every question at that address, port 53, with this code (RFC 1035, section 4.1.1), or never.
pub async fn serve_code(address: Ipv4Addr, code: Option<u8>) {
    let socket = UdpSocket::bind((address, 53)).await.expect("port 53 of our own network");
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((bytes, peer)) = socket.recv_from(&mut question).await {
            let Some(code) = code else { continue };
            let mut answer = answer(&question[..bytes], &BTreeMap::new());
            answer[3] = 0x80 | code;
            let _ = socket.send_to(&answer, peer).await;
        }
    });
}

/// In place: the file stays the one that is mounted.
fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a file of the test's own");
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {arguments:?}");
}

/// The answer to a DNS message with one question (RFC 1035, section 4).
fn answer(message: &[u8], names: &BTreeMap<String, Vec<IpAddr>>) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while message[at] > 0 {
        let label = &message[at + 1..=at + usize::from(message[at])];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += label.len() + 1;
    }
    let question = &message[12..at + 5];
    let wants_v6 = message[at + 2] == 28;
    let found = names.get(&labels.join("."));
    let of_family = |address: &&IpAddr| address.is_ipv6() == wants_v6;
    let addresses: Vec<_> = found.into_iter().flatten().filter(of_family).collect();
    let code = if found.is_some() { 0x80 } else { 0x83 };
    let count = u8::try_from(addresses.len()).expect("a few addresses");
    let mut answer = [&message[..2], &[0x81, code, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
    for address in addresses {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let length = u8::try_from(bytes.len()).expect("an address");
        // The name of the question, its type, class IN, a second to live.
        answer.extend([0xc0, 12, 0, message[at + 2], 0, 1, 0, 0, 0, 1, 0, length]);
        answer.extend(bytes);
    }
    answer
}
