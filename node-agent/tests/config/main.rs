//! The real agent under an operator and a collector that a test plays: what it does with its
//! configuration, and what keeps it from sampling.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod failsafe;
mod following;
mod stage;
