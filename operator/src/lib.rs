//! The operator: watches policies, tells each node what to profile, and writes statuses.
//!
//! ```text
//!  watches ──► index ──config_for──► streams of nodes
//!                │                        │ verdicts, counts
//!                └────► status ◄── nodes ◄┘
//!                         │
//!                         └──► writes, by the leader alone
//! ```
//!
//! [`index`], [`nodes`] and [`status`] are pure: no client, no clock. [`certificates`] has a pure half, its plan.
#![forbid(unsafe_code)]

pub mod api;
pub mod certificates;
pub mod cli;
pub mod grpc;
pub mod http;
pub mod hub;
pub mod index;
pub mod install;
pub mod lease;
pub mod metrics;
pub mod nodes;
pub mod service;
pub mod status;
pub mod watch;
pub mod writer;

#[cfg(test)]
mod fake_api;
