//! The parts of the demo: folder, resources, bundle, and the command that starts each program.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::binaries;
use harness::process::Process;
use harness::wait;

use crate::settings::Settings;
use crate::site::{CALLER_KEY, ENVIRONMENT, MODEL, PATIENCE, SiteError};

/// `.demo` of the project, empty. Only called when nobody listens on our ports, so no other demo is using it.
pub fn fresh_folder() -> Result<PathBuf, SiteError> {
    let folder = project().join(".demo");
    let failed = |attempted| {
        let path = folder.clone();
        move |source| SiteError::File { attempted, path, source }
    };
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("empty")(error));
        }
        _ => {}
    }
    fs::create_dir_all(folder.join("state")).map_err(failed("make"))?;
    Ok(folder)
}

/// The root of the project that this program was built from.
fn project() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The resources file of the local Cloud: one provider, one model, one caller.
pub fn write_resources(settings: &Settings, folder: &Path) -> Result<(), SiteError> {
    let model = settings.provider.as_ref().map_or("small-1", |provider| provider.model.as_str());
    let mut text = include_str!("resources.yaml").to_owned();
    for (name, value) in [
        (": UPSTREAM_URL", upstream_url(settings).as_str()),
        (": UPSTREAM_KEY", &settings.provider_key()),
        (": UPSTREAM_MODEL", model),
        (": MODEL", MODEL),
        (": CALLER_KEY", CALLER_KEY),
    ] {
        // JSON's way to write a text is YAML's, too.
        text = text.replacen(name, &format!(": {}", serde_json::Value::from(value)), 1);
    }
    text = text.replacen("ENVIRONMENT", ENVIRONMENT, 1);
    let path = folder.join("resources.yaml");
    let mut options = fs::OpenOptions::new();
    // It holds the provider's key.
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|source| SiteError::File {
        attempted: "write",
        path,
        source,
    })
}

/// Where the models are: the small upstream, or a real provider.
pub fn upstream_url(settings: &Settings) -> String {
    match &settings.provider {
        Some(provider) => provider.url.clone(),
        None => format!("http://{}/v1", settings.upstream.address),
    }
}

/// Starts the local Cloud and waits until it listens.
pub async fn start_cloud(settings: &Settings, folder: &Path) -> Result<Process, SiteError> {
    let mut command = Command::new(binaries::find("aisix-cloud")?);
    command.arg("serve").arg("--data").arg(folder.join("cloud"));
    command.args(["--listen", &settings.manager.address.to_string()]);
    command.args(["--view", &settings.view.address.to_string()]);
    command.arg("--resources").arg(folder.join("resources.yaml"));
    let mut process = Process::spawn("aisix-cloud", command, &folder.join("cloud.log"))?;
    let ready = folder.join("cloud/addresses.json");
    let is_ready = wait::up_to(PATIENCE, async || {
        if ready.exists() || process.ended().is_some() { Ok(()) } else { Err(()) }
    });
    let _ = is_ready.await;
    if ready.exists() {
        return Ok(process);
    }
    Err(SiteError::Ended { name: "aisix-cloud", log: process.log_tail() })
}

/// Starts the small upstream, unless a real provider stands in its place.
pub fn start_upstream(settings: &Settings, folder: &Path) -> Result<Option<Process>, SiteError> {
    if settings.provider.is_some() {
        return Ok(None);
    }
    let mut command = Command::new(binaries::find("aisix-upstream")?);
    command.args(["--listen", &settings.upstream.address.to_string()]);
    Ok(Some(Process::spawn("aisix-upstream", command, &folder.join("upstream.log"))?))
}

/// Has the gateway's certificate bundle issued.
pub fn issue(folder: &Path) -> Result<(), SiteError> {
    let output = Command::new(binaries::find("aisix-cloud")?)
        .args(["issue", "--env", ENVIRONMENT])
        .arg("--data")
        .arg(folder.join("cloud"))
        .arg("--out")
        .arg(folder.join("bundle"))
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(SiteError::Issue(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// The guide's command, with a state directory and ports of the demo; and the words for it.
pub fn gateway_command(
    settings: &Settings,
    folder: &Path,
) -> Result<(Command, Vec<String>), SiteError> {
    let configuration = project().join("packaging/config.managed.yaml");
    let path = |name: &str| folder.join(name).display().to_string();
    let variables = [
        ("AISIX_MANAGED__CP_BASE_URL", format!("https://{}", settings.manager.address)),
        ("AISIX_MANAGED__CP_CERT_FILE", path("bundle/client.crt")),
        ("AISIX_MANAGED__CP_KEY_FILE", path("bundle/client.key")),
        ("AISIX_MANAGED__CP_CA_FILE", path("bundle/ca.crt")),
        ("AISIX_MANAGED__MTLS_DIR", path("state/mtls")),
        ("AISIX_MANAGED__DP_ID_FILE", path("state/dp_id")),
        ("AISIX_MANAGED__SNAPSHOT_CACHE_PATH", path("state/config_cache.json")),
        ("AISIX_MANAGED__HEARTBEAT_INTERVAL_SECS", "5".to_owned()),
        ("AISIX_PROXY__ADDR", settings.proxy.address.to_string()),
        ("AISIX_OBSERVABILITY__METRICS__PROMETHEUS__ADDR", settings.status.address.to_string()),
        // For people, also where the demo runs in a container.
        ("AISIX_OBSERVABILITY__LOG_FORMAT", "text".to_owned()),
        ("AISIX_SHUTDOWN__MIN_DRAIN_SECS", "0".to_owned()),
    ];
    let mut command = Command::new(binaries::find("aisix")?);
    command.arg("--config").arg(&configuration);
    let mut words: Vec<_> =
        variables.iter().map(|(name, value)| format!("{name}={value} \\")).collect();
    words.push(format!("aisix --config {}", configuration.display()));
    command.envs(variables);
    Ok((command, words))
}
