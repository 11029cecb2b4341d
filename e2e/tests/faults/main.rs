//! What survives: every process is killed at every point of its list, the store goes away, the disk
//! is full, connections break, and nothing that was acknowledged is lost, nothing stored twice.
//!
//! Needs root. `HEARTH_FAULT_RUNS` says how often each point is run (3), and
//! `HEARTH_FAULT_AWAY_SECONDS` how long the store is away (10); `make test-faults` takes more of both.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod instance;
mod kill_points;
mod ledger;
mod network;
mod proxy;
mod relay;
mod rollups;
mod sender;
mod store;

use std::sync::LazyLock;

/// Where senders, relays and proxies run.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    &RUNTIME
}

/// A number that a variable may set.
fn setting(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")),
        Err(_) => default,
    }
}
