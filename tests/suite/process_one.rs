//! As process 1 of a container: orphans are collected, signals are heard, and the end has the right status.

use std::fs;

use harness::{Builder, Cloud, Gateway, Projection, upstream, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// A namespace of processes in which the gateway is the first.
const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

fn children(of: Pid) -> Vec<Pid> {
    let path = format!("/proc/{of}/task/{of}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// The gateway's pid as we see it.
fn inside(gateway: &Gateway) -> Pid {
    children(gateway.pid()).into_iter().next().expect("the namespace has a first process")
}

/// The state letter of a process; `None` once it is collected.
fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

#[tokio::test]
async fn orphans_are_collected_and_sigterm_ends_with_status_0() {
    if !geteuid().is_root() {
        println!("skipped: only root may make a namespace of processes");
        return;
    }
    let upstream = upstream().await;
    let cloud = Cloud::start(&Projection::of(&upstream)).await;
    let mut gateway = Builder::managed(&cloud).started_by(&NAMESPACE).start().await;
    let first = inside(&gateway);
    // A shell within, whose child outlives it.
    let namespace = format!("--target={first}");
    let left = std::process::Command::new("nsenter")
        .args([&namespace, "--pid", "--mount", "sh", "-c", "sleep 1 & exit 0"])
        .status()
        .expect("nsenter runs");
    assert!(left.success());
    let orphan = wait::until("the orphan is a child of the gateway", async || {
        let orphan = children(first).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|it| it.trim() == "sleep")
        });
        orphan.ok_or("not yet")
    })
    .await;
    wait::until("the orphan is collected", async || match state(orphan) {
        None => Ok(()),
        Some(state) => Err(state),
    })
    .await;
    assert_eq!(gateway.caller().ask("small-1", "hello").await.status, 200);
    // The workers were not taken for orphans.
    kill(children(first)[0], Signal::SIGKILL).unwrap();
    wait::until("a killed worker is told of by its signal", async || {
        if gateway.log().contains("signal SIGKILL") { Ok(()) } else { Err("not yet") }
    })
    .await;
    kill(first, Signal::SIGTERM).unwrap();
    assert_eq!(gateway.end().await.code(), Some(0));
    assert!(gateway.log().contains("ended in order"));
}
