//! The faults, and how each is made.

use std::any::Any;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use harness::authority::Authority;
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::trouble::{Reply, Speaks, Trouble, alert};
use harness::{BlackHole, Cloud, Etcd, Projection, port, projection, upstream};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// A configuration with one thing wrong around it.
pub struct Case {
    /// The configuration file.
    pub config: PathBuf,
    /// A control socket that nobody listens on.
    pub socket: PathBuf,
    _kept: Vec<Box<dyn Any>>,
}

/// A row: what is injected, and what must come first.
pub const ROWS: &[(&str, &str)] = &[
    ("nothing", ""),
    ("nobody listens", "cloud-connection-refused"),
    ("a black hole", "cloud-black-hole"),
    ("the proxy is away", "proxy-unreachable"),
    ("the proxy has no name", "proxy-name-unknown"),
    ("the proxy asks who we are", "proxy-authentication"),
    ("the proxy forbids", "proxy-forbids"),
    ("the proxy cannot reach", "proxy-cannot-reach"),
    ("the proxy is no proxy", "proxy-not-http"),
    ("the proxy says nothing", "proxy-silent"),
    ("the proxy takes TLS apart", "proxy-intercepts"),
    ("plain HTTP", "tls-plain-http"),
    ("another protocol", "tls-not-tls"),
    ("a silent server", "tls-silent"),
    ("a server that closes", "tls-closed"),
    ("the large flight is lost", "tls-stalls"),
    ("an old version by alert", "tls-version"),
    ("an old version by its greeting", "tls-version"),
    ("nothing in common", "tls-nothing-in-common"),
    ("a server of another CA", "tls-unknown-issuer"),
    ("a server of another name", "tls-wrong-name"),
    ("an expired server", "tls-server-expired"),
    ("a server of the future", "tls-server-not-yet-valid"),
    ("our clock is wrong by the server's dates", "clock-skewed"),
    ("our clock is wrong", "clock-skewed"),
    ("our clock drifts", "clock-drifts"),
    ("only another protocol inside TLS", "tls-alpn-refused"),
    ("a client of another CA", "tls-client-unknown-ca"),
    ("an expired client", "tls-client-expired"),
    ("a revoked client", "tls-client-revoked"),
    ("a client without a certificate", "tls-client-required"),
    ("a bad client", "tls-client-refused"),
    ("the console with a public certificate", "cloud-console-url"),
    ("a web page", "cloud-web-page"),
    ("a redirect", "cloud-redirects"),
    ("another API", "cloud-not-manager"),
    ("no HTTP", "cloud-not-http"),
    ("no answer", "cloud-no-answer"),
    ("another environment", "cloud-wrong-environment"),
    ("a deleted data plane", "cloud-data-plane-unknown"),
    ("everything forbidden", "cloud-identity-refused"),
    ("everything fails", "cloud-failing"),
    ("everything throttled", "cloud-throttles"),
    ("/dp/heartbeat 401", "cloud-heartbeat-unauthorized"),
    ("/dp/heartbeat 403", "cloud-heartbeat-forbidden"),
    ("/dp/heartbeat 404", "cloud-heartbeat-not-found"),
    ("/dp/heartbeat 429", "cloud-heartbeat-throttled"),
    ("/dp/heartbeat 503", "cloud-heartbeat-failing"),
    ("/dp/telemetry 401", "cloud-usage-unauthorized"),
    ("/dp/telemetry 403", "cloud-usage-forbidden"),
    ("/dp/telemetry 404", "cloud-usage-not-found"),
    ("/dp/telemetry 429", "cloud-usage-throttled"),
    ("/dp/telemetry 500", "cloud-usage-failing"),
    ("/dp/budget_check 401", "cloud-budget-unauthorized"),
    ("/dp/budget_check 403", "cloud-budget-forbidden"),
    ("/dp/budget_check 404", "cloud-budget-not-found"),
    ("/dp/budget_check 429", "cloud-budget-throttled"),
    ("/dp/budget_check 502", "cloud-budget-failing"),
    ("/dp/rotate-cert 401", "cloud-renewal-unauthorized"),
    ("/dp/rotate-cert 403", "cloud-renewal-forbidden"),
    ("/dp/rotate-cert 404", "cloud-renewal-not-found"),
    ("/dp/rotate-cert 429", "cloud-renewal-throttled"),
    ("/dp/rotate-cert 503", "cloud-renewal-failing"),
    ("/dp/heartbeat hangs", "cloud-heartbeat-silent"),
    ("/dp/telemetry hangs", "cloud-usage-silent"),
    ("/dp/budget_check hangs", "cloud-budget-silent"),
    ("/dp/rotate-cert hangs", "cloud-renewal-silent"),
    ("etcd is away", "etcd-away"),
    ("etcd is away behind the manager", "etcd-away"),
    ("etcd without h2", "etcd-no-h2"),
    ("etcd is none", "etcd-not-etcd"),
    ("etcd refuses the prefix", "etcd-permission-denied"),
    ("etcd asks who we are", "etcd-unauthenticated"),
    ("etcd says nothing", "etcd-no-answer"),
    ("nothing is projected", "etcd-prefix-empty"),
];

