//! The listener as callers see it, with an upstream that does as it is told.

mod alike;
mod budgets;
mod connections;
mod crowd;
mod gateway;
mod refusals;
mod repeats;
mod retries;
mod routing;
mod streaming;
mod tls;
mod unary;
mod upstream;

use std::future::Future;
use std::time::Duration;

pub(crate) use gateway::{Gateway, test_settings};

/// Runs a test on one thread, as the worker runs; a test that hangs fails.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let limited = async { tokio::time::timeout(Duration::from_secs(30), test).await };
    local.block_on(&runtime, limited).expect("the test hangs");
}

/// Lets everything else go on until `is_so`.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}
