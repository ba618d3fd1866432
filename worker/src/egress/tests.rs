use std::time::Duration;

use shared::channel::{self, Channel};
use shared::dial::{Destination, Dial, DialError};
use shared::egress::client::{self, EgressDial};
use shared::egress::{CONNECTS_MAX, Change, Entry, FromEgress, ToEgress};
use shared::id::WorkerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;

const WORKER: Client = Client::Worker(WorkerId(7));
const EXPORTER: Client = Client::Exporter(WorkerId(2));

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn entry(host: &str, port: u16, origin: Origin) -> Entry {
    Entry { host: host.to_owned(), port, origin }
}

/// A client of `egress`, as the programs have one.
fn client_of(egress: &Rc<Egress>, who: Client) -> EgressDial {
    let (dial, driver) = client::new(Duration::from_secs(1));
    tokio::task::spawn_local(driver.run());
    let (ours, theirs) = channel::pair().unwrap();
    tokio::task::spawn_local(egress.serve(who, theirs));
    dial.reached_over(ours);
    dial
}

fn to(key: Key, host: &str, port: u16) -> Destination {
    Destination { key, host: host.to_owned(), port }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn a_worker_gets_a_connected_socket_by_the_id_of_a_provider_key() {
    run(async {
        let (listener, port) = listener().await;
        let egress = Egress::new(5_000).unwrap();
        let key = Key::provider("pk-1");
        let there = entry("localhost", port, Origin::Projection);
        egress.destinations(true, vec![Change::Put(key.clone(), there)]);
        let dial = client_of(&egress, WORKER);
        let mut stream = dial.dial(&to(key, "localhost", port)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        let (mut accepted, _) = listener.accept().await.unwrap();
        accepted.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert_eq!(egress.open.get(), 0);
    });
}

#[test]
fn the_systems_own_reason_comes_back_when_nobody_listens() {
    run(async {
        let (listener, port) = listener().await;
        drop(listener);
        let egress = Egress::new(0).unwrap();
        let key = Key::provider("pk-1");
        let nobody = entry("127.0.0.1", port, Origin::Projection);
        egress.destinations(true, vec![Change::Put(key.clone(), nobody)]);
        let error = client_of(&egress, WORKER).dial(&to(key, "127.0.0.1", port)).await;
        let DialError::Connect { source, .. } = error.unwrap_err() else {
            panic!("a connect error")
        };
        assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn nobody_may_ask_for_what_is_another_clients() {
    run(async {
        let (_listener, port) = listener().await;
        let egress = Egress::new(0).unwrap();
        let there = entry("127.0.0.1", port, Origin::Configuration);
        let all = [
            Key::provider("p"),
            Key::manager(),
            Key::store("s"),
            Key::cloud_proxy(),
            Key::export("o"),
        ];
        let puts = all.iter().map(|key| Change::Put(key.clone(), there.clone())).collect();
        egress.destinations(true, puts);
        for (who, own) in [(WORKER, 0..1), (Client::Supervisor, 1..4), (EXPORTER, 4..5)] {
            let dial = client_of(&egress, who);
            for (place, key) in all.iter().enumerate() {
                let dialled = dial.dial(&to(key.clone(), "127.0.0.1", port)).await;
                if own.contains(&place) {
                    dialled.unwrap();
                } else {
                    assert!(
                        matches!(dialled, Err(DialError::NotPermitted { .. })),
                        "{who:?} {key}"
                    );
                }
            }
        }
    });
}

#[test]
fn a_projected_name_must_not_lead_to_this_host_and_one_of_the_configuration_may() {
    run(async {
        let (_listener, port) = listener().await;
        let egress = Egress::new(0).unwrap();
        let hosts = "127.0.0.1 here.example".to_owned();
        egress.resolve_with(&egress::Resolver { hosts, resolv_conf: String::new() });
        let at = |origin| entry("here.example", port, origin);
        let (projected, configured) = (Key::provider("p"), Key::manager());
        egress.destinations(
            true,
            vec![
                Change::Put(projected.clone(), at(Origin::Projection)),
                Change::Put(configured.clone(), at(Origin::Configuration)),
            ],
        );
        let refused = client_of(&egress, WORKER).dial(&to(projected, "here.example", port)).await;
        let reason = refused.unwrap_err().to_string();
        assert!(reason.contains("127.0.0.1, a loopback address"), "{reason}");
        let supervisor = client_of(&egress, Client::Supervisor);
        supervisor.dial(&to(configured, "here.example", port)).await.unwrap();
    });
}

#[test]
fn an_entry_that_comes_a_moment_later_is_waited_for_and_so_is_one_that_leads_elsewhere() {
    run(async {
        let (_listener, port) = listener().await;
        let egress = Egress::new(0).unwrap();
        let dial = client_of(&egress, WORKER);
        let key = Key::provider("pk-1");
        let destination = to(key.clone(), "127.0.0.1", port);
        let put = |host: &str| {
            let there = entry(host, port, Origin::Projection);
            egress.destinations(false, vec![Change::Put(key.clone(), there)]);
        };
        let changes = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            put("localhost");
            tokio::time::sleep(Duration::from_millis(50)).await;
            put("127.0.0.1");
        };
        let (dialled, ()) = tokio::join!(dial.dial(&destination), changes);
        dialled.unwrap();
        let never = to(key, "192.0.2.1", port);
        assert!(matches!(dial.dial(&never).await, Err(DialError::Unknown { .. })));
        let nobody = to(Key::provider("pk-2"), "127.0.0.1", port);
        assert!(matches!(dial.dial(&nobody).await, Err(DialError::Unknown { .. })));
    });
}

#[test]
fn a_question_that_is_forgotten_or_whose_client_is_gone_is_given_up() {
    run(async {
        let egress = Egress::new(0).unwrap();
        let dial = client_of(&egress, WORKER);
        // Nobody is there to refuse it: an unknown key is waited for.
        let destination = to(Key::provider("x"), "192.0.2.1", 1);
        let impatient = dial.within(Duration::from_millis(50));
        let error = impatient.dial(&destination).await.unwrap_err();
        assert!(matches!(error, DialError::Timeout { .. }), "{error}");
        timeout(Duration::from_millis(500), async {
            while egress.open.get() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn a_client_that_asks_for_more_than_its_share_is_refused() {
    run(async {
        let egress = Egress::new(0).unwrap();
        let (ours, theirs) = channel::pair().unwrap();
        tokio::task::spawn_local(egress.serve(WORKER, theirs));
        let channel: Channel<ToEgress, FromEgress> = Channel::new(ours).unwrap();
        for number in 0..=CONNECTS_MAX as u64 {
            let question = ToEgress::Connect(Key::provider("unknown"));
            channel.send(&question, number, None).await.unwrap();
        }
        let answer = channel.receive().await.unwrap();
        assert_eq!(answer.request_id, CONNECTS_MAX as u64);
        let busy = FromEgress::Refused { refusal: Refusal::Busy, place: None };
        assert_eq!(answer.message, busy);
        // The same number twice is no question.
        channel.send(&ToEgress::Connect(Key::provider("unknown")), 1, None).await.unwrap();
        while channel.receive().await.is_ok() {}
    });
}

#[test]
fn workers_together_have_a_limit_that_the_supervisor_is_not_subject_to() {
    assert_eq!(total_max(16 * 1024), TOTAL_MAX);
    assert_eq!(total_max(1024), 224);
    assert_eq!(total_max(0), 1);
    run(async {
        let egress = Egress::new(0).unwrap();
        egress.open.set(egress.open_max);
        for (who, is_busy) in [(WORKER, true), (Client::Supervisor, false)] {
            let (ours, theirs) = channel::pair().unwrap();
            tokio::task::spawn_local(egress.serve(who, theirs));
            let channel: Channel<ToEgress, FromEgress> = Channel::new(ours).unwrap();
            // Not for the supervisor to ask: refused at once, if it is looked at at all.
            channel.send(&ToEgress::Connect(Key::provider("x")), 1, None).await.unwrap();
            let answer = channel.receive().await.unwrap().message;
            let busy = FromEgress::Refused { refusal: Refusal::Busy, place: None };
            assert_eq!(answer == busy, is_busy, "{who:?}: {answer:?}");
        }
    });
}
