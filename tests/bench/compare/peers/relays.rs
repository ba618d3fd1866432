//! The relays of Debian: nginx and HAProxy, each with one worker.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use harness::port;

use super::{CALLER_KEY, Peer, Tree};
use crate::upstream::KEY;

/// nginx, with the access log that it has by default.
pub fn nginx(upstream: SocketAddr) -> Result<Peer, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let address = port::reserve();
    let path = folder.path().display();
    let configuration = format!(
        r#"
user root;
worker_processes 1;
daemon off;
pid {path}/pid;
events {{ worker_connections 8192; }}
http {{
  access_log {path}/log combined;
  client_body_temp_path {path}/body;
  proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi;
  uwsgi_temp_path {path}/uwsgi;
  scgi_temp_path {path}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_max_body_size 0;
  map $http_authorization $is_known {{ default 0; "Bearer {CALLER_KEY}" 1; }}
  upstream provider {{
    server {upstream};
    keepalive 4096;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
  server {{
    listen {address} backlog=4096;
    location / {{
      if ($is_known = 0) {{ return 401; }}
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {KEY}";
      proxy_set_header X-Request-Id $request_id;
      add_header X-Request-Id $request_id;
      # An event goes on as soon as it has come, and a prompt is not written to a file first.
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
      proxy_pass http://provider;
    }}
  }}
}}
"#
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-p").arg(folder.path()).arg("-e").arg("stderr");
    let tree = Tree::start("nginx", command, folder)
        .map_err(|error| format!("{error}; install it: apt-get install nginx-light"))?;
    Ok(tree.into_peer("nginx", address))
}

/// HAProxy, with the access log that it has by default, on its standard output.
pub fn haproxy(upstream: SocketAddr) -> Result<Peer, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let address = port::reserve();
    let configuration = format!(
        r#"
global
  nbthread 1
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option http-keep-alive
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend callers
  bind {address} backlog 4096
  http-request deny deny_status 401 unless {{ req.hdr(authorization) -m str "Bearer {CALLER_KEY}" }}
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request set-header Authorization "Bearer {KEY}"
  http-response set-header X-Request-Id %[unique-id]
  default_backend provider
backend provider
  server one {upstream} pool-max-conn -1
"#
    );
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let tree = Tree::start("haproxy", command, folder)
        .map_err(|error| format!("{error}; install it: apt-get install haproxy"))?;
    Ok(tree.into_peer("haproxy", address))
}
