//! Helpers of the end-to-end tests: the collector, the agent and programs to profile, as real
//! processes that wait for conditions and leave nothing behind.
//!
//! The tests are one binary (`tests/path/`), so that they share one collector and can keep out of
//! each other's way: sampling is of the whole machine, and a test that measures shares of it must
//! have it for itself ([`machine`]). Those on a Kubernetes cluster (`tests/cluster/`) are another, which
//! starts the cluster and takes it down ([`cluster`]).

pub mod agent;
pub mod api_proxy;
pub mod cgroup;
pub mod cluster;
pub mod collector;
pub mod daemon;
pub mod fixture;
pub mod flame;
pub mod hearth;
pub mod helm;
pub mod machine;
pub mod operator;
pub mod proc_fs;
pub mod simulated;
pub mod svg;

pub use agent::{Agent, policy};
pub use cluster::Cluster;
pub use collector::Collector;
pub use fixture::{Program, Running};
pub use flame::{Flame, Folded};

use std::hash::{BuildHasher, Hasher, RandomState};

/// Lower-case letters drawn at this moment.
pub fn random_letters(count: usize) -> String {
    // Every RandomState has keys of its own: its hash of nothing is a random number.
    let draw = || RandomState::new().build_hasher().finish();
    (0..count).map(|_| char::from(b'a' + u8::try_from(draw() % 26).expect("below 26"))).collect()
}

/// A name that no other process has: `prefix-` and random letters, 15 bytes at most, as a comm.
pub fn unique_name(prefix: &str) -> String {
    assert!(prefix.len() <= 8, "{prefix}: leave room for random letters within 15 bytes");
    format!("{prefix}-{}", random_letters(14 - prefix.len()))
}
