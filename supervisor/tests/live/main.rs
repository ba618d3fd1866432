//! The supervisor's own connections, against the real thing: etcd, and a manager that asks for client certificates.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod cloud;
mod etcd;
mod pki;
mod projection;
mod proxy;
mod usage;
