//! Numbers are exact, whoever counted them and whatever has become of whoever did: workers that are killed, replaced workers,
//! another program in the same process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use harness::cloud::ENVIRONMENT;
use harness::exposition::{Exposition, Sample};
use harness::release::{self, OTHER};
use harness::{Builder, Cloud, Etcd, Gateway, Projection, World, client, load, projection, wait};
use nix::sys::signal::Signal;
use serde_json::json;

/// Callers that ask at the same time.
const CALLERS: usize = 4;
/// Proxy workers.
const WORKERS: usize = 3;
/// Changes of the configuration in a burst, and one after the other.
const CHANGES: (usize, usize) = (50, 5);

/// Copies of the programs, which can be replaced.
fn with_programs(builder: Builder, programs: &Path) -> Builder {
    release::install(programs, release::built());
    let quiet = json!("info,worker::request=warn");
    builder.programs(programs).set("/observability/log_level", quiet)
}

async fn upgrade(gateway: &mut Gateway, programs: &Path) {
    release::install(programs, OTHER);
    gateway.signal(Signal::SIGUSR2);
    until_told(gateway, "upgraded: every worker is new").await;
}

async fn until_told(gateway: &Gateway, what: &str) {
    wait::until(what, async || if gateway.log().contains(what) { Ok(()) } else { Err("not yet") })
        .await;
}

/// What may never fall, as it was last seen.
#[derive(Default)]
struct Watched(RefCell<BTreeMap<String, f64>>);

impl Watched {
    /// Looks again. Who makes the page may be gone for a moment.
    async fn look(&self, gateway: &Gateway) -> Option<Exposition> {
        let text = client::fetch(gateway.status(), "/metrics").await.ok()?.text().await.ok()?;
        let metrics = Exposition::parse(&text);
        let mut before = self.0.borrow_mut();
        for sample in metrics.samples.iter().filter(|sample| grows(&metrics, sample)) {
            let name = format!("{}{:?}", sample.name, sample.labels);
            let last = before.entry(name.clone()).or_default();
            assert!(sample.value >= *last, "{name} fell from {last} to {}", sample.value);
            *last = sample.value;
        }
        Some(metrics)
    }
}

fn grows(metrics: &Exposition, sample: &Sample) -> bool {
    let family = metrics.family(sample);
    match metrics.types.get(family).map(String::as_str) {
        Some("counter" | "histogram") => true,
        Some("summary") => sample.name != family,
        _ => false,
    }
}

/// Every histogram is one: buckets that grow, the last one the count, a sum that they permit.
fn consistent(metrics: &Exposition) {
    let mut histograms: BTreeMap<(String, String), Vec<(f64, f64)>> = BTreeMap::new();
    for sample in metrics.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let edge: f64 = labels.remove("le").unwrap().parse().unwrap();
        let family = metrics.family(sample).to_owned();
        histograms.entry((family, format!("{labels:?}"))).or_default().push((edge, sample.value));
    }
    assert!(histograms.len() >= 2, "{histograms:?}");
    for ((family, labels), buckets) in histograms {
        let one = |suffix: &str| {
            let name = format!("{family}{suffix}");
            let mut of = metrics.samples.iter().filter(|it| it.name == name);
            of.find(|it| format!("{:?}", it.labels) == labels).unwrap().value
        };
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family} {buckets:?}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, one("_count"))), "{family}");
        let (mut least, mut most, mut below) = (0.0, 0.0, (0.0, 0.0));
        for (edge, passed) in buckets {
            least += below.0 * (passed - below.1);
            most += if passed > below.1 { edge * (passed - below.1) } else { 0.0 };
            below = (edge, passed);
        }
        let sum = one("_sum");
        assert!(least <= sum + 1e-6 && sum <= most + 1e-6, "{family}: {least} {sum} {most}");
    }
}

