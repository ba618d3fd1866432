//! What reaches the workers of what is written to a real etcd.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{CompactionOptions, PutOptions, Txn, TxnOp};
use shared::id::Revision;
use shared::update::Change;
use supervisor::cloud::tls::{CredentialsInForce, InForce};
use supervisor::dial::DirectDial;
use supervisor::findings::Findings;
use supervisor::projection::{self, Handle, Report, Source, SourceTls, Told, Update};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::etcd::{Etcd, put_all};
use crate::pki::Authority;
use crate::proxy::Proxy;

/// Far beyond what any step takes.
const HANG: Duration = Duration::from_secs(90);
const PREFIX: &str = "/aisix/env-1/";

struct Followed {
    handle: Handle,
    updates: mpsc::Receiver<Update>,
}

impl Followed {
    fn start(port: u16) -> Self {
        Self::of(format!("http://127.0.0.1:{port}"), None)
    }

    fn of(endpoint: String, tls: Option<SourceTls>) -> Self {
        let source = Source {
            endpoints: vec![endpoint],
            prefix: PREFIX.to_owned(),
            tls,
            user: None,
            dial_limit: Duration::from_secs(5),
            request_limit: HANG,
        };
        let dial = Arc::new(DirectDial::new(Duration::from_secs(5)));
        let told =
            Told { findings: Findings::default(), nudge: Arc::default(), begun: Arc::default() };
        let (handle, updates) = projection::start(source, dial, told, None).unwrap();
        Self { handle, updates }
    }

    async fn next(&mut self) -> Update {
        timeout(HANG, self.updates.recv()).await.expect("no update").expect("no projection")
    }

    /// The report, once it is as asked.
    async fn report_when(&self, applied: i64, asked: impl Fn(&Report) -> bool) -> Report {
        let started = Instant::now();
        loop {
            let report = self.handle.report(Revision(applied)).await.unwrap();
            if asked(&report) {
                return report;
            }
            assert!(started.elapsed() < HANG, "the report did not become as asked: {report:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}models/{id}")
}

fn model(name: &str) -> String {
    format!(
        r#"{{"display_name":"{name}","provider":"openai","model_name":"m","provider_key_id":"p"}}"#
    )
}

fn models(count: usize) -> Vec<(String, String)> {
    (0..count).map(|n| (key(&format!("m-{n:05}")), model(&n.to_string()))).collect()
}

fn ids(update: &Update) -> Vec<String> {
    let id = |change: &Change| match change {
        Change::Put(resource) => format!("put {}", resource.id()),
        Change::Delete(_, id) => format!("delete {id}"),
    };
    update.changes.iter().map(id).collect()
}

#[tokio::test]
async fn a_projection_of_several_pages_is_one_whole_update_at_one_revision() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let revision = put_all(&mut client, &models(2_500)).await;
    client.put("/aisix/env-10/models/m", model("neighbour"), None).await.unwrap();
    let mut followed = Followed::start(etcd.port);
    let update = followed.next().await;
    assert!(update.whole);
    assert_eq!(update.changes.len(), 2_500);
    assert_eq!(update.revision, Revision(revision + 1));
    let report = followed.report_when(revision + 1, |report| report.gauges.source_connected).await;
    let status = serde_json::to_value(&report.status).unwrap();
    assert_eq!(status["state"], "synced");
    assert_eq!(status["applied"]["resource_counts"], serde_json::json!({"models": 2_500}));
    assert_eq!(status["applied"]["config_hash"], status["source"]["source_hash"]);
}

#[tokio::test]
async fn a_transaction_is_one_update() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.put(key("old"), model("old"), None).await.unwrap();
    let mut followed = Followed::start(etcd.port);
    assert_eq!(ids(&followed.next().await), ["put old"]);
    let steps = [
        TxnOp::put(key("a"), model("a"), None::<PutOptions>),
        TxnOp::delete(key("old"), None),
        TxnOp::put(key("b"), model("b"), None::<PutOptions>),
        TxnOp::put(key("bad"), "{", None::<PutOptions>),
    ];
    let response = client.txn(Txn::new().and_then(steps)).await.unwrap();
    let update = followed.next().await;
    assert_eq!(ids(&update), ["put a", "delete old", "put b"]);
    assert!(!update.whole);
    assert_eq!(update.revision, Revision(response.header().unwrap().revision()));
    let report = followed.report_when(update.revision.0, |_| true).await;
    assert_eq!(report.rejected_resources[0].kind, "non_json");
}

