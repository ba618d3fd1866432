//! Escapes, attempted by a probe that the real launcher starts and the real sandbox locks in, each in a fresh process, from
//! the main thread and from one that was there before the lock. Needs `aisix-probe` beside the programs, as
//! `cargo build --workspace` puts it there.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod own;
mod table;
mod theatre;

use nix::unistd::geteuid;
use shared::id::Role;

use self::table::{Expected, WORKS_UNCONFINED, expected};
use self::theatre::{Attempt, Theatre, dismiss, keep};

fn every_escape_is_denied(role: Role) {
    let theatre = Theatre::new();
    let (sibling, _listener) = theatre.launch(role, "best-effort");
    let mut lines = vec![format!("{:36}{:34}{}", role.name(), "main thread", "other thread")];
    let mut wrong = Vec::new();
    for (name, expected) in expected(role) {
        if expected == Expected::Absent {
            continue;
        }
        let seen = ["main", "other"].map(|thread| {
            let attempt = Attempt { name, role, policy: "best-effort", thread };
            theatre.make(&attempt, &sibling)
        });
        lines.push(format!("{name:36}{:34}{}", seen[0].words(), seen[1].words()));
        // Landlock holds for the thread that asks for it and those that follow, not for those that were there.
        let counts = if expected == Expected::Landlock { &seen[..1] } else { &seen[..] };
        if !counts.iter().all(|seen| seen.is(expected)) {
            wrong.push(format!("{name}: {expected:?} was expected, but {seen:?}"));
        }
    }
    dismiss(&sibling);
    lines.push(format!("{} attempts by two threads each", lines.len() - 1));
    keep(role.name(), &lines).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_escape_from_the_proxy_role_is_denied() {
    every_escape_is_denied(Role::Proxy);
}

#[test]
fn every_escape_from_the_status_role_is_denied() {
    every_escape_is_denied(Role::Status);
}

#[test]
fn every_escape_from_the_egress_role_is_denied() {
    every_escape_is_denied(Role::Egress);
}

#[test]
fn every_escape_from_the_signer_role_is_denied() {
    every_escape_is_denied(Role::Signer);
}

#[test]
fn every_escape_from_the_cache_role_is_denied() {
    every_escape_is_denied(Role::Cache);
}

#[test]
fn every_escape_from_the_export_role_is_denied() {
    every_escape_is_denied(Role::Export);
}

#[test]
fn what_is_denied_to_a_worker_works_where_nothing_confines_it() {
    if !geteuid().is_root() {
        println!("skipped: only root is as free as can be");
        return;
    }
    let theatre = Theatre::new();
    let (sibling, _listener) = theatre.launch(Role::Proxy, "off");
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    let mut worked = 0;
    for name in theatre.names() {
        let attempt = Attempt { name: &name, role: Role::Proxy, policy: "off", thread: "main" };
        let seen = theatre.make(&attempt, &sibling);
        theatre.reset();
        lines.push(format!("{name:36}{}", seen.words()));
        let works = matches!(seen, theatre::Seen::Worked(_));
        worked += usize::from(works);
        if !works && WORKS_UNCONFINED.contains(&name.as_str()) {
            failed.push(format!("{name}: {seen:?}"));
        }
    }
    dismiss(&sibling);
    lines.push(format!("{worked} of {} work without confinement", lines.len()));
    keep("unconfined", &lines).unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_attempt_has_an_expectation_in_every_role() {
    let names = Theatre::new().names();
    assert!(names.len() >= 35);
    for role in Role::ALL {
        let expected: Vec<_> = expected(role).into_iter().map(|(name, _)| name).collect();
        for name in &names {
            assert!(expected.contains(&name.as_str()), "{name} in {role}");
        }
        assert_eq!(expected.len(), names.len(), "{role}");
    }
    for name in WORKS_UNCONFINED {
        assert!(names.iter().any(|it| it == name), "{name}");
    }
}
