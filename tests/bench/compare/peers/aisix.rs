//! The gateway, with one proxy worker: governed, and with everything off that can be.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use harness::cloud::ENVIRONMENT;
use harness::{Builder, Cloud, Etcd, Gateway, Projection, projection};
use serde_json::json;

use super::{CALLER_KEY, Peer, Running};
use crate::cpu;
use crate::load::{MODEL, Target};
use crate::upstream::KEY;
use crate::usage::Usage;

/// Far above anything that a run can reach.
const PLENTY: u64 = 1_000_000_000_000;

/// A Cloud for a governed gateway: a caller key that may use one model, limits of requests and tokens for the key and for the
/// model that are not reached, and prices.
pub async fn cloud(upstream: SocketAddr) -> (Cloud, Etcd) {
    let limits = json!({"rpm": PLENTY, "tpm": PLENTY});
    let mut model = projection::model(MODEL, "pk-1");
    model["model_name"] = json!("upstream-model");
    model["cost"] = json!({"input_per_1k": 0.001, "output_per_1k": 0.002});
    model["rate_limit"] = limits.clone();
    let mut caller = projection::api_key(CALLER_KEY, &[MODEL]);
    caller["display_name"] = json!("bench");
    caller["rate_limit"] = limits;
    let resources = Projection::default()
        .with("provider_keys", "pk-1", projection::provider_key(&api_base(upstream), KEY))
        .with("models", "m-1", model)
        .with("api_keys", "k-1", caller);
    let etcd = Etcd::start().await;
    etcd.project(&format!("/aisix/{ENVIRONMENT}/"), &resources).await;
    (Cloud::over(&etcd).await, etcd)
}

/// Managed by such a Cloud, with a budget, usage events that are delivered, metrics and the access log.
pub async fn governed(
    name: &str,
    programs: Option<&Path>,
    upstream: SocketAddr,
) -> Result<Peer, Box<dyn Error>> {
    let (cloud, etcd) = cloud(upstream).await;
    let usage = Usage::start(&cloud)?;
    let gateway = start(managed(&cloud, &usage), programs, 1)?;
    let mut peer = peer(name, &gateway);
    peer.usage = Some(usage);
    peer.running = Running::Managed(Box::new((gateway, cloud, etcd)));
    Ok(peer)
}

/// A gateway that has its configuration of that Cloud, and delivers its usage where it costs next to nothing to take it.
pub fn managed(cloud: &Cloud, usage: &Usage) -> Builder {
    let bundle = cloud.issue(ENVIRONMENT);
    let builder = Builder::managed_at(&usage.url(), &bundle);
    builder.set("/managed/cp_etcd_endpoint", json!(cloud.address()))
}

/// Without a Cloud, limits, budget, usage, metrics and access log: a caller key and a model are left.
pub fn off(programs: Option<&Path>, upstream: SocketAddr) -> Result<Peer, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let resources = folder.path().join("resources.yaml");
    let provider_key = json!({"display_name": "main", "provider": "openai",
        "api_base": api_base(upstream), "api_key": KEY});
    let model = json!({"display_name": MODEL, "provider": "openai", "model_name": "upstream-model",
        "provider_key": "main"});
    let caller =
        json!({"display_name": "bench", "key_env": "CALLER_KEY", "allowed_models": [MODEL]});
    let text = json!({"_format_version": "1", "provider_keys": [provider_key], "models": [model],
        "api_keys": [caller]});
    fs::write(&resources, text.to_string())?;
    let builder = Builder::from_file(&resources)
        .env("CALLER_KEY", CALLER_KEY)
        .set("/observability/access_log", json!(false))
        .set("/observability/metrics/prometheus/enabled", json!(false));
    let gateway = start(builder, programs, 1)?;
    let mut peer = peer("aisix-off", &gateway);
    peer.running = Running::Gateway(Box::new((gateway, folder)));
    Ok(peer)
}

/// Starts a gateway with so many workers on the gateways' core, with the programs in that folder or those beside this one.
pub fn start(
    builder: Builder,
    programs: Option<&Path>,
    workers: usize,
) -> Result<Gateway, Box<dyn Error>> {
    let builder = builder.set("/proxy/workers", json!(workers));
    let builder = match programs {
        Some(folder) => builder.programs(folder),
        None => builder,
    };
    Ok(cpu::pinned(cpu::GATEWAY, || builder.spawn())?)
}

fn peer(name: &str, gateway: &Gateway) -> Peer {
    Peer {
        name: name.to_owned(),
        target: Target { address: gateway.proxy(), key: CALLER_KEY.to_owned() },
        root: Some(gateway.pid()),
        usage: None,
        logs: vec![gateway.folder().join("gateway.log")],
        running: Running::Nothing,
    }
}

fn api_base(upstream: SocketAddr) -> String {
    format!("http://{upstream}/v1")
}
