//! Who sees what: questions of readers who may see some namespaces, against the real engine. What others have
//! stored is full of canaries, in the raw table and in the rollups.

#![expect(clippy::unwrap_used, reason = "tests")]

mod canary;
#[path = "../query/common.rs"]
#[expect(dead_code, reason = "the questions' tests use more of it")]
mod common;
mod equal;
mod questions;
mod recorder;
mod refused;
mod tenants;
