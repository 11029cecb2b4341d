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
//! [`index`], [`nodes`] and [`status`] are pure: no client, no clock.
#![forbid(unsafe_code)]

pub mod grpc;
pub mod hub;
pub mod index;
pub mod metrics;
pub mod nodes;
pub mod status;