#[tokio::test]
async fn after_a_lost_connection_only_what_was_missed_arrives() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.port).await;
    let mut client = etcd.client().await;
    put_all(&mut client, &models(50)).await;
    let mut followed = Followed::start(proxy.port);
    assert_eq!(followed.next().await.changes.len(), 50);
    followed.report_when(0, |report| report.gauges.source_connected).await;

    proxy.cut();
    let report = followed.report_when(0, |report| !report.gauges.source_connected).await;
    assert_eq!(report.status.last_failure.unwrap().last_error_kind, "fetch");
    // More than one message of the watch holds, so that it comes in fragments.
    let large = "x".repeat(1024 * 1024);
    for n in 0..6 {
        let value = model(&format!("{n}{large}"));
        client.put(key(&format!("large-{n}")), value, None).await.unwrap();
    }
    let last = client.delete(key("m-00007"), None).await.unwrap();
    let last = Revision(last.header().unwrap().revision());
    proxy.mend();

    let mut seen = Vec::new();
    loop {
        let update = followed.next().await;
        assert!(!update.whole);
        seen.extend(ids(&update));
        if update.revision == last {
            break;
        }
    }
    let mut expected: Vec<_> = (0..6).map(|n| format!("put large-{n}")).collect();
    expected.push("delete m-00007".to_owned());
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_restarted_store_is_followed_on() {
    let mut etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.put(key("a"), model("a"), None).await.unwrap();
    let mut followed = Followed::start(etcd.port);
    assert_eq!(ids(&followed.next().await), ["put a"]);
    followed.report_when(0, |report| report.gauges.source_connected).await;
    etcd.stop();
    followed.report_when(0, |report| !report.gauges.source_connected).await;
    etcd.run();
    let mut client = etcd.client().await;
    client.put(key("b"), model("b"), None).await.unwrap();
    assert_eq!(ids(&followed.next().await), ["put b"]);
}

#[tokio::test]
async fn after_a_compaction_everything_is_loaded_again_and_only_the_difference_is_told() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.port).await;
    let mut client = etcd.client().await;
    put_all(&mut client, &models(3)).await;
    let mut followed = Followed::start(proxy.port);
    assert_eq!(followed.next().await.changes.len(), 3);
    followed.report_when(0, |report| report.gauges.source_connected).await;
    let mut compact_while_away = async |put: Option<&str>| {
        proxy.cut();
        followed.report_when(0, |report| !report.gauges.source_connected).await;
        let mut revision = 0;
        for n in 0..3 {
            let elsewhere = client.put("/elsewhere", n.to_string(), None).await.unwrap();
            revision = elsewhere.header().unwrap().revision();
        }
        if let Some(id) = put {
            client.delete(key("m-00001"), None).await.unwrap();
            let put = client.put(key(id), model(id), None).await.unwrap();
            revision = put.header().unwrap().revision();
        }
        client.compact(revision, Some(CompactionOptions::new())).await.unwrap();
        proxy.mend();
        (followed.next().await, revision)
    };
    let (update, revision) = compact_while_away(Some("new")).await;
    assert_eq!(ids(&update), ["delete m-00001", "put new"]);
    assert_eq!((update.whole, update.revision), (false, Revision(revision)));

    let (update, revision) = compact_while_away(None).await;
    assert_eq!(ids(&update), Vec::<String>::new());
    assert_eq!((update.whole, update.revision), (false, Revision(revision)));
}