#[tokio::test]
async fn kills_a_reload_and_an_upgrade_lose_no_count_and_no_bucket_falls() {
    let programs = tempfile::tempdir().unwrap();
    let settings =
        |builder| with_programs(builder, programs.path()).set("/proxy/workers", json!(WORKERS));
    let mut world = World::start_with(settings).await;
    let (caller, watched) = (world.caller(), Watched::default());
    let gateway = &mut world.gateway;
    let kills = RefCell::new(0);
    let kill_each = async |gateway: &Gateway, seen: &load::Seen| {
        for worker in gateway.proxies() {
            seen.more().await;
            worker.kill();
            *kills.borrow_mut() += 1;
            watched.look(gateway).await;
            wait::until("another worker serves", async || {
                let up = match watched.look(gateway).await {
                    Some(metrics) => metrics.sum("aisix_workers_up", &[("role", "proxy")]),
                    None => 0.0,
                };
                if up >= WORKERS as f64 && !worker.runs() { Ok(()) } else { Err(up) }
            })
            .await;
        }
    };
    let (seen, ()) = load::during(caller, CALLERS, async |seen| {
        kill_each(gateway, seen).await;
        gateway.signal(Signal::SIGHUP);
        until_told(gateway, "every worker is replaced").await;
        watched.look(gateway).await;
        upgrade(gateway, programs.path()).await;
        watched.look(gateway).await;
        kill_each(gateway, seen).await;
    })
    .await;
    let (answered, failed) = (seen.answered.borrow().len(), seen.failed.borrow().len());
    println!("{answered} answered, {failed} failed, {} kills", kills.borrow());

    let of_model = [("model", "small-1"), ("status", "200")];
    let of_class = [("model", "small-1"), ("status_class", "2xx")];
    let counts = [
        ("aisix_requests_total", &of_model[..]),
        ("aisix_request_duration_seconds_count", &of_model),
        ("aisix_proxy_requests_total", &of_model),
        ("aisix_proxy_request_duration_seconds_count", &of_model),
        ("aisix_llm_requests_total", &of_model),
        ("aisix_request_e2e_latency_seconds_count", &of_class),
        ("aisix_deployment_success_responses_total", &of_model[..1]),
    ];
    let metrics = watched.look(&world.gateway).await.unwrap();
    for (name, labels) in counts {
        let counted = metrics.sum(name, labels);
        // A worker may be killed between counting and the last byte.
        let most = answered + failed;
        assert!(
            answered as f64 <= counted && counted <= most as f64,
            "{name}: {counted} of {answered} to {most}"
        );
    }
    consistent(&metrics);
    let killed =
        metrics.sum("aisix_worker_restarts_total", &[("role", "proxy"), ("reason", "killed")]);
    assert_eq!(killed, f64::from(*kills.borrow()), "restarts go on after an upgrade too");
    assert_eq!(metrics.sum("aisix_build_info", &[("version", OTHER)]), 1.0);
    assert_eq!(metrics.sum("aisix_metric_samples_dropped_total", &[]), 0.0);

    // Every process is told of, with what the kernel says of it.
    let workers = world.gateway.workers();
    let of = |name: &str| {
        let samples = metrics.samples.iter().filter(|sample| sample.name == name);
        samples
            .map(|sample| (sample.labels["worker"].clone(), sample.value))
            .collect::<BTreeMap<_, _>>()
    };
    let names = [
        "aisix_process_cpu_seconds_total",
        "aisix_process_resident_memory_bytes",
        "aisix_process_open_fds",
        "aisix_process_max_fds",
        "aisix_process_threads",
        "aisix_process_start_time_seconds",
    ];
    for name in names {
        let told = of(name);
        for id in workers.iter().map(|worker| worker.id.as_str()).chain(["none"]) {
            let least = if name.contains("cpu") { 0.0 } else { 1.0 };
            assert!(told.get(id).is_some_and(|value| *value >= least), "{name} of {id}: {told:?}");
        }
    }
}

#[tokio::test]
async fn every_revision_is_timed_once_from_the_store_to_the_last_worker() {
    let programs = tempfile::tempdir().unwrap();
    let upstream = harness::upstream().await;
    let etcd = Etcd::start().await;
    let prefix = format!("/aisix/{ENVIRONMENT}/");
    etcd.project(&prefix, &Projection::of(&upstream)).await;
    let cloud = Cloud::over(&etcd).await;
    let mut gateway = with_programs(Builder::managed(&cloud), programs.path()).start().await;
    let before = timed(&gateway).await;
    let (burst, singly) = CHANGES;
    let put = async |number: usize| {
        let key = format!("{prefix}models/m-new-{number}");
        etcd.put(&key, &projection::model(&format!("new-{number}"), "pk-1")).await;
    };
    for number in 0..burst {
        put(number).await;
    }
    until_timed(&gateway, before + burst as f64).await;
    for number in 0..singly {
        put(burst + number).await;
        until_timed(&gateway, before + (burst + number + 1) as f64).await;
    }
    let metrics = gateway.metrics().await;
    consistent_propagation(&metrics);
    upgrade(&mut gateway, programs.path()).await;
    let after = timed(&gateway).await;
    assert!(after >= before + (burst + singly) as f64, "{after}: it goes on after an upgrade");
    put(burst + singly).await;
    until_timed(&gateway, after + 1.0).await;
}

async fn timed(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("aisix_config_propagation_seconds_count", &[])
}

async fn until_timed(gateway: &Gateway, count: f64) {
    wait::until(&format!("{count} revisions are served"), async || {
        let metrics = gateway.metrics().await;
        let timed = metrics.sum("aisix_config_propagation_seconds_count", &[]);
        let under_way = metrics.sum("aisix_config_revisions_under_way", &[]);
        if timed == count && under_way == 0.0 {
            Ok(())
        } else {
            Err(format!("{timed}, {under_way}"))
        }
    })
    .await;
}

fn consistent_propagation(metrics: &Exposition) {
    let sum = metrics.sum("aisix_config_propagation_seconds_sum", &[]);
    let last = [("le", "+Inf")];
    let all = metrics.sum("aisix_config_propagation_seconds_bucket", &last);
    assert!(sum > 0.0 && all == metrics.sum("aisix_config_propagation_seconds_count", &[]));
    println!("{all} revisions took {sum} s together");
}
