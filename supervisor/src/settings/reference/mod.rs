//! The pages of all keys, `CONFIGURATION.md` and aisix.yaml(5): made from the table, so that they name what there is.

mod about;
mod manual;

use std::fmt::Write;

use self::about::about;
use super::key::{Effect, KEYS, Key, Kind};

const HEAD: &str = "# Configuration reference

Every key, from the table that the program reads (`supervisor/src/settings/key.rs`). Values come from the defaults, then the
file (`--config`, `AISIX_CONFIG`, `AISIX_CONFIG_PATH`, `/etc/aisix/config.managed.yaml`; YAML, TOML or JSON by its ending),
then the environment: `proxy.addr` is `AISIX_PROXY__ADDR`. An unknown key is an error that names the place and the nearest
known key. Lists are separated by commas in a variable, lists of objects are JSON. `AISIX_DP_BUDGET_STALE_MAX_SECONDS` is
another name of `managed.budget_stale_max_secs`. `RUST_LOG` goes before `observability.log_level`.

`managed.proxy_url` is an HTTP proxy, `http://[USER:PASSWORD@]HOST:PORT`, for the connections to the manager and its etcd;
no proxy variable of the environment reaches them. `upstream.retries` repeats an attempt that never reached its upstream,
or that the upstream answered with a status of 500 or above; what the upstream may have worked on is not sent again.
`proxy.url_rewrites` replaces the first match of the first rule that matches the percent-encoded path, before routing.

`resources_file` takes the place of Cloud and etcd: one YAML file with `_format_version: \"1\"` and a list for each kind,
whose entries are known by name and refer to each other by name; `${NAME}` stands for a variable, and `key_env` names the
variable that holds a caller's key. SIGHUP has the file read again; one that cannot be used changes nothing. `aisix
validate --resources FILE` checks such a file, `aisix export --etcd URL` makes one.

SIGHUP has the configuration read again, too, and every worker replaced by a new one, without a failed request; settings
that cannot be used change nothing. `upstream`, `downstream`, `shutdown`, `proxy` (but for its address), the log level, the
access log, the metrics' path and client types come into force; the log names other keys that were changed: they need a
restart. A worker that was replaced has `supervisor.replace_drain_secs` to finish what it has begun; 0 is no limit.

Names are resolved by the gateway itself, from `/etc/hosts` and `/etc/resolv.conf` (search, ndots, options; read again when
they change); NSS modules such as mdns or sss are not asked. A projected host must not lead to a loopback, link-local,
metadata or unspecified address; `localhost` and literal addresses are taken as written, metadata services never. Proxy
variables of the environment are not used for providers. `supervisor.worker_path` unset: `aisix-worker` beside `aisix`, else
`/usr/libexec/aisix/aisix-worker`. `supervisor.worker_uid_base` counts where the users `aisix-worker`, `aisix-egress`,
`aisix-keys`, `aisix-status`, `aisix-cache`, `aisix-export` do not exist. The files of `proxy.tls` are read again when they change.

`ratelimit.backend: redis` counts limits together with all nodes that use the same Redis, under `aisix:rl:<environment>:`;
while it does not answer, at the start too, each node counts alone, which is shown. `ratelimit.concurrency_ttl_secs` is how
long a request in progress counts there, should its node never say that it is over. `cache.redis` is for the policies that
ask for it. `….redis.url` is `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS; in the mode
`cluster`, `nodes` are all nodes by the address that the cluster announces. A sentinel cannot be asked, since the gateway
reaches no address that is not written here.

Where a key is *refused*, its default is accepted, and any other value ends the start with the key, its place and the
remedy: nothing is silently ignored. `aisix validate` tells the same without starting.

| key | what it is for | value | default | in effect |
|---|---|---|---|---|
";

/// What a value must be, in words.
fn value_of(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer => "whole number".to_owned(),
        Kind::Number => "number".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::Choice(words) => words.join(", "),
        Kind::Texts => "list of texts".to_owned(),
        Kind::TextsInFile => "list of texts, in a file only".to_owned(),
        Kind::Numbers => "list of numbers".to_owned(),
        Kind::Objects(fields) => format!("list of objects: {}", fields.join(", ")),
    }
}

/// The page.
fn page() -> String {
    let mut page = HEAD.to_owned();
    for Key { name, kind, default, effect } in KEYS {
        let value = value_of(*kind);
        let default = default.filter(|text| !text.is_empty()).map(|text| format!("`{text}`"));
        let effect = match effect {
            Effect::InEffect => "yes".to_owned(),
            Effect::ByDesign(reason) => format!("accepted without effect: {reason}"),
            Effect::Refused(reason) => format!("refused: {reason}"),
        };
        let default = default.unwrap_or_default();
        let about = about(name).unwrap_or_default();
        writeln!(page, "| `{name}` | {about} | {value} | {default} | {effect} |").unwrap();
    }
    page
}

/// Written anew with `UPDATE_REFERENCE=1 cargo test -p supervisor reference`.
#[test]
fn the_configuration_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../CONFIGURATION.md");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(written == page(), "CONFIGURATION.md does not fit the table of keys any more");
}
