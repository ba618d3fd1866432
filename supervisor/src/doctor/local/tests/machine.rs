//! Faults of the machine: ports, programs, resolver files, clock, limits, the control socket.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn a_port_that_another_process_has_is_told_with_that_process() {
    let mut site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    site.replace("127.0.0.1:0", &address.to_string());
    let evidence = site.has("host-port-in-use");
    let pid = std::process::id().to_string();
    assert!(evidence.contains("proxy.addr") && evidence.contains(&pid), "{evidence}");
    // Its own listeners are no fault of a gateway that runs.
    let status = Status { pid: std::process::id(), ..Status::default() };
    assert_eq!(serious(&site.look_at(&site.config(), Some(&status))), []);
}

#[test]
fn an_address_of_another_machine_is_told() {
    let mut site = Site::new();
    site.replace("127.0.0.1:0", "192.0.2.1:3000");
    assert!(site.has("host-address-not-here").contains("192.0.2.1:3000"));
}

#[test]
fn each_fault_of_the_worker_s_program_is_found_alone() {
    let site = Site::new();
    fs::copy("/bin/true", site.path("worker")).unwrap();
    let told =
        site.look().findings.into_iter().find(|it| it.fault.code == "host-worker-other-version");
    assert!(told.unwrap().evidence.contains(VERSION));
    fs::set_permissions(site.path("worker"), Permissions::from_mode(0o644)).unwrap();
    assert!(site.has("host-worker-not-executable").contains("0644"));
    fs::remove_file(site.path("worker")).unwrap();
    assert!(site.has("host-worker-missing").contains("worker"));
}

#[test]
fn each_fault_of_the_resolver_s_files_is_found_alone() {
    let site = Site::new();
    site.put("etc/resolv.conf", "# nothing\n", 0o644);
    site.has("host-no-nameserver");
    fs::remove_file(site.path("etc/resolv.conf")).unwrap();
    site.has("host-resolv-conf-missing");
    let site = Site::new();
    fs::remove_file(site.path("etc/hosts")).unwrap();
    assert_eq!(serious(&site.look()), [], "not every container has one");
    std::os::unix::fs::symlink(site.path("etc/hosts"), site.path("etc/hosts")).unwrap();
    site.has("host-hosts-unreadable");
}

#[test]
fn a_clock_before_the_program_was_written_explains_a_certificate_that_is_not_valid_yet() {
    let mut site = Site::new();
    site.now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    site.has("host-clock-wrong");
}

#[test]
fn a_machine_without_proc_is_told() {
    let mut site = Site::new();
    site.places.proc = site.path("nowhere");
    site.has("host-proc-missing");
}

/// A `/proc` with the limits and groups of a process of one's own making.
fn proc_with(site: &mut Site, files: u64) {
    fs::create_dir_all(site.path("proc/self/net")).unwrap();
    let limits =
        format!("Max open files            1024                 {files}                 files\n");
    site.put("proc/self/limits", &limits, 0o644);
    site.put("proc/self/cgroup", "0::/unit\n", 0o644);
    site.places.proc = site.path("proc");
    site.places.cgroup = site.path("cgroup");
    fs::create_dir_all(site.path("cgroup/unit")).unwrap();
}

#[test]
fn limits_that_are_too_low_are_told_with_both_figures() {
    let mut site = Site::new();
    proc_with(&mut site, 65_536);
    assert_eq!(serious(&site.look()), []);
    site.put("cgroup/unit/memory.max", "67108864\n", 0o644);
    assert!(site.has("host-memory-low").contains("64 MiB"));
    fs::remove_file(site.path("cgroup/unit/memory.max")).unwrap();
    site.put("cgroup/unit/pids.max", "10\n", 0o644);
    assert!(site.has("host-processes-low").contains("10"));
    fs::remove_file(site.path("cgroup/unit/pids.max")).unwrap();
    proc_with(&mut site, 256);
    assert!(site.has("host-open-files-low").contains("256"));
}

#[test]
fn each_state_of_the_control_socket_is_told() {
    let site = Site::new();
    let path = site.path("aisix.sock");
    // Takes connections, and says nothing.
    let listener = UnixListener::bind(&path).unwrap();
    site.has("gateway-silent");
    drop(listener);
    let local = site.look();
    let stale = local.findings.iter().find(|it| it.fault.code == "gateway-socket-stale");
    assert!(stale.unwrap().evidence.contains("aisix.sock"));
    assert_eq!(serious(&local), []);
    fs::remove_file(&path).unwrap();
    site.put("aisix.sock", "", 0o600);
    site.has("gateway-socket-foreign");
}

#[test]
fn a_gateway_of_another_state_directory_is_told_with_both() {
    use std::io::{Read, Write};
    let site = Site::new();
    let listener = UnixListener::bind(site.path("aisix.sock")).unwrap();
    let answering = std::thread::spawn(move || {
        // The first only looks whether somebody listens.
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut line = [0; 4096];
            if stream.read(&mut line).unwrap_or(0) > 0 {
                let status =
                    Status { state_dir: Some("/elsewhere".to_owned()), ..Status::default() };
                let answer = crate::control::Answer::status(status);
                let mut text = serde_json::to_vec(&answer).unwrap();
                text.push(b'\n');
                stream.write_all(&text).unwrap();
            }
        }
    });
    assert!(told(&site.look(), "gateway-other-state").contains("/elsewhere"));
    answering.join().unwrap();
}

#[test]
fn a_confinement_that_is_required_and_cannot_be_had_is_one_error() {
    let mut site = Site::new();
    site.set("AISIX_SUPERVISOR__SANDBOX", "required");
    let lacks = site.look().findings.into_iter().any(|finding| {
        ["host-landlock-", "host-seccomp-"].iter().any(|it| finding.fault.code.starts_with(it))
    });
    let required =
        site.look().findings.into_iter().any(|it| it.fault.code == "host-confinement-required");
    assert_eq!(required, lacks);
}
