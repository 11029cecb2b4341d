//! The HTTPS port: real TLS on the loopback, a real store behind, and an API server that says what it is told to.
//! Every test has a cluster of its own.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../query/common.rs"]
#[expect(dead_code, reason = "the questions' tests use more of it")]
mod common;
mod connections;
mod discovery;
mod follow;
mod front_proxy;
mod port;
mod tokens;
