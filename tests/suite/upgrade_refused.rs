//! A build that cannot take over changes nothing: the one that runs goes on, and says why.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use harness::release::{self, OTHER};
use harness::worker::Worker;
use harness::{Gateway, World, load, wait};
use nix::sys::signal::Signal;

/// Callers that ask at the same time.
const CALLERS: usize = 2;
/// A worker that tells its version and is of no use.
const WORKER: &str = r#"#include <stdio.h>
#include <unistd.h>
int main(int count, char **arguments) {
    if (count == 2) { printf("aisix-worker VERSION\n"); return 0; }
    for (;;) pause();
}"#;

async fn world(programs: &Path) -> World {
    release::install(programs, release::built());
    // Without a line for each request.
    let quiet = "info,worker::request=warn";
    let settings = |builder: harness::Builder| {
        builder.programs(programs).set("/observability/log_level", quiet.into())
    };
    World::start_with(settings).await
}

/// Asks for an upgrade, and waits until it is said why there is none.
async fn refused(gateway: &mut Gateway, why: &str) {
    gateway.signal(Signal::SIGUSR2);
    told(gateway, why).await;
}

async fn told(gateway: &Gateway, why: &str) {
    wait::until(&format!("the reason is told: {why}"), async || {
        let finding = gateway.finding("upgrade").await;
        if finding.contains(why) { Ok(()) } else { Err(finding) }
    })
    .await;
}

fn ids(workers: &[Worker]) -> Vec<i32> {
    workers.iter().map(|worker| worker.pid.as_raw()).collect()
}

#[tokio::test]
async fn a_program_that_cannot_take_over_is_never_executed_in_place() {
    let programs = tempfile::tempdir().unwrap();
    let path = programs.path();
    let mut world = world(path).await;
    let workers = world.gateway.workers();
    let config = world.gateway.folder().join("config.managed.yaml");
    let caller = world.caller();
    let gateway = &mut world.gateway;
    let (seen, ()) = load::during(caller, CALLERS, async |_| {
        release::put(path, "aisix", &fs::read("/bin/false").unwrap());
        refused(gateway, "cannot take over (exit status: 1)").await;

        release::put(path, "aisix", b"no program at all");
        refused(gateway, "cannot be executed").await;

        fs::remove_file(path.join("aisix")).unwrap();
        refused(gateway, "No such file").await;

        let endless = release::compile(path, "int main(void) { for (;;) ; }");
        release::put(path, "aisix", &endless);
        refused(gateway, "did not say within").await;

        let dying = release::compile(path, "#include <stdlib.h>\nint main(void) { abort(); }");
        release::put(path, "aisix", &dying);
        refused(gateway, "SIGABRT").await;

        // Half a package.
        release::install_one(path, "aisix", OTHER);
        refused(gateway, "install both from one package").await;

        release::install(path, OTHER);
        let good = fs::read(&config).unwrap();
        fs::write(&config, "proxy: {no_such_key: 1}").unwrap();
        refused(gateway, "no_such_key").await;
        fs::write(&config, good).unwrap();
    })
    .await;
    seen.nothing_failed();
    assert_eq!(ids(&world.gateway.workers()), ids(&workers), "no worker was replaced");

    // What was wrong is mended: the same question is answered otherwise.
    world.gateway.signal(Signal::SIGUSR2);
    wait::until("the finding is settled", async || {
        let finding = world.gateway.finding("upgrade").await;
        let done = world.gateway.log().contains("upgraded: every worker is new");
        if finding.is_empty() && done { Ok(()) } else { Err(finding) }
    })
    .await;
}

#[tokio::test]
async fn a_program_whose_workers_never_serve_gives_way_to_the_one_before() {
    let programs = tempfile::tempdir().unwrap();
    let path = programs.path();
    let mut world = world(path).await;
    let workers = world.gateway.workers();
    release::install_one(path, "aisix", OTHER);
    let silent = release::compile(path, &WORKER.replace("VERSION", OTHER));
    release::put(path, "aisix-worker", &silent);
    let caller = world.caller();
    let mut held = world.caller().ask_stream("hold", "one two three").await;
    held.next_event().await.unwrap();
    let gateway = &mut world.gateway;
    let (seen, ()) = load::during(caller, CALLERS, async |_| {
        refused(gateway, "its workers do not serve").await;
    })
    .await;
    seen.nothing_failed();
    assert!(world.gateway.log().contains("this program has taken over"));
    wait::until("only the workers before are left", async || {
        let now = ids(&world.gateway.workers());
        if now == ids(&workers) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let answer = world.caller().ask("small-1", "hello").await;
    assert_eq!(answer.header("server"), format!("AISIX/{}", release::built()));
    world.upstream.release();
    assert_eq!(held.events().await.unwrap().last().unwrap().data, "[DONE]");
    let answered = seen.answered.borrow().len();
    world.cloud.usage_of(answered + 2).await;
    world.gateway.terminate();
    assert_eq!(world.gateway.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_program_that_cannot_open_its_listeners_gives_way_to_the_one_before() {
    let programs = tempfile::tempdir().unwrap();
    let path = programs.path();
    let mut world = world(path).await;
    let workers = world.gateway.workers();
    let config = world.gateway.folder().join("config.managed.yaml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = fs::read_to_string(&config).unwrap();
    let (before, after) = (world.gateway.status(), taken.local_addr().unwrap());
    let other = good.replace(&before.to_string(), &after.to_string());
    assert_ne!(other, good);
    release::install(path, OTHER);
    let caller = world.caller();
    let gateway = &mut world.gateway;
    let (seen, ()) = load::during(caller, CALLERS, async |_| {
        fs::write(&config, other).unwrap();
        gateway.signal(Signal::SIGUSR2);
        let why = format!("version {OTHER} cannot start");
        wait::until("the other program has tried", async || {
            if gateway.log().contains(&why) { Ok(()) } else { Err("not yet") }
        })
        .await;
        // The one before reads the same file: it has the address as soon as that is free.
        drop(taken);
        told(gateway, &why).await;
    })
    .await;
    seen.nothing_failed();
    assert_eq!(ids(&world.gateway.workers()), ids(&workers), "no worker was replaced");
    let running = fs::read_link(format!("/proc/{}/exe", world.gateway.pid())).unwrap();
    assert_ne!(running, path.join("aisix"), "the program before goes on");
}
