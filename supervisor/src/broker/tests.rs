use std::time::Instant;

use shared::id::{Revision, WorkerId};
use shared::key_set::KeySet;
use shared::message::{Confinement, Hello, Message, Page, Series};
use shared::version::PROTOCOLS;

use super::*;

#[test]
fn a_role_may_say_only_what_is_its_own() {
    let serving = Life::Serving { unanswered: 0 };
    assert!(permits(Role::Proxy, serving, false, &ToSupervisor::Usage(1)));
    assert!(!permits(Role::Status, serving, false, &ToSupervisor::Usage(1)));
    assert!(permits(Role::Proxy, serving, false, &ToSupervisor::KeysInUse(Vec::new())));
    assert!(!permits(Role::Status, serving, false, &ToSupervisor::KeysInUse(Vec::new())));
    assert!(!permits(Role::Status, serving, false, &ToSupervisor::Applied(Revision(1))));
    assert!(permits(Role::Status, serving, false, &ToSupervisor::Fetch(Page::Ready)));
    assert!(!permits(Role::Proxy, serving, false, &ToSupervisor::Fetch(Page::Ready)));
}

#[test]
fn a_worker_tells_of_usage_once_until_it_is_answered() {
    for life in [Life::Serving { unanswered: 0 }, Life::Doomed] {
        assert!(permits(Role::Proxy, life, false, &ToSupervisor::Usage(1)));
        assert!(!permits(Role::Proxy, life, true, &ToSupervisor::Usage(2)));
    }
}

#[test]
fn before_its_hello_a_worker_may_say_nothing_else() {
    let starting = Life::started(Instant::now());
    for message in [
        ToSupervisor::Ready,
        ToSupervisor::Applied(Revision(1)),
        ToSupervisor::Usage(1),
        ToSupervisor::KeysInUse(Vec::new()),
        ToSupervisor::Pong(1, 0),
    ] {
        assert!(!permits(Role::Proxy, starting, false, &message), "{message:?}");
    }
}

fn hello(role: Role) -> ToSupervisor {
    ToSupervisor::Hello(Hello {
        worker: WorkerId(1),
        role,
        protocols: PROTOCOLS,
        version: String::new(),
        confinement: Confinement::default(),
    })
}

fn key_set() -> KeySet {
    let (provider_id, source) = (String::new(), String::new());
    KeySet { provider_id, source, fetched_at_unix_ms: 0, keys: Vec::new() }
}

/// One message of each kind. A kind that is not here makes the test below fail.
fn every_kind(role: Role) -> Vec<(&'static str, ToSupervisor)> {
    let series = Series { family: 1, first_slot: 1, labels: Vec::new() };
    vec![
        ("Hello", hello(role)),
        ("Ready", ToSupervisor::Ready),
        ("Applied", ToSupervisor::Applied(Revision(1))),
        ("Refused", ToSupervisor::Refused(Revision(1), String::new())),
        ("Usage", ToSupervisor::Usage(1)),
        ("Series", ToSupervisor::Series(series)),
        ("Pong", ToSupervisor::Pong(1, 0)),
        ("Fetch", ToSupervisor::Fetch(Page::Ready)),
        ("KeysInUse", ToSupervisor::KeysInUse(Vec::new())),
        ("KeySet", ToSupervisor::KeySet(key_set())),
        ("KeyTaken", ToSupervisor::KeyTaken(1)),
        ("Exporters", ToSupervisor::ExporterHealth(Vec::new())),
    ]
}

/// S starting, J joining, V serving, D draining, X doomed: where each may be said.
const TABLE: &str = "\
proxy  Hello     S....
proxy  Ready     .J.D.
proxy  Applied   .JVD.
proxy  Refused   .JVD.
proxy  Usage     ..VDX
proxy  Series    .JVDX
proxy  Pong      .JVD.
proxy  Fetch     .....
proxy  KeysInUse ..VD.
proxy  KeySet    .JVD.
proxy  KeyTaken  .....
proxy  Exporters .....
status Hello     S....
status Ready     .J.D.
status Applied   .....
status Refused   .....
status Usage     .....
status Series    .JVD.
status Pong      .JVD.
status Fetch     ..VD.
status KeysInUse .....
status KeySet    .....
status KeyTaken  .....
status Exporters .....
egress Hello     S....
egress Ready     .J.D.
egress Applied   .....
egress Refused   .....
egress Usage     .....
egress Series    .JVD.
egress Pong      .JVD.
egress Fetch     .....
egress KeysInUse .....
egress KeySet    .....
egress KeyTaken  .....
egress Exporters .....
signer Hello     S....
signer Ready     .J.D.
signer Applied   .....
signer Refused   .....
signer Usage     .....
signer Series    .JVD.
signer Pong      .JVD.
signer Fetch     .....
signer KeysInUse .....
signer KeySet    .....
signer KeyTaken  .JVD.
signer Exporters .....
cache  Hello     S....
cache  Ready     .J.D.
cache  Applied   .....
cache  Refused   .....
cache  Usage     .....
cache  Series    .JVD.
cache  Pong      .JVD.
cache  Fetch     .....
cache  KeysInUse .....
cache  KeySet    .....
cache  KeyTaken  .....
cache  Exporters .....
export Hello     S....
export Ready     .J.D.
export Applied   .....
export Refused   .....
export Usage     .....
export Series    .JVD.
export Pong      .JVD.
export Fetch     .....
export KeysInUse .....
export KeySet    .....
export KeyTaken  .....
export Exporters .JVD.
";

#[test]
fn the_table_of_what_may_be_said_is_the_one_written_here() {
    let now = Instant::now();
    let lives = [
        ('S', Life::started(now)),
        ('J', Life::Joining { deadline: now }),
        ('V', Life::Serving { unanswered: 0 }),
        ('D', Life::Draining { deadline: None, unanswered: 0 }),
        ('X', Life::Doomed),
    ];
    let mut table = String::new();
    for role in Role::ALL {
        for (name, message) in every_kind(role) {
            let row: String = lives
                .iter()
                .map(
                    |(letter, life)| {
                        if permits(role, *life, false, &message) { *letter } else { '.' }
                    },
                )
                .collect();
            table += &format!("{:<6} {name:<9} {row}\n", role.name());
        }
    }
    assert_eq!(table, TABLE);
}

#[test]
fn every_kind_that_there_is_stands_in_the_table() {
    let known: Vec<_> = every_kind(Role::Proxy).iter().map(|(_, it)| it.kind()).collect();
    for kind in 0..200 {
        let is_unknown = matches!(
            ToSupervisor::decode(kind, &[]),
            Err(shared::message::MessageError::UnknownKind(_))
        );
        assert_eq!(known.contains(&kind), !is_unknown, "kind {kind}");
    }
}

#[test]
fn a_worker_says_hello_in_its_own_role_only() {
    let starting = Life::started(Instant::now());
    for (role, other) in [(Role::Proxy, Role::Status), (Role::Status, Role::Egress)] {
        assert!(!permits(role, starting, false, &hello(other)));
    }
}
