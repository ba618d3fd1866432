//! Traces for those who want them. Two halves: the export role, which sends them, and what a proxy worker does to tell it.
//!
//! - A proxy worker tells of a request when it is over, and waits for nothing (`traces`): without the role, or with one that
//!   does not keep up, a trace is lost and counted. Where nobody wants traces, nothing is done.
//! - The role makes spans of them (`spans`) and keeps those for each exporter in a queue of its own (`queue`), which an
//!   exporter that does not answer fills alone: the oldest make room, and are counted.
//! - Each exporter is sent to by a task of its own (`lane`), over connections that egress makes, TLS ended here (`collector`).
//! - A changed exporter takes over what waits for it; the others never notice.
//! - How they are doing is told to the supervisor, at most once a second.
//!
//! | what | bound | at the bound |
//! |---|---|---|
//! | a request on its way to the role | the socket | lost, counted |
//! | spans that wait for an exporter | `QUEUE_BYTES_MAX` | the oldest go, counted |
//! | a batch | `BATCH_SPANS_MAX` spans or `BATCH_TIME` | it is sent |
//! | a try | `SEND_LIMIT` | it has failed |
//! | exporters | `EXPORTERS_MAX`, and that of the configuration file | a finding |

mod collector;
mod lane;
mod queue;
mod role;
mod spans;
mod traces;

pub use self::role::run;
pub use self::traces::{Context, Traces, Wanted};
