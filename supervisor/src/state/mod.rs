//! The state directory: what a start needs of the run before it, and nothing else.
//!
//! ```text
//! <state>/lock                          one supervisor at a time                        lock.rs
//! <state>/mtls/, dp_id                  the bundle in force and whose it is             ../bundle/store.rs
//! <state>/mtls/seal                     the data key, wrapped under the client's key    seal.rs
//! <state>/mtls/generation               which generations of the snapshot are in force  snapshot/generation.rs
//! <state>/config_cache.json             resources and budget decisions, sealed          snapshot/
//! <state>/config_cache.json.previous    the same, up to ten minutes older
//! <state>/spool.redb                    usage that the Cloud has not accepted, sealed   (a redb database)
//! ```
//!
//! What cannot be used is set aside beside it, neither deleted nor read again: `*.damaged*`, `*.<environment>`,
//! `*.other-prefix`, and `mtls/seal.lost-<time>`, a data key that no key at hand opens.
//!
//! Nothing here is needed to serve: a directory that cannot be read or written is a finding, and traffic goes on.

pub mod lock;
pub mod modes;
pub mod seal;
pub mod snapshot;
