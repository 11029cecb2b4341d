//! The receiving half with a real ClickHouse engine: gRPC in, rows out.
//! Without libchdb.so these tests fail and name the script that installs it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;
mod harness;
mod identity;
mod pods;
mod program;
mod resent;
mod schema;
mod store;
