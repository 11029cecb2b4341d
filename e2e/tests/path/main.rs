//! The whole path on one machine: real processes, the real kernel, the real engine.
//!
//! Needs root. Each module is a subject.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod differential;
mod durability;
mod gate;
mod headline;
mod hostile;
mod machine;
mod policy;
mod query;
mod shares;
mod short_lived;
mod stacks;
