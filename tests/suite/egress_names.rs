//! Where a projected name may lead, over name servers and files of the test's own.

use harness::own_network::OUTSIDE;
use harness::{Builder, Cloud, OwnNetwork, Projection, Upstream, projection, wait};
use serde_json::json;

/// A projection with a model and a provider key for each of these hosts, all named as the host.
fn of_hosts(upstream: &Upstream, hosts: &[&str]) -> Projection {
    let port = upstream.address().port();
    hosts.iter().fold(Projection::of(upstream), |projection, host| {
        let base = format!("http://{host}:{port}/v1");
        let mut model = projection::model("small-1", host);
        model["display_name"] = json!(host);
        projection
            .with("provider_keys", host, projection::provider_key(&base, harness::provider::KEY))
            .with("models", &format!("m-{host}"), model)
    })
}

#[tokio::test]
async fn a_projected_name_is_resolved_as_configured_and_never_leads_to_this_host() {
    let Some(network) = OwnNetwork::enter() else { return };
    let outside = OUTSIDE.to_string();
    network.hosts(&format!("127.0.0.1 loop.test\n{outside} good.test\n"));
    network.resolv_conf("nameserver 127.0.0.1\nsearch corp.test\noptions timeout:1 attempts:1\n");
    network
        .serve_names(&[
            ("short.corp.test", &[&outside]),
            ("loop.dns.test", &["127.0.0.1"]),
            ("loop6.dns.test", &["::1"]),
            ("metadata.dns.test", &["169.254.169.254"]),
            ("metadata6.dns.test", &["fd00:ec2::254"]),
            ("mapped.dns.test", &["::ffff:169.254.169.254"]),
            ("mixed.dns.test", &[&outside, "127.0.0.1"]),
            ("any.dns.test", &["0.0.0.0"]),
        ])
        .await;
    let address = ([0, 0, 0, 0], 0).into();
    let upstream = Upstream::start(address, harness::provider::KEY).await.unwrap();
    let refused = [
        ("loop.test", "127.0.0.1, a loopback address"),
        ("loop.dns.test", "127.0.0.1, a loopback address"),
        ("loop6.dns.test", "::1, a loopback address"),
        ("metadata.dns.test", "169.254.169.254, a metadata service"),
        ("metadata6.dns.test", "fd00:ec2::254, a metadata service"),
        ("mapped.dns.test", "::ffff:169.254.169.254, a metadata service"),
        ("mixed.dns.test", "127.0.0.1, a loopback address"),
        ("any.dns.test", "0.0.0.0, an unspecified address"),
        // An address as it is written, but a metadata service all the same.
        ("169.254.169.254", "169.254.169.254, a metadata service"),
    ];
    let reached = ["good.test", "short", "localhost", "127.0.0.1", &outside];
    let hosts: Vec<_> = refused.iter().map(|(host, _)| *host).chain(reached).collect();
    let cloud = Cloud::start(&of_hosts(&upstream, &hosts)).await;
    let gateway = Builder::managed(&cloud).set("/upstream/retries", json!(0)).start().await;
    let caller = gateway.caller();
    for host in reached {
        let answer = caller.ask(host, "hello").await;
        assert_eq!(answer.status, 200, "{host}");
    }
    let served = upstream.ledger().len();
    for (host, reason) in refused {
        let answer = caller.ask(host, "hello").await;
        assert_eq!(answer.status, 502, "{host}");
        let body = answer.json().await.unwrap();
        assert_eq!(body["error"]["type"], "transport_error", "{host}");
        // The caller learns what it learns of any upstream that is away.
        assert_eq!(body["error"]["message"], "cannot reach the upstream", "{host}");
        wait::until("the log tells why", async || {
            let log = gateway.log();
            let line = format!("{host} is {reason}: a projected host must not lead there");
            if log.contains(&line) { Ok(()) } else { Err(line) }
        })
        .await;
    }
    assert_eq!(upstream.ledger().len(), served, "nobody was asked");

    // The file changes: what it says now counts.
    network.hosts(&format!("{outside} loop.test\n127.0.0.1 good.test\n"));
    wait::until("the changed hosts file is noticed", async || {
        let status = caller.ask("loop.test", "hello").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    network.resolv_conf("nameserver 127.0.0.1\nsearch nowhere.test\n");
    wait::until("the changed search list is noticed", async || {
        gateway.log().matches("has changed; names are resolved").nth(1).map(|_| ()).ok_or("not yet")
    })
    .await;
}

#[tokio::test]
async fn names_of_the_configuration_file_may_lead_to_this_host() {
    let Some(network) = OwnNetwork::enter() else { return };
    network.hosts("127.0.0.1 cloud.test\n");
    let address = ([127, 0, 0, 1], 0).into();
    let upstream = Upstream::start(address, harness::provider::KEY).await.unwrap();
    let etcd = harness::Etcd::start().await;
    let url = etcd.url().replace("127.0.0.1", "cloud.test");
    etcd.project("/own/", &Projection::of(&upstream)).await;
    let gateway =
        Builder::standalone(&etcd, "/own").set("/etcd/endpoints", json!([url])).start().await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
}