/// A managed gateway's configuration, for that URL, with a bundle of that Cloud.
pub fn managed(cloud: &Cloud, url: &str) -> Case {
    Plan::new(url, &cloud.issue(ENVIRONMENT)).case()
}

/// A manager at that address, and a configuration that leads to it.
pub async fn manager_at(at: Ipv4Addr) -> Case {
    let side = Side::new();
    let shows = side.authority.server_with(|params| {
        params.subject_alt_names.push(rcgen::SanType::IpAddress(at.into()));
    });
    let speaks = Speaks { shows, ..side.speaks(&["http/1.1", "h2"]) };
    let server = Trouble::https_at(at, speaks, Some(JSON)).await;
    Plan::new(&server.url(), &side.bundle()).keep(server).keep(side).case()
}

/// A configuration in the making.
struct Plan {
    folder: TempDir,
    configuration: Value,
    kept: Vec<Box<dyn Any>>,
}

impl Plan {
    fn new(url: &str, bundle: &Bundle) -> Self {
        // As whoever keeps a key does.
        let closed = Permissions::from_mode(0o600);
        std::fs::set_permissions(&bundle.key, closed).expect("a key of the test's own");
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).expect("a state directory");
        let configuration = json!({
            "proxy": {"addr": port::reserve()},
            "observability": {"metrics": {"prometheus": {"addr": port::reserve()}}},
            "managed": {
                "enabled": true, "cp_base_url": url,
                "cp_cert_file": bundle.certificate, "cp_key_file": bundle.key, "cp_ca_file": bundle.issuers,
                "mtls_dir": state.join("mtls"), "dp_id_file": state.join("dp_id"),
                "snapshot_cache_path": state.join("config_cache.json"),
            },
        });
        Self { folder, configuration, kept: Vec::new() }
    }

    fn set(mut self, block: &str, key: &str, value: impl Into<Value>) -> Self {
        self.configuration[block][key] = value.into();
        self
    }

    fn keep(mut self, kept: impl Any) -> Self {
        self.kept.push(Box::new(kept));
        self
    }

    fn case(self) -> Case {
        let config = self.folder.path().join("config.yaml");
        std::fs::write(&config, self.configuration.to_string()).expect("a configuration");
        let socket = self.folder.path().join("none.sock");
        let mut kept = self.kept;
        kept.push(Box::new(self.folder));
        Case { config, socket, _kept: kept }
    }
}

/// The other side's authority, and what gateways get of it.
struct Side {
    authority: Authority,
}

impl Side {
    fn new() -> Self {
        Self { authority: Authority::default() }
    }

    fn bundle(&self) -> Bundle {
        self.authority.bundle_with(ENVIRONMENT, "dp-1", -3600..90 * 86400, |_| {})
    }