#[tokio::test]
async fn a_store_that_was_set_back_is_loaded_again() {
    let mut etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    put_all(&mut client, &models(300)).await;
    for (_, value) in models(5) {
        client.put(key("busy"), value, None).await.unwrap();
    }
    let mut followed = Followed::start(etcd.port);
    assert_eq!(followed.next().await.changes.len(), 301);
    followed.report_when(0, |report| report.gauges.source_connected).await;
    etcd.stop();
    etcd.wipe();
    etcd.run();
    let mut client = etcd.client().await;
    client.put(key("m-00000"), model("0"), None).await.unwrap();
    // The put may come within the load or after it; what is gone shows either way.
    let mut gone = 0;
    while gone < 300 {
        let update = followed.next().await;
        gone += ids(&update).iter().filter(|id| id.starts_with("delete")).count();
    }
}

#[tokio::test]
async fn a_store_that_comes_up_later_is_waited_for() {
    let mut etcd = Etcd::prepared("http", &[]);
    let mut followed = Followed::start(etcd.port);
    let report = followed.report_when(0, |report| report.status.last_failure.is_some()).await;
    let error = report.status.last_failure.unwrap().last_error;
    assert!(error.contains("cannot connect to 127.0.0.1"), "{error}");
    etcd.run();
    let update = followed.next().await;
    assert!(update.whole && update.changes.is_empty());
    let report = followed.report_when(update.revision.0, |_| true).await;
    assert_eq!(serde_json::to_value(report.status.state).unwrap(), "empty");
}

#[tokio::test]
async fn a_projection_of_64_mib_loads() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let pem = "A".repeat(1024 * 1024);
    for n in 0..64 {
        let value =
            format!(r#"{{"display_name":"k-{n}","api_key":"s","tls":{{"ca_cert":"{pem}"}}}}"#);
        client.put(format!("{PREFIX}provider_keys/{n}"), value, None).await.unwrap();
    }
    let mut followed = Followed::start(etcd.port);
    let update = followed.next().await;
    assert_eq!(update.changes.len(), 64);
    let report = followed.report_when(update.revision.0, |_| true).await;
    assert_eq!(report.status.applied.unwrap().resource_counts["provider_keys"], 64);
}

fn in_force(
    authority: &Authority,
    trusted: &Authority,
) -> (watch::Sender<Arc<InForce>>, CredentialsInForce) {
    watch::channel(Arc::new(authority.in_force_trusting(trusted)))
}

#[tokio::test]
async fn mutual_tls_is_followed_and_a_strange_certificate_is_named_on_either_side() {
    let (ours, strange) = (Authority::new(), Authority::named("a strange one"));
    let folder = tempfile::tempdir().unwrap();
    let server = ours.issue();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let etcd = Etcd::start_tls(
        &file("server.crt", &server.pem),
        &file("server.key", &server.key_pem),
        &file("ca.crt", &ours.pem),
    );
    let url = format!("https://127.0.0.1:{}", etcd.port);
    let follow = |credentials: CredentialsInForce| {
        Followed::of(url.clone(), Some(SourceTls { credentials, server_name: None }))
    };

    // The strange gateway takes over the right identity while it is being refused.
    let (identity, credentials) = in_force(&strange, &ours);
    let mut followed = follow(credentials);
    let says = |words: &'static str| {
        move |report: &Report| {
            let failure = report.status.last_failure.as_ref();
            failure.is_some_and(|failure| failure.last_error.contains(words))
        }
    };
    followed.report_when(0, says("refused the gateway's certificate")).await;
    identity.send_replace(Arc::new(ours.in_force_trusting(&ours)));
    assert!(followed.next().await.whole);

    let (_identity, credentials) = in_force(&ours, &strange);
    follow(credentials).report_when(0, says("not issued by the bundle's CA")).await;
}

