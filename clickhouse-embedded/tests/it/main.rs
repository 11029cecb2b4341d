//! The server as a process, with the real engine. Without libchdb.so these
//! tests fail and name the script that installs it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod client;
mod common;
mod conformance;
mod http;
mod stream;