    fn speaks<'a>(&'a self, protocols: &'a [&'a str]) -> Speaks<'a> {
        Speaks {
            shows: self.authority.server(),
            trusts: Some(&self.authority),
            protocols,
            versions: &VERSIONS,
        }
    }

    /// A gateway's plan for a manager that answers everything so.
    async fn answering(&self, reply: Reply) -> Plan {
        let server = Trouble::https(self.speaks(&["http/1.1"]), Some(reply)).await;
        Plan::new(&server.url(), &self.bundle()).keep(server)
    }

    /// The same for a server with `shows` as its certificate.
    async fn showing(&self, shows: harness::authority::ServerFiles) -> Plan {
        let speaks = Speaks { shows, ..self.speaks(&["http/1.1"]) };
        let server = Trouble::https(speaks, Some(JSON)).await;
        Plan::new(&server.url(), &self.bundle()).keep(server)
    }
}

static VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

const JSON: Reply = (200, "application/json", None, "{}");
const PAGE: Reply =
    (200, "text/html; charset=utf-8", None, "<!doctype html><title>Console</title>");
const HTTP_400: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The beginning of a ServerHello of TLS 1.1, as such a server sends it.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let mut handshake = vec![2, 0, 0, u8::try_from(hello.len()).expect("short")];
    handshake.extend(hello);
    let mut record = vec![22, 3, 2, 0, u8::try_from(handshake.len()).expect("short")];
    record.extend(handshake);
    record
}