#[tokio::test]
async fn a_compaction_between_two_pages_starts_the_load_again() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    put_all(&mut client, &models(2_500)).await;
    let proxy = Proxy::to(etcd.port).await;
    // Less than the first page holds, so that the second one is asked for and does not arrive.
    const HELD: usize = 50_000;
    proxy.hold_after(HELD);
    let mut followed = Followed::start(proxy.port);
    let started = Instant::now();
    while proxy.answered() < HELD {
        assert!(started.elapsed() < HANG, "the first page did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let put = client.put(key("late"), model("late"), None).await.unwrap();
    let revision = put.header().unwrap().revision();
    client.compact(revision, Some(CompactionOptions::new())).await.unwrap();
    proxy.hold_after(usize::MAX);
    let update = followed.next().await;
    assert_eq!((update.whole, update.revision), (true, Revision(revision)));
    assert_eq!(update.changes.len(), 2_501);
    let report = followed.report_when(revision, |report| report.gauges.source_connected).await;
    assert!(report.status.last_failure.is_none(), "{:?}", report.status.last_failure);
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_given_up_and_made_anew() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let proxy = Proxy::to(etcd.port).await;
    let mut followed = Followed::start(proxy.port);
    assert!(followed.next().await.whole);
    followed.report_when(0, |report| report.gauges.source_connected).await;
    proxy.silence(true);
    let started = Instant::now();
    followed.report_when(0, |report| !report.gauges.source_connected).await;
    println!("a silent connection was given up after {:?}", started.elapsed());
    client.put(key("a"), model("a"), None).await.unwrap();
    proxy.cut();
    proxy.silence(false);
    proxy.mend();
    assert_eq!(ids(&followed.next().await), ["put a"]);
}

#[tokio::test]
async fn a_transaction_is_never_split_however_much_comes_at_once() {
    const TRANSACTIONS: usize = 300;
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.port).await;
    let mut client = etcd.client().await;
    let mut followed = Followed::start(proxy.port);
    assert!(followed.next().await.whole);
    followed.report_when(0, |report| report.gauges.source_connected).await;
    let mut last = 0;
    for n in 0..TRANSACTIONS {
        // Some are larger than a message of the watch, and come in fragments.
        let filler = "x".repeat(if n % 100 == 50 { 700 * 1024 } else { 10 });
        let put = |side: &str| {
            TxnOp::put(
                key(&format!("{side}-{n}")),
                model(&format!("{n}{filler}")),
                None::<PutOptions>,
            )
        };
        let response = client.txn(Txn::new().and_then([put("a"), put("b")])).await.unwrap();
        last = response.header().unwrap().revision();
        // Half of them are missed at first, and come as a backlog.
        if n == TRANSACTIONS / 2 {
            proxy.cut();
        }
    }
    proxy.mend();
    let (mut updates, mut seen) = (0, 0);
    loop {
        let update = followed.next().await;
        let ids = ids(&update);
        for pair in ids.chunks(2) {
            let [a, b] = pair else { panic!("half a transaction: {ids:?}") };
            assert_eq!(a.replace("a-", ""), b.replace("b-", ""), "{ids:?}");
        }
        updates += 1;
        seen += ids.len() / 2;
        if update.revision == Revision(last) {
            break;
        }
    }
    assert_eq!(seen, TRANSACTIONS);
    println!("{TRANSACTIONS} transactions in {updates} updates");
}

#[tokio::test]
async fn a_key_that_was_deleted_and_created_again_while_away_does_not_keep_its_old_value() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.port).await;
    let mut client = etcd.client().await;
    put_all(&mut client, &[(key("gone"), model("gone")), (key("kept"), model("kept"))]).await;
    let mut followed = Followed::start(proxy.port);
    assert_eq!(followed.next().await.changes.len(), 2);
    followed.report_when(0, |report| report.gauges.source_connected).await;
    proxy.cut();
    followed.report_when(0, |report| !report.gauges.source_connected).await;
    client.delete(key("gone"), None).await.unwrap();
    client.put(key("gone"), "{", None).await.unwrap();
    let put = client.put(key("kept"), "{", None).await.unwrap();
    let revision = put.header().unwrap().revision();
    client.compact(revision, Some(CompactionOptions::new())).await.unwrap();
    proxy.mend();
    assert_eq!(ids(&followed.next().await), ["delete gone"]);
    let rejected = followed.report_when(revision, |_| true).await.rejected_resources;
    let stale: Vec<_> = rejected
        .iter()
        .map(|row| (row.key.as_str(), row.stale_serving_since_unix_secs.is_some()))
        .collect();
    let (gone, kept) = (key("gone"), key("kept"));
    assert_eq!(stale, [(gone.as_str(), false), (kept.as_str(), true)]);
}
