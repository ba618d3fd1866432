//! Starts that cannot succeed: each ends by itself, with its status and one line that names the fault, and `aisix validate`
//! tells the same without starting wherever the fault is in what it looks at.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use harness::authority::Authority;
use harness::cloud::{Bundle, ENVIRONMENT};
use harness::{Builder, World};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use serde_json::json;

/// Nobody listens there, and nobody has to: nothing here gets that far.
const URL: &str = "https://127.0.0.1:9";
const DATA_PLANE: &str = "99999999-8888-7777-6666-555555555555";

/// The fault, how it is made, what the line must name, and whether `validate` sees it too.
type Case = (&'static str, Builder, Vec<String>, bool);

/// Starts every case, and has those that are for `validate` validated.
async fn all_end(cases: Vec<Case>) {
    for (fault, builder, names, validated) in cases {
        let check = builder.validating();
        ends_with_one_line(fault, builder, &names).await;
        if validated {
            ends_with_one_line(fault, check, &names).await;
        }
    }
}

async fn ends_with_one_line(fault: &str, builder: Builder, names: &[String]) {
    let start = Instant::now();
    let mut gateway = builder.spawn();
    let status = gateway.end().await.code();
    println!("{fault}: {:?}", start.elapsed());
    let log = gateway.log();
    assert_eq!(status, Some(1), "{fault}: {log}");
    let errors: Vec<_> = log.lines().filter(|line| line.starts_with("Error: ")).collect();
    assert_eq!(errors, [log.lines().last().unwrap_or_default()], "{fault}: {log}");
    for name in names {
        assert!(errors[0].contains(name), "{fault}: {name} is not named: {}", errors[0]);
    }
    assert!(!log.contains("swordfish"), "{fault}: a secret is shown: {log}");
    assert!(gateway.workers().is_empty(), "{fault}: workers are left");
}

fn case(fault: &'static str, builder: Builder, names: &[&str], validated: bool) -> Case {
    (fault, builder, names.iter().map(|&name| name.to_owned()).collect(), validated)
}

fn good(authority: &Authority) -> Bundle {
    authority.bundle(ENVIRONMENT, DATA_PLANE)
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_told_by_file_key_and_variable() {
    let authority = Authority::default();
    let bundle = good(&authority);
    let server = authority.server();
    let managed = || Builder::managed_at(URL, &bundle);
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let broken = written("broken.yaml", "managed:\n  cp_key_pem: swordfish\n proxy: [\n");
    let binary = folder.path().join("binary.yaml");
    fs::write(&binary, b"\xff\xfe\x00").unwrap();
    let binary = binary.display().to_string();
    let named = |path: &str| managed().arguments(&["--config", path]);
    let directory = folder.path().join("directory.yaml");
    fs::create_dir(&directory).unwrap();
    let directory = directory.display().to_string();
    all_end(vec![
        case("missing file", named("/nowhere/c.yaml"), &["/nowhere/c.yaml", "No such file"], false),
        case("a directory", named(&directory), &[&directory, "directory"], false),
        case("no known ending", named("/etc/hostname"), &["/etc/hostname", ".yaml"], false),
        case("bad YAML", named(&broken), &[&broken, "line"], false),
        case("not text", named(&binary), &[&binary, "UTF-8"], false),
        case(
            "unknown key",
            managed().set("/proxy/adress", "swordfish".into()),
            &["proxy.adress", "config.managed.yaml", "did you mean proxy.addr?"],
            true,
        ),
        case(
            "unknown variable",
            managed().env("AISIX_MANAGED__CP_BASE_URI", "swordfish"),
            &["AISIX_MANAGED__CP_BASE_URI", "did you mean AISIX_MANAGED__CP_BASE_URL?"],
            true,
        ),
        case(
            "wrong type",
            managed().env("AISIX_SHUTDOWN__MIN_DRAIN_SECS", "soon"),
            &["shutdown.min_drain_secs", "AISIX_SHUTDOWN__MIN_DRAIN_SECS"],
            true,
        ),
        case(
            "bad address",
            managed().env("AISIX_PROXY__ADDR", "localhost:3000"),
            &["proxy.addr", "AISIX_PROXY__ADDR", "IP:PORT"],
            true,
        ),
        case(
            "no workers",
            managed().set("/proxy/workers", 0.into()),
            &["proxy.workers", "config.managed.yaml", "at least 1"],
            true,
        ),
        case(
            "bad log filter",
            managed().env("AISIX_OBSERVABILITY__LOG_LEVEL", "info,="),
            &["observability.log_level"],
            true,
        ),
        case("bad RUST_LOG", managed().env("RUST_LOG", "info,="), &["RUST_LOG"], false),
        case(
            "http",
            managed().env("AISIX_MANAGED__CP_BASE_URL", "http://127.0.0.1:9"),
            &["managed.cp_base_url", "AISIX_MANAGED__CP_BASE_URL", "https"],
            true,
        ),
        case(
            "no URL",
            managed().env("AISIX_MANAGED__CP_BASE_URL", ""),
            &["managed.cp_base_url", "AISIX_MANAGED__CP_BASE_URL"],
            true,
        ),
        case(
            "credentials in the URL",
            managed().env("AISIX_MANAGED__CP_BASE_URL", "https://u:swordfish@h"),
            &["managed.cp_base_url"],
            true,
        ),
        case(
            "etcd with a path",
            managed().env("AISIX_MANAGED__CP_ETCD_ENDPOINT", "127.0.0.1:9/base"),
            &["managed.cp_etcd_endpoint", "AISIX_MANAGED__CP_ETCD_ENDPOINT", "path"],
            true,
        ),
        case(
            "no such proxy",
            managed().env("AISIX_MANAGED__PROXY_URL", "socks5://u:swordfish@h:1"),
            &["managed.proxy_url", "AISIX_MANAGED__PROXY_URL", "http://"],
            true,
        ),
        case(
            "TLS without its files",
            managed().set("/proxy/tls", json!({"cert_file": "/c", "key_file": "/k"})),
            &["proxy.tls.cert_file", "/c", "No such file", "check the path"],
            true,
        ),
        case(
            "TLS without its key",
            managed().set("/proxy/tls", json!({"cert_file": "/c"})),
            &["proxy.tls.cert_file", "proxy.tls.key_file"],
            true,
        ),
        case(
            "a version of TLS without TLS",
            managed().env("AISIX_PROXY__TLS__MIN_VERSION", "1.2"),
            &["proxy.tls.min_version", "AISIX_PROXY__TLS__MIN_VERSION", "proxy.tls.cert_file"],
            true,
        ),
        case(
            "TLS with another's key",
            managed().set(
                "/proxy/tls",
                json!({"cert_file": server.certificate, "key_file": bundle.key}),
            ),
            &["proxy.tls.key_file", "client.key", "does not belong", "server.crt"],
            true,
        ),
        case(
            "TLS with a certificate of a client",
            managed().set(
                "/proxy/tls",
                json!({"cert_file": bundle.certificate, "key_file": bundle.key}),
            ),
            &["proxy.tls.cert_file", "client.crt", "serverAuth"],
            true,
        ),
        case(
            "Redis that cannot be",
            managed().env("AISIX_RATELIMIT__REDIS__URL", "redis://:swordfish@h:x"),
            &["ratelimit.redis.url", "AISIX_RATELIMIT__REDIS__URL"],
            true,
        ),
        case(
            "a rewrite that cannot work",
            managed().env("AISIX_PROXY__URL_REWRITES", r#"[{"match": "(", "rewrite": "/"}]"#),
            &["proxy.url_rewrites", "entry 0"],
            true,
        ),
        case(
            "two sources",
            managed().set("/resources_file", "/r.yaml".into()),
            &["resources_file", "managed.enabled"],
            true,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_bundle_that_cannot_be_used_is_told_by_its_variables_or_its_files() {
    let authority = Authority::default();
    let bundle = good(&authority);
    let stranger = Authority::default();
    let other = good(&stranger);
    let managed = |bundle: &Bundle| Builder::managed_at(URL, bundle);
    let sans = |params: &mut rcgen::CertificateParams, uris: &[String]| {
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        }
    };
    let both = [format!("x-aisix://env/{ENVIRONMENT}"), format!("x-aisix://dp/{DATA_PLANE}")];
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let supplied = "AISIX_MANAGED__CP_*_FILE";
    let missing = Path::new("/nowhere/client.key");
    let empty = tempfile::NamedTempFile::new().unwrap();
    fs::write(empty.path(), "swordfish").unwrap();
    let text = Bundle::text(&bundle.certificate);
    let key = Bundle::text(&bundle.key);
    let issue = |usage: &ExtendedKeyUsagePurpose,
                 change: &dyn Fn(&mut rcgen::CertificateParams)| {
        // Each in a folder of its own.
        let authority = Authority::default();
        let bundle = authority.bundle_for(usage.clone(), |params| change(params));
        (authority, bundle)
    };
    let (_a, expired) = issue(&client, &|params| {
        sans(params, &both);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let (_b, early) = issue(&client, &|params| {
        sans(params, &both);
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    let (_c, server) = issue(&ExtendedKeyUsagePurpose::ServerAuth, &|params| sans(params, &both));
    let (_d, nameless) = issue(&client, &|_| {});
    let (_e, half) = issue(&client, &|params| sans(params, &both[..1]));
    let (_f, malformed) =
        issue(&client, &|params| sans(params, &["x-aisix://env/".to_owned(), both[1].clone()]));
    all_end(vec![
        case(
            "no bundle",
            managed(&bundle)
                .env("AISIX_MANAGED__CP_CERT_FILE", "")
                .env("AISIX_MANAGED__CP_KEY_FILE", "")
                .env("AISIX_MANAGED__CP_CA_FILE", ""),
            &["AISIX_MANAGED__CP_CERT_PEM", "AISIX_MANAGED__CP_CERT_FILE"],
            true,
        ),
        case(
            "partial bundle",
            managed(&bundle).env("AISIX_MANAGED__CP_KEY_FILE", ""),
            &["AISIX_MANAGED__CP_KEY_FILE"],
            true,
        ),
        case(
            "mixed forms",
            managed(&bundle)
                .env("AISIX_MANAGED__CP_CERT_FILE", "")
                .env("AISIX_MANAGED__CP_CERT_PEM", &text),
            &[
                "AISIX_MANAGED__CP_CERT_PEM",
                "AISIX_MANAGED__CP_KEY_FILE",
                "AISIX_MANAGED__CP_CA_FILE",
            ],
            true,
        ),
        case(
            "both forms",
            managed(&bundle).env("AISIX_MANAGED__CP_KEY_PEM", &key),
            &["AISIX_MANAGED__CP_KEY_PEM", "AISIX_MANAGED__CP_KEY_FILE"],
            true,
        ),
        case(
            "another key",
            managed(&Bundle { key: other.key.clone(), ..bundle.clone() }),
            &[supplied, "private key does not belong"],
            true,
        ),
        case(
            "another CA",
            managed(&Bundle { issuers: other.issuers.clone(), ..bundle.clone() }),
            &[supplied, "not issued by the CA"],
            true,
        ),
        case("expired", managed(&expired), &[supplied, "expired on 2021-01-01"], true),
        case("not yet valid", managed(&early), &[supplied, "not valid before 2090-01-01"], true),
        case("for servers", managed(&server), &[supplied, "clientAuth"], true),
        case("no names", managed(&nameless), &[supplied, "x-aisix://"], true),
        case("one name", managed(&half), &[supplied, "x-aisix://dp/"], true),
        case("malformed name", managed(&malformed), &[supplied, "x-aisix://env/"], true),
        case(
            "no key file",
            managed(&Bundle { key: missing.to_owned(), ..bundle.clone() }),
            &["managed.cp_key_file", "/nowhere/client.key", "No such file"],
            true,
        ),
        case(
            "key is a directory",
            managed(&Bundle { key: "/etc".into(), ..bundle.clone() }),
            &["managed.cp_key_file", "/etc"],
            true,
        ),
        case(
            "CA without PEM",
            managed(&Bundle { issuers: empty.path().to_owned(), ..bundle.clone() }),
            &[supplied, "CA bundle"],
            true,
        ),
        case(
            "no file of more issuers",
            managed(&bundle).env("AISIX_MANAGED__CP_CA_CERT_FILE", "/nowhere/more.crt"),
            &["managed.cp_ca_cert_file", "/nowhere/more.crt"],
            true,
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_the_machine_does_not_give_is_told_by_its_key_and_its_holder() {
    let authority = Authority::default();
    let bundle = good(&authority);
    let managed = || Builder::managed_at(URL, &bundle);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    all_end(vec![
        case(
            "taken port",
            managed().env("AISIX_PROXY__ADDR", &address),
            &["proxy.addr", &address, "in use"],
            false,
        ),
        case(
            "taken metrics port",
            managed().env("AISIX_OBSERVABILITY__METRICS__PROMETHEUS__ADDR", &address),
            &["observability.metrics.prometheus.addr", &address],
            false,
        ),
        case(
            "no such address",
            managed().env("AISIX_PROXY__ADDR", "192.0.2.1:3000"),
            &["proxy.addr", "192.0.2.1:3000"],
            false,
        ),
        case(
            "no worker program",
            managed().env("AISIX_SUPERVISOR__WORKER_PATH", "/nowhere/worker"),
            &["/nowhere/worker"],
            false,
        ),
    ])
    .await;
    let world = World::start().await;
    let state = world.gateway.state();
    let second = Builder::managed(&world.cloud)
        .set("/managed/mtls_dir", json!(state.join("mtls")))
        .set("/managed/dp_id_file", json!(state.join("dp_id")))
        .set("/managed/snapshot_cache_path", json!(state.join("config_cache.json")));
    let pid = world.gateway.pid().to_string();
    let checked = second.validating();
    let names = [pid, state.display().to_string()];
    ends_with_one_line("a state directory in use", second, &names).await;
    // Only looks, and needs no lock.
    let mut checked = checked.spawn();
    assert_eq!(checked.end().await.code(), Some(0), "{}", checked.log());
    assert!(checked.log().contains(ENVIRONMENT), "{}", checked.log());
}