fn refuse(status: u16) -> Reply {
    (status, "application/json", None, r#"{"error":{"code":"INJECTED","message":"x"}}"#)
}

/// Makes it so.
pub async fn inject(name: &str) -> Case {
    if let Some((path, fault)) = name.strip_prefix("/dp/").and_then(|rest| rest.split_once(' ')) {
        let cloud = Cloud::start(&Projection::of(&upstream().await)).await;
        let path = format!("/dp/{path}");
        match fault.parse() {
            Ok(status) => cloud.fail(&path, status, None).await,
            Err(_) => cloud.delay(&path, std::time::Duration::from_secs(60)).await,
        }
        let plan = Plan::new(&cloud.url(), &cloud.issue(ENVIRONMENT));
        return plan.keep(cloud).case();
    }
    if name.contains("etcd") || name.starts_with("nothing is") || name == "nothing" {
        return store(name).await;
    }
    if name.contains("proxy") {
        return proxy(name).await;
    }
    connection(name).await.case()
}

async fn connection(name: &str) -> Plan {
    let side = Side::new();
    let to = |server: Trouble| Plan::new(&server.url(), &side.bundle()).keep(server);
    let now = OffsetDateTime::now_utc();
    match name {
        "nobody listens" => Plan::new(&format!("https://{}", port::reserve()), &side.bundle()),
        "a black hole" => {
            let address = port::reserve();
            let hole = BlackHole::at(address);
            Plan::new(&format!("https://{address}"), &side.bundle()).keep(hole)
        }
        "plain HTTP" => to(Trouble::answering(HTTP_400.to_vec()).await),
        "another protocol" => to(Trouble::saying(b"SSH-2.0-OpenSSH_9.2\r\n").await),
        "a silent server" => to(Trouble::silent().await),
        "a server that closes" => to(Trouble::answering(Vec::new()).await),
        "the large flight is lost" => {
            let server = Trouble::https(side.speaks(&["http/1.1", "h2"]), Some(JSON)).await;
            to(Trouble::passing(server.address(), 300).await).keep(server)
        }
        "an old version by alert" => to(Trouble::answering(alert(70)).await),
        "an old version by its greeting" => to(Trouble::answering(hello_of_tls_1_1()).await),
        "nothing in common" => to(Trouble::answering(alert(40)).await),
        "a server of another CA" => side.showing(Authority::default().server()).await,
        "a server of another name" => {
            let shows = side.authority.server_with(|params| {
                params.subject_alt_names.clear();
                let name = "manager.test".try_into().expect("a name");
                params.subject_alt_names.push(rcgen::SanType::DnsName(name));
            });
            side.showing(shows).await
        }
        "an expired server" => {
            let shows =
                side.authority.server_with(|params| params.not_after = now - Duration::HOUR);
            side.showing(shows).await
        }
        "a server of the future" => {
            let shows =
                side.authority.server_with(|params| params.not_before = now + Duration::HOUR);
            side.showing(shows).await
        }
        "our clock is wrong by the server's dates" => {
            let shows =
                side.authority.server_with(|params| params.not_before = now + Duration::DAY);
            let speaks = Speaks { shows, ..side.speaks(&["http/1.1"]) };
            let date = ("date", "Tue, 07 Jan 2031 10:00:00 GMT");
            to(Trouble::https(speaks, Some((200, "application/json", Some(date), "{}"))).await)
        }
        "our clock is wrong" => {
            let date = Some(("date", "Tue, 07 Jan 2031 10:00:00 GMT"));
            beside_store((405, "application/json", date, "{}")).await
        }
        "our clock drifts" => {
            let format = time::format_description::well_known::Rfc2822;
            let date = (now - Duration::seconds(100)).format(&format).expect("a date");
            let date = date.replace("+0000", "GMT").leak();
            let reply = (405, "application/json", Some(("date", &*date)), "{}");
            beside_store(reply).await
        }
        "only another protocol inside TLS" => {
            to(Trouble::https(side.speaks(&["smtp"]), Some(JSON)).await)
        }
        "a client of another CA" => {
            let other = Authority::default();
            let speaks = Speaks { trusts: Some(&other), ..side.speaks(&["http/1.1", "h2"]) };
            to(Trouble::https(speaks, Some(JSON)).await)
        }
        "an expired client" => {
            // Not by its own date, which is looked at before anybody is asked: by what the other side says.
            to(Trouble::answering(alert(45)).await)
        }
        "a revoked client" => to(Trouble::answering(alert(44)).await),
        "a client without a certificate" => to(Trouble::answering(alert(116)).await),
        "a bad client" => to(Trouble::answering(alert(42)).await),
        "the console with a public certificate" => {
            let other = Authority::default();
            let shows = other.server();
            let speaks = Speaks { shows, trusts: None, ..side.speaks(&["http/1.1"]) };
            to(Trouble::https(speaks, Some(PAGE)).await).keep(other)
        }
        "a web page" => side.answering(PAGE).await,
        "a redirect" => {
            let location = Some(("location", "https://elsewhere.test/login"));
            side.answering((302, "text/plain", location, "")).await
        }
        "another API" => side.answering(refuse(404)).await,
        "no HTTP" => to(Trouble::tls_saying(side.speaks(&["http/1.1"]), b"220 ready\r\n").await),
        "no answer" => to(Trouble::https(side.speaks(&["http/1.1"]), None).await),
        "another environment" => {
            let body = r#"{"error":{"code":"ENVIRONMENT_MISMATCH","message":"x"}}"#;
            side.answering((403, "application/json", None, body)).await
        }
        "a deleted data plane" => {
            let body = r#"{"error":{"code":"DP_NOT_FOUND","message":"x"}}"#;
            beside_store((404, "application/json", None, body)).await
        }
        "everything forbidden" => failing(403).await,
        "everything fails" => failing(503).await,
        "everything throttled" => failing(429).await,
        other => panic!("no such row: {other}"),
    }
    .keep(side)
}

/// A manager that answers everything so, beside a store that is well.
async fn beside_store(reply: Reply) -> Plan {
    let cloud = Cloud::start(&Projection::of(&upstream().await)).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let side = Side { authority: cloud.authority() };
    let server = Trouble::https(side.speaks(&["http/1.1"]), Some(reply)).await;
    let plan = Plan::new(&server.url(), &bundle).keep(server);
    plan.set("managed", "cp_etcd_endpoint", cloud.address().to_string()).keep(side).keep(cloud)
}

/// The local Cloud, all of whose endpoints fail so.
async fn failing(status: u16) -> Plan {
    let cloud = Cloud::start(&Projection::of(&upstream().await)).await;
    for path in ["/dp/heartbeat", "/dp/telemetry", "/dp/budget_check", "/dp/rotate-cert"] {
        cloud.fail(path, status, None).await;
    }
    Plan::new(&cloud.url(), &cloud.issue(ENVIRONMENT)).keep(cloud)
}

async fn proxy(name: &str) -> Case {
    let side = Side::new();
    let plan = Plan::new("https://cloud.test:7944", &side.bundle());
    let by = |plan: Plan, server: Trouble| {
        let url = format!("http://user:swordfish@{}", server.address());
        plan.set("managed", "proxy_url", url).keep(server)
    };
    let plan = match name {
        "the proxy is away" => {
            plan.set("managed", "proxy_url", format!("http://{}", port::reserve()))
        }
        "the proxy has no name" => plan.set("managed", "proxy_url", "http://proxy.invalid:3128"),
        "the proxy asks who we are" => by(
            plan,
            Trouble::answering(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_vec())
                .await,
        ),
        "the proxy forbids" => {
            by(plan, Trouble::answering(b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec()).await)
        }
        "the proxy cannot reach" => {
            by(plan, Trouble::answering(b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec()).await)
        }
        "the proxy is no proxy" => by(plan, Trouble::answering(b"\x05\xff\r\n\r\n".to_vec()).await),
        "the proxy says nothing" => by(plan, Trouble::silent().await),
        "the proxy takes TLS apart" => {
            let other = Authority::default();
            let speaks =
                Speaks { shows: other.server(), trusts: None, ..side.speaks(&["http/1.1"]) };
            let server = Trouble::https(speaks, Some(JSON)).await;
            let proxy = Trouble::proxy_to(server.address()).await;
            by(plan, proxy).keep(server).keep(other)
        }
        other => panic!("no such row: {other}"),
    };
    plan.keep(side).case()
}

async fn store(name: &str) -> Case {
    let projected = match name {
        "nothing is projected" => Projection::default(),
        _ => Projection::of(&upstream().await),
    };
    let cloud = Cloud::start(&projected).await;
    let bundle = cloud.issue(ENVIRONMENT);
    let side = Side { authority: cloud.authority() };
    let plan = Plan::new(&cloud.url(), &bundle);
    let at = |plan: Plan, server: Trouble| {
        plan.set("managed", "cp_etcd_endpoint", server.address().to_string()).keep(server)
    };
    let plan = match name {
        "nothing" | "nothing is projected" => plan,
        "etcd is away" => plan.set("managed", "cp_etcd_endpoint", port::reserve().to_string()),
        "etcd without h2" => at(plan, Trouble::https(side.speaks(&["http/1.1"]), Some(JSON)).await),
        "etcd is none" => at(plan, Trouble::tls_saying(side.speaks(&["h2"]), HTTP_400).await),
        "etcd says nothing" => at(plan, Trouble::tls_saying(side.speaks(&["h2"]), b"").await),
        "etcd refuses the prefix" => plan.set("etcd", "prefix", "/other"),
        "etcd asks who we are" => return with_users().await,
        "etcd is away behind the manager" => {
            let etcd = Etcd::start().await;
            let cloud = Cloud::over(&etcd).await;
            let plan = Plan::new(&cloud.url(), &cloud.issue(ENVIRONMENT));
            drop(etcd);
            plan.keep(cloud)
        }
        other => panic!("no such row: {other}"),
    };
    plan.keep(side).keep(cloud).case()
}

/// An etcd of one's own with users, asked without one.
async fn with_users() -> Case {
    let etcd = Etcd::start().await;
    etcd.put("/own/models/m", &projection::model("small-1", "p")).await;
    let mut client = etcd.client().await;
    client.user_add("root", "swordfish", None).await.expect("a user");
    client.user_grant_role("root", "root").await.expect("a role");
    client.auth_enable().await.expect("users");
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = json!({
        "proxy": {"addr": port::reserve()},
        "observability": {"metrics": {"prometheus": {"addr": port::reserve()}}},
        "managed": {"enabled": false},
        "etcd": {"endpoints": [etcd.url()], "prefix": "/own"},
    });
    Plan { folder, configuration, kept: vec![Box::new(etcd)] }.case()
}
